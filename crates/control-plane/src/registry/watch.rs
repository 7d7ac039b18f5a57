//! Watches: which events a client sees, and as what.

use std::collections::VecDeque;
use std::sync::Arc;

use super::list::{invalid_options, parse_revision};
use super::selector::Selection;
use super::write::unstored;
use super::{Registry, ResourceVersionMatch, WatchOptions};
use crate::resource::ResourceDef;
use crate::status::{ApiError, FieldError};
use crate::store::{Event, EventKind, Object, RevisionError, WatchEnd, Watcher};

/// What a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// The object is new to the selection.
    Added,
    /// The object changed.
    Modified,
    /// The object left the selection or is gone.
    Deleted,
}

impl WatchKind {
    /// The `type` of the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// An item of a watch.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// A change of an object, in its stored form.
    Change(WatchKind, Arc<Object>),
    /// The end of the initial objects, at this revision.
    InitialEnd(u64),
}

/// A running watch.
#[derive(Debug)]
pub struct WatchStream {
    selection: Selection,
    initial: VecDeque<WatchItem>,
    watcher: Watcher,
    /// Events up to this revision are not shown.
    after: u64,
}

impl Registry {
    pub(super) fn watch_objects(
        &self,
        def: &'static ResourceDef,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        check(options)?;
        let selection = Selection::parse(def, &options.label_selector, &options.field_selector)?;
        let prefix = def.key_prefix(namespace);
        let revision = parse_revision(&options.resource_version)
            .map_err(|why| ApiError::new(http::StatusCode::INTERNAL_SERVER_ERROR, "", why))?;
        let with_state = options.send_initial_events.unwrap_or(revision == 0);
        if with_state || revision == 0 {
            let (snapshot, watcher) = self.store.watch_from_now(&prefix);
            if revision > snapshot.revision {
                return Err(ApiError::revision_in_future(revision, snapshot.revision));
            }
            let mut initial: VecDeque<_> = snapshot
                .objects
                .into_iter()
                .filter(|object| with_state && selection.matches(object))
                .map(|object| WatchItem::Change(WatchKind::Added, object))
                .collect();
            if options.send_initial_events == Some(true) && options.bookmarks {
                initial.push_back(WatchItem::InitialEnd(snapshot.revision));
            }
            return Ok(WatchStream {
                selection,
                initial,
                watcher,
                after: snapshot.revision,
            });
        }
        let watcher = match self.store.watch(&prefix, revision) {
            Ok(watcher) => watcher,
            Err(error @ RevisionError::Compacted { .. }) => {
                return Err(ApiError::expired(error.to_string()));
            }
            // Nothing to show until that revision is reached, as in the real server.
            Err(RevisionError::Future { .. }) => self.store.watch_from_now(&prefix).1,
        };
        Ok(WatchStream {
            selection,
            initial: VecDeque::new(),
            watcher,
            after: revision,
        })
    }
}

impl WatchStream {
    /// The next item. Cancel-safe: an item is either returned or still to come.
    ///
    /// # Errors
    /// When the watch ended: too slow, or the store was closed.
    pub async fn next(&mut self) -> Result<WatchItem, WatchEnd> {
        if let Some(item) = self.initial.pop_front() {
            return Ok(item);
        }
        loop {
            // Cancel-safe: `Watcher::next` is, and nothing is awaited after it.
            let event = self.watcher.next().await?;
            if let Some(item) = self.show(&event) {
                return Ok(item);
            }
        }
    }

    /// The next item, if one is there now.
    ///
    /// # Errors
    /// As [`WatchStream::next`].
    pub fn try_next(&mut self) -> Result<Option<WatchItem>, WatchEnd> {
        if let Some(item) = self.initial.pop_front() {
            return Ok(Some(item));
        }
        while let Some(event) = self.watcher.try_next()? {
            if let Some(item) = self.show(&event) {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// The revision up to which everything was returned: what a bookmark may say.
    pub fn progress(&self) -> u64 {
        self.watcher.progress().max(self.after)
    }

    fn show(&self, event: &Event) -> Option<WatchItem> {
        if event.object.revision <= self.after {
            return None;
        }
        let before = event
            .previous
            .as_ref()
            .filter(|previous| self.selection.matches(previous));
        let now = event.kind == EventKind::Put && self.selection.matches(&event.object);
        let (kind, object) = match (before, now) {
            (None, false) => return None,
            (None, true) => (WatchKind::Added, event.object.clone()),
            (Some(_), true) => (WatchKind::Modified, event.object.clone()),
            (Some(_), false) if event.kind == EventKind::Delete => {
                (WatchKind::Deleted, event.object.clone())
            }
            // It left the selection: the client sees what it knew, at the revision of the change.
            (Some(before), false) => {
                let mut value = before.value();
                value["metadata"]["resourceVersion"] = event.object.revision.to_string().into();
                let object = unstored(&before.key, event.object.revision, &value);
                (WatchKind::Deleted, object)
            }
        };
        Some(WatchItem::Change(kind, object))
    }
}

fn check(options: &WatchOptions) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let why = match (options.send_initial_events, options.resource_version_match) {
        (None, None) | (Some(_), Some(ResourceVersionMatch::NotOlderThan)) => return Ok(()),
        (None, Some(_)) => {
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        }
        (Some(_), _) => "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    };
    Err(invalid_options(FieldError::forbidden(FIELD, why)))
}
