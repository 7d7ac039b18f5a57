//! What attached clients send to the command: its standard input, and the size of its terminal.
//!
//! Each client has a connection of its own, as a further command has. All write into one input, which stays open when
//! they go, unless the container wants it closed after the first (`stdinOnce`).

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::poll::PollFlags;

use super::control::Connection;
use crate::container::{
    protocol::{
        self, Answer, Frames, KIND_RESIZE, KIND_STDIN, MAX_FRAME, Message, Refusal, RefusalCode,
        TerminalSize,
    },
    spec::Interactive,
    terminal,
};

/// Clients at once; more are turned away.
const MAX_CLIENTS: usize = 16;
/// Bytes on the way from which no more are taken.
const BACKLOG: usize = 64 * 1024;

/// The input and who writes into it.
pub(super) struct Input {
    /// The end that is written; none where the command reads nothing, or nothing more.
    to: Option<File>,
    /// The terminal, where there is one.
    screen: Option<File>,
    /// Whether the first client that sends input is the last.
    once: bool,
    /// Whether the input ends with what is on the way.
    ending: bool,
    /// Bytes that the command has not taken yet.
    pending: Vec<u8>,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    frames: Frames,
    /// Whether it sends input; else sizes alone.
    sends: bool,
}

/// What a client had to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// More may come.
    Open,
    /// No input comes from it any more.
    Ended,
    /// It is gone.
    Gone,
}

impl Input {
    pub(super) fn new(wanted: Interactive, to: Option<File>, output: Option<&File>) -> Self {
        Self {
            to,
            // Without a second descriptor the terminal keeps its size.
            screen: output
                .filter(|_| wanted.terminal)
                .and_then(|it| it.try_clone().ok()),
            once: wanted.once,
            ending: false,
            pending: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// Takes a client on and tells it so.
    pub(super) fn attach(&mut self, connection: Connection, id: u64, sends: bool) {
        let Connection { stream, frames, .. } = connection;
        let mut stream = stream;
        if self.clients.len() >= MAX_CLIENTS {
            let message = format!("{MAX_CLIENTS} clients are attached to this container already");
            let answer = Answer::Refused(Refusal::new(RefusalCode::System, message));
            return super::exec::refuse(stream, id, answer);
        }
        let answer = Answer::Done;
        if protocol::send(&mut stream, &Message::Reply { id, answer }).is_err() {
            return;
        }
        let client = Client {
            stream,
            frames,
            sends,
        };
        self.clients.push(client);
        // It may have sent more with its call.
        let ready = vec![PollFlags::POLLIN; self.clients.len()];
        self.listen(&ready);
        self.feed();
    }

    /// What to wait for. The order is known to [`Input::ready`].
    pub(super) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        // Not even a client that is gone is looked at while nothing can be taken: it may have said more before.
        let heard = { self.clients.iter() }.take(self.heard());
        let clients = heard.map(|it| (it.stream.as_fd(), PollFlags::POLLIN));
        let to = self.to.as_ref().filter(|_| !self.pending.is_empty());
        clients.chain(to.map(|it| (it.as_fd(), PollFlags::POLLOUT)))
    }

    /// Does what can be done; `ready` goes with [`Input::interests`].
    pub(super) fn ready(&mut self, ready: &[PollFlags]) {
        if ready.iter().all(|it| it.is_empty()) {
            return;
        }
        let of_clients = self.heard().min(ready.len());
        self.listen(&ready[..of_clients]);
        self.feed();
    }

    /// How many clients are listened to.
    fn heard(&self) -> usize {
        if self.pending.len() < BACKLOG {
            self.clients.len()
        } else {
            0
        }
    }

    /// Hears those clients that have something to say; the order is that of the clients.
    fn listen(&mut self, ready: &[PollFlags]) {
        let mut index = 0;
        let (pending, screen) = (&mut self.pending, self.screen.as_ref());
        let (open, once, ending) = (self.to.is_some(), self.once, &mut self.ending);
        self.clients.retain_mut(|client| {
            let events = ready.get(index).copied().unwrap_or(PollFlags::empty());
            index += 1;
            if events.is_empty() {
                return true;
            }
            let takes = open && client.sends && !*ending;
            let heard = client.hear(takes.then_some(&mut *pending), screen);
            *ending |= heard != Heard::Open && once && client.sends;
            heard != Heard::Gone
        });
        if self.clients.is_empty() {
            self.clients = Vec::new();
        }
    }

    /// Writes to the command what it takes.
    fn feed(&mut self) {
        while let Some(to) = self.to.as_mut().filter(|_| !self.pending.is_empty()) {
            match to.write(&self.pending) {
                Ok(written) => {
                    self.pending.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads it any more.
                Err(_) => self.to = None,
            }
        }
        self.pending = Vec::new();
        if self.ending {
            self.to = None;
        }
    }
}

impl Client {
    /// Reads what has come; input goes to `pending`, where it is taken.
    fn hear(&mut self, mut pending: Option<&mut Vec<u8>>, screen: Option<&File>) -> Heard {
        let mut buffer = [0; 4096];
        loop {
            loop {
                match self.frames.next(MAX_FRAME) {
                    Ok(Some((KIND_STDIN, bytes))) if bytes.is_empty() => return Heard::Ended,
                    Ok(Some((KIND_STDIN, bytes))) => {
                        if let Some(pending) = &mut pending {
                            pending.extend_from_slice(&bytes);
                        }
                    }
                    Ok(Some((KIND_RESIZE, bytes))) => {
                        if let (Some(size), Some(screen)) =
                            (TerminalSize::from_bytes(&bytes), screen)
                        {
                            // One that is closed has no size.
                            let _ = terminal::set_size(screen.as_fd(), size);
                        }
                    }
                    // Kinds of newer callers.
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Heard::Gone,
                }
            }
            if pending.as_ref().is_some_and(|it| it.len() >= BACKLOG) {
                return Heard::Open;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::Gone,
                Ok(len) => self.frames.extend(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Open,
                Err(_) => return Heard::Gone,
            }
        }
    }
}
