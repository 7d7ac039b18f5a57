//! What this machine can do, what that means for an agent, and how to mend what is missing.
//!
//! | module | idea |
//! |---|---|
//! | [`facts`] | looking: files, system calls and short commands, each bounded in time |
//! | [`mod@judge`] | what the facts mean, pure |

pub mod facts;
pub mod judge;

use serde::Serialize;

pub use facts::{Facts, Wish};
pub use judge::judge;

/// How a finding bears on running pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It works.
    Ok,
    /// Something is not there that is not needed for everything.
    Info,
    /// Pods run, with less than they could have.
    Warn,
    /// This site's profile cannot work here.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `engine.docker`, `fs.home`, …: stable, for programs.
    pub id: String,
    /// How it bears on pods.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What that means here.
    pub means: String,
    /// How to mend it; empty where nothing needs to be.
    pub mend: String,
    /// The node's label that says the same, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<(String, String)>,
}
