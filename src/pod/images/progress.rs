//! How far a pull is: what its engine has printed last, told now and then.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::AsyncWrite;

/// After which a pull is told to be under way still; the pause doubles each time, so that a long one fills no list.
const FIRST: Duration = Duration::from_secs(10);
/// Characters of an engine's line that are told.
const WIDTH: usize = 200;

/// What the engine has printed last.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: Mutex<String>,
}

/// When it is told.
#[derive(Debug)]
pub(super) struct Words {
    next: Duration,
}

impl Progress {
    /// A line of the engine.
    pub(super) fn hear(&self, line: &str) {
        // What a terminal would show last of it.
        let line = line.rsplit('\r').find(|part| !part.trim().is_empty());
        let Some(line) = line else { return };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = line.trim().chars().take(WIDTH).collect();
    }
}

impl Words {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// How long after the pull began the next word is due.
    pub(super) fn due(&self) -> Duration {
        self.next
    }

    /// That word.
    pub(super) fn word(&mut self, image: &str, heard: &Progress) -> String {
        let passed = self.next.as_secs();
        self.next *= 2;
        let last = heard.last.lock().unwrap_or_else(PoisonError::into_inner);
        let said = if last.is_empty() { "" } else { ": " };
        format!("Still pulling image {image:?} after {passed}s{said}{last}")
    }
}

/// Keeps the end of what is written to it, and tells its lines.
pub(super) struct Lines<'a> {
    to: &'a Progress,
    line: Vec<u8>,
    /// The first bytes.
    pub(super) first: Vec<u8>,
    /// The last lines.
    pub(super) last: Vec<String>,
}

/// Bytes kept of the beginning, and of one line.
const KEPT: usize = 64 * 1024;
/// Lines kept of the end.
const LAST: usize = 5;

impl<'a> Lines<'a> {
    pub(super) fn new(to: &'a Progress) -> Self {
        Self {
            to,
            line: Vec::new(),
            first: Vec::new(),
            last: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.first.len());
        self.first
            .extend_from_slice(&bytes[..room.min(bytes.len())]);
        for &byte in bytes {
            if byte == b'\n' {
                self.end();
            } else if self.line.len() < KEPT {
                self.line.push(byte);
            }
        }
    }

    /// What came without an end of its line counts as one.
    pub(super) fn end(&mut self) {
        let text = String::from_utf8_lossy(&self.line).trim().to_owned();
        self.line.clear();
        if text.is_empty() {
            return;
        }
        self.to.hear(&text);
        self.last.push(text);
        if self.last.len() > LAST {
            self.last.remove(0);
        }
    }
}

impl AsyncWrite for Lines<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_told_at_growing_pauses() {
        let (progress, mut words) = (Progress::default(), Words::new());
        assert_eq!(words.due(), FIRST);
        assert_eq!(
            words.word("a:1", &progress),
            "Still pulling image \"a:1\" after 10s"
        );
        progress.hear("one");
        progress.hear("  10%\r  20%\r");
        assert_eq!(words.due(), FIRST * 2);
        assert_eq!(
            words.word("a:1", &progress),
            "Still pulling image \"a:1\" after 20s: 20%"
        );
        progress.hear("");
        progress.hear(&"x".repeat(1000));
        assert_eq!(
            words.word("a", &progress).len(),
            "Still pulling image \"a\" after 40s: ".len() + WIDTH
        );
    }

    #[test]
    fn lines_come_out_whole_however_they_are_cut() {
        let progress = Progress::default();
        let mut lines = Lines::new(&progress);
        for byte in b"1\n2\n\n3\n4\n5\n6\nno end" {
            lines.take(&[*byte]);
        }
        assert_eq!(lines.last, ["2", "3", "4", "5", "6"]);
        lines.end();
        assert_eq!(lines.last, ["3", "4", "5", "6", "no end"]);
        assert_eq!(lines.first, b"1\n2\n\n3\n4\n5\n6\nno end");
        lines.take(&vec![b'x'; 2 * KEPT]);
        assert_eq!(lines.first.len(), KEPT);
    }
}
