//! What became of an attempt.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{net::UnixStream, task::spawn_blocking};

use super::{
    AdoptError, Adopted, Cancellation, Handle, create_private_dir,
    handle::{Connection, Origin},
    hostpipe, leftovers,
};
use crate::container::{
    claim::{self, Claim, Claimed, Intent, Purpose, Start},
    dir::AttemptDir,
    held::{Held, signal_seen},
    log::notify::DirWatch,
    process::{Here, Stat},
    protocol::{Answer, Greeting, Message, Request},
    status::{FORMAT_VERSION, Status, StatusFile},
};
use crate::hostpipe::Client;

/// What is on disk of an attempt.
pub(super) struct Found {
    pub(super) here: Here,
    pub(super) intent: Option<Intent>,
    pub(super) claimed: Claimed,
    pub(super) status: Option<StatusFile>,
}

impl Found {
    /// The start that got the claim; of a torn claim the one that was meant last.
    pub(super) fn start(&self) -> Option<&Start> {
        match &self.claimed {
            Claimed::By(Claim {
                purpose: Purpose::Start(start),
                ..
            }) => Some(start),
            Claimed::By(_) | Claimed::Torn | Claimed::No => {
                self.intent.as_ref().map(|intent| &intent.start)
            }
        }
    }
}

/// Reads the records; `None` where there are none.
pub(super) async fn read(records: &AttemptDir) -> Result<Option<Found>, AdoptError> {
    let records = records.clone();
    let read = move || {
        let here = Here::current().map_err(AdoptError::Processes)?;
        let Some(dir) = records.open()? else {
            return Ok(None);
        };
        // The claim before the status: a status that is missing after a claim was seen is one that is not written yet.
        let claimed = claim::read(&dir)?;
        let (intent, status) = (claim::read_intent(&dir)?, claim::read_status(&dir)?);
        Ok(Some(Found {
            here,
            intent,
            claimed,
            status,
        }))
    };
    spawn_blocking(read)
        .await
        .map_err(|error| AdoptError::Processes(io::Error::other(error)))?
}

/// What an attempt turns out to be.
#[derive(Debug)]
pub(super) enum Resolved {
    NeverStarted,
    Cancelled,
    /// A terminal state, [`Status::Lost`] among them.
    Ended(Status),
    Alive {
        connection: Connection,
        container: String,
        socket: PathBuf,
        status: Status,
    },
}

/// See [`super::Launcher::adopt`].
pub(super) async fn adopt(
    records: &AttemptDir,
    host: Option<&Client>,
) -> Result<Adopted, AdoptError> {
    Ok(match resolve(records, host).await? {
        Resolved::NeverStarted => Adopted::NeverStarted,
        Resolved::Cancelled => Adopted::Cancelled,
        Resolved::Ended(status @ Status::Lost { .. }) => Adopted::Lost(status),
        Resolved::Ended(status) => Adopted::Exited(status),
        Resolved::Alive {
            connection,
            container,
            socket,
            status,
        } => {
            let origin = Origin {
                records: records.clone(),
                container,
                socket,
                host: host.cloned(),
            };
            Adopted::Running(Handle::new(connection, None, origin, status))
        }
    })
}

/// Finds out what became of an attempt; ends what a dead shim left behind.
pub(super) async fn resolve(
    records: &AttemptDir,
    host: Option<&Client>,
) -> Result<Resolved, AdoptError> {
    let Some(found) = read(records).await? else {
        return Ok(Resolved::NeverStarted);
    };
    if let Some(status) = ended(&found) {
        return Ok(Resolved::Ended(status));
    }
    if let Some(host) = host
        && found.start().is_some_and(|start| start.on_host)
    {
        return hostpipe::resolve(records, &found, host).await;
    }
    match &found.claimed {
        Claimed::By(Claim {
            purpose: Purpose::Cancel,
            ..
        }) => return Ok(Resolved::Cancelled),
        // Claims of this boot are as certain as the kernel's memory. One of an earlier boot may have been forgotten
        // with the power, and what may have started must not start again.
        Claimed::No
            if found
                .intent
                .as_ref()
                .is_none_or(|intent| intent.here == found.here) =>
        {
            return Ok(Resolved::NeverStarted);
        }
        Claimed::No | Claimed::Torn | Claimed::By(_) => {}
    }
    let Some(start) = found.start() else {
        return settle(records, &found).await;
    };
    let shim = living_shim(&found)?;
    if let Some(alive) = connect(start, shim.as_ref()).await? {
        return Ok(alive);
    }
    if let Some(shim) = shim
        && let Some(alive) = call_back(start, &shim).await?
    {
        return Ok(alive);
    }
    // The shim may have ended in the ordinary way since its records were read.
    let Some(found) = read(records).await? else {
        return Ok(Resolved::NeverStarted);
    };
    match ended(&found) {
        Some(status) => Ok(Resolved::Ended(status)),
        None => settle(records, &found).await,
    }
}

async fn settle(records: &AttemptDir, found: &Found) -> Result<Resolved, AdoptError> {
    leftovers::settle(records, found).await.map(Resolved::Ended)
}

/// The shim that claimed, where it lives.
fn living_shim(found: &Found) -> Result<Option<Stat>, AdoptError> {
    let Claimed::By(Claim { claimant, .. }) = &found.claimed else {
        return Ok(None);
    };
    if !found.here.holds(claimant) {
        return Ok(None);
    }
    let stat = Stat::read(claimant.pid).map_err(AdoptError::Processes)?;
    Ok(stat.filter(|stat| stat.start_time == claimant.start_time && !stat.is_dead()))
}

/// Reaches a shim whose socket is gone (directories in `/tmp` and of login sessions get cleaned): SIGUSR1 makes it
/// listen again. `None` when it has ended meanwhile.
async fn call_back(start: &Start, shim: &Stat) -> Result<Option<Resolved>, AdoptError> {
    let unreachable = |source| AdoptError::Unreachable {
        pid: shim.pid,
        socket: start.socket.clone(),
        source,
    };
    let dir = start.socket.parent().unwrap_or(Path::new("/"));
    create_private_dir(dir)?;
    // Both before the signal, so that neither answer is missed.
    let watch = DirWatch::new(dir).map_err(unreachable)?;
    let Some(process) = Held::of(shim).map_err(unreachable)? else {
        return Ok(None);
    };
    if !process.signal(Signal::SIGUSR1).map_err(unreachable)? {
        return Ok(None);
    }
    let mut gone = std::pin::pin!(process.ended());
    let answer = async {
        loop {
            tokio::select! {
                // Cancel-safe: both remember what happened.
                () = watch.changed() => match connect(start, None).await {
                    Ok(None) => {}
                    other => return other,
                },
                _ = &mut gone => return Ok(None),
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| {
            Err(unreachable(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer",
            )))
        })
}

/// How long a shim that lives may take to answer; it does little else.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn ended(found: &Found) -> Option<Status> {
    found
        .status
        .as_ref()
        .map(|file| &file.status)
        .filter(|status| status.is_terminal())
        .cloned()
}

/// Connects to a shim; `None` when nobody listens.
pub(super) async fn connect(
    start: &Start,
    shim: Option<&Stat>,
) -> Result<Option<Resolved>, AdoptError> {
    if let Some(stat) = shim {
        // One that somebody has stopped would never answer; to any other this is nothing.
        signal_seen(stat, Signal::SIGCONT).map_err(AdoptError::Processes)?;
    }
    let greeted = tokio::time::timeout(PATIENCE, greet(start)).await;
    match greeted.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))) {
        Ok(Some((connection, greeting))) => Ok(Some(Resolved::Alive {
            connection,
            container: greeting.container,
            socket: start.socket.clone(),
            status: greeting.status,
        })),
        Ok(None) => Ok(None),
        Err(source) => {
            let pid = shim.map_or(0, |stat| stat.pid);
            Err(AdoptError::Unreachable {
                pid,
                socket: start.socket.clone(),
                source,
            })
        }
    }
}

async fn greet(start: &Start) -> io::Result<Option<(Connection, Greeting)>> {
    let stream = match UnixStream::connect(&start.socket).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if stream.peer_cred()?.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the peer is another user's process",
        ));
    }
    let mut connection = Connection::new(stream);
    let greeting = async {
        connection.send(&Request::Subscribe, 0).await?;
        loop {
            match connection.receive().await? {
                Some(Message::Reply {
                    answer: Answer::Greeting(greeting),
                    ..
                }) => return Ok(Some(greeting)),
                Some(Message::Reply { answer, .. }) => {
                    return Err(io::Error::other(format!(
                        "an answer that does not fit: {answer:?}"
                    )));
                }
                Some(Message::Status(_) | Message::ExecEnded { .. }) => {}
                None => return Ok(None),
            }
        }
    };
    match greeting.await {
        Ok(Some(greeting)) if greeting.container == start.container => {
            Ok(Some((connection, greeting)))
        }
        Ok(Some(_)) => Err(io::Error::other("another container answers")),
        // It ended while we talked.
        Ok(None) => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// See [`super::Launcher::cancel`].
pub(super) async fn cancel(records: &AttemptDir, epoch: u64) -> Result<Cancellation, AdoptError> {
    let records = records.clone();
    let cancel = move || {
        let claimant = Here::current()
            .and_then(|here| here.own_process())
            .map_err(AdoptError::Processes)?;
        let dir = records.open_or_create()?;
        let claim = Claim {
            version: FORMAT_VERSION,
            epoch,
            purpose: Purpose::Cancel,
            claimant,
        };
        if claim::take(&dir, &claim)?.is_some() {
            return Ok(Cancellation::Cancelled);
        }
        match claim::read(&dir)? {
            Claimed::By(Claim {
                purpose: Purpose::Cancel,
                ..
            }) => Ok(Cancellation::Cancelled),
            Claimed::No | Claimed::Torn | Claimed::By(_) => Ok(Cancellation::Claimed),
        }
    };
    spawn_blocking(cancel)
        .await
        .map_err(|error| AdoptError::Processes(io::Error::other(error)))?
}
