//! A container's shim as the agent holds it.
//!
//! One task per handle owns the connection: it turns calls into frames and frames into states. It ends with the
//! connection, which ends with the shim.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{
    AdoptError, ControlError,
    adopt::{self, Resolved},
};
use crate::container::{
    dir::AttemptDir,
    protocol::{self, Answer, Frames, Message, RefusalCode, Request, Told},
    status::Status,
};
use crate::hostpipe::Client;

/// Pause after a failed look at the records.
const RETRY: Duration = Duration::from_secs(1);

/// A container whose shim lives, or lived when this was made. Dropping it does nothing to the container.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Boxed: the queue has room for 32 from the start, and there is one for each container.
    calls: mpsc::Sender<Box<Ask>>,
    status: watch::Receiver<Status>,
    origin: Arc<Origin>,
    _task: Arc<AbortOnDrop>,
}

/// Which attempt a handle is of.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) records: AttemptDir,
    pub(super) container: String,
    /// Where the shim listens.
    pub(super) socket: PathBuf,
    pub(super) host: Option<Client>,
}

/// A connection to a shim, subscribed.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    frames: Frames,
    buffer: BytesMut,
}

#[derive(Debug)]
struct Ask {
    request: Request,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            buffer: BytesMut::new(),
        }
    }

    pub(super) async fn send(&mut self, request: &Request, id: u64) -> io::Result<()> {
        self.stream.write_all(&request.encode(id)?).await
    }

    /// The next message; `None` at the end. Cancel-safe: bytes that have come are kept.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some((_, payload)) = self.frames.next(protocol::MAX_FRAME)? {
                return Ok(Some(serde_json::from_slice(&payload)?));
            }
            self.buffer.clear();
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
            self.frames.extend(&self.buffer);
        }
    }
}

impl Handle {
    pub(super) fn new(
        connection: Connection,
        child: Option<Child>,
        origin: Origin,
        status: Status,
    ) -> Self {
        let (calls, asked) = mpsc::channel(8);
        let (publish, status) = watch::channel(status);
        let origin = Arc::new(origin);
        let task = tokio::spawn(drive(connection, child, origin.clone(), asked, publish));
        Self {
            calls,
            status,
            origin,
            _task: Arc::new(AbortOnDrop(task.abort_handle())),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.origin.socket
    }

    /// What became of the attempt, as far as it can be found out now.
    pub(super) async fn resolve(&self) -> Result<Resolved, AdoptError> {
        adopt::resolve(&self.origin.records, self.origin.host.as_ref()).await
    }

    /// The state as far as it is known here.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The state and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits for the end: [`Status::Exited`] or [`Status::Lost`]. Event-driven; cancel-safe; may be called again.
    pub async fn wait(&self) -> Status {
        let mut status = self.status.clone();
        // Cloned at once: the guard must not live across an await.
        let ended = status
            .wait_for(Status::is_terminal)
            .await
            .map(|status| status.clone());
        match ended {
            Ok(status) => status,
            // The runtime is going down and nobody will ever know here; the next agent adopts.
            Err(_) => std::future::pending().await,
        }
    }

    /// Sends a signal to the main process's group.
    pub async fn signal(&self, signal: i32) -> Result<(), ControlError> {
        self.ask(Request::Signal(signal)).await
    }

    /// SIGTERM now, SIGKILL to the whole tree after `grace`; returns when the shim has taken the order.
    /// A second call can shorten the grace, never lengthen it. [`Handle::wait`] tells the end.
    pub async fn terminate(&self, grace: Duration) -> Result<(), ControlError> {
        self.terminate_with(None, grace).await
    }

    /// The same with another signal than SIGTERM, by its number.
    pub async fn terminate_with(
        &self,
        signal: Option<i32>,
        grace: Duration,
    ) -> Result<(), ControlError> {
        self.ask(Request::Terminate {
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            signal,
        })
        .await
    }

    /// SIGKILL to the whole tree at once, since it uses more memory than it may; the end says so.
    pub async fn kill_for_memory(&self) -> Result<(), ControlError> {
        match self.ask(Request::KillForMemory).await {
            // A shim of an earlier program kills, and cannot say why.
            Err(ControlError::NotImplemented { .. }) => self.kill_tree().await,
            other => other,
        }
    }

    /// SIGKILL to the whole tree at once.
    pub async fn kill_tree(&self) -> Result<(), ControlError> {
        self.ask(Request::KillTree).await
    }

    /// What the container uses, as its shim sees it; for one whose processes this agent does not see.
    pub async fn usage(&self, exact_above: Option<u64>) -> Result<Told, ControlError> {
        match self.answer(Request::Usage { exact_above }).await? {
            Answer::Usage(told) => Ok(told),
            other => Err(ControlError::Refused {
                message: format!("{other:?} in answer to usage"),
            }),
        }
    }

    async fn ask(&self, request: Request) -> Result<(), ControlError> {
        self.answer(request).await.map(drop)
    }

    async fn answer(&self, request: Request) -> Result<Answer, ControlError> {
        let name = request.name();
        let (answer, answered) = oneshot::channel();
        self.calls
            .send(Box::new(Ask { request, answer }))
            .await
            .map_err(|_| ControlError::Ended)?;
        match answered.await {
            Err(_) => Err(ControlError::Ended),
            Ok(Answer::Refused(refusal)) => Err(match refusal.code {
                RefusalCode::Ended => ControlError::Ended,
                RefusalCode::NotImplemented => ControlError::NotImplemented {
                    request: name.to_owned(),
                },
                _ => ControlError::Refused {
                    message: refusal.message,
                },
            }),
            Ok(answer) => Ok(answer),
        }
    }
}

/// Serves a shim until it ends, over as many connections as that takes, tells its end and, where the shim is our
/// child, reaps it.
async fn drive(
    mut connection: Connection,
    child: Option<Child>,
    origin: Arc<Origin>,
    mut asked: mpsc::Receiver<Box<Ask>>,
    publish: watch::Sender<Status>,
) {
    loop {
        serve(connection, &origin, &mut asked, &publish).await;
        if publish.borrow().is_terminal() {
            break;
        }
        // No last word: the shim died, or it only turned us away.
        // Boxed, as it is rare and large: there is one of these tasks for each container.
        match Box::pin(resolve_for_sure(&origin)).await {
            Resolved::Alive {
                connection: next,
                status,
                ..
            } => {
                publish.send_replace(status);
                connection = next;
            }
            Resolved::Ended(status) => {
                publish.send_replace(status);
                break;
            }
            Resolved::NeverStarted | Resolved::Cancelled => {
                publish.send_replace(Status::Lost {
                    started_at: None,
                    finished_at: Timestamp::now(),
                    message: "the records of the container were removed".to_owned(),
                });
                break;
            }
        }
    }
    drop(asked);
    if let Some(mut child) = child {
        // How the shim ended says less than what it has written. Where the handle goes first, the runtime reaps it.
        let _ = child.wait().await;
    }
}

/// A living container must not be called lost because this agent is short of descriptors, so this is tried again.
async fn resolve_for_sure(origin: &Origin) -> Resolved {
    let records = &origin.records;
    loop {
        match adopt::resolve(records, origin.host.as_ref()).await {
            Ok(resolved) => return resolved,
            Err(error) => {
                tracing::warn!(%error, records = %records.path().display(), "a container cannot be looked after");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve(
    mut connection: Connection,
    origin: &Origin,
    asked: &mut mpsc::Receiver<Box<Ask>>,
    publish: &watch::Sender<Status>,
) {
    // Calls that wait for an answer; they end with this function.
    let mut waiting: HashMap<u64, oneshot::Sender<Answer>> = HashMap::new();
    let mut next_id = 1;
    loop {
        tokio::select! {
            // Cancel-safe: see `receive`.
            message = connection.receive() => match message {
                Ok(Some(Message::Status(status))) => {
                    publish.send_replace(status);
                }
                Ok(Some(Message::Reply { id, answer })) => {
                    if let Some(waiting) = waiting.remove(&id) {
                        // Whoever asked may have stopped waiting.
                        let _ = waiting.send(answer);
                    }
                }
                // Ends of execs go to connections of their own.
                Ok(Some(Message::ExecEnded { .. })) => {}
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, container = origin.container, "connection to shim broke");
                    break;
                }
            },
            // Cancel-safe per docs on `recv`. The channel never closes: the handle keeps this task alive.
            Some(ask) = asked.recv() => {
                let Ask { request, answer } = *ask;
                waiting.insert(next_id, answer);
                if connection.send(&request, next_id).await.is_err() {
                    break;
                }
                next_id += 1;
            }
        }
    }
}
