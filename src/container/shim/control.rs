//! Connections to a shim, and who may connect.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

use crate::container::{
    dir::{DirError, check_private},
    files::Dir,
    protocol::{self, Answer, Frames, Message, Refusal, RefusalCode, Request},
    status::Status,
};

/// Connections served at once; more are turned away.
const MAX_CONNECTIONS: usize = 64;

/// What a socket's name ends with before it listens.
const SPARE: &str = "~";

/// Makes the control socket. Its directory must be private.
pub(super) fn bind(path: &Path) -> Result<UnixListener, DirError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let opened = Dir::open_trusted(dir)?
        .ok_or_else(|| DirError::io("open directory", dir, Errno::ENOENT))?;
    check_private(&opened)?;
    let failed = |source| DirError::Io {
        op: "listen on",
        path: path.to_owned(),
        source,
    };
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Removes the control socket.
pub(super) fn unbind(path: &Path) {
    // A socket that stays behind refuses connections, which says the same.
    let _ = std::fs::remove_file(path);
}

/// One client.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) frames: Frames,
    subscribed: bool,
}

/// The socket and its clients.
pub(super) struct Control {
    listener: UnixListener,
    connections: Vec<Option<Connection>>,
    /// Id of the call that asked for the start.
    start_call: u64,
}

/// A request and where its answer goes.
pub(super) struct Asked {
    connection: usize,
    pub(super) id: u64,
    pub(super) request: Request,
}

impl Control {
    /// The agent that started us is the first client, and a subscriber.
    pub(super) fn new(listener: UnixListener, agent: UnixStream, start_call: u64) -> Self {
        // Where it fails a client that does not read could block us; the agent reads.
        let _ = agent.set_nonblocking(true);
        let agent = Connection {
            stream: agent,
            frames: Frames::default(),
            subscribed: true,
        };
        Self {
            listener,
            connections: vec![Some(agent)],
            start_call,
        }
    }

    /// Makes the socket anew where somebody has removed it; the agent asks for it by SIGUSR1.
    ///
    /// It gets its name when it listens already, since the agent connects as soon as it sees the name.
    pub(super) fn listen_again(&mut self, path: &Path) {
        let mut unnamed = path.as_os_str().to_owned();
        unnamed.push(SPARE);
        // Where it fails the agent tells that it cannot reach us.
        if !path.exists()
            && let Ok(listener) = bind(Path::new(&unnamed))
            && std::fs::rename(&unnamed, path).is_ok()
        {
            self.listener = listener;
        }
    }

    /// Descriptors to wait for, in an order that [`Control::ready`] knows.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd())
            .chain(self.connections.iter().flatten().map(|c| c.stream.as_fd()))
    }

    /// Serves the descriptors that are ready, given in the order of [`Control::descriptors`].
    pub(super) fn ready(&mut self, ready: &[bool]) -> Vec<Asked> {
        let mut asked = Vec::new();
        let open: Vec<usize> = (0..self.connections.len())
            .filter(|&index| self.connections[index].is_some())
            .collect();
        for (index, _) in open
            .into_iter()
            .zip(&ready[1..])
            .filter(|(_, ready)| **ready)
        {
            self.read(index, &mut asked);
        }
        if ready[0] {
            self.accept();
        }
        asked
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let own = nix::unistd::geteuid().as_raw();
            let allowed = getsockopt(&stream, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
            if !allowed || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let connection = Some(Connection {
                stream,
                frames: Frames::default(),
                subscribed: false,
            });
            match self.connections.iter().position(Option::is_none) {
                Some(slot) => self.connections[slot] = connection,
                None if self.connections.len() < MAX_CONNECTIONS => {
                    self.connections.push(connection)
                }
                None => {}
            }
        }
    }

    fn read(&mut self, index: usize, asked: &mut Vec<Asked>) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let mut buffer = [0; 4096];
        let mut open = true;
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(len) => {
                    connection.frames.extend(&buffer[..len]);
                    if len == buffer.len() {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => open = false,
            }
            break;
        }
        let mut refusals = Vec::new();
        loop {
            let decoded = match connection.frames.next(protocol::MAX_FRAME) {
                Ok(None) => break,
                Ok(Some((protocol::KIND_MESSAGE, payload))) => {
                    Request::decode(&payload).map_err(io::Error::from)
                }
                // Streams belong to the connection of an exec or of a client that is attached.
                Ok(Some((kind, _))) => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("frames of kind {kind}"),
                )),
                Err(error) => Err(error),
            };
            match decoded {
                Ok((id, Ok(request))) => {
                    // What follows are streams.
                    let taken_over = matches!(request, Request::Exec(_) | Request::Attach(_));
                    asked.push(Asked {
                        connection: index,
                        id,
                        request,
                    });
                    if taken_over {
                        break;
                    }
                }
                Ok((id, Err(refusal))) => refusals.push((id, refusal)),
                // What follows an unreadable frame cannot be trusted either.
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        for (id, refusal) in refusals {
            self.send(
                index,
                &Message::Reply {
                    id,
                    answer: Answer::Refused(refusal),
                },
            );
        }
        if !open {
            self.connections[index] = None;
        }
    }

    /// Takes a connection away from here; `None` where its client is gone, or where it gets the states: those would
    /// have no place among an exec's streams.
    pub(super) fn take(&mut self, asked: &Asked) -> Option<Connection> {
        self.connections[asked.connection].take_if(|it| !it.subscribed)
    }

    /// Sends a message; a client that takes none is turned away.
    fn send(&mut self, index: usize, message: &Message) {
        let Ok(frame) = protocol::message_frame(message) else {
            return;
        };
        if let Some(connection) = &mut self.connections[index]
            && connection.stream.write_all(&frame).is_err()
        {
            self.connections[index] = None;
        }
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, asked: &Asked, answer: Answer) {
        if matches!(answer, Answer::Greeting(_))
            && let Some(connection) = &mut self.connections[asked.connection]
        {
            connection.subscribed = true;
        }
        self.send(
            asked.connection,
            &Message::Reply {
                id: asked.id,
                answer,
            },
        );
    }

    /// Answers the call that asked for the start.
    pub(super) fn answer_start(&mut self, status: &Status) {
        self.send(
            0,
            &Message::Reply {
                id: self.start_call,
                answer: Answer::Status(status.clone()),
            },
        );
    }

    /// Tells all subscribers.
    pub(super) fn publish(&mut self, status: &Status) {
        for index in 0..self.connections.len() {
            if self.connections[index]
                .as_ref()
                .is_some_and(|connection| connection.subscribed)
            {
                self.send(index, &Message::Status(status.clone()));
            }
        }
    }
}

/// A refusal because of a state.
pub(super) fn ended() -> Answer {
    Answer::Refused(Refusal::new(
        RefusalCode::Ended,
        "the main process has ended",
    ))
}
