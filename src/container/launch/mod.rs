//! Starting, adopting and steering containers from the agent's side.

use std::{path::PathBuf, time::Duration};

use super::{
    dir::{ContainerDir, DirError},
    spec::ContainerSpec,
    status::{StartFailure, Status},
};

pub mod direct;

/// What launching needs to know of its surroundings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Launcher {
    shim: PathBuf,
    sockets: PathBuf,
}

/// Why there is no running container.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command could not be started; recorded as [`Status::StartFailed`], the attempt is used up.
    #[error("{message}")]
    Failed {
        /// What kind of failure.
        reason: StartFailure,
        /// For people.
        message: String,
    },
    /// The attempt is taken: started earlier, or by another agent. Adopt it.
    #[error("attempt {attempt} is already claimed")]
    Claimed {
        /// The attempt.
        attempt: u32,
    },
    /// The attempt was cancelled before.
    #[error("attempt {attempt} was cancelled")]
    Cancelled {
        /// The attempt.
        attempt: u32,
    },
    /// An agent with a newer epoch works on this container.
    #[error("an agent of epoch {newer} has taken over from epoch {ours}")]
    Superseded {
        /// Our epoch.
        ours: u64,
        /// Epoch found in the intent.
        newer: u64,
    },
    /// The shim died on the way; what it may have started has been ended and the attempt is [`Status::Lost`].
    #[error("the shim died while it started the command")]
    Lost,
    /// The shim could not be started or did not claim; nothing ran and the attempt can be tried again.
    #[error("failed to start the shim {}", shim.display())]
    Spawn {
        /// The program.
        shim: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The records could not be written; nothing ran.
    #[error(transparent)]
    Dir(#[from] DirError),
}

/// What an agent finds of an attempt.
#[derive(Debug)]
pub enum Adopted {
    /// Its shim lives (the command runs or is about to).
    Running(Handle),
    /// It ended: [`Status::Exited`] or [`Status::StartFailed`].
    Exited(Status),
    /// Its shim died ([`Status::Lost`]); what was left of it has been ended.
    Lost(Status),
    /// Nobody has claimed it: it may be started or cancelled.
    NeverStarted,
    /// It was cancelled before it started and can never start.
    Cancelled,
}

/// Why an attempt could not be adopted or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Records unreadable.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A record of a newer format.
    #[error("{} has format version {found}, this program knows {supported}: run a newer vk-cmd", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
}

/// Outcome of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// Nothing can start under this attempt any more.
    Cancelled,
    /// Too late: a shim has claimed it. Adopt and terminate.
    Claimed,
}

/// Why a request to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The shim is gone or ending; the status says how.
    #[error("the container has ended")]
    Ended,
    /// The shim does not know the request.
    #[error("the shim does not implement {request:?}")]
    NotImplemented {
        /// The request.
        request: String,
    },
    /// The shim tried and the system refused.
    #[error("{message}")]
    Refused {
        /// The system's words.
        message: String,
    },
}

impl Launcher {
    /// `shim` is the vk-cmd program; control sockets go to `sockets`, which is created `0700` and must be short.
    pub fn new(shim: PathBuf, sockets: PathBuf) -> Result<Self, DirError> {
        Ok(Self { shim, sockets })
    }

    /// Runs this very program as shim (even after its file was replaced), sockets in the user's run-time directory.
    pub fn for_this_program() -> Result<Self, DirError> {
        todo!()
    }

    /// Starts an attempt: intent, spawn, claim, exec. Returns when the command runs.
    ///
    /// Cancel-safe in the sense that dropping the future leaves an attempt that [`Launcher::adopt`] explains.
    pub async fn start(
        &self,
        dir: &ContainerDir,
        attempt: u32,
        epoch: u64,
        spec: &ContainerSpec,
    ) -> Result<Handle, StartError> {
        direct::start(self, dir, attempt, epoch, spec).await
    }

    /// Finds out what became of an attempt; ends what a dead shim left behind.
    pub async fn adopt(&self, dir: &ContainerDir, attempt: u32) -> Result<Adopted, AdoptError> {
        let _ = (dir, attempt);
        todo!()
    }

    /// Claims a never-started attempt, so that no late shim can start it.
    pub async fn cancel(
        &self,
        dir: &ContainerDir,
        attempt: u32,
        epoch: u64,
    ) -> Result<Cancellation, AdoptError> {
        let _ = (dir, attempt, epoch);
        todo!()
    }
}

/// A container whose shim lives, or lived when this was made. Dropping it does nothing to the container.
#[derive(Debug)]
pub struct Handle {
    _private: (),
}

impl Handle {
    /// The state as far as it is known here.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Waits for the end: [`Status::Exited`] or [`Status::Lost`]. Event-driven; cancel-safe; may be called again.
    pub async fn wait(&self) -> Status {
        todo!()
    }

    /// Sends a signal to the main process's group.
    pub async fn signal(&self, signal: i32) -> Result<(), ControlError> {
        let _ = signal;
        todo!()
    }

    /// SIGTERM now, SIGKILL to the whole tree after `grace`; returns when the shim has taken the order.
    /// A second call can shorten the grace, never lengthen it. [`Handle::wait`] tells the end.
    pub async fn terminate(&self, grace: Duration) -> Result<(), ControlError> {
        let _ = grace;
        todo!()
    }

    /// SIGKILL to the whole tree at once.
    pub async fn kill_tree(&self) -> Result<(), ControlError> {
        todo!()
    }
}
