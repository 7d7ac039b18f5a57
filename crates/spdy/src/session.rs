//! The streams of one connection.
//!
//! | task | owner | in | out |
//! |---|---|---|---|
//! | [`Driver::run`] | who took the connection | bytes, frames of [`Outgoing`] | bytes, [`Opened`], pieces for [`Incoming`] |
//!
//! The protocol's windows are unknown to its users, so what a peer sends waits here: [`BUDGET`] bytes for all streams
//! together. A stream that nobody reads stops the connection only when it has taken all of that.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::{
    frame::{Code, Decoder, Encoder, Frame},
    headers::Headers,
};

/// Bytes that wait for the readers of all streams.
const BUDGET: u32 = 4 * 1024 * 1024;
/// Streams at a time; one connection of a port-forward takes two.
const MAX_STREAMS: usize = 1000;
/// Bytes that are read or written at once.
const PIECE: usize = 64 * 1024;
/// Frames that wait to be written.
const QUEUE: usize = 32;

/// A peer ended a stream, or the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream was reset")]
pub struct Reset;

/// Streams as the peer opens them. The connection ends when this and every [`Outgoing`] are gone.
pub struct Session {
    opened: mpsc::Receiver<Opened>,
    _frames: mpsc::Sender<Frame>,
}

impl Session {
    /// The next stream; none when the connection has ended. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Opened> {
        self.opened.recv().await
    }
}

/// A stream that the peer has opened; it was told that it is taken.
#[derive(Debug)]
pub struct Opened {
    /// Its number.
    pub id: u32,
    /// What it is for.
    pub headers: Headers,
    /// From the peer.
    pub incoming: Incoming,
    /// To the peer.
    pub outgoing: Outgoing,
}

impl Opened {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
enum Piece {
    Data {
        data: Bytes,
        /// What it takes until it is read.
        _room: OwnedSemaphorePermit,
    },
    Fin,
    Reset,
}

/// What comes from the peer.
#[derive(Debug)]
pub struct Incoming {
    pieces: mpsc::UnboundedReceiver<Piece>,
    ended: Option<Result<(), Reset>>,
}

impl Incoming {
    /// The next bytes; none where the peer has said that there are no more. Cancel-safe.
    ///
    /// # Errors
    /// Where the stream or the connection was broken off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Reset> {
        if let Some(ended) = self.ended {
            return ended.map(|()| None);
        }
        let ended = match self.pieces.recv().await {
            Some(Piece::Data { data, .. }) => return Ok(Some(data)),
            Some(Piece::Fin) => Ok(()),
            Some(Piece::Reset) | None => Err(Reset),
        };
        self.ended = Some(ended);
        ended.map(|()| None)
    }
}

/// What goes to the peer.
#[derive(Debug)]
pub struct Outgoing {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl Outgoing {
    /// Sends bytes; those of a stream that the peer has reset are lost.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub async fn send(&self, data: Bytes) -> Result<(), Reset> {
        let id = self.id;
        self.put(Frame::Data {
            id,
            data,
            fin: false,
        })
        .await
    }

    /// Says that there are no more.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub async fn finish(self) -> Result<(), Reset> {
        let (id, data) = (self.id, Bytes::new());
        self.put(Frame::Data {
            id,
            data,
            fin: true,
        })
        .await
    }

    /// Ends the stream in both directions.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub async fn reset(self, code: Code) -> Result<(), Reset> {
        self.put(Frame::Reset { id: self.id, code }).await
    }

    async fn put(&self, frame: Frame) -> Result<(), Reset> {
        self.frames.send(frame).await.map_err(|_| Reset)
    }
}

/// A stream that has not ended in both directions.
struct Entry {
    /// None after the peer's last byte.
    pieces: Option<mpsc::UnboundedSender<Piece>>,
    finished: bool,
}

#[derive(Default)]
struct Streams {
    open: Mutex<HashMap<u32, Entry>>,
    last: AtomicU32,
}

impl Streams {
    fn open(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        // What is done under the lock leaves nothing half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is about to be written; false where the stream is gone and it is not to be.
    fn writes(&self, frame: &Frame) -> bool {
        let mut open = self.open();
        match frame {
            Frame::Data { id, fin, .. } => {
                let Some(entry) = open.get_mut(id).filter(|it| !it.finished) else {
                    return false;
                };
                entry.finished = *fin;
                if *fin && entry.pieces.is_none() {
                    open.remove(id);
                }
                true
            }
            Frame::Reset { id, .. } => {
                open.remove(id);
                true
            }
            _ => true,
        }
    }
}

/// Moves the bytes of a connection.
pub struct Driver<IO> {
    io: IO,
    opened: mpsc::Sender<Opened>,
    frames: mpsc::WeakSender<Frame>,
    to_write: mpsc::Receiver<Frame>,
}

/// Takes a connection that speaks SPDY/3.1 from here on. Nothing moves unless the driver runs.
pub fn session<IO: AsyncRead + AsyncWrite>(io: IO) -> (Session, Driver<IO>) {
    let (opened, accept) = mpsc::channel(MAX_STREAMS);
    let (frames, to_write) = mpsc::channel(QUEUE);
    let driver = Driver {
        io,
        opened,
        frames: frames.downgrade(),
        to_write,
    };
    let session = Session {
        opened: accept,
        _frames: frames,
    };
    (session, driver)
}

impl<IO: AsyncRead + AsyncWrite> Driver<IO> {
    /// Runs until the peer goes, or nobody here uses the connection any more; then what was sent has been written.
    ///
    /// # Errors
    /// Where the connection breaks or speaks something else.
    pub async fn run(self) -> io::Result<()> {
        let (from, to) = tokio::io::split(self.io);
        let streams = Streams::default();
        let reading = Reading {
            streams: &streams,
            opened: self.opened,
            frames: self.frames,
            budget: Arc::new(Semaphore::new(BUDGET as usize)),
        };
        // What was read or written in part when the other one ends is nobody's any more.
        tokio::select! {
            read = reading.run(from) => read,
            written = write(to, self.to_write, &streams) => written,
        }
    }
}

async fn write<IO: AsyncWrite>(
    mut to: WriteHalf<IO>,
    mut frames: mpsc::Receiver<Frame>,
    streams: &Streams,
) -> io::Result<()> {
    let mut encoder = Encoder::new().map_err(io::Error::other)?;
    let mut buffer = BytesMut::with_capacity(PIECE);
    while let Some(first) = frames.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            if streams.writes(&frame) {
                encoder.put(&frame, &mut buffer).map_err(io::Error::other)?;
            }
            next = (buffer.len() < PIECE)
                .then(|| frames.try_recv().ok())
                .flatten();
        }
        to.write_all_buf(&mut buffer).await?;
        to.flush().await?;
    }
    let last = streams.last.load(Ordering::Relaxed);
    let farewell = Frame::GoAway { last };
    encoder
        .put(&farewell, &mut buffer)
        .map_err(io::Error::other)?;
    to.write_all_buf(&mut buffer).await?;
    to.shutdown().await
}

struct Reading<'a> {
    streams: &'a Streams,
    opened: mpsc::Sender<Opened>,
    frames: mpsc::WeakSender<Frame>,
    budget: Arc<Semaphore>,
}

impl Reading<'_> {
    async fn run<IO: AsyncRead>(self, mut from: ReadHalf<IO>) -> io::Result<()> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::with_capacity(PIECE);
        loop {
            while let Some(frame) = decoder.next(&mut buffer).map_err(io::Error::other)? {
                self.take(frame).await;
            }
            buffer.reserve(PIECE);
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&self, frame: Frame) {
        match frame {
            Frame::SynStream { id, headers, fin } => self.open(id, headers, fin).await,
            Frame::Data { id, data, fin } => self.data(id, data, fin).await,
            Frame::Reset { id, .. } => {
                if let Some(Entry {
                    pieces: Some(pieces),
                    ..
                }) = self.streams.open().remove(&id)
                {
                    // Whoever read it may be gone.
                    let _ = pieces.send(Piece::Reset);
                }
            }
            Frame::Ping(number) if number % 2 == 1 => self.put(Frame::Ping(number)).await,
            Frame::Ping(_) | Frame::SynReply { .. } | Frame::GoAway { .. } | Frame::Other(_) => {}
        }
    }

    async fn open(&self, id: u32, headers: Headers, fin: bool) {
        let last = self.streams.last.load(Ordering::Relaxed);
        if id.is_multiple_of(2) || id <= last {
            let code = Code::ProtocolError;
            return self.put(Frame::Reset { id, code }).await;
        }
        self.streams.last.store(id, Ordering::Relaxed);
        // A session that nobody uses takes no stream.
        let Some(frames) = self.frames.upgrade() else {
            return;
        };
        let room = self.streams.open().len() < MAX_STREAMS;
        let Some(turn) = room.then(|| self.opened.try_reserve().ok()).flatten() else {
            let code = Code::RefusedStream;
            return self.put(Frame::Reset { id, code }).await;
        };
        let (pieces, received) = mpsc::unbounded_channel();
        if fin {
            let _ = pieces.send(Piece::Fin);
        }
        let entry = Entry {
            pieces: (!fin).then_some(pieces),
            finished: false,
        };
        self.streams.open().insert(id, entry);
        let reply = Frame::SynReply {
            id,
            headers: Headers::new(),
        };
        self.put(reply).await;
        turn.send(Opened {
            id,
            headers,
            incoming: Incoming {
                pieces: received,
                ended: None,
            },
            outgoing: Outgoing { id, frames },
        });
    }

    async fn data(&self, id: u32, data: Bytes, fin: bool) {
        let pieces = {
            let open = self.streams.open();
            open.get(&id).and_then(|it| it.pieces.clone())
        };
        let Some(pieces) = pieces else {
            let code = Code::InvalidStream;
            return self.put(Frame::Reset { id, code }).await;
        };
        // Nobody reads it: it takes no room.
        let length = u32::try_from(data.len()).unwrap_or(BUDGET).min(BUDGET);
        if length > 0
            && !pieces.is_closed()
            && let Ok(_room) = Arc::clone(&self.budget).acquire_many_owned(length).await
        {
            let _ = pieces.send(Piece::Data { data, _room });
        }
        if fin {
            let _ = pieces.send(Piece::Fin);
            let mut open = self.streams.open();
            if let Some(entry) = open.get_mut(&id) {
                entry.pieces = None;
                if entry.finished {
                    open.remove(&id);
                }
            }
        }
    }

    async fn put(&self, frame: Frame) {
        if let Some(frames) = self.frames.upgrade() {
            // The writer ends with us.
            let _ = frames.send(frame).await;
        }
    }
}

#[cfg(test)]
mod tests;
