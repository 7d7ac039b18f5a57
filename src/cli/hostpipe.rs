//! `vk-cmd hostpipe`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::hostpipe::DIR_VARIABLE;

/// Run commands on the host from within a container, through a FIFO in a shared directory.
#[derive(Debug, Args)]
pub struct HostpipeArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: HostpipeVerb,
}

/// The verbs of the hostpipe.
#[derive(Debug, Subcommand)]
pub enum HostpipeVerb {
    /// Read the pipe on the host, and run what comes
    Serve(HostpipeDir),
    /// Run a command on the host; its output and exit code are this command's
    Send(HostpipeSendArgs),
}

/// Where the pipe is.
#[derive(Debug, Args)]
pub struct HostpipeDir {
    /// The shared directory [default: $HOME/hostpipe, inside a container /root/hostpipe where that is missing]
    #[arg(long, value_name = "DIR", env = DIR_VARIABLE)]
    pub dir: Option<PathBuf>,
}

/// What to run, and through which pipe.
#[derive(Debug, Args)]
pub struct HostpipeSendArgs {
    /// Where
    #[command(flatten)]
    pub dir: HostpipeDir,
    /// The command; a single word with white space is a line for the shell
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}
