//! Watches under concurrent writers, slow watchers, bookmarks.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::*;
use crate::store::{EventKind, RevisionError, WatchEnd, Watcher};

/// All events that are queued.
fn queued(watcher: &mut Watcher) -> Vec<(EventKind, u64, Option<u64>)> {
    let mut events = Vec::new();
    while let Some(event) = watcher.try_next().expect("an open watch") {
        let previous = event.previous.as_ref().map(|object| object.revision);
        events.push((event.kind, event.revision(), previous));
    }
    events
}

#[tokio::test]
async fn a_watch_starts_with_the_history_and_goes_on_live() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "pods/a/b", "2").await;
    set(&store, "nodes//n", "3").await;
    set(&store, "pods/a/b", "4").await;
    let mut watcher = store.watch("pods/", 2).expect("a watch");
    let mut other_namespace = store.watch("pods/b/", 2).expect("a watch");
    let mut all = store.watch("", 1).expect("a watch");
    remove(&store, "pods/a/b").await;
    assert_eq!(
        queued(&mut watcher),
        [
            (EventKind::Put, 4, Some(2)),
            (EventKind::Delete, 5, Some(4))
        ]
    );
    assert_eq!(queued(&mut other_namespace), []);
    assert_eq!(
        queued(&mut all),
        [
            (EventKind::Put, 2, None),
            (EventKind::Put, 3, None),
            (EventKind::Put, 4, Some(2)),
            (EventKind::Delete, 5, Some(4))
        ]
    );
}

#[tokio::test]
async fn a_delete_carries_the_last_state_at_the_revision_of_the_delete() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "pods/a/b", "2").await;
    remove(&store, "pods/a/b").await;
    let mut watcher = store.watch("pods/", 2).expect("a watch");
    let event = watcher.next().await.expect("an event");
    assert_eq!(event.object.value()["metadata"]["resourceVersion"], "3");
    assert_eq!(payload(&event.object), "last");
    assert_eq!(event.previous.as_deref().map(payload), Some("2".into()));
}

#[tokio::test]
async fn a_watch_from_outside_the_history_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(
        directory.path(),
        Options {
            history: 2,
            ..quick()
        },
    )
    .expect("a store");
    for text in ["2", "3", "4"] {
        set(&store, "pods/a/b", text).await;
    }
    let refused = |after| {
        store
            .watch("pods/", after)
            .map(|_| ())
            .expect_err("a refusal")
    };
    assert_eq!(
        refused(1),
        RevisionError::Compacted {
            requested: 1,
            oldest: 2
        }
    );
    assert_eq!(
        refused(5),
        RevisionError::Future {
            requested: 5,
            current: 4
        }
    );
    assert_eq!(refused(1).to_string(), "too old resource version: 1 (2)");
    drop(store);
    let store = open(directory.path());
    let refused = store.watch("pods/", 3).map(|_| ()).expect_err("a refusal");
    assert_eq!(
        refused,
        RevisionError::Compacted {
            requested: 3,
            oldest: 4
        }
    );
}

#[tokio::test]
async fn progress_tells_what_was_seen_and_nothing_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let (snapshot, mut watcher) = store.watch_from_now("pods/");
    assert_eq!((snapshot.revision, watcher.progress()), (1, 1));
    set(&store, "nodes//n", "2").await;
    assert_eq!(watcher.progress(), 2, "an unrelated write is progress");
    set(&store, "pods/a/b", "3").await;
    set(&store, "pods/a/b", "4").await;
    assert_eq!(
        watcher.progress(),
        1,
        "nothing was taken from the queue yet"
    );
    watcher.next().await.expect("an event");
    assert_eq!(watcher.progress(), 3);
    watcher.next().await.expect("an event");
    set(&store, "nodes//n", "5").await;
    assert_eq!(watcher.progress(), 5);
}

#[tokio::test]
async fn a_slow_watcher_is_closed_and_holds_nobody_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        watch_queue: 3,
        ..quick()
    };
    let store = Store::open(directory.path(), options).expect("a store");
    let (_, mut slow) = store.watch_from_now("pods/");
    let (_, mut quick_watcher) = store.watch_from_now("pods/");
    for number in 2..10 {
        set(&store, "pods/a/b", "text").await;
        assert_eq!(
            quick_watcher.next().await.expect("an event").revision(),
            number
        );
    }
    for number in 2..5 {
        assert_eq!(slow.next().await.expect("an event").revision(), number);
    }
    assert_eq!(slow.next().await.map(|_| ()), Err(WatchEnd::Lagged));
    assert_eq!(slow.try_next().map(|_| ()), Err(WatchEnd::Lagged));
    assert_eq!(slow.progress(), 4, "what was dropped is not progress");
    // It can go on where it was.
    let mut resumed = store.watch("pods/", slow.progress()).expect("a watch");
    assert_eq!(resumed.next().await.expect("an event").revision(), 5);
}

#[tokio::test]
async fn a_history_longer_than_the_queue_is_no_lag() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        watch_queue: 2,
        ..quick()
    };
    let store = Store::open(directory.path(), options).expect("a store");
    for _ in 0..20 {
        set(&store, "pods/a/b", "text").await;
    }
    let mut watcher = store.watch("pods/", 1).expect("a watch");
    assert_eq!(queued(&mut watcher).len(), 20);
}

#[tokio::test]
async fn watches_end_when_the_store_closes() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let (_, mut watcher) = store.watch_from_now("pods/");
    set(&store, "pods/a/b", "2").await;
    store.close().await;
    assert_eq!(watcher.next().await.expect("what was queued").revision(), 2);
    assert_eq!(watcher.next().await.map(|_| ()), Err(WatchEnd::Closed));
    let (_, mut late) = store.watch_from_now("pods/");
    assert_eq!(late.next().await.map(|_| ()), Err(WatchEnd::Closed));
}

#[tokio::test]
async fn a_dropped_watcher_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for _ in 0..10 {
        drop(store.watch_from_now("pods/"));
    }
    let (_, kept) = store.watch_from_now("nodes/");
    assert_eq!(store.shared().hub().watchers(), 1);
    drop(kept);
    assert_eq!(store.shared().hub().watchers(), 0);
}

/// Follows a watch until revision `end` and checks each event against the one before.
async fn follow(mut watcher: Watcher, after: u64, end: u64) -> Vec<u64> {
    let mut versions: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    let mut revisions = Vec::new();
    let mut last = after;
    while last < end {
        let event = watcher.next().await.expect("an event");
        assert!(
            event.revision() > last,
            "{} follows {last}",
            event.revision()
        );
        last = event.revision();
        assert!(watcher.progress() >= last);
        if let (Some(known), Some(previous)) = (versions.get(&event.object.key), &event.previous) {
            assert_eq!(*known, previous.revision);
        }
        versions.insert(event.object.key.clone(), last);
        revisions.push(last);
    }
    revisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watches_from_any_revision_see_all_events_once_while_writers_run() {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 200;
    let end = 1 + WRITERS * WRITES;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0..WRITES {
                set(&store, &format!("pods/a/{writer}-{}", number % 5), "text").await;
            }
        });
    }
    let mut watchers = JoinSet::new();
    // Watches start at all stages, each from a revision somewhere behind.
    let mut starts = 0;
    while store.revision() < end {
        let current = store.revision();
        let after = current - (current - 1) * starts % 11 / 10;
        starts += 1;
        if starts <= 200 {
            let watcher = store.watch("pods/", after).expect("a watch");
            watchers.spawn(async move { (after, follow(watcher, after, end).await) });
        }
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    let outcomes = watchers.join_all().await;
    assert!(!outcomes.is_empty());
    for (after, revisions) in outcomes {
        assert_eq!(revisions, (after + 1..=end).collect::<Vec<_>>());
    }
}
