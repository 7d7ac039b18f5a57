//! What can be typed: clap types alone, a file a verb.

mod agent;
mod client;
mod entrypoint;
mod hostpipe;
pub mod legacy;
mod resources;
mod site;
mod up;

pub use agent::{AgentArgs, Semantics, WalltimeArgs};
pub use client::{
    ApplyArgs, AttachArgs, ClusterArgs, DeleteArgs, DescribeArgs, ExecArgs, GetArgs, LogsArgs,
    OutputFormat, SelectArgs, TopArgs, TopKind,
};
pub use entrypoint::EntrypointArgs;
pub use hostpipe::{HostpipeArgs, HostpipeDir, HostpipeSendArgs, HostpipeVerb};
pub use resources::{MountNamespace, ResourceArgs};
pub use site::{
    SiteAction, SiteArgs, SiteCheckArgs, SiteInitArgs, SiteListArgs, SiteOutput, SiteShowArgs,
    SiteVerb,
};
pub use up::UpArgs;

use clap::{Parser, Subcommand};

use crate::settings::env;

/// Turns a batch allocation into a Kubernetes node, without root.
#[derive(Debug, Parser)]
#[command(name = "vk-cmd", version, about, long_about = None, max_term_width = 100)]
pub struct Cli {
    /// Which log lines to print, for example `info` or `vk_cmd=debug,warn`
    #[arg(long, global = true, env = env::VK_CMD_LOG, default_value = "warn,vk_cmd=info,control_plane=info")]
    pub log: String,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a control plane and one local node in this process
    Up(Box<UpArgs>),
    /// Run the node agent: join the cluster of a kubeconfig
    Agent(Box<AgentArgs>),
    /// Site profiles, and what this machine can do
    Site(SiteVerb),
    /// Run as an image's entrypoint: tunnels, hostpipe, agent
    Entrypoint(Box<EntrypointArgs>),
    /// Run commands on the host from within a container
    Hostpipe(HostpipeArgs),
    /// Create or change objects from files
    Apply(ApplyArgs),
    /// Print objects, as the server's own table or whole
    Get(GetArgs),
    /// Print an object with its events
    Describe(DescribeArgs),
    /// Print the output of a container
    Logs(LogsArgs),
    /// Print what nodes or pods use
    Top(TopArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Show what a container writes from now on, and give it what is typed
    Attach(AttachArgs),
    /// Delete objects and wait until they are gone
    Delete(DeleteArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
