//! Watches: one bounded queue for each watcher, found by the resource it watches.

use std::sync::Arc;

use super::{Object, WatchEnd};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Written: created, where there was no previous version, else changed.
    Put,
    /// Deleted.
    Delete,
}

/// One committed change. Its revision is that of its object.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version; for a delete the last state, with the revision of the delete.
    pub object: Arc<Object>,
    /// The version before.
    pub previous: Option<Arc<Object>>,
}

/// Receives the events of one prefix, each once and in order.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// The next event. Cancel-safe: an event is either returned or still queued.
    ///
    /// # Errors
    /// [`WatchEnd`] once all queued events were returned and no more can come.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchEnd> {
        todo!()
    }

    /// The next event if one is queued.
    ///
    /// # Errors
    /// As [`Watcher::next`].
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, WatchEnd> {
        todo!()
    }

    /// The revision up to which this watcher has returned everything: what a bookmark may say.
    pub fn progress(&self) -> u64 {
        todo!()
    }
}
