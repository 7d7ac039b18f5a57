//! Images of pods, and how a container in one becomes a request to the site's engine.
//!
//! | module | idea |
//! |---|---|
//! | here | what a site has |
//! | `pull` | there or pulled, by policy, with the kubelet's words |
//! | `progress` | how far a pull is, now and then |
//! | `request` | from a container's spec to a request |

mod progress;
mod pull;
mod request;

pub use pull::{Policy, Tell, auth, secrets};
pub use request::{Asked, engine_name};

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use tokio::sync::Semaphore;

use super::machine::Waiting;
use crate::container::engine::{Bind, Engine, Image, Kind as Engines};
use crate::hostpipe;

/// What this node does with image references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Means {
    /// An engine runs them.
    Engine {
        /// Whether it can run them as another user than the agent's.
        users: bool,
    },
    /// Nothing does; the mend.
    #[default]
    Nothing,
    /// Nothing does, and this would help.
    Mend(String),
}

/// What a site has for an image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another reference.
    Reference(String),
    /// Something that is there already.
    Ready(Image),
}

/// The node's engine and its images.
pub struct Images {
    engine: Engine,
    sources: BTreeMap<String, Source>,
    job: Job,
    via: Via,
    /// One pull at a time, as a kubelet does by default: a second one of the same image then finds it there.
    turn: Semaphore,
    failures: Mutex<HashMap<(String, String), pull::Failure>>,
}

/// All that [`Images`] is made of.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// What the site has for a name; `*` at the end of one stands for any rest.
    pub sources: BTreeMap<String, Source>,
    /// What containers see of the job.
    pub job: Job,
    /// Who starts the engine's programs.
    pub via: Via,
}

/// What image containers see of the job.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Variables that they get; `*` at the end of a name stands for any rest.
    pub pass: Vec<String>,
    /// Variables that every one gets.
    pub set: BTreeMap<String, String>,
    /// Paths; a variable may begin the source.
    pub binds: Vec<Bind>,
    /// Whether they see the home.
    pub home: bool,
}

/// Who starts an engine's programs.
#[derive(Clone, Debug)]
pub enum Via {
    /// The agent itself.
    Here,
    /// The host, behind the hostpipe.
    Host(hostpipe::Client),
}

impl Images {
    /// An engine and what a site has.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            engine,
            sources,
            job,
            via,
        } = parts;
        Self {
            engine,
            sources,
            job,
            via,
            turn: Semaphore::new(1),
            failures: Mutex::default(),
        }
    }

    /// Whether the engine is on the host, behind the hostpipe.
    pub fn is_on_host(&self) -> bool {
        matches!(self.via, Via::Host(_))
    }

    /// What admission is told.
    pub fn means(&self) -> Means {
        Means::Engine {
            users: self.engine.kind.has_users(),
        }
    }

    /// Whether the engine can make a mount point that the image does not have. Where `/dev` is the host's, it would
    /// have to be made there.
    pub fn makes_mount_point(&self, path: &str) -> bool {
        match self.engine.kind {
            Engines::Docker | Engines::Podman | Engines::PodmanHpc => true,
            Engines::Apptainer | Engines::Singularity => !path.starts_with("/dev/"),
            Engines::Shifter | Engines::Charliecloud => false,
        }
    }
}

fn waiting(reason: &'static str, message: String) -> Waiting {
    Waiting { reason, message }
}
