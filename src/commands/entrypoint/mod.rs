//! `vk-cmd entrypoint`: tunnels, hostpipe, agent; and all down again in order.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent::{Outfit, run_with};
use crate::agent::Hostpipe;
use crate::cli::{EntrypointArgs, Semantics};
use crate::exit::{Exit, UsageError};
use crate::hostpipe::{Client, PipeDir, PlaceError};
use crate::node::Board;
use crate::printer;
use crate::settings::{agent::AgentConfig, site};
use crate::site::{EngineAccess, LaunchMode, Seat, Site};
use crate::tunnel;

pub mod enter;
mod tunnels;

/// Runs until a signal ends it.
///
/// # Errors
/// Wrong settings, a hostpipe that cannot be used.
pub async fn run(mut args: EntrypointArgs) -> Result<Exit> {
    let site = site::resolve(&args.agent.site)?;
    tracing::info!(site = site.name(), "the site");
    if site.profile.compat.is_none() {
        // What the documents promise of the image.
        args.agent
            .compat
            .get_or_insert(Semantics::VirtualKubeletCmd);
    }
    // The end of the job is the end of its pods.
    args.agent.walltime.drain_on_exit.get_or_insert(true);
    let board = Board::default();
    let hostpipe = hostpipe(&args, &site)?;
    // What the host starts has to find its records there, and only this directory is surely the same on both sides.
    if let Some(pipe) = &hostpipe
        && args.agent.root.is_none()
    {
        args.agent.root = Some(pipe.client.dir().base());
    }
    let config = AgentConfig::resolve(args.agent.clone())?;
    let wanted = tunnels::wanted(&args, &site.profile.tunnels, config.kubelet_port)?;

    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    let private = match &wanted {
        Some(_) => Some(private_dir(hostpipe.as_ref())?),
        None => None,
    };
    if let (Some(wanted), Some(private)) = (wanted, &private) {
        let (tunnel, keeper) = tunnel::tunnel(wanted.spec.clone(), private.path(), stop.clone());
        tasks.spawn(keeper);
        let address: Option<IpAddr> = (!config.address.is_loopback()).then_some(config.address);
        tasks.spawn(tunnels::follow(
            tunnel,
            wanted,
            address,
            board.clone(),
            stop.clone(),
        ));
    }
    if let Some(pipe) = &hostpipe {
        // What becomes of it is in the node's status.
        if let Err(error) = pipe.client.call().await {
            printer::note(format!("the hostpipe: {error}"));
        }
        tasks.spawn(pipe.client.clone().watch_over(stop.clone()));
    }
    let outfit = Outfit { hostpipe, board };
    let ended = run_with(args.agent, &outfit).await;
    // The agent has said all: now nobody needs the way any more.
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    ended
}

/// The pipe, where this site needs the host, or could.
fn hostpipe(args: &EntrypointArgs, site: &Site) -> Result<Option<Hostpipe>> {
    let everything = site.launch == LaunchMode::Hostpipe;
    let engine = matches!(
        &site.engine,
        EngineAccess::Reached {
            launch: LaunchMode::Hostpipe,
            ..
        }
    );
    let path = args
        .hostpipe
        .dir
        .clone()
        .unwrap_or_else(|| site.hostpipe.clone());
    // Lines for the pipe want the host, whatever engine there may be in here.
    let lines = site.seat != Seat::Host && path.join(crate::hostpipe::place::FIFO).exists();
    if !everything && !engine && !lines {
        return Ok(None);
    }
    let opened = PipeDir::open(&path)
        .and_then(|dir| Client::open(dir, &PathBuf::from("/proc/self/exe")))
        .map_err(|error| refused(&error, &path));
    match opened {
        Ok(client) => Ok(Some(Hostpipe { client, everything })),
        // Script containers do without it.
        Err(error) if !everything => {
            printer::note(format!("no hostpipe: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn refused(error: &PlaceError, path: &std::path::Path) -> UsageError {
    UsageError {
        key: crate::hostpipe::DIR_VARIABLE.to_owned(),
        value: path.display().to_string(),
        problem: format!("cannot be used as the hostpipe: {error}"),
        origin: "command line, environment or site profile".to_owned(),
        mend: "mount the directory that `vk-cmd hostpipe serve` reads, as in: docker run -v \
               $HOME/hostpipe:/root/hostpipe …"
            .to_owned(),
    }
}

/// A private directory with a short path, for control sockets.
enum Private {
    Own(PathBuf),
    Borrowed(PathBuf),
}

impl Private {
    fn path(&self) -> &std::path::Path {
        let (Self::Own(path) | Self::Borrowed(path)) = self;
        path
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Self::Own(path) = self {
            // Empty as a rule; another entrypoint may use it.
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn private_dir(hostpipe: Option<&Hostpipe>) -> Result<Private> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if let Some(pipe) = hostpipe {
        return Ok(Private::Borrowed(pipe.client.dir().sockets()));
    }
    let path = std::env::temp_dir().join(format!("vk-cmd-ssh-{}", nix::unistd::geteuid()));
    let made = std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&path);
    made.with_context(|| format!("no directory for sockets: {}", path.display()))?;
    let meta = std::fs::symlink_metadata(&path)?;
    let ours =
        meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    anyhow::ensure!(
        ours,
        "{} is not a private directory of this user: remove it, or set TMPDIR",
        path.display()
    );
    Ok(Private::Own(path))
}
