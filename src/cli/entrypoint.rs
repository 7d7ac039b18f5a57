//! `vk-cmd entrypoint`.

use std::path::PathBuf;

use clap::Args;

use super::{AgentArgs, HostpipeDir};
use crate::settings::env;

/// Run as a container image's entrypoint, or in a batch job: tunnels, hostpipe, then the agent.
#[derive(Debug, Args)]
pub struct EntrypointArgs {
    /// The node
    #[command(flatten)]
    pub agent: AgentArgs,
    /// The hostpipe
    #[command(flatten)]
    pub hostpipe: HostpipeDir,
    /// Build ssh tunnels to this host: HOST, USER@HOST or a name of ssh_config
    #[arg(long, value_name = "HOST", env = env::CONTROL_PLANE_IP)]
    pub control_plane: Option<String>,
    /// The API server's port, there and here
    #[arg(long, value_name = "PORT", env = env::APISERVER_PORT)]
    pub apiserver_port: Option<String>,
    /// The ssh server's port
    #[arg(long, value_name = "PORT", env = env::VK_CMD_SSH_PORT)]
    pub ssh_port: Option<String>,
    /// The private key for ssh
    #[arg(long, value_name = "FILE", env = env::VK_CMD_SSH_KEY)]
    pub ssh_key: Option<PathBuf>,
    /// A file of known host keys
    #[arg(long, value_name = "FILE", env = env::VK_CMD_SSH_KNOWN_HOSTS)]
    pub ssh_known_hosts: Option<PathBuf>,
}
