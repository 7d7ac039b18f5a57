//! What a container runs. Reaches the shim through a socket, never through a file: it holds secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{cgroup::GroupSpec, engine::EngineClient};

/// Everything the shim needs to start one command.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Program and arguments; the program is looked up in the `PATH` of [`ContainerSpec::env`] unless it has a slash.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited from the agent. Of equal names the last one holds.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// CPUs the command and its descendants may use; `None` leaves the agent's.
    #[serde(default)]
    pub cpu_affinity: Option<Vec<usize>>,
    /// Soft resource limits, by the kernel's resource.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// File mode creation mask.
    #[serde(default = "default_umask")]
    pub umask: u32,
    /// Size and number of log segments.
    #[serde(default)]
    pub log: LogPolicy,
    /// Whether it is to run on the host, through the hostpipe; paths below the shared directory are then written as
    /// the host sees them. The shim itself does not care.
    #[serde(default)]
    pub on_host: bool,
    /// Where the command is the client of a container engine: what the shim has to do for it.
    #[serde(default)]
    pub engine: Option<Box<EngineClient>>,
    /// Mounts in a namespace of the container's own; none where it shares the host's.
    #[serde(default)]
    pub mounts: Option<Vec<Mount>>,
    /// The control group that it gets, where groups can be had.
    #[serde(default)]
    pub group: Option<Box<GroupSpec>>,
    /// What it reads, and whether it has a terminal; `/dev/null` and none where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interactive: Option<Interactive>,
}

/// How a container is talked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interactive {
    /// Standard input is open, for those who attach.
    pub stdin: bool,
    /// It ends with the first of them.
    pub once: bool,
    /// All its streams are a terminal.
    pub terminal: bool,
}

const fn default_umask() -> u32 {
    0o022
}

impl ContainerSpec {
    /// A command with an environment in a directory; all else default.
    pub fn new(argv: Vec<String>, env: Vec<(String, String)>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            argv,
            env,
            cwd: cwd.into(),
            cpu_affinity: None,
            rlimits: Vec::new(),
            umask: default_umask(),
            log: LogPolicy::default(),
            on_host: false,
            engine: None,
            mounts: None,
            group: None,
            interactive: None,
        }
    }
}

/// Something of the host at another place, in a container's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What: a directory or a file, absolute.
    pub source: PathBuf,
    /// Where, absolute; made where it is missing, without a trace on the host.
    pub target: PathBuf,
    /// Nothing can be written below it.
    pub read_only: bool,
    /// Not in what is mounted below it either.
    pub recursive: bool,
    /// It is an error where that cannot be had.
    pub required: bool,
    /// What the host mounts below it later appears.
    pub follows_host: bool,
}

/// Leaves the values out: environments and arguments hold secrets.
impl std::fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("program", &self.argv.first())
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("env", &self.env.len())
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// A soft limit; hard limits are inherited, since an unprivileged process cannot raise them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which resource.
    pub resource: RlimitResource,
    /// Soft limit in the resource's unit; cut to the hard limit.
    pub soft: u64,
}

/// Resources that make sense per process. `RLIMIT_NPROC` counts per user and is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RlimitResource {
    /// Open files.
    Nofile,
    /// Bytes of a core file.
    Core,
    /// Bytes of the stack.
    Stack,
    /// Bytes of locked memory.
    Memlock,
}

/// When the combined log and the plain output files are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// Bytes after which a new segment begins.
    pub max_bytes: u64,
    /// Segments kept, the one being written included; at least 1.
    pub max_files: u32,
}

/// The kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
impl Default for LogPolicy {
    fn default() -> Self {
        Self {
            max_bytes: 10 * 1024 * 1024,
            max_files: 5,
        }
    }
}
