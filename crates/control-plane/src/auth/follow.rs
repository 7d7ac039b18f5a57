//! Indices over stored objects that are up to date whenever they are read.
//!
//! A reader first takes in the events that are queued for it. The store queues an event before it
//! acknowledges the write, so whoever saw a write acknowledged sees it in the index too; there is
//! no task, no delay and no poll.

use std::sync::Arc;

use crate::store::{EventKind, Object, Store, WatchEnd, Watcher};

/// A change of what is followed.
#[derive(Debug)]
pub enum Change<'a> {
    /// Everything is forgotten; the objects that are there follow.
    Reset,
    /// An object was written.
    Put(&'a Arc<Object>),
    /// An object was deleted.
    Delete(&'a Arc<Object>),
}

/// Follows one prefix of the store.
#[derive(Debug)]
pub struct Follower {
    prefix: String,
    watcher: Option<Watcher>,
}

impl Follower {
    /// Follows the keys with `prefix`; the first [`Self::drain`] starts with all of them.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            watcher: None,
        }
    }

    /// Shows `apply` everything that changed since the last call.
    pub fn drain(&mut self, store: &Store, mut apply: impl FnMut(Change<'_>)) {
        loop {
            let watcher = match &mut self.watcher {
                Some(watcher) => watcher,
                empty @ None => {
                    let (snapshot, watcher) = store.watch_from_now(&self.prefix);
                    apply(Change::Reset);
                    for object in &snapshot.objects {
                        apply(Change::Put(object));
                    }
                    empty.insert(watcher)
                }
            };
            match watcher.try_next() {
                Ok(Some(event)) => match event.kind {
                    EventKind::Put => apply(Change::Put(&event.object)),
                    EventKind::Delete => apply(Change::Delete(&event.object)),
                },
                // A closed store changes no more.
                Ok(None) | Err(WatchEnd::Closed) => return,
                Err(WatchEnd::Lagged) => self.watcher = None,
            }
        }
    }
}
