//! The combined log of an attempt.
use bytes::Bytes;
use jiff::Timestamp;

use super::dir::AttemptDir;

/// Which output a log entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

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
    _private: (),
}

impl Reader {
    /// Opens the log of an attempt that was started; an attempt without a log reads as empty.
    pub async fn open(attempt: &AttemptDir, options: ReadOptions) -> std::io::Result<Self> {
        let _ = (attempt, options);
        todo!()
    }

    /// The next piece, `None` at the end. Cancel-safe. Use `futures::stream::try_unfold` or [`Reader::into_stream`] for a stream.
    pub async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        todo!()
    }

    /// The pieces as a stream.
    pub fn into_stream(self) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        })
    }
}
