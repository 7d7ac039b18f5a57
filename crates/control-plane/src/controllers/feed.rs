//! A watch that starts with what is there, and starts again where it fell behind.

use std::sync::Arc;

use crate::store::{Event, EventKind, Object, Store, WatchEnd, Watcher};

/// What a controller learns.
#[derive(Debug)]
pub enum News {
    /// All objects, at the start and whenever events were missed.
    All(Vec<Arc<Object>>),
    /// An object was written.
    Put(Arc<Event>),
    /// An object was deleted.
    Deleted(Arc<Event>),
}

impl News {
    /// The objects that are there now: all, or the one that was written.
    pub fn present(&self) -> &[Arc<Object>] {
        match self {
            Self::All(objects) => objects,
            Self::Put(event) => std::slice::from_ref(&event.object),
            Self::Deleted(_) => &[],
        }
    }
}

/// Follows the keys with a prefix.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    prefix: String,
    watcher: Option<Watcher>,
}

impl Feed {
    /// A feed of the keys that start with `prefix`; an empty one means all.
    pub fn new(store: &Store, prefix: impl Into<String>) -> Self {
        Self {
            store: store.clone(),
            prefix: prefix.into(),
            watcher: None,
        }
    }

    /// The next news; `None` once the store is closed. Cancel-safe, as the watcher is.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let Some(watcher) = &mut self.watcher else {
                let (snapshot, watcher) = self.store.watch_from_now(&self.prefix);
                self.watcher = Some(watcher);
                return Some(News::All(snapshot.objects));
            };
            match watcher.next().await {
                Ok(event) if event.kind == EventKind::Put => return Some(News::Put(event)),
                Ok(event) => return Some(News::Deleted(event)),
                Err(WatchEnd::Lagged) => self.watcher = None,
                Err(WatchEnd::Closed) => return None,
            }
        }
    }
}
