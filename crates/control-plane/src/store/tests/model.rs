//! The store against a model that keeps every state it was ever in.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{CommitError, EventKind, RevisionError, Watcher};

#[derive(Debug, Clone)]
enum Step {
    /// Writes of one moment, which may share a commit.
    Writes(Vec<(usize, Write)>),
    List {
        prefix: usize,
        back: u64,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Drain(prop::sample::Index),
    Reopen,
}

#[derive(Debug, Clone)]
enum Write {
    Create,
    Replace,
    Stale,
    Delete,
    DeleteStale,
}

const KEYS: [&str; 6] = [
    "pods/a/1",
    "pods/a/2",
    "pods/b/1",
    "pods.metrics/a/1",
    "nodes//1",
    "nodes//2",
];
const PREFIXES: [&str; 5] = ["", "pods/", "pods/a/", "nodes/", "nothing/"];

fn step() -> impl Strategy<Value = Step> {
    let write = prop_oneof![
        3 => Just(Write::Create),
        4 => Just(Write::Replace),
        1 => Just(Write::Stale),
        2 => Just(Write::Delete),
        1 => Just(Write::DeleteStale),
    ];
    let writes = prop::collection::vec((0..KEYS.len(), write), 1..5);
    prop_oneof![
        10 => writes.prop_map(Step::Writes),
        3 => (0..PREFIXES.len(), 0_u64..40).prop_map(|(prefix, back)| Step::List { prefix, back }),
        2 => (0..PREFIXES.len(), 0_u64..40).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        3 => any::<prop::sample::Index>().prop_map(Step::Drain),
        1 => Just(Step::Reopen),
    ]
}

type Contents = BTreeMap<&'static str, u64>;

/// Each revision's contents and the event that made it, oldest first; revision 1 is the first.
struct Model {
    states: Vec<Contents>,
    events: Vec<(EventKind, &'static str, Option<u64>)>,
    oldest: u64,
    watchers: Vec<(Watcher, &'static str, u64)>,
}

impl Model {
    fn revision(&self) -> u64 {
        self.states.len() as u64
    }

    fn at(&self, revision: u64) -> &Contents {
        &self.states[usize::try_from(revision).expect("small") - 1]
    }

    fn now(&self) -> &Contents {
        self.at(self.revision())
    }

    /// What a write should answer, and does.
    fn write(
        &mut self,
        key: &'static str,
        expected: Option<u64>,
        kind: EventKind,
    ) -> Result<u64, Option<u64>> {
        let mut next = self.now().clone();
        let previous = next.get(key).copied();
        if previous != expected {
            return Err(previous);
        }
        let revision = self.revision() + 1;
        match kind {
            EventKind::Put => next.insert(key, revision),
            EventKind::Delete => next.remove(key),
        };
        self.states.push(next);
        self.events.push((kind, key, previous));
        Ok(revision)
    }

    fn prefixed(&self, revision: u64, prefix: &str) -> Vec<(String, u64)> {
        self.at(revision)
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, revision)| ((*key).to_owned(), *revision))
            .collect()
    }

    /// Takes all that is queued and compares it with what happened since.
    fn drain(&mut self, watcher: usize) {
        let (watcher, prefix, seen) = &mut self.watchers[watcher];
        let mut expected = Vec::new();
        let events = (*seen + 1..).zip(&self.events[usize::try_from(*seen).expect("small") - 1..]);
        for (revision, (kind, key, previous)) in events {
            if key.starts_with(*prefix) {
                expected.push((revision, *kind, (*key).to_owned(), *previous));
            }
        }
        let mut found = Vec::new();
        while let Some(event) = watcher.try_next().expect("an open watch") {
            let previous = event.previous.as_ref().map(|object| object.revision);
            found.push((
                event.revision(),
                event.kind,
                event.object.key.to_string(),
                previous,
            ));
        }
        assert_eq!(found, expected);
        *seen = self.events.len() as u64 + 1;
        assert_eq!(watcher.progress(), *seen);
    }

    async fn writes(&mut self, store: &Store, writes: Vec<(usize, Write)>) {
        // All expectations are of the state before, as those of concurrent clients are.
        let before = self.now().clone();
        let mut requests = Vec::new();
        let mut expectations = Vec::new();
        for (key, write) in writes {
            let key = KEYS[key];
            let current = before.get(key).copied();
            let (expected, kind) = match write {
                Write::Create => (None, EventKind::Put),
                Write::Replace => (Some(current.unwrap_or(7)), EventKind::Put),
                Write::Stale => (
                    Some(current.map_or(1, |revision| revision - 1)),
                    EventKind::Put,
                ),
                Write::Delete => (Some(current.unwrap_or(7)), EventKind::Delete),
                Write::DeleteStale => (Some(self.revision() + 10), EventKind::Delete),
            };
            expectations.push(self.write(key, expected, kind));
            requests.push(async move {
                match (kind, expected) {
                    (EventKind::Put, None) => store.put(key, Expected::Absent, draft(key)).await,
                    (EventKind::Put, Some(revision)) => {
                        store
                            .put(key, Expected::Revision(revision), draft(key))
                            .await
                    }
                    (EventKind::Delete, expected) => {
                        store.delete(key, expected.unwrap_or(0), draft(key)).await
                    }
                }
            });
        }
        // Polled in this order, and so queued in it.
        let results = futures::future::join_all(requests).await;
        for (result, expected) in results.into_iter().zip(expectations) {
            let result = match result {
                Ok(object) => Ok(object.revision),
                Err(CommitError::Conflict { current }) => {
                    Err(current.map(|object| object.revision))
                }
                Err(error) => panic!("{error}"),
            };
            assert_eq!(result, expected);
        }
    }

    fn list(&self, store: &Store, prefix: &str, back: u64) {
        let revision = self.revision().saturating_sub(back);
        match store.list_at(prefix, revision) {
            Ok(list) => {
                assert_eq!(list.revision, revision);
                let found: Vec<_> = list
                    .objects
                    .iter()
                    .map(|object| (object.key.to_string(), object.revision))
                    .collect();
                assert_eq!(found, self.prefixed(revision, prefix));
            }
            Err(error) => assert_eq!(
                error,
                RevisionError::Compacted {
                    requested: revision,
                    oldest: store.oldest_revision()
                }
            ),
        }
    }

    fn watch(&mut self, store: &Store, prefix: &'static str, back: u64) {
        let after = self.revision().saturating_sub(back);
        match store.watch(prefix, after) {
            Ok(watcher) => self.watchers.push((watcher, prefix, after)),
            Err(error) => assert_eq!(
                error,
                RevisionError::Compacted {
                    requested: after,
                    oldest: store.oldest_revision()
                }
            ),
        }
    }

    fn check(&self, store: &Store, history: u64) {
        let list = store.list("");
        assert_eq!(list.revision, self.revision());
        let found: Vec<_> = list
            .objects
            .iter()
            .map(|object| (object.key.to_string(), object.revision))
            .collect();
        assert_eq!(found, self.prefixed(self.revision(), ""));
        for object in &list.objects {
            let value = object.value();
            assert_eq!(
                value["metadata"]["resourceVersion"],
                object.revision.to_string()
            );
            assert_eq!(payload(object), *object.key);
        }
        let oldest = self
            .oldest
            .max(self.revision().saturating_sub(history))
            .max(1);
        assert_eq!(store.oldest_revision(), oldest);
    }
}

async fn run(steps: Vec<Step>) {
    const HISTORY: usize = 25;
    let directory = tempfile::tempdir().expect("a directory");
    // So small that nearly every commit compacts.
    let options = Options {
        history: HISTORY,
        compact_bytes: 500,
        ..quick()
    };
    let mut store = Store::open(directory.path(), options.clone()).expect("a store");
    let mut model = Model {
        states: vec![Contents::new()],
        events: Vec::new(),
        oldest: 1,
        watchers: Vec::new(),
    };
    for step in steps {
        match step {
            Step::Writes(writes) => model.writes(&store, writes).await,
            Step::List { prefix, back } => model.list(&store, PREFIXES[prefix], back),
            Step::Watch { prefix, back } => model.watch(&store, PREFIXES[prefix], back),
            Step::Drain(index) if !model.watchers.is_empty() => {
                let watcher = index.index(model.watchers.len());
                model.drain(watcher);
            }
            Step::Drain(_) => {}
            Step::Reopen => {
                for watcher in 0..model.watchers.len() {
                    model.drain(watcher);
                }
                model.watchers.clear();
                store.close().await;
                store = Store::open(directory.path(), options.clone()).expect("a store");
                model.oldest = model.revision();
            }
        }
        model.check(&store, HISTORY as u64);
    }
    for watcher in 0..model.watchers.len() {
        model.drain(watcher);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(run(steps));
    }
}
