//! Compaction: all live objects in one file, so that the logs before it can go.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::Object;
use super::format::{FileKind, Frame, Header, Record};
use super::log::{create_durably, file_name, parse_file_name, sync_directory};

/// How many bytes of objects share a frame.
const FRAME_BYTES: usize = 1 << 20;

/// Writes the snapshot with the sequence number of the log that follows it. When it is durable,
/// the files before it are removed.
pub(super) fn write(
    directory: &Path,
    sequence: u64,
    revision: u64,
    objects: &[Arc<Object>],
) -> io::Result<()> {
    let header = Header {
        kind: FileKind::Snapshot,
        sequence,
        revision,
    };
    let path = directory.join(file_name(FileKind::Snapshot, sequence));
    create_durably(directory, &path, |file| {
        file.write_all(&header.encode())?;
        let mut frame = Frame::default();
        for object in objects {
            frame.push(Record::Put {
                key: &object.key,
                revision: object.revision,
                json: &object.json,
            });
            if frame.len() >= FRAME_BYTES {
                file.write_all(frame.seal())?;
                frame.clear();
            }
        }
        frame.push(Record::End {
            count: objects.len() as u64,
        });
        file.write_all(frame.seal())
    })?;
    remove_before(directory, sequence)
}

/// Removes the files that the snapshot `sequence` replaces.
pub(super) fn remove_before(directory: &Path, sequence: u64) -> io::Result<()> {
    let mut removed = false;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let known = entry.file_name().to_str().and_then(parse_file_name);
        if known.is_some_and(|(_, other)| other < sequence) {
            fs::remove_file(entry.path())?;
            removed = true;
        }
    }
    if removed {
        sync_directory(directory)?;
    }
    Ok(())
}
