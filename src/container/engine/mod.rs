//! Container engines: what runs an ordinary image.
//!
//! | module | idea |
//! |---|---|
//! | here | which engines there are |
//! | `request` | what is asked of an engine |
//! | `client` | what a supervisor does for an engine's client |
//! | `report` | what an engine says of an end |
//! | `images` | whether an image is there, and how it is pulled |
//! | `auth` | who we are to a registry |
//! | `heed` | variables: for engines, for containers, in paths |
//! | `argv` | the command lines that ask it, pure |

mod argv;
mod auth;
mod client;
mod heed;
mod images;
mod report;
mod request;

use std::fmt;

pub use auth::{Auth, registry};
pub(in crate::container) use client::settle_left;
pub use client::{EngineClient, ExecPrefix};
pub use heed::{expand, is_for_engines, passes};
pub use images::{Call, Found, Output};
pub use report::End;
pub use request::{Bind, Engine, Gpus, Image, Invocation, Request, Unsupported};

use serde::{Deserialize, Serialize};

/// A container engine by its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Docker: a daemon owns the containers.
    Docker,
    /// Podman: no daemon.
    Podman,
    /// NERSC's wrapper of Podman.
    PodmanHpc,
    /// Apptainer.
    Apptainer,
    /// SingularityCE, and Apptainer's former name.
    Singularity,
    /// Shifter.
    Shifter,
    /// Charliecloud's `ch-run`.
    Charliecloud,
}

impl Kind {
    /// Every engine, those first that a site which has several would rather use.
    pub const ALL: [Self; 7] = [
        Self::Shifter,
        Self::Apptainer,
        Self::Singularity,
        Self::PodmanHpc,
        Self::Podman,
        Self::Docker,
        Self::Charliecloud,
    ];

    /// Its name in profiles and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::PodmanHpc => "podman-hpc",
            Self::Apptainer => "apptainer",
            Self::Singularity => "singularity",
            Self::Shifter => "shifter",
            Self::Charliecloud => "charliecloud",
        }
    }

    /// Whether a container may run as another user than the one who starts it.
    pub const fn has_users(self) -> bool {
        matches!(self, Self::Docker | Self::Podman | Self::PodmanHpc)
    }

    /// The program that runs a container.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Charliecloud => "ch-run",
            other => other.name(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
