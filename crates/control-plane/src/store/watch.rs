//! Watches: one bounded queue for each watcher, found by the resource it watches.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

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

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.object.revision
    }
}

/// All watchers. Whoever holds it sees no event half delivered.
#[derive(Debug, Default)]
pub(super) struct Hub {
    /// By the first segment of the prefix: a write costs those nothing that watch another resource.
    resources: HashMap<Box<str>, Vec<Subscriber>>,
    /// Those whose prefix does not name a whole resource.
    others: Vec<Subscriber>,
    next_id: u64,
    closed: bool,
}

#[derive(Debug)]
struct Subscriber {
    id: u64,
    prefix: Box<str>,
    queue: mpsc::Sender<Arc<Event>>,
    lagged: Arc<AtomicBool>,
}

impl Hub {
    /// Adds a watcher whose events start with `backlog`.
    pub(super) fn subscribe(
        &mut self,
        prefix: &str,
        after: u64,
        backlog: VecDeque<Arc<Event>>,
        capacity: usize,
        registry: &Arc<dyn Registry>,
    ) -> Watcher {
        let (queue, receiver) = mpsc::channel(capacity);
        let lagged = Arc::new(AtomicBool::new(false));
        let id = self.next_id;
        self.next_id += 1;
        if !self.closed {
            self.bucket(prefix).push(Subscriber {
                id,
                prefix: prefix.into(),
                queue,
                lagged: lagged.clone(),
            });
        }
        Watcher {
            id,
            prefix: prefix.into(),
            returned: after,
            backlog,
            receiver,
            lagged,
            registry: registry.clone(),
        }
    }

    fn bucket(&mut self, prefix: &str) -> &mut Vec<Subscriber> {
        match prefix.split_once('/') {
            Some((resource, _)) => self.resources.entry(resource.into()).or_default(),
            None => &mut self.others,
        }
    }

    pub(super) fn unsubscribe(&mut self, prefix: &str, id: u64) {
        let bucket = self.bucket(prefix);
        bucket.retain(|subscriber| subscriber.id != id);
        if bucket.is_empty()
            && let Some((resource, _)) = prefix.split_once('/')
        {
            self.resources.remove(resource);
        }
    }

    /// Queues an event for all who watch its key. Never waits: who has no room is closed.
    pub(super) fn publish(&mut self, event: &Arc<Event>) {
        let key = &event.object.key;
        let resource = key.split('/').next().unwrap_or_default();
        let bucket = self.resources.get_mut(resource);
        for subscribers in bucket.into_iter().chain([&mut self.others]) {
            subscribers.retain(|subscriber| {
                if !key.starts_with(&*subscriber.prefix) {
                    return true;
                }
                match subscriber.queue.try_send(event.clone()) {
                    Ok(()) => true,
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        tracing::debug!(prefix = %subscriber.prefix, "closing a slow watcher");
                        subscriber.lagged.store(true, Ordering::Release);
                        false
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => false,
                }
            });
        }
    }

    #[cfg(test)]
    pub(super) fn watchers(&self) -> usize {
        self.others.len() + self.resources.values().map(Vec::len).sum::<usize>()
    }

    /// Ends all watches once they have returned what is queued.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.resources.clear();
        self.others.clear();
    }
}

/// What a watcher knows of the hub.
pub(super) trait Registry: Send + Sync {
    /// The revision up to which all events are queued with those who watch them.
    fn published(&self) -> &AtomicU64;
    fn unsubscribe(&self, prefix: &str, id: u64);
}

/// Receives the events of one prefix, each once and in order.
pub struct Watcher {
    id: u64,
    prefix: Box<str>,
    /// The revision of the last event returned, or the one the watch started after.
    returned: u64,
    backlog: VecDeque<Arc<Event>>,
    receiver: mpsc::Receiver<Arc<Event>>,
    lagged: Arc<AtomicBool>,
    registry: Arc<dyn Registry>,
}

impl Watcher {
    /// The next event. Cancel-safe: an event is either returned or still queued.
    ///
    /// # Errors
    /// [`WatchEnd`] once all queued events were returned and no more can come.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchEnd> {
        let event = match self.backlog.pop_front() {
            Some(event) => event,
            None => match self.receiver.recv().await {
                Some(event) => event,
                None => return Err(self.end()),
            },
        };
        self.returned = event.revision();
        Ok(event)
    }

    /// The next event if one is queued.
    ///
    /// # Errors
    /// As [`Watcher::next`].
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, WatchEnd> {
        let event = match self.backlog.pop_front() {
            Some(event) => event,
            None => match self.receiver.try_recv() {
                Ok(event) => event,
                Err(mpsc::error::TryRecvError::Empty) => return Ok(None),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(self.end()),
            },
        };
        self.returned = event.revision();
        Ok(Some(event))
    }

    /// The revision up to which this watcher has returned everything: what a bookmark may say.
    pub fn progress(&self) -> u64 {
        // Read first: what is published later may be missing in the queue that is looked at next.
        let published = self.registry.published().load(Ordering::Acquire);
        let behind = !self.backlog.is_empty()
            || !self.receiver.is_empty()
            || self.lagged.load(Ordering::Acquire);
        if behind {
            self.returned
        } else {
            self.returned.max(published)
        }
    }

    fn end(&self) -> WatchEnd {
        if self.lagged.load(Ordering::Acquire) {
            WatchEnd::Lagged
        } else {
            WatchEnd::Closed
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.registry.unsubscribe(&self.prefix, self.id);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("prefix", &self.prefix)
            .field("returned", &self.returned)
            .finish_non_exhaustive()
    }
}
