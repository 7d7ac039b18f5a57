//! Shims started as children of the agent.
//!
//! A shim is an ordinary child, in a session of its own: it survives the agent, and as long as the agent lives the
//! runtime reaps it. Its standard input is one end of a socket pair, over which the spec goes in and the states come
//! out; so the agent that started a container needs no further connection.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::Stdio,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
    sync::OwnedSemaphorePermit,
    task::spawn_blocking,
};

use super::{
    Adopted, Handle, Launcher, OPEN_FILES, StartError, adopt,
    handle::{Connection, Origin},
};
use crate::container::{
    claim::{self, Claimed, Intent, Purpose, Start},
    dir::{AttemptDir, ContainerDir},
    process::Here,
    protocol::{self, Answer, Message, RefusalCode, Request},
    shim::Arguments,
    spec::{ContainerSpec, Rlimit, RlimitResource},
    status::{FORMAT_VERSION, Status},
};

/// See [`Launcher::start`].
pub async fn start(
    launcher: &Launcher,
    dir: &ContainerDir,
    attempt: u32,
    epoch: u64,
    spec: &ContainerSpec,
) -> Result<Handle, StartError> {
    let frame = start_frame(launcher, spec.clone())?;
    let permit = launcher.permit().await?;
    let records = dir.attempt(attempt);
    let spawned = {
        let (launcher, records) = (launcher.clone(), records.clone());
        spawn_blocking(move || launcher.spawn(&records, epoch))
    };
    let spawned = spawned
        .await
        .map_err(|error| launcher.failed(io::Error::other(error)))??;
    converse(launcher, records, epoch, spawned, &frame, permit).await
}

/// The frame that hands a shim its spec.
pub(super) fn start_frame(
    launcher: &Launcher,
    mut spec: ContainerSpec,
) -> Result<Vec<u8>, StartError> {
    if let Some(&soft) = OPEN_FILES.get()
        && !spec
            .rlimits
            .iter()
            .any(|limit| limit.resource == RlimitResource::Nofile)
    {
        spec.rlimits.push(Rlimit {
            resource: RlimitResource::Nofile,
            soft,
        });
    }
    Request::Start(Box::new(spec))
        .encode(0)
        .map_err(|error| launcher.failed(error.into()))
}

/// Hands the spec over and waits until the command runs.
pub(super) async fn converse(
    launcher: &Launcher,
    records: AttemptDir,
    epoch: u64,
    spawned: Spawned,
    frame: &[u8],
    permit: OwnedSemaphorePermit,
) -> Result<Handle, StartError> {
    let Spawned {
        stream,
        mut child,
        intent,
        socket,
    } = spawned;
    let outcome = tokio::time::timeout(launcher.patience, talk(stream, frame)).await;
    drop(permit);
    let outcome = outcome.unwrap_or_else(|_| {
        // What it may have started by now is found and ended as that of any other dead shim.
        if let Some(child) = &mut child {
            let _ = child.start_kill();
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", launcher.patience.as_secs()),
        ))
    });
    let (stream, answer) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            drop(child);
            return Err(died(launcher, &records, error).await);
        }
    };
    match answer {
        Answer::Status(Status::StartFailed {
            reason,
            message,
            no_room,
            ..
        }) => Err(StartError::Failed {
            reason,
            message,
            no_room,
        }),
        Answer::Status(status) => Ok(Handle::new(
            Connection::new(stream),
            child,
            Origin {
                records,
                container: intent.start.container,
                socket,
                host: launcher.host.clone(),
            },
            status,
        )),
        Answer::Refused(refusal) => Err(match refusal.code {
            RefusalCode::Claimed => taken(&records, records.number()),
            RefusalCode::Superseded => superseded(&records, epoch)
                .unwrap_or_else(|| launcher.failed(io::Error::other(refusal.message))),
            _ => launcher.failed(io::Error::other(refusal.message)),
        }),
        Answer::Done | Answer::Greeting(_) | Answer::Usage(_) => {
            Err(launcher.failed(io::Error::other("an answer that does not fit")))
        }
    }
}

/// A shim that waits for its spec.
pub(super) struct Spawned {
    pub(super) stream: UnixStream,
    /// None where it is not our child.
    pub(super) child: Option<Child>,
    pub(super) intent: Intent,
    /// Where it listens, as this side sees it.
    pub(super) socket: PathBuf,
}

impl Launcher {
    /// Waits until there is room for one more start.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, StartError> {
        // Closed never: the launcher holds it.
        let permit = self.starts.clone().acquire_owned().await;
        permit.map_err(|error| self.failed(io::Error::other(error)))
    }

    pub(super) fn failed(&self, source: io::Error) -> StartError {
        StartError::Spawn {
            shim: self.shim.clone(),
            source,
        }
    }

    /// Writes the intent and makes the process.
    fn spawn(&self, records: &AttemptDir, epoch: u64) -> Result<Spawned, StartError> {
        let container = uuid::Uuid::new_v4().simple().to_string();
        let here = Here::current().map_err(|error| self.failed(error))?;
        let start = Start {
            socket: self.socket(&container),
            container,
            on_host: false,
            group: None,
        };
        let intent = intend(records, epoch, start, here)?;
        let (stream, child) = self
            .spawn_shim(records, &intent)
            .map_err(|error| self.failed(error))?;
        Ok(Spawned {
            stream,
            child: Some(child),
            socket: intent.start.socket.clone(),
            intent,
        })
    }

    fn spawn_shim(&self, records: &AttemptDir, intent: &Intent) -> io::Result<(UnixStream, Child)> {
        let container = records.container();
        let arguments = Arguments {
            root: container.root().path().to_owned(),
            uid: container.uid().to_owned(),
            name: container.name().to_owned(),
            attempt: intent.attempt,
            epoch: intent.epoch,
            container: intent.start.container.clone(),
            socket: intent.start.socket.clone(),
        };
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = std::process::Command::new(&self.shim);
        // No environment: the agent's holds its credentials.
        command
            .arg0("vk-cmd")
            .arg("shim")
            .args(arguments.to_args())
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = tokio::process::Command::from(command).spawn()?;
        Ok((UnixStream::from_std(ours)?, child))
    }
}

/// Writes down what is meant to start, where nothing has started yet.
pub(super) fn intend(
    records: &AttemptDir,
    epoch: u64,
    start: Start,
    here: Here,
) -> Result<Intent, StartError> {
    let attempt = records.number();
    let dir = records.open_or_create()?;
    match claim::read(&dir)? {
        Claimed::No => {}
        Claimed::By(_) | Claimed::Torn => return Err(taken(records, attempt)),
    }
    if let Some(error) = superseded(records, epoch) {
        return Err(error);
    }
    let intent = Intent {
        version: FORMAT_VERSION,
        attempt,
        epoch,
        start,
        here,
    };
    claim::write_intent(&dir, &intent)?;
    Ok(intent)
}

/// Sends the spec and waits for the answer.
async fn talk(mut stream: UnixStream, frame: &[u8]) -> io::Result<(UnixStream, Answer)> {
    stream.write_all(frame).await?;
    let length = stream.read_u32().await? as usize;
    if length == 0 || length > protocol::MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    match serde_json::from_slice(&frame[1..])? {
        Message::Reply { answer, .. } => Ok((stream, answer)),
        Message::Status(status) => Ok((stream, Answer::Status(status))),
        Message::ExecEnded { .. } => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an answer that does not fit",
        )),
    }
}

/// Who has the claim.
fn taken(records: &AttemptDir, attempt: u32) -> StartError {
    let claimed = records
        .open()
        .ok()
        .flatten()
        .and_then(|dir| claim::read(&dir).ok());
    match claimed {
        Some(Claimed::By(claim)) if claim.purpose == Purpose::Cancel => {
            StartError::Cancelled { attempt }
        }
        _ => StartError::Claimed { attempt },
    }
}

/// Whether a newer agent works on the attempt.
fn superseded(records: &AttemptDir, ours: u64) -> Option<StartError> {
    let dir = records.open().ok().flatten()?;
    let newer = claim::read_intent(&dir).ok().flatten()?.epoch;
    (newer > ours).then_some(StartError::Superseded { ours, newer })
}

/// What a shim that died on the way has left.
async fn died(launcher: &Launcher, records: &AttemptDir, error: io::Error) -> StartError {
    match adopt::adopt(records, launcher.host.as_ref()).await {
        Ok(Adopted::NeverStarted) => launcher.failed(error),
        Ok(Adopted::Cancelled) => StartError::Cancelled {
            attempt: records.number(),
        },
        Ok(Adopted::Exited(Status::StartFailed {
            reason,
            message,
            no_room,
            ..
        })) => StartError::Failed {
            reason,
            message,
            no_room,
        },
        Ok(Adopted::Exited(_) | Adopted::Running(_)) => StartError::Claimed {
            attempt: records.number(),
        },
        Ok(Adopted::Lost(_)) | Err(_) => StartError::Lost,
    }
}
