//! The small client's verbs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::settings::env;

/// Which cluster, and which namespace.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// The kubeconfig [default: $KUBECONFIG, else the one of `vk-cmd up`, else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = env::KUBECONFIG)]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// Which objects: `TYPE [NAME…]` or `TYPE/NAME…`.
#[derive(Debug, Args)]
pub struct SelectArgs {
    /// `TYPE`, `TYPE NAME…` or `TYPE/NAME…`; types as kubectl knows them (pods, pod, po, deployments.apps)
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// Create or change objects from files.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Files with manifests, YAML or JSON; `-` reads standard input, a directory all in it
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Ask the server what it would do, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How to print objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// More columns
    Wide,
    /// The whole object as JSON
    Json,
    /// The whole object as YAML
    Yaml,
    /// `type/name`
    Name,
}

/// Print objects.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The objects
    #[command(flatten)]
    pub select: SelectArgs,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum)]
    pub output: Option<OutputFormat>,
}

/// Print an object with its events.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The objects
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Print the output of a container.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// The container's previous run
    #[arg(short, long)]
    pub previous: bool,
    /// A time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// Only so many lines from the end
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only lines of the last so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub since: Option<u64>,
    /// At most so many bytes
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
}

/// Print what nodes or pods use: CPU now, and memory.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Of what
    #[arg(value_name = "KIND")]
    pub what: TopKind,
    /// Of this one alone
    #[arg(value_name = "NAME", conflicts_with = "selector")]
    pub name: Option<String>,
    /// Only those with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Pods of every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Each container of the pods
    #[arg(long)]
    pub containers: bool,
}

/// What [`TopArgs`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopKind {
    /// Nodes
    #[value(aliases = ["node", "no"])]
    Nodes,
    /// Pods
    #[value(aliases = ["pod", "po"])]
    Pods,
}

/// Run a command in a container.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The container [default: the pod's only one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal; takes --stdin
    #[arg(short = 't', long, requires = "stdin")]
    pub tty: bool,
    /// The command, after `--`
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<String>,
}

/// Show what a container writes from now on, and give it what is typed.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The container [default: the pod's only one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass standard input on; the container must have `stdin: true`
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Use this terminal for the container's, which must have `tty: true`; takes --stdin
    #[arg(short = 't', long, requires = "stdin")]
    pub tty: bool,
}

/// Delete objects and wait until they are gone.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The objects
    #[command(flatten)]
    pub select: SelectArgs,
    /// The objects of these files instead
    #[arg(short, long, value_name = "FILE", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Every object of the type in the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Seconds between SIGTERM and SIGKILL [default: the pod's own]
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// Do not wait until they are gone
    #[arg(long)]
    pub no_wait: bool,
}
