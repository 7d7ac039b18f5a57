//! What is in memory: the objects, and the latest events for those who look back. No IO.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::{Event, EventKind, Object, RevisionError, Snapshot};

/// The revision of a store that nothing was ever written to.
pub(super) const FIRST_REVISION: u64 = 1;

type Objects = BTreeMap<Arc<str>, Arc<Object>>;

/// All committed state, changed by the writer alone.
#[derive(Debug)]
pub(super) struct State {
    objects: Objects,
    /// The sizes of all objects together, in bytes.
    live_bytes: u64,
    revision: u64,
    /// One event for each of the latest revisions, without a gap, up to `revision`.
    history: VecDeque<Arc<Event>>,
    /// What the events of the history alone keep in memory, in bytes.
    history_bytes: usize,
    limits: HistoryLimits,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HistoryLimits {
    pub(super) events: usize,
    /// The least; a quarter of what the live objects take, where that is more.
    pub(super) bytes: usize,
}

impl State {
    pub(super) fn new(objects: Objects, revision: u64, limits: HistoryLimits) -> Self {
        let live_bytes = objects
            .values()
            .map(|object| object.json.len() as u64)
            .sum();
        Self {
            objects,
            live_bytes,
            revision,
            history: VecDeque::new(),
            history_bytes: 0,
            limits,
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The oldest revision whose state can be told: each event of the history undoes one.
    pub(super) fn oldest_revision(&self) -> u64 {
        self.revision - self.history.len() as u64
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(super) fn objects(&self) -> Vec<Arc<Object>> {
        self.objects.values().cloned().collect()
    }

    /// Makes a durable event visible.
    pub(super) fn apply(&mut self, event: Arc<Event>) {
        let object = &event.object;
        assert_eq!(
            object.revision,
            self.revision + 1,
            "events are applied without a gap"
        );
        self.revision = object.revision;
        if let Some(previous) = &event.previous {
            self.live_bytes -= previous.json.len() as u64;
        }
        match event.kind {
            EventKind::Put => {
                self.live_bytes += object.json.len() as u64;
                self.objects.insert(object.key.clone(), object.clone());
            }
            EventKind::Delete => {
                self.objects.remove(&object.key);
            }
        }
        self.history_bytes += superseded(&event);
        self.history.push_back(event);
        let bytes = self.history_limit();
        while self.history.len() > self.limits.events
            || self.history_bytes > bytes && !self.history.is_empty()
        {
            if let Some(forgotten) = self.history.pop_front() {
                self.history_bytes -= superseded(&forgotten);
            }
        }
    }

    /// In a large cluster, more is written while a watcher is away.
    fn history_limit(&self) -> usize {
        let part = usize::try_from(self.live_bytes / 4).unwrap_or(usize::MAX);
        self.limits.bytes.max(part)
    }

    pub(super) fn list(&self, prefix: &str) -> Snapshot {
        Snapshot {
            revision: self.revision,
            objects: range(&self.objects, prefix)
                .map(|(_, object)| object.clone())
                .collect(),
        }
    }

    pub(super) fn list_at(&self, prefix: &str, revision: u64) -> Result<Snapshot, RevisionError> {
        self.check(revision)?;
        // The version of each key before the oldest event after `revision` that touched it.
        let mut undone: BTreeMap<&str, Option<&Arc<Object>>> = BTreeMap::new();
        for event in self.after(revision).rev() {
            if event.object.key.starts_with(prefix) {
                undone.insert(&event.object.key, event.previous.as_ref());
            }
        }
        let mut objects = Vec::new();
        let mut undone = undone.into_iter().peekable();
        for (key, object) in range(&self.objects, prefix) {
            while let Some((_, previous)) = undone.next_if(|(other, _)| *other < &**key) {
                objects.extend(previous.cloned());
            }
            match undone.next_if(|(other, _)| *other == &**key) {
                Some((_, previous)) => objects.extend(previous.cloned()),
                None => objects.push(object.clone()),
            }
        }
        objects.extend(undone.filter_map(|(_, previous)| previous.cloned()));
        Ok(Snapshot { revision, objects })
    }

    /// The events after `revision` that touched `prefix`, oldest first.
    pub(super) fn events(
        &self,
        prefix: &str,
        revision: u64,
    ) -> Result<VecDeque<Arc<Event>>, RevisionError> {
        self.check(revision)?;
        Ok(self
            .after(revision)
            .filter(|event| event.object.key.starts_with(prefix))
            .cloned()
            .collect())
    }

    fn check(&self, requested: u64) -> Result<(), RevisionError> {
        let oldest = self.oldest_revision();
        let current = self.revision;
        if requested < oldest {
            Err(RevisionError::Compacted { requested, oldest })
        } else if requested > current {
            Err(RevisionError::Future { requested, current })
        } else {
            Ok(())
        }
    }

    /// The events after a revision that was checked.
    fn after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let count = usize::try_from(self.revision - revision).unwrap_or(usize::MAX);
        self.history
            .range(self.history.len().saturating_sub(count)..)
    }
}

fn range<'a>(
    objects: &'a Objects,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> {
    objects
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

/// What would be freed if this event were forgotten, at most.
fn superseded(event: &Event) -> usize {
    let last = match event.kind {
        EventKind::Put => 0,
        EventKind::Delete => event.object.json.len(),
    };
    last + event
        .previous
        .as_ref()
        .map_or(0, |previous| previous.json.len())
}
