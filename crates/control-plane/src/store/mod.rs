//! A durable multi-version store of JSON objects with compare-and-swap and watches.
//!
//! One revision counts all writes, whatever they touch. A write is seen by nobody before it is on
//! disk, and once it was acknowledged it survives the process and the machine.
//!
//! | who | owns | is told by |
//! |---|---|---|
//! | thread `store-writer`, one | log, revisions, all changes of the state | a queue of requests, each with a oneshot for its answer |
//! | thread `store-compaction`, at most one | the snapshot being written | what it was started with |
//! | readers | nothing; they share the state under a lock that is never held during IO | |
//! | watchers | a bounded queue each | the writer |
//!
//! On disk: `snapshot-<n>` (all objects at one revision) and the logs from `log-<n>` on (each
//! commit after it), see `format`; `lock` for the one process that has the store open.

mod crc;
mod error;
mod format;
mod lock;
mod log;
mod object;
mod replay;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};

use tokio::sync::{oneshot, watch as watch_channel};

pub use error::{CommitError, OpenError, RevisionError, WatchEnd};
pub use object::{Attributes, Draft, Object};
pub use watch::{Event, EventKind, Watcher};

use format::Frame;
use lock::DirectoryLock;
use replay::Replayed;
use state::{HistoryLimits, State};
use watch::{Hub, Registry};
use writer::{Queue, Request, Writer};

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether a write waits for the disk before it is acknowledged. Without it a write survives
    /// the death of the process, but not that of the machine.
    pub fsync: bool,
    /// How many events are kept for watches that resume and for lists at an older revision.
    pub history: usize,
    /// How many bytes of superseded objects those events may keep in memory, at least: a
    /// quarter of what the live objects take, where that is more.
    pub history_bytes: usize,
    /// How many events a watcher may be behind before it is closed.
    pub watch_queue: usize,
    /// The log is compacted once it has grown by this many bytes, and at least by as much as the
    /// live objects take.
    pub compact_bytes: u64,
    /// What selectors can see of an object, for those read from disk.
    pub attributes: fn(key: &str, object: &[u8]) -> Attributes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: true,
            history: 16_384,
            history_bytes: 1 << 20,
            watch_queue: 4_096,
            compact_bytes: 16 << 20,
            attributes: |_, _| Attributes::default(),
        }
    }
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is no such object.
    Absent,
    /// The object is at this revision.
    Revision(u64),
}

/// The objects of a prefix at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The objects, in the order of their keys.
    pub objects: Vec<Arc<Object>>,
}

/// A store; clones share it. It is closed when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What readers, watchers and the writer share.
struct Shared {
    options: Options,
    queue: Queue,
    /// Changed by the writer alone, in memory only: nobody waits for the disk to read it.
    state: RwLock<State>,
    /// Locked before `state` where both are.
    hub: Mutex<Hub>,
    /// The revision up to which the hub has queued all events.
    published: AtomicU64,
}

impl Shared {
    // A panic under one of these locks ends the writer and with it all writes. What is there was
    // durable, so that reading it stays right.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for Shared {
    fn published(&self) -> &AtomicU64 {
        &self.published
    }

    fn unsubscribe(&self, prefix: &str, id: u64) {
        self.hub().unsubscribe(prefix, id);
    }
}

/// Ends requests and watches with the writer, however that ends.
struct Ending {
    shared: Arc<Shared>,
    _alive: watch_channel::Sender<()>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.queue.clear();
        self.shared.hub().close();
    }
}

struct Inner {
    shared: Arc<Shared>,
    /// The same, as watchers know it.
    registry: Arc<dyn Registry>,
    writer: Option<JoinHandle<()>>,
    /// Its sender is dropped when the writer has ended.
    ended: watch_channel::Receiver<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}

impl Store {
    /// Opens the store in `directory`, which is made where it is missing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        replay::make_directory(directory)?;
        let lock = DirectoryLock::acquire(directory)?;
        let replayed = replay::replay(directory, options.attributes)?;
        Self::start(directory, options, lock, replayed)
    }

    fn start(
        directory: &Path,
        options: Options,
        lock: DirectoryLock,
        replayed: Replayed,
    ) -> Result<Self, OpenError> {
        let Replayed {
            objects,
            revision,
            log,
            log_bytes,
        } = replayed;
        let limits = HistoryLimits {
            events: options.history,
            bytes: options.history_bytes,
        };
        let compact_at = options.compact_bytes;
        let shared = Arc::new(Shared {
            options,
            queue: Queue::default(),
            state: RwLock::new(State::new(objects, revision, limits)),
            hub: Mutex::new(Hub::default()),
            published: AtomicU64::new(revision),
        });
        let writer = Writer {
            shared: shared.clone(),
            directory: directory.into(),
            log,
            log_bytes,
            compact_at,
            compaction: None,
            frame: Frame::default(),
            lock,
        };
        let (alive, ended) = watch_channel::channel(());
        let ending = Ending {
            shared: shared.clone(),
            _alive: alive,
        };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                // Dropped after the writer, which unlocks the directory at its end.
                let _ending = ending;
                writer.run();
            })
            .map_err(|source| OpenError::Io {
                operation: "start the writer of",
                path: directory.into(),
                source,
            })?;
        Ok(Self {
            inner: Arc::new(Inner {
                registry: shared.clone(),
                shared,
                writer: Some(writer),
                ended,
            }),
        })
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// The newest durable revision; 1 in an empty store.
    pub fn revision(&self) -> u64 {
        self.shared().state().revision()
    }

    /// The oldest revision that [`Store::list_at`] and [`Store::watch`] accept.
    pub fn oldest_revision(&self) -> u64 {
        self.shared().state().oldest_revision()
    }

    /// The newest durable version of an object.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.shared().state().get(key).cloned()
    }

    /// The objects whose keys start with `prefix`, all at one revision.
    pub fn list(&self, prefix: &str) -> Snapshot {
        self.shared().state().list(prefix)
    }

    /// As [`Store::list`], at an older revision.
    ///
    /// # Errors
    /// Where the history does not reach back that far, or the revision is yet to come.
    pub fn list_at(&self, prefix: &str, revision: u64) -> Result<Snapshot, RevisionError> {
        self.shared().state().list_at(prefix, revision)
    }

    /// Writes an object if what is there is as expected. Returns once it is durable.
    /// A caller that goes away does not undo a write that was already queued.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn put(
        &self,
        key: &str,
        expected: Expected,
        draft: Draft,
    ) -> Result<Arc<Object>, CommitError> {
        self.write(key, EventKind::Put, expected, draft).await
    }

    /// Deletes an object that is at `expected_revision`. `last` is its final state, which watchers
    /// see with the revision of the delete. Returns once the delete is durable.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn delete(
        &self,
        key: &str,
        expected_revision: u64,
        last: Draft,
    ) -> Result<Arc<Object>, CommitError> {
        let expected = Expected::Revision(expected_revision);
        self.write(key, EventKind::Delete, expected, last).await
    }

    async fn write(
        &self,
        key: &str,
        kind: EventKind,
        expected: Expected,
        draft: Draft,
    ) -> Result<Arc<Object>, CommitError> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            key: key.into(),
            kind,
            expected,
            draft,
            reply,
        };
        if self.shared().queue.push(request).is_err() {
            return Err(CommitError::Closed);
        }
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    /// The events after revision `after` of keys that start with `prefix`: first those of the
    /// history, then live ones, without a gap and none twice.
    ///
    /// # Errors
    /// Where the history does not reach back that far, or the revision is yet to come.
    pub fn watch(&self, prefix: &str, after: u64) -> Result<Watcher, RevisionError> {
        let mut hub = self.shared().hub();
        let backlog = self.shared().state().events(prefix, after)?;
        let capacity = self.shared().options.watch_queue;
        Ok(hub.subscribe(prefix, after, backlog, capacity, &self.inner.registry))
    }

    /// A list and a watch that starts exactly where it ends.
    pub fn watch_from_now(&self, prefix: &str) -> (Snapshot, Watcher) {
        let mut hub = self.shared().hub();
        let snapshot = self.list(prefix);
        let capacity = self.shared().options.watch_queue;
        let watcher = hub.subscribe(
            prefix,
            snapshot.revision,
            VecDeque::new(),
            capacity,
            &self.inner.registry,
        );
        (snapshot, watcher)
    }

    /// Ends the store: queued writes are still done, later ones refused, watches end.
    /// Returns once the files are closed and the lock is free.
    pub async fn close(&self) {
        self.shared().queue.close();
        let mut ended = self.inner.ended.clone();
        // An error is what is waited for: the writer dropped its end.
        while ended.changed().await.is_ok() {}
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}
