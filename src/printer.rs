//! The one place that writes to stdout and stderr for people; everything else logs.

use std::io::{self, Write};

/// Writes `text` to stdout, without a newline of its own.
///
/// # Errors
/// What the write gives; a closed pipe is the reader's way to say "enough" and is reported as such.
pub fn out(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// Writes `text` to stderr as it is.
///
/// # Errors
/// What the write gives.
pub fn err(text: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(text)
}

/// Writes a line to stdout.
///
/// # Errors
/// As [`out`].
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    out(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes a line for people to stderr. Nobody can be told when that fails.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}
