//! The agent's end of a log: all segments in order, and on as they grow.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::{
    line::{self, Entry, Stream},
    notify::DirWatch,
    segments::{segment_name, segment_number},
};
use crate::container::{
    claim::{self, RecordError},
    dir::{AttemptDir, DirError},
    files::Dir,
};

/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// What to read of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Go on until the container has ended.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only what was written at or after this time.
    pub since: Option<Timestamp>,
    /// Begin each line with its time, RFC 3339 with nanoseconds, and a space.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only one of the two streams.
    pub stream: Option<Stream>,
}

/// Reads a log across its segments. Event-driven; ends when all is delivered and, with `follow`, the attempt has ended.
#[derive(Debug)]
pub struct Reader {
    /// `None` where there are no records: an empty log.
    dir: Option<Arc<Dir>>,
    watch: Option<DirWatch>,
    segment: Option<Segment>,
    formatter: Formatter,
    /// Whether the attempt had ended before the log was last looked at.
    ended: bool,
}

/// Where in which segment the next read is.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: Arc<File>,
    offset: u64,
}

impl Reader {
    /// Opens the log of an attempt that was started; an attempt without a log reads as empty.
    pub async fn open(attempt: &AttemptDir, options: ReadOptions) -> io::Result<Self> {
        let attempt = attempt.clone();
        blocking(move || {
            let mut reader = Self {
                dir: None,
                watch: None,
                segment: None,
                formatter: Formatter::new(options),
                ended: false,
            };
            if let Some(dir) = attempt.open().map_err(io_error)? {
                // Before the first look, so that no change is missed.
                reader.watch = options
                    .follow
                    .then(|| DirWatch::new(dir.path()))
                    .transpose()?;
                reader.segment = match options.tail {
                    Some(lines) => tail(&dir, lines, options.stream)?,
                    None => first_from(&dir, 0)?,
                };
                reader.dir = Some(Arc::new(dir));
            }
            Ok(reader)
        })
        .await
    }

    /// The next piece, `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(dir) = self.dir.clone() else {
            return Ok(None);
        };
        while !self.formatter.is_full() {
            let read = self
                .segment
                .as_ref()
                .map(|segment| (segment.number, Arc::clone(&segment.file), segment.offset));
            let look = {
                let dir = Arc::clone(&dir);
                blocking(move || look(&dir, read)).await?
            };
            match look {
                Look::Piece(piece) => {
                    if let Some(segment) = &mut self.segment {
                        segment.offset += piece.len() as u64;
                    }
                    let text = self.formatter.feed(&piece);
                    if !text.is_empty() {
                        return Ok(Some(text));
                    }
                }
                Look::Segment(segment) => self.segment = Some(segment),
                Look::End { ended } => match &self.watch {
                    // Once more after the end was seen: the last output was written before it.
                    Some(_) if ended && !self.ended => self.ended = true,
                    Some(watch) if !ended => watch.changed().await,
                    _ => return Ok(None),
                },
            }
        }
        Ok(None)
    }

    /// The pieces as a stream.
    pub fn into_stream(self) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        })
    }
}

/// What a look at the log finds.
enum Look {
    Piece(Vec<u8>),
    Segment(Segment),
    /// Nothing more at this moment.
    End {
        ended: bool,
    },
}

fn look(dir: &Dir, at: Option<(u64, Arc<File>, u64)>) -> io::Result<Look> {
    if let Some((number, file, offset)) = at {
        if let Some(piece) = read_piece(&file, offset)? {
            return Ok(Look::Piece(piece));
        }
        if let Some(next) = successor(dir, number, &file)? {
            // What was written between the read and the rotation comes first.
            return Ok(match read_piece(&file, offset)? {
                Some(piece) => Look::Piece(piece),
                None => Look::Segment(next),
            });
        }
    } else if let Some(first) = first_from(dir, 0)? {
        return Ok(Look::Segment(first));
    }
    let status = claim::read_status(dir).map_err(|error| match error {
        RecordError::Dir(error) => io_error(error),
        other @ RecordError::NewerFormat { .. } => io::Error::other(other),
    })?;
    // Records that are removed end the log as well: then the directory has no name any more.
    let ended = status.map_or_else(|| !dir.path().exists(), |file| file.status.is_terminal());
    Ok(Look::End { ended })
}

fn read_piece(file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut piece = vec![0; PIECE];
    let len = file.read_at(&mut piece, offset)?;
    piece.truncate(len);
    Ok((len > 0).then_some(piece))
}

/// Numbers of the segments there are, ascending.
fn segments(dir: &Dir) -> io::Result<Vec<u64>> {
    let names = dir.names().map_err(io_error)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment_number(name.to_str()?))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens the segment after one that was read to its end.
fn successor(dir: &Dir, number: u64, file: &File) -> io::Result<Option<Segment>> {
    if let Some(next) = open_segment(dir, number + 1)? {
        return Ok(Some(next));
    }
    // Only a reader that rotation has overtaken has to look for where the log goes on.
    if file.metadata()?.nlink() == 0 {
        first_from(dir, number + 1)
    } else {
        Ok(None)
    }
}

fn open_segment(dir: &Dir, number: u64) -> io::Result<Option<Segment>> {
    let file = dir.open_file(&segment_name(number)).map_err(io_error)?;
    Ok(file.map(|file| Segment {
        number,
        file: Arc::new(file),
        offset: 0,
    }))
}

/// Opens the oldest segment from a number on; one that is removed meanwhile is skipped.
fn first_from(dir: &Dir, from: u64) -> io::Result<Option<Segment>> {
    for number in segments(dir)?.into_iter().filter(|&number| number >= from) {
        if let Some(segment) = open_segment(dir, number)? {
            return Ok(Some(segment));
        }
    }
    Ok(None)
}

/// Finds where the last lines begin.
fn tail(dir: &Dir, lines: u64, stream: Option<Stream>) -> io::Result<Option<Segment>> {
    let mut wanted = lines;
    let mut newest = true;
    let mut oldest = None;
    for number in segments(dir)?.into_iter().rev() {
        let Some(Segment { file, .. }) = open_segment(dir, number)? else {
            continue;
        };
        let scan = scan(&file, wanted, stream)?;
        // A last line without newline is a line.
        let partial = u64::from(newest && scan.partial);
        if lines == 0 {
            return Ok(Some(Segment {
                number,
                file,
                offset: scan.len,
            }));
        }
        let before = wanted.saturating_sub(partial);
        if scan.ends > before {
            let offset = scan
                .last_ends
                .get(scan.last_ends.len() - 1 - before as usize)
                .copied()
                .unwrap_or(0);
            return Ok(Some(Segment {
                number,
                file,
                offset,
            }));
        }
        wanted = before - scan.ends;
        newest = false;
        oldest = Some(Segment {
            number,
            file,
            offset: 0,
        });
    }
    Ok(oldest)
}

/// Ends of lines in one segment.
struct Scan {
    /// Ends of the last lines, one more than were wanted.
    last_ends: VecDeque<u64>,
    /// How many lines end here.
    ends: u64,
    /// Whether the last entry leaves its line open.
    partial: bool,
    len: u64,
}

fn scan(file: &File, wanted: u64, stream: Option<Stream>) -> io::Result<Scan> {
    let mut scan = Scan {
        last_ends: VecDeque::new(),
        ends: 0,
        partial: false,
        len: 0,
    };
    let mut offset = 0;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = read_piece(file, offset)? {
        offset += piece.len() as u64;
        rest.extend_from_slice(&piece);
        let mut taken = 0;
        while let Some(len) = rest[taken..].iter().position(|&b| b == b'\n') {
            let entry = Entry::parse(&rest[taken..taken + len]);
            taken += len + 1;
            if let Some(entry) =
                entry.filter(|entry| stream.is_none_or(|stream| stream == entry.stream))
            {
                scan.partial = !entry.full;
                if entry.full {
                    scan.ends += 1;
                    scan.last_ends.push_back(scan.len + taken as u64);
                    if scan.last_ends.len() as u64 > wanted.saturating_add(1) {
                        scan.last_ends.pop_front();
                    }
                }
            }
        }
        rest.drain(..taken);
        scan.len += taken as u64;
    }
    Ok(scan)
}

/// Turns entries into what the reader of a log sees.
#[derive(Debug)]
struct Formatter {
    options: ReadOptions,
    since: Option<[u8; line::TIME_LEN]>,
    left: u64,
    /// An entry that has not come whole.
    rest: Vec<u8>,
    /// Which streams are in the middle of a line.
    open: [bool; 2],
}

impl Formatter {
    fn new(options: ReadOptions) -> Self {
        let since = options.since.map(|since| {
            // Before the epoch nothing was logged.
            line::format_time(Duration::try_from(since.as_duration()).unwrap_or(Duration::ZERO))
        });
        Self {
            options,
            since,
            left: options.limit_bytes.unwrap_or(u64::MAX),
            rest: Vec::new(),
            open: [false; 2],
        }
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }

    fn feed(&mut self, piece: &[u8]) -> Bytes {
        let mut text = Vec::with_capacity(piece.len());
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(piece);
        let mut entries = rest.as_slice();
        while let Some(len) = entries.iter().position(|&b| b == b'\n') {
            if let Some(entry) = Entry::parse(&entries[..len]) {
                self.entry(&entry, &mut text);
            }
            entries = &entries[len + 1..];
        }
        self.rest = entries.to_vec();
        let len = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(text.len());
        text.truncate(len);
        self.left -= len as u64;
        text.into()
    }

    fn entry(&mut self, entry: &Entry<'_>, text: &mut Vec<u8>) {
        let wrong_stream = self
            .options
            .stream
            .is_some_and(|stream| stream != entry.stream);
        let too_old = self
            .since
            .as_ref()
            .is_some_and(|since| entry.time < since.as_slice());
        if wrong_stream || too_old {
            return;
        }
        let open = &mut self.open[entry.stream as usize];
        if self.options.timestamps && !*open {
            text.extend_from_slice(entry.time);
            text.push(b' ');
        }
        text.extend_from_slice(entry.text);
        if entry.full {
            text.push(b'\n');
        }
        *open = !entry.full;
    }
}

fn io_error(error: DirError) -> io::Error {
    match error {
        DirError::Io { source, .. } => source,
        name @ DirError::Name { .. } => io::Error::new(io::ErrorKind::InvalidInput, name),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
