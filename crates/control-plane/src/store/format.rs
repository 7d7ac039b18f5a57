//! The bytes on disk. Nothing here touches a file.
//!
//! A file is a header and then frames; a frame is what one commit wrote, so that a commit is there
//! as a whole or not at all. All numbers are little-endian.
//!
//! ```text
//! header  magic 8 | version 4 | crc 4 | kind 4 | sequence 8 | revision 8 | crc 4      = 40 bytes
//! frame   magic 4 | payload length 4 | crc of payload 4 | crc of the 12 bytes before 4 | payload
//! record  kind 1 | key length 4 | revision 8 | json length 4 | json | key
//! ```
//!
//! The first 16 bytes of the header keep their meaning in every later version.
//!
//! No frame holds 512 zero bytes in a row, and none starts or ends with one: that is how a sector
//! that a crash left unwritten is told from damage.

use super::crc::crc32;

/// The newest version that this program reads, and the one it writes.
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 40;
pub(super) const FRAME_HEADER: usize = 16;
/// Larger objects are refused: a record's lengths are 32 bits, and a frame holds whole records.
pub(super) const MAX_OBJECT: usize = 64 << 20;

const MAGIC: [u8; 8] = *b"cpstore\x1A";
/// None of these bytes occurs in UTF-8 text.
const FRAME_MAGIC: [u8; 4] = [0xF5, 0xC0, 0xFE, 0xFF];
const SECTOR: usize = 512;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// The commits after `revision`.
    Log,
    /// All objects as they were at `revision`.
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: FileKind,
    pub(super) sequence: u64,
    pub(super) revision: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Newer(u32),
    Damaged(&'static str),
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let crc = crc32(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let kind: u32 = match self.kind {
            FileKind::Log => 1,
            FileKind::Snapshot => 2,
        };
        bytes[16..20].copy_from_slice(&kind.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.revision.to_le_bytes());
        let crc = crc32(&bytes[16..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, HeaderError> {
        use HeaderError::Damaged;
        if file.len() < 16 {
            return Err(Damaged("the file is shorter than its header"));
        }
        if file[..8] != MAGIC {
            return Err(Damaged("it does not start as a file of a store does"));
        }
        if u32_at(file, 12) != crc32(&file[..12]) {
            return Err(Damaged("the checksum of the format version is wrong"));
        }
        let version = u32_at(file, 8);
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        if file.len() < HEADER {
            return Err(Damaged("the file is shorter than its header"));
        }
        if u32_at(file, 36) != crc32(&file[16..36]) {
            return Err(Damaged("the checksum of the header is wrong"));
        }
        let kind = match u32_at(file, 16) {
            1 => FileKind::Log,
            2 => FileKind::Snapshot,
            _ => return Err(Damaged("the header names an unknown kind of file")),
        };
        Ok(Self {
            kind,
            sequence: u64_at(file, 20),
            revision: u64_at(file, 28),
        })
    }
}

/// One record of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Put {
        key: &'a str,
        revision: u64,
        json: &'a [u8],
    },
    Delete {
        key: &'a str,
        revision: u64,
    },
    /// The last record of a snapshot, with the number of objects before it.
    End {
        count: u64,
    },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const END: u8 = 3;
/// Stands where the key of an object does, so that no frame ends with a zero.
const END_KEY: &str = "end";

/// Collects records into one frame. The buffer is used again.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() <= FRAME_HEADER
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        /// A buffer that one large commit has grown does not stay that large.
        const KEEP: usize = 1 << 20;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
    }

    pub(super) fn push(&mut self, record: Record<'_>) {
        if self.bytes.is_empty() {
            self.bytes.resize(FRAME_HEADER, 0);
        }
        let (kind, key, revision, json) = match record {
            Record::Put {
                key,
                revision,
                json,
            } => (PUT, key, revision, json),
            Record::Delete { key, revision } => (DELETE, key, revision, &[][..]),
            Record::End { count } => (END, END_KEY, count, &[][..]),
        };
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&length(key.len()));
        self.bytes.extend_from_slice(&revision.to_le_bytes());
        self.bytes.extend_from_slice(&length(json.len()));
        self.bytes.extend_from_slice(json);
        self.bytes.extend_from_slice(key.as_bytes());
    }

    /// The finished frame; empty without records.
    pub(super) fn seal(&mut self) -> &[u8] {
        if let Some((header, payload)) = self.bytes.split_at_mut_checked(FRAME_HEADER) {
            header[..4].copy_from_slice(&FRAME_MAGIC);
            header[4..8].copy_from_slice(&length(payload.len()));
            header[8..12].copy_from_slice(&crc32(payload).to_le_bytes());
            let crc = crc32(&header[..12]);
            header[12..].copy_from_slice(&crc.to_le_bytes());
        }
        &self.bytes
    }
}

fn length(bytes: usize) -> [u8; 4] {
    match u32::try_from(bytes) {
        Ok(length) => length.to_le_bytes(),
        Err(_) => unreachable!("objects and frames are bounded far below 4 GiB"),
    }
}

/// The records of a frame's payload; `None` where they do not fill it exactly.
pub(super) fn records(mut payload: &[u8]) -> Option<Vec<Record<'_>>> {
    const FIXED: usize = 17;
    let mut records = Vec::new();
    while !payload.is_empty() {
        let (fixed, rest) = payload.split_at_checked(FIXED)?;
        let key_length = usize::try_from(u32_at(fixed, 1)).ok()?;
        let revision = u64_at(fixed, 5);
        let json_length = usize::try_from(u32_at(fixed, 13)).ok()?;
        let (json, rest) = rest.split_at_checked(json_length)?;
        let (key, rest) = rest.split_at_checked(key_length)?;
        let key = std::str::from_utf8(key).ok()?;
        records.push(match fixed[0] {
            PUT => Record::Put {
                key,
                revision,
                json,
            },
            DELETE => Record::Delete { key, revision },
            END => Record::End { count: revision },
            _ => return None,
        });
        payload = rest;
    }
    Some(records)
}

/// What stands at an offset of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'a> {
    /// The file ends here.
    End,
    /// A whole frame, and the offset after it.
    Frame { payload: &'a [u8], next: usize },
    /// What a write leaves that was interrupted: the file ends too early, or sectors were never
    /// written, and nothing whole follows.
    Torn,
    /// Anything else.
    Damaged(&'static str),
}

/// Reads the frame at `offset`.
pub(super) fn read_frame(file: &[u8], offset: usize) -> Read<'_> {
    let rest = &file[offset..];
    if rest.is_empty() {
        return Read::End;
    }
    let Some((header, body)) = rest.split_at_checked(FRAME_HEADER) else {
        return Read::Torn;
    };
    let Some(length) = frame_length(header) else {
        return if has_unwritten_sector(file, offset) && !frame_follows(rest) {
            Read::Torn
        } else {
            Read::Damaged("the header of a commit is damaged")
        };
    };
    let Some(payload) = body.get(..length) else {
        return Read::Torn;
    };
    if u32_at(header, 8) == crc32(payload) {
        let next = offset + FRAME_HEADER + length;
        return Read::Frame { payload, next };
    }
    if body.len() == length && has_unwritten_sector(file, offset) {
        Read::Torn
    } else {
        Read::Damaged("the checksum of a commit is wrong")
    }
}

/// The payload's length that a valid frame header tells.
fn frame_length(header: &[u8]) -> Option<usize> {
    (header[..4] == FRAME_MAGIC && u32_at(header, 12) == crc32(&header[..12]))
        .then(|| usize::try_from(u32_at(header, 4)).ok())
        .flatten()
}

/// Whether from `offset` on some sector of the file, or what of it lies after `offset`, is zero.
fn has_unwritten_sector(file: &[u8], offset: usize) -> bool {
    let mut start = offset;
    while start < file.len() {
        let end = file.len().min(start - start % SECTOR + SECTOR);
        if file[start..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        start = end;
    }
    false
}

/// Whether a valid frame header stands anywhere behind the start of `rest`.
fn frame_follows(rest: &[u8]) -> bool {
    rest.windows(FRAME_HEADER)
        .skip(1)
        .any(|window| frame_length(window).is_some())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
