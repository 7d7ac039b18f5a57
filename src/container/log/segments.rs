//! The shim's end of a log: append, rotate, survive a full disk.
//!
//! Segments are `log.0`, `log.1`, …; the one with the highest number is written. A reader that has come to the end of
//! a segment goes on to the next one when that exists, since nothing is written to a segment after its successor was
//! made.

use std::{fs::File, io::Write};

use crate::container::{dir::DirError, files::Dir, spec::LogPolicy};

/// Name of a segment.
pub fn segment_name(number: u64) -> String {
    format!("log.{number}")
}

/// Number of a segment by its name.
pub fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("log.")?.parse().ok()
}

/// An append-only file that drops what does not fit, rather than stopping the container.
#[derive(Debug)]
pub struct Appender {
    file: File,
    len: u64,
}

impl Appender {
    /// `file` is empty and only we write to it.
    pub fn new(file: File) -> Self {
        Self { file, len: 0 }
    }

    /// Appends all or nothing.
    pub fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.cut()?;
                Err(error)
            }
        }
    }

    /// Removes what a failed write has left.
    fn cut(&mut self) -> std::io::Result<()> {
        use std::io::Seek;
        self.file.set_len(self.len)?;
        self.file.seek(std::io::SeekFrom::Start(self.len)).map(drop)
    }

    /// Bytes written.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The combined log.
#[derive(Debug)]
pub struct Segments {
    policy: LogPolicy,
    number: u64,
    appender: Appender,
}

impl Segments {
    /// Makes the first segment in the attempt's directory.
    pub fn create(dir: &Dir, policy: LogPolicy) -> Result<Self, DirError> {
        let appender = Appender::new(dir.create_fresh(&segment_name(0))?);
        Ok(Self {
            policy,
            number: 0,
            appender,
        })
    }

    /// Appends whole entries; a new segment begins where they would make this one too long.
    pub fn append(&mut self, dir: &Dir, entries: &[u8]) -> std::io::Result<()> {
        if !self.appender.is_empty()
            && self.appender.len() + entries.len() as u64 > self.policy.max_bytes
        {
            // Where there is no room for a new segment, the old one grows.
            if let Ok(file) = dir.create_fresh(&segment_name(self.number + 1)) {
                self.appender = Appender::new(file);
                self.number += 1;
                let kept = u64::from(self.policy.max_files.max(1));
                if let Some(oldest) = self.number.checked_sub(kept) {
                    // One segment too many is no reason to lose output.
                    let _ = dir.remove_file(&segment_name(oldest));
                }
            }
        }
        self.appender.append(entries)
    }
}

/// One of the documented plain files, `stdout` and `stderr`: the output as it came.
///
/// As large as all segments of the log together it is renamed to `<name>.1`, which one later one replaces.
#[derive(Debug)]
pub struct PlainFile {
    name: &'static str,
    max_bytes: u64,
    appender: Appender,
}

impl PlainFile {
    /// Creates the file, in the place of the last attempt's.
    pub fn create(dir: &Dir, name: &'static str, policy: LogPolicy) -> Result<Self, DirError> {
        dir.remove_file(&format!("{name}.1"))?;
        let appender = Appender::new(dir.create_fresh(name)?);
        Ok(Self {
            name,
            max_bytes: policy
                .max_bytes
                .saturating_mul(u64::from(policy.max_files.max(1))),
            appender,
        })
    }

    /// Appends output.
    pub fn append(&mut self, dir: &Dir, output: &[u8]) -> std::io::Result<()> {
        if !self.appender.is_empty() && self.appender.len() + output.len() as u64 > self.max_bytes {
            let rotated = dir
                .rename(self.name, &format!("{}.1", self.name))
                .and_then(|()| dir.create_fresh(self.name));
            if let Ok(file) = rotated {
                self.appender = Appender::new(file);
            }
        }
        self.appender.append(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_segments_go_and_nothing_of_the_kept_ones_is_lost() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = Dir::open_trusted(temp.path())
            .expect("openable")
            .expect("present");
        let mut segments = Segments::create(
            &dir,
            LogPolicy {
                max_bytes: 10,
                max_files: 3,
            },
        )
        .expect("created");
        for entry in [
            "aaaa\n",
            "bbbb\n",
            "cccc\n",
            "a line longer than a segment\n",
            "dddd\n",
        ] {
            segments.append(&dir, entry.as_bytes()).expect("room");
        }
        let mut names: Vec<_> = dir
            .names()
            .expect("listed")
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect();
        names.sort();
        assert_eq!(names, ["log.1", "log.2", "log.3"]);
        let text: String = names
            .iter()
            .map(|name| std::fs::read_to_string(temp.path().join(name)).expect("text"))
            .collect();
        assert_eq!(text, "cccc\na line longer than a segment\ndddd\n");
    }

    #[test]
    fn a_plain_file_keeps_one_predecessor() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = Dir::open_trusted(temp.path())
            .expect("openable")
            .expect("present");
        let mut file = PlainFile::create(
            &dir,
            "stdout",
            LogPolicy {
                max_bytes: 4,
                max_files: 1,
            },
        )
        .expect("created");
        for output in ["aaaa", "bbbb", "cc"] {
            file.append(&dir, output.as_bytes()).expect("room");
        }
        assert_eq!(
            std::fs::read_to_string(temp.path().join("stdout.1")).expect("text"),
            "bbbb"
        );
        assert_eq!(
            std::fs::read_to_string(temp.path().join("stdout")).expect("text"),
            "cc"
        );
    }
}
