//! What became of an attempt.

use std::io;

use tokio::{net::UnixStream, task::spawn_blocking};

use super::{
    AdoptError, Adopted, Cancellation, Handle,
    handle::{Connection, Origin},
    leftovers,
};
use crate::container::{
    claim::{self, Claim, Claimed, Intent, Purpose},
    dir::AttemptDir,
    process::Here,
    protocol::{Answer, Message, Request},
    status::{FORMAT_VERSION, Status, StatusFile},
};

/// What is on disk of an attempt.
pub(super) struct Found {
    pub(super) here: Here,
    pub(super) intent: Option<Intent>,
    pub(super) claimed: Claimed,
    pub(super) status: Option<StatusFile>,
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

/// See [`super::Launcher::adopt`].
pub(super) async fn adopt(records: &AttemptDir) -> Result<Adopted, AdoptError> {
    let Some(found) = read(records).await? else {
        return Ok(Adopted::NeverStarted);
    };
    if let Some(ended) = ended(&found) {
        return Ok(ended);
    }
    match &found.claimed {
        Claimed::By(Claim {
            purpose: Purpose::Cancel,
            ..
        }) => return Ok(Adopted::Cancelled),
        // Claims of this boot are as certain as the kernel's memory. One of an earlier boot may have been forgotten
        // with the power, and what may have started must not start again.
        Claimed::No
            if found
                .intent
                .as_ref()
                .is_none_or(|intent| intent.here == found.here) =>
        {
            return Ok(Adopted::NeverStarted);
        }
        Claimed::No | Claimed::Torn | Claimed::By(_) => {}
    }
    if let Some(intent) = &found.intent {
        match connect(intent).await {
            Ok(Some((connection, status))) => {
                let origin = Origin {
                    records: records.clone(),
                    container: intent.container.clone(),
                };
                return Ok(Adopted::Running(Handle::new(connection, origin, status)));
            }
            Ok(None) => {}
            Err(source) => {
                return Err(AdoptError::Unreachable {
                    pid: shim_pid(&found),
                    socket: intent.socket.clone(),
                    source,
                });
            }
        }
    }
    // The shim may have ended in the ordinary way since its records were read.
    let Some(found) = read(records).await? else {
        return Ok(Adopted::NeverStarted);
    };
    if let Some(ended) = ended(&found) {
        return Ok(ended);
    }
    if let (Claimed::By(claim), Some(intent)) = (&found.claimed, &found.intent)
        && found
            .here
            .is_alive(&claim.claimant)
            .map_err(AdoptError::Processes)?
    {
        let source = io::Error::new(io::ErrorKind::NotFound, "its socket is gone and it lives");
        return Err(AdoptError::Unreachable {
            pid: claim.claimant.pid,
            socket: intent.socket.clone(),
            source,
        });
    }
    leftovers::settle(records, &found).await.map(Adopted::Lost)
}

fn ended(found: &Found) -> Option<Adopted> {
    match found.status.as_ref().map(|file| &file.status) {
        Some(status @ Status::Lost { .. }) => Some(Adopted::Lost(status.clone())),
        Some(status) if status.is_terminal() => Some(Adopted::Exited(status.clone())),
        _ => None,
    }
}

fn shim_pid(found: &Found) -> i32 {
    match &found.claimed {
        Claimed::By(claim) => claim.claimant.pid,
        Claimed::No | Claimed::Torn => 0,
    }
}

/// Connects to a shim; `None` when it is dead.
async fn connect(intent: &Intent) -> io::Result<Option<(Connection, Status)>> {
    let stream = match UnixStream::connect(&intent.socket).await {
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
    let own = nix::unistd::geteuid().as_raw();
    if stream.peer_cred()?.uid() != own {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the peer is another user's process",
        ));
    }
    let mut connection = Connection::new(stream, None);
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
                Some(Message::Status(_)) => {}
                None => return Ok(None),
            }
        }
    };
    match greeting.await {
        Ok(Some(greeting)) if greeting.container == intent.container => {
            Ok(Some((connection, greeting.status)))
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
