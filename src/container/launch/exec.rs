//! Further commands in a container, from the agent's side.
//!
//! Each has a connection of its own to the shim, and ends with it: dropping an [`ExecStream`], or the future of
//! [`Handle::exec`], kills the command.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    Handle,
    adopt::{PATIENCE, Resolved},
};
use crate::container::{
    protocol::{
        self, Answer, AttachCall, ExecCall, Frames, KIND_MESSAGE, KIND_RESIZE, KIND_STDERR,
        KIND_STDIN, KIND_STDOUT, MAX_FRAME, Message, RefusalCode, Request, TerminalSize,
    },
    status::{Exit, StartFailure, Status},
};

/// A command whose output is collected.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments; looked up, and run with the environment and directory, as the container's own command.
    pub argv: Vec<String>,
    /// After which the command and all that it has started get SIGKILL.
    pub timeout: Option<Duration>,
    /// Bytes kept of each of the two outputs; what is beyond is read and dropped.
    pub capture: usize,
}

/// Leaves the arguments out: they may hold secrets.
impl std::fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecRequest")
            .field("program", &self.argv.first())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// How a command went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its end.
    pub exit: Exit,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// The first bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The first bytes of its standard error.
    pub stderr: Vec<u8>,
}

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container has ended, before or meanwhile.
    #[error("the container has ended")]
    Ended,
    /// The command could not be started.
    #[error("{message}")]
    NotStarted {
        /// What kind of failure.
        reason: StartFailure,
        /// For people.
        message: String,
    },
    /// The shim refused (too many commands at once, a shim that is too old).
    #[error("{message}")]
    Refused {
        /// The shim's words.
        message: String,
    },
    /// The command line does not fit into a frame.
    #[error("a command line of {bytes} bytes is too long: at most {MAX_FRAME} can be sent")]
    TooLong {
        /// Its length with its form.
        bytes: usize,
    },
    /// The shim lives and does not answer, or not as it should.
    #[error("the supervisor of the container cannot be reached")]
    Unreachable(#[source] io::Error),
}

/// A command that runs, and its streams.
#[derive(Debug)]
pub struct ExecStream {
    /// What goes in.
    pub input: ExecInput,
    /// What comes out.
    pub output: ExecOutput,
}

/// The writing half. Dropping it alone does not end the input: say so with [`ExecInput::finish`].
#[derive(Debug)]
pub struct ExecInput(Option<OwnedWriteHalf>);

/// The reading half.
#[derive(Debug)]
pub struct ExecOutput {
    from: OwnedReadHalf,
    frames: Frames,
    buffer: bytes::BytesMut,
}

/// A piece of output, or the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// Standard output, or that of the terminal.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The last word.
    Ended {
        /// How the command ended.
        exit: Exit,
        /// Whether it was killed because its time was over.
        timed_out: bool,
    },
}

impl Handle {
    /// Runs a command among the container's processes to its end. Cancel-safe: dropping the future kills it.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let ExecRequest {
            argv,
            timeout: limit,
            capture,
        } = request;
        let call = ExecCall {
            argv,
            stdin: false,
            terminal: None,
            timeout_ms: limit.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        };
        let mut stream = self.exec_stream(call).await?;
        let collect = collect(&mut stream.output, capture);
        match limit.and_then(|limit| limit.checked_add(PATIENCE)) {
            // The shim keeps the time; one that somebody has stopped does not.
            Some(limit) => timeout(limit, collect)
                .await
                .unwrap_or_else(|_| Err(no_answer())),
            None => collect.await,
        }
    }

    /// Starts a command and leaves its streams to the caller.
    pub async fn exec_stream(&self, call: ExecCall) -> Result<ExecStream, ExecError> {
        self.streams(&Request::Exec(Box::new(call))).await
    }

    /// What the container's own command reads, and the size of its terminal. Nothing comes out of it: what the
    /// command writes is in its log. Dropping it is the end of this caller.
    pub async fn attach(&self, call: AttachCall) -> Result<ExecStream, ExecError> {
        self.streams(&Request::Attach(call)).await
    }

    async fn streams(&self, request: &Request) -> Result<ExecStream, ExecError> {
        let frame = request
            .encode(0)
            .map_err(|error| ExecError::Unreachable(error.into()))?;
        if frame.len() > MAX_FRAME {
            return Err(ExecError::TooLong { bytes: frame.len() });
        }
        if self.status().is_terminal() {
            return Err(ExecError::Ended);
        }
        let stream = match self.connect().await {
            Ok(stream) => stream,
            Err(error) => return Err(self.why(error)),
        };
        let begun = timeout(PATIENCE, begin(stream, &frame)).await;
        begun.unwrap_or_else(|_| Err(no_answer()))
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        match connect(self.socket()).await {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                // Directories in /tmp get cleaned; this makes the shim listen again.
                match self.resolve().await {
                    Ok(Resolved::Alive { .. }) => connect(self.socket()).await,
                    Ok(_) => Err(error),
                    Err(error) => Err(io::Error::other(error)),
                }
            }
            other => other,
        }
    }

    /// A shim that cannot be reached has most often just ended.
    fn why(&self, error: io::Error) -> ExecError {
        let gone = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        );
        if gone || self.status().is_terminal() {
            ExecError::Ended
        } else {
            ExecError::Unreachable(error)
        }
    }
}

fn no_answer() -> ExecError {
    ExecError::Unreachable(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).await?;
    if stream.peer_cred()?.uid() == nix::unistd::geteuid().as_raw() {
        return Ok(stream);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the peer is another user's process",
    ))
}

/// Asks, and waits for the answer.
async fn begin(stream: UnixStream, frame: &[u8]) -> Result<ExecStream, ExecError> {
    let (from, mut to) = stream.into_split();
    to.write_all(frame).await.map_err(broken)?;
    let mut output = ExecOutput {
        from,
        frames: Frames::default(),
        buffer: bytes::BytesMut::new(),
    };
    let (kind, payload) = output.frame().await?;
    if kind != KIND_MESSAGE {
        return Err(strange());
    }
    let answer = match serde_json::from_slice(&payload) {
        Ok(Message::Reply { answer, .. }) => answer,
        _ => return Err(strange()),
    };
    match answer {
        Answer::Done => Ok(ExecStream {
            input: ExecInput(Some(to)),
            output,
        }),
        Answer::Status(Status::StartFailed {
            reason, message, ..
        }) => Err(ExecError::NotStarted { reason, message }),
        Answer::Refused(refusal) if refusal.code == RefusalCode::Ended => Err(ExecError::Ended),
        Answer::Refused(refusal) => Err(ExecError::Refused {
            message: refusal.message,
        }),
        Answer::Status(_) | Answer::Greeting(_) | Answer::Usage(_) => Err(strange()),
    }
}

fn strange() -> ExecError {
    ExecError::Unreachable(io::Error::new(
        io::ErrorKind::InvalidData,
        "an answer that does not fit",
    ))
}

/// The end of a connection is the end of the shim.
fn broken(error: io::Error) -> ExecError {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => ExecError::Ended,
        _ => ExecError::Unreachable(error),
    }
}

async fn collect(output: &mut ExecOutput, capture: usize) -> Result<ExecOutcome, ExecError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let keep = |kept: &mut Vec<u8>, piece: &[u8]| {
        let room = capture.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..piece.len().min(room)]);
    };
    loop {
        match output.next().await? {
            ExecEvent::Stdout(piece) => keep(&mut stdout, &piece),
            ExecEvent::Stderr(piece) => keep(&mut stderr, &piece),
            ExecEvent::Ended { exit, timed_out } => {
                return Ok(ExecOutcome {
                    exit,
                    timed_out,
                    stdout,
                    stderr,
                });
            }
        }
    }
}

impl ExecOutput {
    /// The next piece. [`ExecEvent::Ended`] is the last. Cancel-safe: bytes that have come are kept.
    pub async fn next(&mut self) -> Result<ExecEvent, ExecError> {
        loop {
            let (kind, payload) = self.frame().await?;
            match kind {
                KIND_STDOUT => return Ok(ExecEvent::Stdout(payload)),
                KIND_STDERR => return Ok(ExecEvent::Stderr(payload)),
                KIND_MESSAGE => match serde_json::from_slice(&payload) {
                    Ok(Message::ExecEnded { exit, timed_out }) => {
                        return Ok(ExecEvent::Ended { exit, timed_out });
                    }
                    _ => return Err(strange()),
                },
                // Of a newer shim.
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>), ExecError> {
        loop {
            if let Some(frame) = self
                .frames
                .next(MAX_FRAME)
                .map_err(ExecError::Unreachable)?
            {
                return Ok(frame);
            }
            self.buffer.clear();
            if self.from.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err(ExecError::Ended);
            }
            self.frames.extend(&self.buffer);
        }
    }
}

impl ExecInput {
    /// Longest piece that is sent in one frame.
    const PIECE: usize = 32 * 1024;

    /// Sends standard input; waits while the command does not read. Not cancel-safe: a part may have been sent.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(Self::PIECE) {
            self.send(KIND_STDIN, piece).await?;
        }
        Ok(())
    }

    /// Says that no more input comes. A terminal takes no notice of it.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.send(KIND_STDIN, &[]).await
    }

    /// Tells the terminal a new size.
    pub async fn resize(&mut self, size: TerminalSize) -> io::Result<()> {
        self.send(KIND_RESIZE, &size.to_bytes()).await
    }

    async fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 5);
        protocol::stream_frame(&mut frame, kind, payload);
        match &mut self.0 {
            Some(to) => to.write_all(&frame).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for ExecInput {
    fn drop(&mut self) {
        if let Some(to) = self.0.take() {
            // A half that is shut down looks to the shim as a caller that is gone.
            to.forget();
        }
    }
}
