//! Shims started as children of the agent.
use super::{Handle, Launcher, StartError};
use crate::container::{dir::ContainerDir, spec::ContainerSpec};

/// See [`Launcher::start`].
pub async fn start(
    launcher: &Launcher,
    dir: &ContainerDir,
    attempt: u32,
    epoch: u64,
    spec: &ContainerSpec,
) -> Result<Handle, StartError> {
    let _ = (launcher, dir, attempt, epoch, spec);
    todo!()
}
