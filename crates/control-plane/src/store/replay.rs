//! Opening a store: its files become its state.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, FileKind, Header, HeaderError, Read, Record, read_frame, records};
use super::log::{Log, UNFINISHED, file_name, parse_file_name};
use super::snapshot;
use super::state::FIRST_REVISION;
use super::{Attributes, Object, OpenError};

/// What was found on disk.
pub(super) struct Replayed {
    pub(super) objects: BTreeMap<Arc<str>, Arc<Object>>,
    pub(super) revision: u64,
    /// Where the next commit goes.
    pub(super) log: Log,
    /// How many bytes of logs lie behind the snapshot.
    pub(super) log_bytes: u64,
}

pub(super) fn make_directory(directory: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| failed("make the directory", directory, source))
}

/// Reads the store in a directory that is locked by the caller.
pub(super) fn replay(
    directory: &Path,
    attributes: fn(&str, &[u8]) -> Attributes,
) -> Result<Replayed, OpenError> {
    let files = Files::scan(directory)?;
    let mut replay = Replay::default();
    if let Some(sequence) = files.snapshot {
        replay.read_snapshot(
            &directory.join(file_name(FileKind::Snapshot, sequence)),
            sequence,
        )?;
        if let Err(error) = snapshot::remove_before(directory, sequence) {
            tracing::warn!(directory = %directory.display(), %error, "cannot remove compacted files");
        }
    }
    let first = files.snapshot.unwrap_or(1);
    let Some(last) = files.logs.last().copied() else {
        if files.snapshot.is_some() {
            return Err(missing(directory, first));
        }
        let log = Log::create(directory, first, FIRST_REVISION)
            .map_err(|source| failed("make a log in", directory, source))?;
        return Ok(replay.finish(attributes, log, 0));
    };
    let mut log_bytes = 0;
    let mut end = 0;
    for (sequence, found) in (first..=last).zip(&files.logs) {
        if sequence != *found {
            return Err(missing(directory, sequence));
        }
        let path = directory.join(file_name(FileKind::Log, sequence));
        end = replay.read_log(&path, sequence, sequence == last)?;
        log_bytes += end;
    }
    let path = directory.join(file_name(FileKind::Log, last));
    let log =
        Log::reopen(path.clone(), last, end).map_err(|source| failed("open", &path, source))?;
    Ok(replay.finish(attributes, log, log_bytes))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        operation,
        path: path.into(),
        source,
    }
}

fn missing(directory: &Path, sequence: u64) -> OpenError {
    OpenError::Corrupt {
        file: directory.join(file_name(FileKind::Log, sequence)),
        offset: 0,
        reason: "the file is missing".into(),
        mend: "restore the directory from a backup, or move it away to start empty".into(),
    }
}

/// The files that make up the store.
struct Files {
    snapshot: Option<u64>,
    /// The logs from the newest snapshot on, in order.
    logs: Vec<u64>,
}

impl Files {
    fn scan(directory: &Path) -> Result<Self, OpenError> {
        let scan = |source| failed("read the directory", directory, source);
        let mut snapshot = None;
        let mut logs = Vec::new();
        for entry in fs::read_dir(directory).map_err(scan)? {
            let entry = entry.map_err(scan)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(unfinished) = name.strip_suffix(UNFINISHED)
                && parse_file_name(unfinished).is_some()
            {
                fs::remove_file(entry.path())
                    .map_err(|source| failed("remove", &entry.path(), source))?;
            }
            match parse_file_name(name) {
                Some((FileKind::Snapshot, sequence)) => snapshot = snapshot.max(Some(sequence)),
                Some((FileKind::Log, sequence)) => logs.push(sequence),
                None => {}
            }
        }
        logs.retain(|sequence| Some(*sequence) >= snapshot);
        logs.sort_unstable();
        Ok(Self { snapshot, logs })
    }
}

struct Replay {
    /// Of each object the revision and the text.
    objects: BTreeMap<Arc<str>, (u64, Bytes)>,
    revision: u64,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: FIRST_REVISION,
        }
    }
}

impl Replay {
    fn read_snapshot(&mut self, path: &Path, sequence: u64) -> Result<(), OpenError> {
        let file = fs::read(path).map_err(|source| failed("read", path, source))?;
        let damage = |offset: usize, reason: &str| OpenError::Corrupt {
            file: path.into(),
            offset: offset as u64,
            reason: reason.into(),
            mend: "restore the directory from a backup, or move it away to start empty".into(),
        };
        let header = header(&file, path, FileKind::Snapshot, sequence)?;
        self.revision = header.revision;
        let mut offset = format::HEADER;
        let mut ended = false;
        loop {
            let (payload, next) = match read_frame(&file, offset) {
                Read::Frame { payload, next } if !ended => (payload, next),
                Read::End if ended => return Ok(()),
                Read::End | Read::Torn => return Err(damage(offset, "the file ends too early")),
                Read::Frame { .. } => return Err(damage(offset, "data follow the end mark")),
                Read::Damaged(reason) => return Err(damage(offset, reason)),
            };
            let records =
                records(payload).ok_or_else(|| damage(offset, "the records are malformed"))?;
            for record in records {
                match record {
                    Record::Put {
                        key,
                        revision,
                        json,
                    } if !ended && revision <= header.revision => {
                        self.put(key, revision, json);
                    }
                    Record::End { count } if count == self.objects.len() as u64 => ended = true,
                    Record::Put { .. } | Record::Delete { .. } | Record::End { .. } => {
                        return Err(damage(offset, "a record does not belong there"));
                    }
                }
            }
            offset = next;
        }
    }

    /// Returns where the commits end.
    fn read_log(&mut self, path: &Path, sequence: u64, last: bool) -> Result<u64, OpenError> {
        let file = fs::read(path).map_err(|source| failed("read", path, source))?;
        let damage = |offset: usize, reason: &str| OpenError::Corrupt {
            file: path.into(),
            offset: offset as u64,
            reason: reason.into(),
            mend: mend(path, offset, last),
        };
        let header = header(&file, path, FileKind::Log, sequence)?;
        if header.revision != self.revision {
            let reason = format!(
                "it continues revision {} and the files before it end at {}",
                header.revision, self.revision
            );
            return Err(damage(0, &reason));
        }
        let mut offset = format::HEADER;
        loop {
            let (payload, next) = match read_frame(&file, offset) {
                Read::Frame { payload, next } => (payload, next),
                Read::End => return Ok(offset as u64),
                Read::Torn if last => {
                    tracing::warn!(
                        file = %path.display(),
                        offset,
                        bytes = file.len() - offset,
                        "cutting off an interrupted last write, which nobody was told of"
                    );
                    return Ok(offset as u64);
                }
                Read::Torn => return Err(damage(offset, "the file ends too early")),
                Read::Damaged(reason) => return Err(damage(offset, reason)),
            };
            let records =
                records(payload).ok_or_else(|| damage(offset, "the records are malformed"))?;
            for record in records {
                if !self.commit(record) {
                    return Err(damage(offset, "the revisions do not follow each other"));
                }
            }
            offset = next;
        }
    }

    /// Whether the record was the next one.
    fn commit(&mut self, record: Record<'_>) -> bool {
        let next = self.revision + 1;
        match record {
            Record::Put {
                key,
                revision,
                json,
            } if revision == next => self.put(key, revision, json),
            Record::Delete { key, revision } if revision == next => {
                if self.objects.remove(key).is_none() {
                    return false;
                }
            }
            Record::Put { .. } | Record::Delete { .. } | Record::End { .. } => return false,
        }
        self.revision = next;
        true
    }

    fn put(&mut self, key: &str, revision: u64, json: &[u8]) {
        let version = (revision, Bytes::copy_from_slice(json));
        match self.objects.get_mut(key) {
            Some(stored) => *stored = version,
            None => drop(self.objects.insert(key.into(), version)),
        }
    }

    fn finish(
        self,
        attributes: fn(&str, &[u8]) -> Attributes,
        log: Log,
        log_bytes: u64,
    ) -> Replayed {
        let objects = self
            .objects
            .into_iter()
            .map(|(key, (revision, json))| {
                let object = Object {
                    key: key.clone(),
                    revision,
                    attributes: attributes(&key, &json),
                    json,
                };
                (key, Arc::new(object))
            })
            .collect();
        Replayed {
            objects,
            revision: self.revision,
            log,
            log_bytes,
        }
    }
}

fn header(file: &[u8], path: &Path, kind: FileKind, sequence: u64) -> Result<Header, OpenError> {
    let damage = |reason: &str| OpenError::Corrupt {
        file: path.into(),
        offset: 0,
        reason: reason.into(),
        mend: "restore the directory from a backup, or move it away to start empty".into(),
    };
    match Header::decode(file) {
        Ok(header) if header.kind == kind && header.sequence == sequence => Ok(header),
        Ok(_) => Err(damage("it was written under another name")),
        Err(HeaderError::Damaged(reason)) => Err(damage(reason)),
        Err(HeaderError::Newer(found)) => Err(OpenError::NewerFormat {
            file: PathBuf::from(path),
            found,
            supported: format::VERSION,
        }),
    }
}

/// How to go on from a damaged log.
fn mend(path: &Path, offset: usize, last: bool) -> String {
    let later = if last {
        ""
    } else {
        ", remove the log files after it"
    };
    format!(
        "restore the directory from a backup, or give up all writes from the damage on: \
         copy the directory, then run `truncate -s {offset} {}`{later} and start again",
        path.display()
    )
}
