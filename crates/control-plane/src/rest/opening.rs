//! A deadline for the first bytes of a connection.
//!
//! Whether HTTP/1.1 or HTTP/2 is spoken is known by the first [`PREFACE`] bytes, and each of the two
//! has its own deadlines from there on. A client that opens a connection and says nothing, or next
//! to nothing, has none but this one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The length of the connection preface of HTTP/2 (RFC 9113, 3.4); the shortest request of HTTP/1.1
/// with its `Host` is longer.
const PREFACE: usize = 24;

/// A stream whose reads fail with `TimedOut` where the first bytes do not come in time.
#[derive(Debug)]
pub(super) struct Opening<S> {
    stream: S,
    /// How many bytes are missing, and until when; none once they are there.
    missing: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Opening<S> {
    pub(super) fn new(stream: S, within: Duration) -> Self {
        Self {
            stream,
            missing: Some((PREFACE, Box::pin(sleep(within)))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((missing, deadline)) = &mut self.missing else {
            return polled;
        };
        if polled.is_pending() {
            return deadline
                .as_mut()
                .poll(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.missing = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const WITHIN: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_says_next_to_nothing_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Opening::new(server, WITHIN);
        client.write_all(b"P").await.expect("written");
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.expect("a byte"), 1);
        let error = server.read(&mut buffer).await.expect_err("no more");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_has_spoken_may_be_silent() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Opening::new(server, WITHIN);
        client.write_all(&[b'x'; PREFACE]).await.expect("written");
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.expect("bytes"), PREFACE);
        let silence = tokio::time::timeout(2 * WITHIN, server.read(&mut buffer)).await;
        assert!(silence.is_err(), "the read still waits: {silence:?}");
    }
}
