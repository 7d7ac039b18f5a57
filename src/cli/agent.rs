//! `vk-cmd agent`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ResourceArgs;
use crate::settings::env;

/// Whose semantics pods get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Semantics {
    /// A kubelet's.
    #[default]
    Kubernetes,
    /// Those that the documents of virtual-kubelet-cmd describe: run once, documented states
    VirtualKubeletCmd,
}

/// Run the node agent: register a node with the cluster of a kubeconfig and run its pods.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// The kubeconfig of the cluster to join [default: $HOME/.kube/config]
    #[arg(long, value_name = "FILE", env = env::KUBECONFIG)]
    pub kubeconfig: Option<PathBuf>,
    /// A kubeconfig with a bootstrap token, instead: the agent asks for a certificate of its own and renews it
    #[arg(long, value_name = "FILE", env = env::VK_CMD_BOOTSTRAP_KUBECONFIG)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// The node's name [default: this host's name]
    #[arg(long, value_name = "NAME", env = env::NODENAME)]
    pub nodename: Option<String>,
    /// Where the control plane reaches this node [default: 127.0.0.1]
    #[arg(long, value_name = "IP", env = env::VKUBELET_POD_IP)]
    pub pod_ip: Option<String>,
    /// The port of the kubelet API; 0 takes a free one
    #[arg(
        long,
        value_name = "PORT",
        env = env::KUBELET_PORT,
        default_value = "10250"
    )]
    pub kubelet_port: String,
    /// The address that the kubelet API listens on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub kubelet_address: std::net::IpAddr,
    /// The value of the node's taint virtual-kubelet.io/provider
    #[arg(long, value_name = "NAME", default_value = "mock")]
    pub provider: String,
    /// Register the node without the taint
    #[arg(long)]
    pub no_taint: bool,
    /// More labels of the node: key=value, separated by commas
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Where pod data lies [default: $XDG_STATE_HOME/vk-cmd/agent or ~/.local/state/vk-cmd/agent]
    #[arg(long, value_name = "DIR", env = env::VK_CMD_ROOT)]
    pub root: Option<PathBuf>,
    /// Resources
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// The certificate of the kubelet API [default: one that the agent makes and signs itself]
    #[arg(long, value_name = "FILE", env = env::APISERVER_CERT_LOCATION)]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", env = env::APISERVER_KEY_LOCATION)]
    pub tls_private_key_file: Option<PathBuf>,
    /// The CA of client certificates at the kubelet API [default: the CA of the kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// The label jiriaf.nodetype
    #[arg(long, value_name = "TEXT", env = env::JIRIAF_NODETYPE)]
    pub nodetype: Option<String>,
    /// The label jiriaf.site
    #[arg(long, value_name = "TEXT", env = env::JIRIAF_SITE)]
    pub site_label: Option<String>,
    /// Whose semantics pods get that have no annotation vk-cmd/compat
    /// [default: the site profile's; else kubernetes]
    #[arg(long, value_name = "SEMANTICS", env = env::VK_CMD_COMPAT)]
    pub compat: Option<Semantics>,
    /// The site profile
    #[command(flatten)]
    pub site: super::SiteArgs,
    /// How the node ends
    #[command(flatten)]
    pub walltime: WalltimeArgs,
}

/// How a node ends.
#[derive(Clone, Debug, Default, Args)]
pub struct WalltimeArgs {
    /// How long the node lives, in seconds: a multiple of 60, or 0 for no limit
    #[arg(long, value_name = "SECONDS", env = env::JIRIAF_WALLTIME, allow_hyphen_values = true)]
    pub walltime: Option<String>,
    /// When the allocation ends: seconds since 1970, or RFC 3339 [default: what the batch system says]
    #[arg(long, value_name = "TIME", env = env::VK_CMD_END_TIME)]
    pub end_time: Option<String>,
    /// How long before the end the node takes no more pods and ends its own [default: 60s, or a tenth of the walltime]
    #[arg(long, value_name = "TIME", env = env::VK_CMD_DRAIN_WINDOW)]
    pub drain_window: Option<String>,
    /// The time between the batch system's SIGTERM and its SIGKILL (Slurm's KillWait) [default: 30s]
    #[arg(long, value_name = "TIME", env = env::VK_CMD_KILL_WAIT)]
    pub kill_wait: Option<String>,
    /// End when the walltime is over, instead of living on as a node that is not ready
    #[arg(long, env = env::VK_CMD_EXIT_AT_WALLTIME, value_parser = clap::builder::BoolishValueParser::new())]
    pub exit_at_walltime: bool,
    /// End the pods when the agent ends, instead of leaving them to the next agent [default: in a batch job]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub drain_on_exit: Option<bool>,
}
