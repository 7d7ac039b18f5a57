//! From flags and environment to values that are known to be right.
//!
//! Each value is read once, checked once, and named with its origin where it is wrong.

pub mod agent;
pub mod env;
pub mod resources;
pub mod site;
pub mod walltime;

use std::path::PathBuf;

use crate::exit::UsageError;

/// `$XDG_STATE_HOME/vk-cmd`, else `~/.local/state/vk-cmd`.
///
/// # Errors
/// Where neither `XDG_STATE_HOME` nor `HOME` names an absolute path.
pub fn default_state_dir() -> Result<PathBuf, UsageError> {
    let absolute = |key: &str| {
        std::env::var_os(key)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("vk-cmd"))
        .ok_or_else(|| UsageError {
            key: "HOME".to_owned(),
            value: String::new(),
            problem: "is not set, so there is no place for the state".to_owned(),
            origin: "environment".to_owned(),
            mend: "set HOME, or name a directory with --state-dir or --root".to_owned(),
        })
}
