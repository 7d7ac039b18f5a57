//! The file that commits are appended to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::{FileKind, HEADER, Header};

/// Where the bytes of a log go: a file, except in tests of its failures.
pub(super) trait Medium: Send {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// A log that ends after a whole commit, whatever failed before.
pub(super) struct Log {
    medium: Box<dyn Medium>,
    path: PathBuf,
    sequence: u64,
    /// The end of the last commit that succeeded.
    length: u64,
    /// Whether bytes of a failed commit may stand behind `length`.
    dirty: bool,
}

impl Log {
    /// Makes an empty log of the commits after `revision`. It appears under its name only when its
    /// header is on disk, so that a short header is never the trace of a crash.
    pub(super) fn create(directory: &Path, sequence: u64, revision: u64) -> io::Result<Self> {
        let header = Header {
            kind: FileKind::Log,
            sequence,
            revision,
        };
        let path = directory.join(file_name(FileKind::Log, sequence));
        let file = create_durably(directory, &path, |file| file.write_all(&header.encode()))?;
        Ok(Self::new(Box::new(file), path, sequence, HEADER as u64))
    }

    /// Goes on with a log whose commits end at `length`, and makes sure that they are on disk:
    /// a process may have died between writing and waiting for the disk.
    pub(super) fn reopen(path: PathBuf, sequence: u64, length: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(&path)?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
        }
        file.sync_all()?;
        Ok(Self::new(Box::new(file), path, sequence, length))
    }

    pub(super) fn new(medium: Box<dyn Medium>, path: PathBuf, sequence: u64, length: u64) -> Self {
        Self {
            medium,
            path,
            sequence,
            length,
            dirty: false,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends one commit. On failure nothing of it stays.
    pub(super) fn append(&mut self, frame: &[u8], sync: bool) -> io::Result<()> {
        self.clean()?;
        self.dirty = true;
        let written = self
            .medium
            .write_all_at(frame, self.length)
            .and_then(|()| if sync { self.medium.sync() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.length += frame.len() as u64;
                self.dirty = false;
                Ok(())
            }
            Err(error) => {
                if let Err(error) = self.clean() {
                    // Tried again before the next commit, which fails until this succeeds.
                    tracing::warn!(path = %self.path.display(), %error, "cannot cut the log back");
                }
                Err(error)
            }
        }
    }

    /// Makes the log whole and durable, so that another may follow it.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.clean()?;
        self.medium.sync()
    }

    fn clean(&mut self) -> io::Result<()> {
        if self.dirty {
            self.medium.truncate(self.length)?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// The name of a file of the store.
pub(super) fn file_name(kind: FileKind, sequence: u64) -> String {
    match kind {
        FileKind::Log => format!("log-{sequence:016x}"),
        FileKind::Snapshot => format!("snapshot-{sequence:016x}"),
    }
}

/// What a file name of the store says; `None` for a file of someone else's.
pub(super) fn parse_file_name(name: &str) -> Option<(FileKind, u64)> {
    let (kind, digits) = name
        .strip_prefix("log-")
        .map(|digits| (FileKind::Log, digits))
        .or_else(|| {
            name.strip_prefix("snapshot-")
                .map(|digits| (FileKind::Snapshot, digits))
        })?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(kind, sequence) == name).then_some((kind, sequence))
}

/// Ends the name of a file that is not finished.
pub(super) const UNFINISHED: &str = ".tmp";

/// Makes a file that is under its name only once all of it is on disk. On failure nothing stays.
pub(super) fn create_durably(
    directory: &Path,
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<File> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            write(&mut file)?;
            file.sync_all()?;
            fs::rename(&unfinished, path)?;
            sync_directory(directory)?;
            Ok(file)
        });
    if made.is_err() {
        // Best effort: the next open removes what is left.
        for leftover in [&unfinished, path] {
            drop(fs::remove_file(leftover));
        }
    }
    made
}

/// Makes renames and removals in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
