//! `vk-cmd up`.

use std::path::PathBuf;

use clap::Args;

use super::ResourceArgs;
use crate::settings::env;

/// Run a control plane and one local node in this process.
///
/// Everything lies in the state directory. Once the node is Ready, stdout gets one line that sets
/// KUBECONFIG; progress goes to stderr. Ctrl-C ends the pods and stops; a second one stops at once.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where all state lies [default: $XDG_STATE_HOME/vk-cmd or ~/.local/state/vk-cmd]
    #[arg(long, value_name = "DIR", env = env::VK_CMD_STATE_DIR)]
    pub state_dir: Option<PathBuf>,
    /// The loopback port of the API server; where it is taken, a free one is used
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub port: u16,
    /// The name of the local node [default: this host's name]
    #[arg(long, value_name = "NAME", env = env::NODENAME)]
    pub nodename: Option<String>,
    /// Give the node the documented taint, virtual-kubelet.io/provider=mock:NoSchedule
    #[arg(long)]
    pub taint: bool,
    /// More labels of the node: key=value, separated by commas
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Whose semantics pods get that have no annotation vk-cmd/compat
    /// [default: the site profile's; else kubernetes]
    #[arg(long, value_name = "SEMANTICS", env = env::VK_CMD_COMPAT)]
    pub compat: Option<super::Semantics>,
    /// The site profile
    #[command(flatten)]
    pub site: super::SiteArgs,
    /// Resources
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Run no scheduler (another one is to do it)
    #[arg(long)]
    pub no_scheduler: bool,
    /// Run no controllers (the real kube-controller-manager is to do it)
    #[arg(long)]
    pub no_controllers: bool,
    /// Run the control plane alone
    #[arg(long)]
    pub no_node: bool,
    /// Apply these manifests once the node is Ready (`-` reads standard input)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub apply: Vec<PathBuf>,
    /// After --apply: wait until the pods have ended, then stop; the exit code tells the outcome
    #[arg(long, requires = "apply")]
    pub wait: bool,
    /// After --apply: print the pods' output to stdout
    #[arg(long, requires = "apply")]
    pub logs: bool,
}
