//! How an attempt goes, as its shim writes it down.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

/// Version of `status.json`, `intent.json` and `claim.json`; a file of a newer version is refused, not guessed at.
pub const FORMAT_VERSION: u32 = 1;

/// State of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Status {
    /// Claimed by a shim, command not started yet.
    Created,
    /// The command's `exec` succeeded.
    Running {
        /// The main process.
        process: ProcessId,
        /// Its process group, also in the file `pgid`.
        pgid: i32,
        /// When `exec` had succeeded.
        started_at: Timestamp,
        /// A control group holds its limit of memory, so that nobody else need watch it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        memory_held: bool,
    },
    /// The main process ended and nothing of its tree is left.
    Exited {
        /// How the main process ended.
        exit: Exit,
        /// The main process, by which the container was known while it ran.
        #[serde(default)]
        process: Option<ProcessId>,
        /// When `exec` had succeeded.
        started_at: Timestamp,
        /// When the main process ended.
        finished_at: Timestamp,
        /// It was killed because it used more memory than it may.
        #[serde(default)]
        out_of_memory: bool,
        /// What went wrong beside (dropped output, processes that could not be killed); empty as a rule.
        #[serde(default)]
        message: String,
        /// What the container engine says of the end, in its own form.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<String>,
    },
    /// The command could not be started; nothing ran.
    StartFailed {
        /// What kind of failure.
        reason: StartFailure,
        /// For people; names the program and the system's error.
        message: String,
        /// When it failed.
        finished_at: Timestamp,
        /// It was for want of room on a disk: nothing is wrong with the command, and another try may go well.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_room: bool,
    },
    /// The shim died and took the exit code with it; what it had started has been ended.
    Lost {
        /// When the command had started, where that is known.
        started_at: Option<Timestamp>,
        /// When the loss was found.
        finished_at: Timestamp,
        /// What is known of the cause.
        message: String,
    },
}

impl Status {
    /// Whether nothing can follow this state.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Exited { .. } | Self::StartFailed { .. } | Self::Lost { .. }
        )
    }
}

/// End of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended the process, as container runtimes report it.
    pub code: i32,
    /// The signal that ended the process.
    pub signal: Option<i32>,
}

/// Why a command did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFailure {
    /// `argv` is empty, or an argument or variable holds a NUL byte.
    InvalidSpec,
    /// The working directory is missing or closed to us.
    WorkingDirectory,
    /// No such program.
    NotFound,
    /// The program exists and may not be executed (mode, directory, `noexec` mount).
    NotExecutable,
    /// The kernel does not know the file's format (`ENOEXEC`: a script without `#!`, another architecture).
    ExecFormat,
    /// The pgid file could not be written.
    PgidFile,
    /// The stdout file could not be created.
    StdoutFile,
    /// The stderr file could not be created.
    StderrFile,
    /// The combined log could not be created.
    LogFile,
    /// Limits or CPU affinity could not be set.
    Limits,
    /// The container's mount namespace could not be made.
    Mounts,
    /// Any other failure of the system (out of memory, processes or descriptors, arguments too long).
    System,
}

/// Contents of `status.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// The attempt this is about.
    pub attempt: u32,
    /// Epoch of the agent that intended it.
    pub epoch: u64,
    /// The shim that wrote it; of the agent where the state is [`Status::Lost`].
    pub writer: ProcessId,
    /// The state.
    pub status: Status,
}
