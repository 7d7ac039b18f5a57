//! A durable multi-version store of JSON objects with compare-and-swap and watches.
//!
//! One revision counts all writes, whatever they touch. A write is seen by nobody before it is on
//! disk, and once it was acknowledged it survives the process and the machine.

mod error;
mod object;
mod watch;

use std::path::Path;
use std::sync::Arc;

pub use error::{CommitError, OpenError, RevisionError, WatchEnd};
pub use object::{Attributes, Draft, Object};
pub use watch::{Event, EventKind, Watcher};

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether a write waits for the disk before it is acknowledged. Without it a write survives
    /// the death of the process, but not that of the machine.
    pub fsync: bool,
    /// How many events are kept for watches that resume and for lists at an older revision.
    pub history: usize,
    /// How many bytes of superseded objects those events may keep in memory.
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
            history_bytes: 8 << 20,
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

/// A store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {}

impl Store {
    /// Opens the store in `directory`, which is made where it is missing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let _ = (directory, options);
        todo!()
    }

    /// The newest durable revision; 1 in an empty store.
    pub fn revision(&self) -> u64 {
        todo!()
    }

    /// The oldest revision that [`Store::list_at`] and [`Store::watch`] accept.
    pub fn oldest_revision(&self) -> u64 {
        todo!()
    }

    /// The newest durable version of an object.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        let _ = key;
        todo!()
    }

    /// The objects whose keys start with `prefix`, all at one revision.
    pub fn list(&self, prefix: &str) -> Snapshot {
        let _ = prefix;
        todo!()
    }

    /// As [`Store::list`], at an older revision.
    ///
    /// # Errors
    /// Where the history does not reach back that far, or the revision is yet to come.
    pub fn list_at(&self, prefix: &str, revision: u64) -> Result<Snapshot, RevisionError> {
        let _ = (prefix, revision);
        todo!()
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
        let _ = (key, expected, draft);
        todo!()
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
        let _ = (key, expected_revision, last);
        todo!()
    }

    /// The events after revision `after` of keys that start with `prefix`: first those of the
    /// history, then live ones, without a gap and none twice.
    ///
    /// # Errors
    /// Where the history does not reach back that far, or the revision is yet to come.
    pub fn watch(&self, prefix: &str, after: u64) -> Result<Watcher, RevisionError> {
        let _ = (prefix, after);
        todo!()
    }

    /// A list and a watch that starts exactly where it ends.
    pub fn watch_from_now(&self, prefix: &str) -> (Snapshot, Watcher) {
        let _ = prefix;
        todo!()
    }

    /// Ends the store: queued writes are still done, later ones refused, watches end.
    /// Returns once the files are closed and the lock is free.
    pub async fn close(&self) {
        todo!()
    }
}
