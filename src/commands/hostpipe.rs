//! `vk-cmd hostpipe serve` and `send`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use crate::cli::{HostpipeArgs, HostpipeDir, HostpipeSendArgs, HostpipeVerb};
use crate::exit::{Exit, UsageError};
use crate::hostpipe::serve::Server;
use crate::hostpipe::{CallError, Client, DIR_VARIABLE, PipeDir, PlaceError, Task};
use crate::printer;

/// Runs a verb of the hostpipe.
///
/// # Errors
/// A directory that cannot be used, a host that does not answer.
pub async fn run(args: HostpipeArgs) -> Result<Exit> {
    match args.verb {
        HostpipeVerb::Serve(dir) => serve(dir).await,
        HostpipeVerb::Send(args) => send(args).await,
    }
}

async fn serve(dir: HostpipeDir) -> Result<Exit> {
    let mut signals = Signals::install()?;
    let dir = match dir.dir {
        Some(dir) => dir,
        None => home()?.join("hostpipe"),
    };
    let server = Server::open(&dir)?;
    printer::note(format!("reading {}", server.fifo().display()));
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(server.run(stop.clone()));
    tokio::select! {
        // Not polled again after it ended.
        () = &mut work => return Ok(Exit::Success),
        () = signals.next() => stop.cancel(),
    }
    work.await;
    Ok(Exit::Success)
}

async fn send(args: HostpipeSendArgs) -> Result<Exit> {
    let dir = PipeDir::open(&find(args.dir)?)?;
    // An answer can be hoped for only where there is a pipe.
    dir.check_fifo()?;
    let client = Client::open(dir, &PathBuf::from("/proc/self/exe"))?;
    let ended = client
        .run(
            Task::of(args.command),
            &mut tokio::io::stdout(),
            &mut tokio::io::stderr(),
        )
        .await;
    match ended {
        Ok(code) => Ok(Exit::Process(u8::try_from(code).unwrap_or(255))),
        // What a shell says of a program that cannot be run.
        Err(CallError::Failed { message }) => {
            printer::note(format!("error: {message}"));
            Ok(Exit::Process(127))
        }
        Err(error) => Err(error.into()),
    }
}

/// The shared directory: as told, the home's, or where Table 2 of the documents mounts it.
pub(super) fn find(dir: HostpipeDir) -> Result<PathBuf, PlaceError> {
    if let Some(dir) = dir.dir {
        return Ok(dir);
    }
    let home = home().map(|home| home.join("hostpipe")).ok();
    let mounted = PathBuf::from("/root/hostpipe");
    match home {
        Some(home) if home.exists() || !mounted.exists() => Ok(home),
        _ => Ok(mounted),
    }
}

fn home() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    home.filter(|home| home.is_absolute())
        .ok_or_else(|| UsageError {
            key: "HOME".to_owned(),
            value: String::new(),
            problem: "is no absolute path".to_owned(),
            origin: "environment".to_owned(),
            mend: format!("set HOME, or name the directory with --dir or {DIR_VARIABLE}"),
        })
        .context("no place for the hostpipe")
}
