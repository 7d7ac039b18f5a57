//! Pipes into files: `stdout`, `stderr` and the combined log.

use std::{
    io::{self, Read},
    time::{Duration, SystemTime},
};

use super::{Context, start::Failure};
use crate::container::{
    log::{
        line::{self, Stream},
        segments::{PlainFile, Segments},
    },
    spec::LogPolicy,
    status::StartFailure,
};

/// Largest piece that is read at once; what a pipe holds.
const PIECE: usize = 64 * 1024;
/// Size from which collected entries are written.
const FLUSH: usize = 64 * 1024;

/// Where output goes.
pub(super) struct Sink {
    stdout: PlainFile,
    stderr: PlainFile,
    log: Segments,
    entries: Vec<u8>,
    /// Bytes that the log lacks and no note tells of yet.
    dropped: Dropped,
}

#[derive(Default)]
struct Dropped {
    bytes: u64,
    why: String,
}

impl Sink {
    pub(super) fn create(context: &Context, policy: LogPolicy) -> Result<Self, Failure> {
        let failed = |reason, what: &str| {
            let what = format!("failed to create {what}");
            move |error: crate::container::dir::DirError| Failure::caused(reason, &what, &error)
        };
        Ok(Self {
            stdout: PlainFile::create(&context.workdir, "stdout", policy)
                .map_err(failed(StartFailure::StdoutFile, "stdout file"))?,
            stderr: PlainFile::create(&context.workdir, "stderr", policy)
                .map_err(failed(StartFailure::StderrFile, "stderr file"))?,
            log: Segments::create(&context.records, policy)
                .map_err(failed(StartFailure::LogFile, "the log"))?,
            entries: Vec::new(),
            dropped: Dropped::default(),
        })
    }

    /// Takes a piece of output. What no file takes is dropped: a full disk must stop no container.
    fn write(&mut self, context: &Context, stream: Stream, piece: &[u8]) {
        let plain = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        // The note in the combined log tells of both: they share a disk.
        let _ = plain.append(&context.workdir, piece);
        let time = now();
        for line in piece.split_inclusive(|&b| b == b'\n') {
            line::write_entries(&mut self.entries, &time, stream, line);
            if self.entries.len() >= FLUSH {
                self.flush(context, &time);
            }
        }
        self.flush(context, &time);
    }

    fn flush(&mut self, context: &Context, time: &[u8; line::TIME_LEN]) {
        if self.dropped.bytes > 0 {
            let mut note = Vec::new();
            let Dropped { bytes, why } = &self.dropped;
            line::write_note(
                &mut note,
                time,
                format_args!("{bytes} bytes of log were dropped: {why}"),
            );
            if self.log.append(&context.records, &note).is_ok() {
                self.dropped = Dropped::default();
            }
        }
        if let Err(error) = self.log.append(&context.records, &self.entries) {
            self.dropped.bytes += self.entries.len() as u64;
            self.dropped.why = error.to_string();
        }
        self.entries.clear();
    }

    /// What could not be written, for the status; empty where all is.
    pub(super) fn complaint(&self) -> String {
        match &self.dropped {
            Dropped { bytes: 0, .. } => String::new(),
            Dropped { bytes, why } => format!("{bytes} bytes of log were dropped: {why}"),
        }
    }
}

fn now() -> [u8; line::TIME_LEN] {
    line::format_time(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}

/// The reading end of one of the command's outputs.
pub(super) struct Source {
    stream: Stream,
    /// `None` after the last writer has closed it.
    pub(super) pipe: Option<std::fs::File>,
}

/// Whether there may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    NotNow,
}

impl Source {
    pub(super) fn new(stream: Stream, pipe: Option<std::fs::File>) -> Self {
        Self { stream, pipe }
    }

    /// Copies one piece, so that one busy output starves nothing else.
    pub(super) fn copy(&mut self, context: &Context, sink: &mut Sink, buffer: &mut Vec<u8>) {
        self.copy_piece(context, sink, buffer);
    }

    /// Copies what has been written so far. Writers that live on are not waited for.
    pub(super) fn drain(&mut self, context: &Context, sink: &mut Sink, buffer: &mut Vec<u8>) {
        // A writer outside the tree (a descriptor that was passed on) could keep this going: a pipe's content ends it.
        for _ in 0..MAX_DRAIN_PIECES {
            if self.copy_piece(context, sink, buffer) == More::NotNow {
                return;
            }
        }
    }

    fn copy_piece(&mut self, context: &Context, sink: &mut Sink, buffer: &mut Vec<u8>) -> More {
        let Some(pipe) = &mut self.pipe else {
            return More::NotNow;
        };
        buffer.resize(PIECE, 0);
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                More::NotNow
            }
            Ok(len) => {
                sink.write(context, self.stream, &buffer[..len]);
                More::Yes
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => More::Yes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => More::NotNow,
            Err(_) => {
                self.pipe = None;
                More::NotNow
            }
        }
    }
}

/// A pipe holds at most 1 MiB for an unprivileged user (`/proc/sys/fs/pipe-max-size`).
const MAX_DRAIN_PIECES: usize = 64;
