//! Starting, adopting and steering containers from the agent's side.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, OnceLock},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;

use super::{
    claim::RecordError,
    dir::{ContainerDir, DirError, check_private},
    files::Dir,
    shim,
    spec::ContainerSpec,
    status::{StartFailure, Status},
};
use crate::hostpipe::{CallError, Client};

mod adopt;
pub mod direct;
mod exec;
mod handle;
pub mod hostpipe;
mod leftovers;

pub use exec::{ExecError, ExecEvent, ExecInput, ExecOutcome, ExecOutput, ExecRequest, ExecStream};
pub use handle::Handle;

/// What launching needs to know of its surroundings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Launcher {
    shim: PathBuf,
    sockets: PathBuf,
    /// How the host is reached from inside of a container, for specs that run there.
    host: Option<Client>,
    /// Starts at once: more than the processors can serve would only make each of them slow.
    starts: Arc<Semaphore>,
    patience: Duration,
}

/// How long a shim may take from its start to that of its command. It synchronises nothing on the way, so only a file
/// system that hangs, or a shim that somebody has stopped, takes so long.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Longest path of a socket: `sun_path` less its NUL and the mark of a socket that does not listen yet.
const MAX_SOCKET_PATH: usize = 106;
/// Characters of a container's identity that name its socket.
const SOCKET_NAME: usize = 16;

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
        /// It was for want of room on a disk.
        no_room: bool,
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
    /// The host was to start it and does not answer, or there is no way to it; nothing ran and the attempt can be
    /// tried again.
    #[error("the host cannot be reached")]
    Host(#[from] HostError),
    /// The records could not be read or written; nothing ran.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why nothing can be done on the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no hostpipe.
    #[error(
        "this agent has no hostpipe: run `vk-cmd hostpipe serve` on the host, and start the agent again"
    )]
    NoPipe,
    /// It does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The reader is somebody else.
    #[error(
        "the hostpipe is read by user {theirs}, and this agent is user {ours}: both must be the same"
    )]
    Foreign {
        /// Who reads.
        theirs: u32,
        /// Who we are.
        ours: u32,
    },
}

impl From<DirError> for StartError {
    fn from(error: DirError) -> Self {
        Self::Record(error.into())
    }
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

/// Why an attempt could not be adopted or cancelled. Nothing was changed; it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Records unreadable.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The shim lives and cannot be reached.
    #[error("shim {pid} cannot be reached at {}", socket.display())]
    Unreachable {
        /// The shim.
        pid: i32,
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It was started on the host, which cannot be asked.
    #[error("the host cannot be asked about the container")]
    Host(#[from] HostError),
    /// The system refused to look at processes.
    #[error("failed to look for processes of the container")]
    Processes(#[source] std::io::Error),
}

impl From<DirError> for AdoptError {
    fn from(error: DirError) -> Self {
        Self::Record(error.into())
    }
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
        let longest = sockets.as_os_str().len() + "/".len() + SOCKET_NAME;
        if longest > MAX_SOCKET_PATH {
            return Err(DirError::io(
                "use as a directory of sockets (its path is too long)",
                &sockets,
                nix::errno::Errno::ENAMETOOLONG,
            ));
        }
        create_private_dir(&sockets)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            shim,
            sockets,
            host: None,
            starts: Arc::new(Semaphore::new(4 * processors)),
            patience: START_PATIENCE,
        })
    }

    /// Gives shims another time for a start than 60 s.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Tries whether containers can have mount namespaces of their own.
    ///
    /// # Errors
    /// Why they cannot.
    pub async fn probe_mounts(&self) -> Result<(), String> {
        let tried = tokio::process::Command::new(&self.shim)
            .args(["shim", shim::PROBE_MOUNTS])
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tried.await {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Runs this very program as shim (even after its file was replaced), sockets in [`default_socket_dir`].
    pub fn for_this_program() -> Result<Self, DirError> {
        Self::new(PathBuf::from("/proc/self/exe"), default_socket_dir())
    }

    /// Starts what is marked for it on the host, through a hostpipe.
    #[must_use]
    pub fn with_host(self, host: Option<Client>) -> Self {
        Self { host, ..self }
    }

    /// Starts an attempt: intent, spawn, claim, exec. Returns when the command runs.
    ///
    /// Dropping the future leaves an attempt that [`Launcher::adopt`] explains.
    pub async fn start(
        &self,
        dir: &ContainerDir,
        attempt: u32,
        epoch: u64,
        spec: &ContainerSpec,
    ) -> Result<Handle, StartError> {
        if spec.on_host {
            return hostpipe::start(self, dir, attempt, epoch, spec).await;
        }
        direct::start(self, dir, attempt, epoch, spec).await
    }

    /// Finds out what became of an attempt; ends what a dead shim left behind.
    pub async fn adopt(&self, dir: &ContainerDir, attempt: u32) -> Result<Adopted, AdoptError> {
        adopt::adopt(&dir.attempt(attempt), self.host.as_ref()).await
    }

    /// Claims a never-started attempt, so that no late shim can start it.
    pub async fn cancel(
        &self,
        dir: &ContainerDir,
        attempt: u32,
        epoch: u64,
    ) -> Result<Cancellation, AdoptError> {
        adopt::cancel(&dir.attempt(attempt), epoch).await
    }

    fn socket(&self, container: &str) -> PathBuf {
        self.sockets
            .join(&container[..SOCKET_NAME.min(container.len())])
    }
}

/// The soft limit of open files that this process came with, once it has been raised.
static OPEN_FILES: OnceLock<u64> = OnceLock::new();

/// Raises this process's soft limit of open files to the hard one: an agent holds a connection to each container.
///
/// Containers get the limit that the process came with: programs that use `select` break above 1,024.
pub fn raise_open_files() -> std::io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // A second call finds the raised limit, which is not what the process came with.
    OPEN_FILES.get_or_init(|| soft);
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// `$XDG_RUNTIME_DIR/vk-cmd`, or `/tmp/vk-cmd-<uid>` where there is no such directory of ours.
pub fn default_socket_dir() -> PathBuf {
    let uid = nix::unistd::geteuid();
    let run_time = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| is_ours(dir, uid.as_raw()));
    match run_time {
        Some(dir) => dir.join("vk-cmd"),
        None => PathBuf::from(format!("/tmp/vk-cmd-{uid}")),
    }
}

fn is_ours(dir: &Path, uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    dir.is_absolute() && std::fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
}

/// Creates a directory, `0700`, or makes sure that it is ours.
fn create_private_dir(path: &Path) -> Result<(), DirError> {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .recursive(true)
        .create(path)
        .map_err(|source| DirError::Io {
            op: "create directory",
            path: path.to_owned(),
            source,
        })?;
    let dir = Dir::open_trusted(path)?
        .ok_or_else(|| DirError::io("open directory", path, nix::errno::Errno::ENOENT))?;
    check_private(&dir)
}
