//! Further commands among the container's processes.
//!
//! Each has a connection of its own, which carries its streams: a caller that reads slowly slows its command down and
//! nothing else, and one that goes away takes the command with it.
//! The commands are children of the shim, so they end with the container.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::{
    poll::PollFlags,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{
    control::Connection,
    start::{Failure, Surroundings},
    streams,
};
use crate::container::{
    cgroup::Group,
    held, process,
    protocol::{
        self, Answer, ExecCall, Frames, KIND_RESIZE, KIND_STDERR, KIND_STDIN, KIND_STDOUT, Message,
        Refusal, RefusalCode, TerminalSize,
    },
    status::{Exit, Status},
    terminal,
};

/// Commands at once; more are turned away.
const MAX_EXECS: usize = 64;
/// Bytes on the way in one direction from which no more are taken.
const BACKLOG: usize = 64 * 1024;
/// Largest piece of a stream.
const PIECE: usize = 32 * 1024;
/// Bytes that are read after the end of a command: a pipe holds no more (`/proc/sys/fs/pipe-max-size`), and a daemon
/// that it has left behind may go on writing.
const MAX_DRAIN: usize = 1024 * 1024;

/// All commands that run.
pub(super) struct Execs {
    surroundings: Surroundings,
    running: Vec<Exec>,
}

/// One command.
struct Exec {
    pid: Pid,
    stream: UnixStream,
    frames: Frames,
    /// Frames that the caller has not taken yet.
    outgoing: Vec<u8>,
    /// Input that the command has not taken yet.
    incoming: Vec<u8>,
    /// Whether the caller has said that no more input comes.
    input_ended: bool,
    stdin: Option<File>,
    stdout: Output,
    stderr: Output,
    deadline: Option<Instant>,
    timed_out: bool,
    ended: Option<Exit>,
    /// What may still be read after the end.
    drain: usize,
    stage: Stage,
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It runs, or its output is being sent.
    Running,
    /// All has been said; some of it has not been taken yet.
    Told,
    /// Nothing is left to be done.
    Over,
}

/// The reading end of an output; `None` after its end.
struct Output {
    kind: u8,
    from: Option<File>,
}

impl Execs {
    pub(super) fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            running: Vec::new(),
        }
    }

    /// The control group of all that runs, where there is one.
    pub(super) fn group(&self) -> Option<&Group> {
        self.surroundings.group.as_ref()
    }

    /// Starts a command and answers the call.
    pub(super) fn start(&mut self, connection: Connection, id: u64, call: &ExecCall) {
        let Connection { stream, frames, .. } = connection;
        if self.running.len() >= MAX_EXECS {
            let message = format!("{MAX_EXECS} commands run in this container already");
            return refuse(
                stream,
                id,
                Answer::Refused(Refusal::new(RefusalCode::System, message)),
            );
        }
        let started = streams::start(call.stdin, call.terminal, |streams| {
            self.surroundings.exec(&call.argv, streams)
        });
        match started {
            Ok((pid, ends)) => {
                let deadline = call
                    .timeout_ms
                    .and_then(|it| Instant::now().checked_add(Duration::from_millis(it)));
                let mut exec = Exec {
                    pid,
                    stream,
                    frames,
                    outgoing: Vec::new(),
                    incoming: Vec::new(),
                    input_ended: false,
                    stdin: ends.stdin,
                    stdout: Output {
                        kind: KIND_STDOUT,
                        from: Some(ends.stdout),
                    },
                    stderr: Output {
                        kind: KIND_STDERR,
                        from: ends.stderr,
                    },
                    deadline,
                    timed_out: false,
                    ended: None,
                    drain: MAX_DRAIN,
                    stage: Stage::Running,
                };
                exec.say(&Message::Reply {
                    id,
                    answer: Answer::Done,
                });
                exec.step();
                self.running.push(exec);
                self.forget();
            }
            Err(Failure {
                reason,
                message,
                no_room,
            }) => {
                let finished_at = Timestamp::now();
                let status = Status::StartFailed {
                    reason,
                    message,
                    finished_at,
                    no_room,
                };
                refuse(stream, id, Answer::Status(status));
            }
        }
    }

    /// What to wait for. The order is known to [`Execs::ready`].
    pub(super) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.running.iter().flat_map(Exec::interests)
    }

    /// Does what can be done; `ready` goes with [`Execs::interests`].
    pub(super) fn ready(&mut self, ready: &[PollFlags]) {
        let mut ready = ready.iter();
        for exec in &mut self.running {
            let count = exec.interests().count();
            let events: Vec<PollFlags> = ready.by_ref().take(count).copied().collect();
            if events.iter().all(|it| it.is_empty()) {
                continue;
            }
            // The connection is the first of them. A caller that is gone is told even where we do not read.
            let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
            if events.first().is_some_and(|it| it.intersects(gone)) {
                exec.cancel();
            } else {
                exec.step();
            }
        }
        self.forget();
    }

    /// Kills what has run too long.
    pub(super) fn check_deadlines(&mut self, now: Instant) {
        for exec in &mut self.running {
            if exec.deadline.is_some_and(|at| at <= now) {
                exec.deadline = None;
                if exec.ended.is_none() {
                    exec.timed_out = true;
                    exec.kill();
                }
            }
        }
    }

    /// The next moment for [`Execs::check_deadlines`].
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.running.iter().filter_map(|exec| exec.deadline).min()
    }

    /// Takes note of the end of a child.
    pub(super) fn reaped(&mut self, pid: i32, exit: Exit) {
        let ours = |exec: &&mut Exec| exec.pid.as_raw() == pid && exec.ended.is_none();
        if let Some(exec) = self.running.iter_mut().find(ours) {
            exec.ended = Some(exit);
            exec.deadline = None;
            exec.step();
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.running.retain(|exec| exec.stage != Stage::Over);
        if self.running.is_empty() {
            self.running = Vec::new();
        }
    }
}

/// Answers a call that starts nothing; the connection ends with that.
pub(super) fn refuse(mut stream: UnixStream, id: u64, answer: Answer) {
    // A caller that is gone need not know.
    let _ = protocol::send(&mut stream, &Message::Reply { id, answer });
}

impl Exec {
    fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let mut connection = PollFlags::empty();
        connection.set(PollFlags::POLLIN, self.incoming.len() < BACKLOG);
        connection.set(PollFlags::POLLOUT, !self.outgoing.is_empty());
        let input = self.stdin.as_ref().filter(|_| !self.incoming.is_empty());
        let room = self.outgoing.len() < BACKLOG;
        let outputs = [&self.stdout, &self.stderr];
        let outputs = outputs
            .into_iter()
            .filter_map(|output| output.from.as_ref())
            .filter(move |_| room);
        std::iter::once((self.stream.as_fd(), connection))
            .chain(input.map(|it| (it.as_fd(), PollFlags::POLLOUT)))
            .chain(outputs.map(|it| (it.as_fd(), PollFlags::POLLIN)))
    }

    /// Moves what can be moved without waiting.
    fn step(&mut self) {
        if self.stage == Stage::Over || !self.receive() {
            return self.cancel();
        }
        self.feed();
        self.collect();
        if self.stage == Stage::Running && self.is_drained() {
            self.tell_end();
        }
        match self.send() {
            Ok(()) if self.stage == Stage::Told && self.outgoing.is_empty() => {
                self.stage = Stage::Over;
            }
            Ok(()) => {}
            Err(_) => self.cancel(),
        }
    }

    /// Reads from the caller; false when it is gone or makes no sense.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while self.incoming.len() < BACKLOG {
            loop {
                match self.frames.next(protocol::MAX_FRAME) {
                    Ok(Some((kind, payload))) => self.take(kind, &payload),
                    Ok(None) => break,
                    Err(_) => return false,
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(len) => self.frames.extend(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn take(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            KIND_STDIN if payload.is_empty() => self.input_ended = true,
            KIND_STDIN if self.stdin.is_some() && !self.input_ended => {
                self.incoming.extend_from_slice(payload);
            }
            KIND_RESIZE => {
                if let (Some(size), Some(screen)) =
                    (TerminalSize::from_bytes(payload), self.stdout.from.as_ref())
                {
                    // A pipe has no size; nothing is lost.
                    let _ = terminal::set_size(screen.as_fd(), size);
                }
            }
            // Input that nobody reads, and kinds of newer callers.
            _ => {}
        }
    }

    /// Writes input to the command.
    fn feed(&mut self) {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.incoming.is_empty()) {
            match stdin.write(&self.incoming) {
                Ok(written) => {
                    self.incoming.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads it any more.
                Err(_) => self.stdin = None,
            }
        }
        self.incoming = Vec::new();
        if self.input_ended {
            self.stdin = None;
        }
    }

    /// Reads output of the command, as much as the caller keeps up with.
    fn collect(&mut self) {
        let mut buffer = Vec::new();
        for output in [&mut self.stdout, &mut self.stderr] {
            while let Some(from) = &mut output.from
                && self.outgoing.len() < BACKLOG
            {
                buffer.resize(PIECE, 0);
                match from.read(&mut buffer) {
                    Ok(0) => output.from = None,
                    Ok(len) => {
                        protocol::stream_frame(&mut self.outgoing, output.kind, &buffer[..len]);
                        if self.ended.is_some() {
                            self.drain = self.drain.saturating_sub(len);
                            if self.drain == 0 {
                                output.from = None;
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.ended.is_some() {
                            // What a daemon may write yet is not the command's.
                            output.from = None;
                        }
                        break;
                    }
                    // A terminal that nobody has open any more says EIO.
                    Err(_) => output.from = None,
                }
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.ended.is_some() && self.stdout.from.is_none() && self.stderr.from.is_none()
    }

    fn tell_end(&mut self) {
        if let Some(exit) = self.ended {
            self.say(&Message::ExecEnded {
                exit,
                timed_out: self.timed_out,
            });
            self.stage = Stage::Told;
        }
    }

    fn say(&mut self, message: &Message) {
        // A message of numbers always has a form.
        if let Ok(frame) = protocol::message_frame(message) {
            self.outgoing.extend_from_slice(&frame);
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(sent) => {
                    self.outgoing.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.outgoing = Vec::new();
        Ok(())
    }

    /// The caller is gone.
    fn cancel(&mut self) {
        if self.stage != Stage::Over && self.ended.is_none() {
            self.kill();
        }
        self.stage = Stage::Over;
    }

    /// SIGKILL to the command, its group and its descendants. The command is not reaped yet, so its number is its own.
    fn kill(&self) {
        let descendants = process::descendants(self.pid.as_raw()).unwrap_or_default();
        // Whom we may not kill the end of the container does not end either.
        let _ = killpg(self.pid, Signal::SIGKILL);
        for stat in descendants.seen {
            let _ = held::signal_seen(&stat, Signal::SIGKILL);
        }
        for hidden in descendants.hidden {
            let _ = hidden.signal(Signal::SIGKILL);
        }
    }
}
