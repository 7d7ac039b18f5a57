//! `vk-cmd site`, and the flags that choose a site anywhere.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::settings::env;

/// Which site profile holds.
#[derive(Debug, Clone, Default, Args)]
pub struct SiteArgs {
    /// The site profile: a built-in one or a file's [default: the one that fits this machine]
    #[arg(long, value_name = "NAME", env = env::VK_CMD_SITE)]
    pub site: Option<String>,
    /// A file with a site profile, which is then taken unless --site names another
    #[arg(long, value_name = "FILE", env = env::VK_CMD_SITE_FILE)]
    pub site_file: Option<PathBuf>,
}

/// Site profiles: list them, show one, write one, and check what this machine can do.
#[derive(Debug, Args)]
pub struct SiteVerb {
    /// What to do
    #[command(subcommand)]
    pub action: SiteAction,
}

/// The actions of `vk-cmd site`.
#[derive(Debug, Subcommand)]
pub enum SiteAction {
    /// List the profiles: built-in ones and those in ~/.config/vk-cmd/sites
    List(SiteListArgs),
    /// Print a profile as YAML, with all that its base says
    Show(SiteShowArgs),
    /// Write a profile of your own over a base, to be edited
    Init(SiteInitArgs),
    /// Probe this machine: what works, what it means, and how to mend what does not
    Check(SiteCheckArgs),
}

/// How `site` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SiteOutput {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// `vk-cmd site list`.
#[derive(Debug, Args)]
pub struct SiteListArgs {
    /// Which profile is marked
    #[command(flatten)]
    pub site: SiteArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: SiteOutput,
}

/// `vk-cmd site show`.
#[derive(Debug, Args)]
pub struct SiteShowArgs {
    /// The profile [default: the one that holds here]
    pub name: Option<String>,
    /// Which profile holds
    #[command(flatten)]
    pub site: SiteArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value = "yaml")]
    pub output: SiteOutput,
}

/// `vk-cmd site init`.
#[derive(Debug, Args)]
pub struct SiteInitArgs {
    /// The new profile's name
    pub name: String,
    /// The profile that holds where the new one says nothing
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub base: String,
    /// Where to write it: by default NAME.yaml in ~/.config/vk-cmd/sites; `-` for stdout
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

/// `vk-cmd site check`.
#[derive(Debug, Args)]
pub struct SiteCheckArgs {
    /// Which profile to check against
    #[command(flatten)]
    pub site: SiteArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: SiteOutput,
    /// Hosts and ports to reach from here: the control plane, a registry (host:port)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub reach: Vec<String>,
    /// The directory that pod data would lie in
    #[arg(long, value_name = "DIR", env = env::VK_CMD_ROOT)]
    pub root: Option<PathBuf>,
}
