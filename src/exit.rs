//! Exit codes: what a shell script can rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for was done.
    Success,
    /// It was tried and failed: the server refused, or a pod ended with an error.
    Failure,
    /// The request itself is wrong: a flag, a variable or a file. Nothing was done.
    Usage,
    /// The code of the process that was run on the user's behalf.
    Process(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Process(code) => Self::from(code),
        }
    }
}

/// A mistake in the input: what was given, where it came from, and what would be right.
/// Ends the program with [`Exit::Usage`].
#[derive(Debug, thiserror::Error)]
#[error("{key}: {value:?} {problem} (from {origin}); {mend}")]
pub struct UsageError {
    /// The flag, variable or field.
    pub key: String,
    /// What stood there.
    pub value: String,
    /// What is wrong with it, as a verb phrase: `is not a number`.
    pub problem: String,
    /// Where it came from: `flag`, `environment`, a file's path.
    pub origin: String,
    /// What would be right.
    pub mend: String,
}
