//! The inner side: calls the host, and knows who answers.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    line,
    place::{PRIVATE, PipeDir, PlaceError},
    protocol::{self, Done, Facts, Order, PROTOCOL, Task},
};

/// What is known of the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has been called yet.
    Unknown,
    /// It answered.
    Answered(Arc<Facts>),
    /// Nobody reads; for people.
    NoReader(String),
    /// Somebody reads, or has the pipe open, and does not answer; for people.
    Silent(String),
}

/// Why the host did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody reads.
    #[error(
        "nobody reads {}: start `vk-cmd hostpipe serve` on the host (a plain reader loop reads nothing while a \
         command of its own runs)", fifo.display()
    )]
    NoReader {
        /// The pipe.
        fifo: PathBuf,
    },
    /// It does not answer.
    #[error(
        "the reader of {} does not answer: it is busy with another command, or sees the directory elsewhere than at \
         $HOME/hostpipe (then set VK_CMD_HOSTPIPE in its environment){note}", fifo.display()
    )]
    Silent {
        /// The pipe.
        fifo: PathBuf,
        /// What its shell complained of, after a semicolon; empty where it did not.
        note: String,
    },
    /// Its program is too old or too new.
    #[error("the host's side speaks version {found} of the protocol, this one {PROTOCOL}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The directory has changed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The connection broke, or the system refused.
    #[error("the call to the host failed")]
    Io(#[from] io::Error),
    /// It answered and did not do it.
    #[error("the host could not do it: {message}")]
    Failed {
        /// Its words.
        message: String,
    },
}

/// How long a call takes at most.
#[derive(Clone, Copy, Debug)]
struct Patience {
    whole: Duration,
    /// After this long without an answer the line is written again: a plain loop loses what comes while it closes.
    again: Duration,
    /// Between two lines of a plain loop nobody has the pipe open.
    no_reader: Duration,
}

/// For somebody who waits.
const CALL: Patience = Patience {
    whole: Duration::from_secs(15),
    again: Duration::from_secs(3),
    no_reader: Duration::from_secs(2),
};
/// For the one call that waits until a busy reader is free.
const LONG: Patience = Patience {
    whole: Duration::from_secs(600),
    again: Duration::from_secs(60),
    no_reader: Duration::from_secs(2),
};
/// Pause between looks at a pipe that nobody reads, or that is full.
const LOOK: Duration = Duration::from_millis(50);
/// How often a pipe without a reader is tried, and a good reader looked for.
const BEAT: Duration = Duration::from_secs(10);
/// How long the host may take for the first words, once it is connected.
const GREETING: Duration = Duration::from_secs(10);
/// Complaints of shells that nobody asked for any more.
const STALE: Duration = Duration::from_secs(3600);

/// The inner side of one hostpipe. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PipeDir,
    /// Name of the program in the private directory.
    program: String,
    state: watch::Sender<State>,
}

/// The host's end of a call.
#[derive(Debug)]
pub struct Answered {
    /// The connection; the host waits for an [`Order`].
    pub stream: UnixStream,
    /// Who it is.
    pub facts: Arc<Facts>,
}

impl Answered {
    /// Sends the order.
    ///
    /// # Errors
    /// Where the connection broke.
    pub async fn order(&mut self, order: &Order) -> io::Result<()> {
        self.stream.write_all(&protocol::message(order)?).await
    }
}

/// Removes a call's socket and what the shell wrote beside it.
struct Call {
    id: String,
    socket: PathBuf,
    complaint: PathBuf,
}

impl Drop for Call {
    fn drop(&mut self) {
        // What stays is only a name.
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.complaint);
    }
}

impl Client {
    /// Prepares the directory: sockets, and `program` (this very one) for the host.
    ///
    /// # Errors
    /// A directory that is not ours or cannot be written. A missing FIFO is none: the reader may make it later.
    pub fn open(dir: PipeDir, program: &Path) -> Result<Self, PlaceError> {
        dir.prepare()?;
        let program = dir.install_program(program)?;
        remove_stale(&dir.sockets());
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                program,
                state: watch::Sender::new(State::Unknown),
            }),
        })
    }

    /// The shared directory.
    pub fn dir(&self) -> &PipeDir {
        &self.inner.dir
    }

    /// What is known of the reader, and its changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.inner.state.subscribe()
    }

    /// Who answered last.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        match &*self.inner.state.borrow() {
            State::Answered(facts) => Some(Arc::clone(facts)),
            _ => None,
        }
    }

    /// Calls the host. Cancel-safe: a call that is dropped leaves a line that does nothing.
    ///
    /// # Errors
    /// At once while a busy reader is being waited for; else after some seconds.
    pub async fn call(&self) -> Result<Answered, CallError> {
        // Its pipe holds a line already, and more of them would do no good.
        if let State::Silent(_) = &*self.inner.state.borrow() {
            return Err(CallError::Silent {
                fifo: self.inner.dir.fifo(),
                note: String::new(),
            });
        }
        self.call_within(CALL).await
    }

    async fn call_within(&self, patience: Patience) -> Result<Answered, CallError> {
        let called = self.try_call(patience).await;
        let state = match &called {
            Ok(answered) => State::Answered(Arc::clone(&answered.facts)),
            Err(error @ CallError::Silent { .. }) => State::Silent(error.to_string()),
            Err(error) => State::NoReader(error.to_string()),
        };
        self.inner.state.send_if_modified(|have| {
            let changed = *have != state;
            *have = state;
            changed
        });
        called
    }

    async fn try_call(&self, patience: Patience) -> Result<Answered, CallError> {
        let dir = &self.inner.dir;
        let id = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
        let sockets = dir.sockets();
        let call = Call {
            socket: sockets.join(format!("{id}+")),
            complaint: sockets.join(format!("{id}.err")),
            id,
        };
        let listener = UnixListener::bind(&call.socket)?;
        let line = line::call(&call.id, &self.inner.program, PRIVATE);
        let start = Instant::now();
        let deadline = start + patience.whole;
        let mut written = false;
        loop {
            let (fifo, text) = (dir.clone(), line.clone());
            let wrote = tokio::task::spawn_blocking(move || write_line(&fifo, &text))
                .await
                .map_err(io::Error::other)?;
            let pause = match wrote {
                Ok(Wrote::Line) => {
                    written = true;
                    patience.again
                }
                Ok(Wrote::NoReader) if !written && start.elapsed() >= patience.no_reader => {
                    return Err(CallError::NoReader { fifo: dir.fifo() });
                }
                Ok(Wrote::NoReader | Wrote::Full) => LOOK,
                Err(error) => return Err(error.into()),
            };
            let until = (Instant::now() + pause).min(deadline);
            match timeout_at(until, greet(&listener)).await {
                Ok(Ok(answered)) => return Ok(answered),
                Ok(Err(error)) => return Err(error),
                Err(_) if Instant::now() >= deadline => {
                    return Err(CallError::Silent {
                        fifo: dir.fifo(),
                        note: complaint(&call.complaint),
                    });
                }
                Err(_) => {}
            }
        }
    }

    /// Runs a command on the host; what it writes goes to `out` and `err`. Dropping the future ends the command.
    ///
    /// # Errors
    /// Where nobody answers, or the host cannot run it.
    pub async fn run(
        &self,
        task: Task,
        out: &mut (impl AsyncWrite + Unpin),
        err: &mut (impl AsyncWrite + Unpin),
    ) -> Result<i32, CallError> {
        let mut answered = self.call().await?;
        answered.order(&Order::Run { task }).await?;
        loop {
            match receive(&mut answered.stream).await? {
                (protocol::STDOUT, bytes) => {
                    out.write_all(&bytes).await?;
                    out.flush().await?;
                }
                (protocol::STDERR, bytes) => {
                    err.write_all(&bytes).await?;
                    err.flush().await?;
                }
                (_, bytes) => return done(&bytes),
            }
        }
    }

    /// Has the host do something that only ends.
    ///
    /// # Errors
    /// Where nobody answers, or the host could not do it.
    pub async fn order(&self, order: impl FnOnce(&Facts) -> Order) -> Result<i32, CallError> {
        let mut answered = self.call().await?;
        let order = order(&answered.facts);
        answered.order(&order).await?;
        done(&receive(&mut answered.stream).await?.1)
    }

    /// Keeps the state true until `stop`: calls where nobody answered yet, waits for a reader that is busy, and looks
    /// now and then whether one that serves is still there.
    pub async fn watch_over(self, stop: CancellationToken) {
        let work = async {
            let mut changes = self.inner.state.subscribe();
            loop {
                let state = changes.borrow_and_update().clone();
                match state {
                    // What becomes of it is in the state.
                    State::Unknown => drop(self.call_within(CALL).await),
                    State::Silent(_) => drop(self.call_within(LONG).await),
                    State::NoReader(_) => {
                        tokio::select! {
                            // Cancel-safe: both only wait.
                            () = sleep(BEAT) => drop(self.call_within(CALL).await),
                            _ = changes.changed() => {}
                        }
                    }
                    State::Answered(facts) => {
                        tokio::select! {
                            // Cancel-safe: both only wait. Looking would wake a plain loop, which would run nothing
                            // and forget the output of the last command.
                            () = sleep(BEAT), if facts.served => self.look().await,
                            _ = changes.changed() => {}
                        }
                    }
                }
            }
        };
        tokio::select! {
            // Dropped only here.
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn look(&self) {
        let dir = self.inner.dir.clone();
        let looked = tokio::task::spawn_blocking(move || open_fifo(&dir)).await;
        let gone = match looked {
            Ok(Ok(Some(_))) | Err(_) => return,
            Ok(Ok(None)) => CallError::NoReader {
                fifo: self.inner.dir.fifo(),
            },
            Ok(Err(error)) => error.into(),
        };
        self.inner
            .state
            .send_replace(State::NoReader(gone.to_string()));
    }
}

/// Waits for the host and its first words. A stranger's connection is dropped.
async fn greet(listener: &UnixListener) -> Result<Answered, CallError> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let peer = stream.peer_cred()?.uid();
        if peer != nix::unistd::geteuid().as_raw() {
            tracing::warn!(
                uid = peer,
                "a process of another user answered a call to the host"
            );
            continue;
        }
        let first = tokio::time::timeout(GREETING, receive(&mut stream)).await;
        let (kind, bytes) = first.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if kind != protocol::JSON {
            return Err(protocol::unexpected(kind).into());
        }
        let facts: Facts = serde_json::from_slice(&bytes).map_err(io::Error::from)?;
        if facts.protocol != PROTOCOL {
            return Err(CallError::Version {
                found: facts.protocol,
            });
        }
        return Ok(Answered {
            stream,
            facts: Arc::new(facts),
        });
    }
}

async fn receive(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let mut frame = vec![0; protocol::length(head)?];
    stream.read_exact(&mut frame).await?;
    let kind = frame.remove(0);
    Ok((kind, frame))
}

fn done(bytes: &[u8]) -> Result<i32, CallError> {
    match serde_json::from_slice(bytes).map_err(io::Error::from)? {
        Done::Exit(code) => Ok(code),
        Done::Failed(message) => Err(CallError::Failed { message }),
    }
}

enum Wrote {
    Line,
    NoReader,
    Full,
}

/// Opens the pipe to write; `None` where nobody reads.
fn open_fifo(dir: &PipeDir) -> Result<Option<fs::File>, PlaceError> {
    // What stands there may be another thing than a moment ago.
    dir.check_fifo()?;
    let opened = fs::File::options()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW)
        .open(dir.fifo());
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(None),
        Err(error) => Err(PlaceError::io("open", &dir.fifo())(error)),
    }
}

fn write_line(dir: &PipeDir, line: &str) -> Result<Wrote, PlaceError> {
    let fifo = match open_fifo(dir) {
        Ok(Some(fifo)) => fifo,
        // A reader that is not there makes no pipe either.
        Ok(None) | Err(PlaceError::Missing { .. }) => return Ok(Wrote::NoReader),
        Err(error) => return Err(error),
    };
    // At most `PIPE_BUF` bytes, so it goes whole or not at all.
    match (&fifo).write(line.as_bytes()) {
        Ok(_) => Ok(Wrote::Line),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Wrote::Full),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Wrote::NoReader),
        Err(error) => Err(PlaceError::io("write to", &dir.fifo())(error)),
    }
}

/// What the reader's shell said of our line.
fn complaint(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.lines().next() {
        Some(line) => format!("; its shell said: {line}"),
        None => String::new(),
    }
}

fn remove_stale(sockets: &Path) {
    for entry in fs::read_dir(sockets).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE));
        if old && entry.file_name().as_encoded_bytes().ends_with(b".err") {
            // Gone already or not ours: nothing lost.
            let _ = fs::remove_file(entry.path());
        }
    }
}
