//! A file a verb: resolved settings in, exit code out. The wiring of everything else lives here.

pub mod agent;
pub mod apply;
pub mod delete;
pub mod describe;
mod engine;
pub mod entrypoint;
pub mod exec;
pub mod get;
pub mod hostpipe;
pub mod logs;
mod select;
mod signals;
pub mod site;
pub mod top;
pub mod up;
mod workload;

use anyhow::{Context, Result};

use crate::cli::{Cli, ClusterArgs, Verb};
use crate::client::Connection;
use crate::exit::{Exit, UsageError};
use crate::printer;

/// Runs what was typed, and says on stderr why it failed where it did.
pub async fn run(cli: Cli) -> Exit {
    let result: Result<Exit> = match cli.verb {
        Verb::Up(args) => up::run(*args).await,
        Verb::Agent(args) => agent::run(*args).await,
        Verb::Site(verb) => site::run(verb).await,
        Verb::Entrypoint(args) => entrypoint::run(*args).await,
        Verb::Hostpipe(args) => hostpipe::run(args).await,
        Verb::Apply(args) => apply::run(args).await,
        Verb::Get(args) => get::run(args).await,
        Verb::Describe(args) => describe::run(args).await,
        Verb::Logs(args) => logs::run(args).await,
        Verb::Top(args) => top::run(args).await,
        Verb::Exec(args) => exec::run(args).await,
        Verb::Attach(args) => exec::attach(args).await,
        Verb::Delete(args) => delete::run(args).await,
    };
    result.unwrap_or_else(|error| {
        printer::note(format!("error: {error:#}"));
        exit_of(&error)
    })
}

fn exit_of(error: &anyhow::Error) -> Exit {
    let usage = error.is::<UsageError>() || error.is::<crate::client::ManifestError>();
    if usage { Exit::Usage } else { Exit::Failure }
}

/// Connects the small client: the kubeconfig that was named, else the user's, else that of `up`.
async fn connect(cluster: &ClusterArgs) -> Result<Connection> {
    let local = crate::settings::default_state_dir()?.join("admin.kubeconfig");
    let path = match &cluster.kubeconfig {
        Some(path) => Some(path.clone()),
        None => local.exists().then_some(local),
    };
    let named = path.as_ref().map_or_else(
        || "~/.kube/config".to_owned(),
        |path| path.display().to_string(),
    );
    Connection::open(path.as_deref(), cluster.namespace.clone())
        .await
        .with_context(|| format!("no cluster: kubeconfig {named}"))
}
