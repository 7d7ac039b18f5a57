//! The writer: the one thread that gives revisions, writes the log and changes the state.
//!
//! All requests that wait when it comes round share one write and one wait for the disk.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use super::format::{Frame, MAX_OBJECT, Record};
use super::lock::DirectoryLock;
use super::log::Log;
use super::{CommitError, Draft, Event, EventKind, Expected, Object, Shared, snapshot};

/// A commit takes no further request once it is this large, in bytes.
const COMMIT_BYTES: usize = 8 << 20;

pub(super) type Reply = oneshot::Sender<Result<Arc<Object>, CommitError>>;

/// A write that waits for its turn.
pub(super) struct Request {
    pub(super) key: Arc<str>,
    pub(super) kind: EventKind,
    pub(super) expected: Expected,
    pub(super) draft: Draft,
    pub(super) reply: Reply,
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Queue {
    /// Gives the request back where the store is closed.
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Err(request);
        }
        waiting.requests.push_back(request);
        // The writer sleeps only on an empty queue.
        if waiting.requests.len() == 1 {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        self.filled.notify_one();
    }

    /// Drops what waits; whoever asked learns that the store is closed.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.requests.clear();
    }

    /// Waits for requests and takes as many as make one commit; `None` once the queue is closed
    /// and empty.
    fn take(&self) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.requests.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self
                .filled
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        let count = waiting
            .requests
            .iter()
            .take_while(|request| {
                let room = bytes < COMMIT_BYTES;
                bytes += request.draft.len();
                room
            })
            .count();
        Some(waiting.requests.drain(..count).collect())
    }
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: PathBuf,
    pub(super) log: Log,
    /// How many bytes of logs lie behind the newest snapshot.
    pub(super) log_bytes: u64,
    /// How large `log_bytes` has to be before a compaction is tried.
    pub(super) compact_at: u64,
    pub(super) compaction: Option<Compaction>,
    pub(super) frame: Frame,
    pub(super) lock: DirectoryLock,
}

pub(super) struct Compaction {
    thread: JoinHandle<io::Result<()>>,
    /// How many of the `log_bytes` it makes superfluous.
    replaces: u64,
}

/// A request that is part of the commit, with what it is told when the commit is durable.
struct Pending {
    reply: Reply,
    answer: Result<Arc<Object>, CommitError>,
}

impl Writer {
    /// Serves requests until the store is closed.
    pub(super) fn run(mut self) {
        while let Some(requests) = self.shared.queue.take() {
            self.commit(requests);
            self.compact();
        }
        self.collect_compaction(true);
        if let Err(error) = self.log.finish() {
            tracing::warn!(path = %self.log.path().display(), %error, "cannot finish the log");
        }
        // Unlocked only when nothing is left to do.
        drop(self.lock);
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let (events, pending) = self.prepare(requests);
        if !events.is_empty() {
            let frame = self.frame.seal();
            let bytes = frame.len() as u64;
            if let Err(error) = self.log.append(frame, self.shared.options.fsync) {
                self.frame.clear();
                let error = self.write_error(error);
                for Pending { reply, .. } in pending {
                    // Whoever asked may have gone away.
                    drop(reply.send(Err(error.clone())));
                }
                return;
            }
            self.frame.clear();
            self.log_bytes += bytes;
            self.publish(&events);
        }
        for Pending { reply, answer } in pending {
            drop(reply.send(answer));
        }
    }

    /// Gives each request that can be done its revision and its place in the frame.
    fn prepare(&mut self, requests: Vec<Request>) -> (Vec<Arc<Event>>, Vec<Pending>) {
        debug_assert!(self.frame.is_empty());
        let state = self.shared.state();
        let mut revision = state.revision();
        // What the requests before in this commit make of the objects they touch.
        let mut changed: HashMap<Arc<str>, Option<Arc<Object>>> = HashMap::new();
        let mut events = Vec::with_capacity(requests.len());
        let mut pending = Vec::with_capacity(requests.len());
        for request in requests {
            let Request {
                key,
                kind,
                expected,
                draft,
                reply,
            } = request;
            let previous = match changed.get(&key) {
                Some(object) => object.clone(),
                None => state.get(&key).cloned(),
            };
            let as_expected = match expected {
                Expected::Absent => previous.is_none(),
                Expected::Revision(expected) => {
                    previous.as_ref().map(|object| object.revision) == Some(expected)
                }
            };
            let answer = if !as_expected {
                Err(CommitError::Conflict { current: previous })
            } else if draft.len() > MAX_OBJECT {
                Err(CommitError::TooLarge {
                    bytes: draft.len(),
                    limit: MAX_OBJECT,
                })
            } else {
                revision += 1;
                // One copy of the key for all versions of an object.
                let key = previous.as_ref().map_or(key, |object| object.key.clone());
                let object = Arc::new(draft.finish(key.clone(), revision));
                self.frame.push(match kind {
                    EventKind::Put => Record::Put {
                        key: &key,
                        revision,
                        json: &object.json,
                    },
                    EventKind::Delete => Record::Delete {
                        key: &key,
                        revision,
                    },
                });
                let left = match kind {
                    EventKind::Put => Some(object.clone()),
                    EventKind::Delete => None,
                };
                changed.insert(key, left);
                events.push(Arc::new(Event {
                    kind,
                    object: object.clone(),
                    previous,
                }));
                Ok(object)
            };
            // Even a conflict waits: it may be with a version that is not durable yet.
            pending.push(Pending { reply, answer });
        }
        (events, pending)
    }

    /// Makes durable events visible, first to readers, then to watchers.
    fn publish(&self, events: &[Arc<Event>]) {
        // Held all the while, so that a new watcher finds state and queues at one revision.
        let mut hub = self.shared.hub();
        let revision = {
            let mut state = self.shared.state_mut();
            for event in events {
                state.apply(event.clone());
            }
            state.revision()
        };
        for event in events {
            hub.publish(event);
        }
        self.shared.published.store(revision, Ordering::Release);
    }

    fn write_error(&self, error: io::Error) -> CommitError {
        tracing::warn!(path = %self.log.path().display(), %error, "cannot write the log");
        let file = self.log.path().to_path_buf();
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => CommitError::Full {
                file,
                source: Arc::new(error),
            },
            _ => CommitError::Io {
                file,
                source: Arc::new(error),
            },
        }
    }

    /// Starts a compaction where one is due: a new log from here on, and on a thread of its own
    /// a snapshot of what came before.
    fn compact(&mut self) {
        self.collect_compaction(false);
        if self.compaction.is_some() || self.log_bytes < self.compact_at {
            return;
        }
        let (live_bytes, revision) = {
            let state = self.shared.state();
            (state.live_bytes(), state.revision())
        };
        if self.log_bytes < live_bytes {
            self.compact_at = live_bytes;
            return;
        }
        let sequence = self.log.sequence() + 1;
        let next = self
            .log
            .finish()
            .and_then(|()| Log::create(&self.directory, sequence, revision));
        match next {
            Ok(log) => self.log = log,
            Err(error) => return self.postpone(&error),
        }
        let objects = self.shared.state().objects();
        let directory = self.directory.clone();
        let thread = thread::Builder::new()
            .name("store-compaction".into())
            .spawn(move || snapshot::write(&directory, sequence, revision, &objects));
        match thread {
            Ok(thread) => {
                self.compaction = Some(Compaction {
                    thread,
                    replaces: self.log_bytes,
                });
            }
            Err(error) => self.postpone(&error),
        }
    }

    /// Takes note of a compaction that has ended, or of the running one when told to wait.
    fn collect_compaction(&mut self, wait: bool) {
        let Some(Compaction { thread, replaces }) = self
            .compaction
            .take_if(|running| wait || running.thread.is_finished())
        else {
            return;
        };
        match thread.join() {
            Ok(Ok(())) => {
                self.log_bytes -= replaces;
                self.compact_at = self.shared.options.compact_bytes;
            }
            Ok(Err(error)) => self.postpone(&error),
            Err(_) => self.postpone(&io::Error::other("the compaction panicked")),
        }
    }

    /// After a failed compaction nothing is lost; the logs only stay until the next one.
    fn postpone(&mut self, error: &io::Error) {
        tracing::warn!(
            directory = %self.directory.display(),
            %error,
            "cannot compact the store; trying again when it has grown"
        );
        self.compact_at = self.log_bytes + self.shared.options.compact_bytes / 4;
    }
}
