//! Reads, writes and restarts.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::{CommitError, RevisionError};

#[tokio::test]
async fn an_empty_store_is_at_revision_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    assert_eq!((store.revision(), store.oldest_revision()), (1, 1));
    assert_eq!(store.list("").objects.len(), 0);
    assert!(store.get("pods/default/p").is_none());
}

#[tokio::test]
async fn one_revision_counts_all_writes() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    assert_eq!(set(&store, "pods/default/a", "1").await.revision, 2);
    assert_eq!(set(&store, "nodes//n", "2").await.revision, 3);
    assert_eq!(set(&store, "pods/default/a", "3").await.revision, 4);
    assert_eq!(remove(&store, "pods/default/a").await.revision, 5);
    assert_eq!(store.revision(), 5);
    assert!(store.get("pods/default/a").is_none());
    assert_eq!(
        contents(&store.list("").objects),
        [("nodes//n".into(), 3, "2".into())]
    );
}

#[tokio::test]
async fn a_write_that_expects_something_else_is_told_what_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let key = "pods/default/a";
    let first = set(&store, key, "1").await;
    for expected in [
        Expected::Absent,
        Expected::Revision(1),
        Expected::Revision(99),
    ] {
        match store.put(key, expected, draft("2")).await {
            Err(CommitError::Conflict {
                current: Some(current),
            }) => {
                assert_eq!(current.revision, first.revision);
            }
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    match store.delete("pods/default/b", 2, draft("")).await {
        Err(CommitError::Conflict { current: None }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        store.revision(),
        first.revision,
        "a refusal takes no revision"
    );
}

#[tokio::test]
async fn requests_of_one_commit_see_each_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let key = "pods/default/a";
    let puts = (0..20).map(|n| store.put(key, Expected::Absent, draft(&n.to_string())));
    let results = futures::future::join_all(puts).await;
    let won: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .collect();
    assert_eq!(won.len(), 1);
    for result in &results {
        match result {
            Ok(_) => {}
            Err(CommitError::Conflict {
                current: Some(current),
            }) => {
                assert_eq!(current.revision, won[0].revision);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_revision_is_written_into_the_object() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let cases = [
        (json!({}), r#"{"metadata":{"resourceVersion":"2"}}"#),
        (
            json!({"metadata": {}}),
            r#"{"metadata":{"resourceVersion":"3"}}"#,
        ),
        (
            json!({"metadata": {"name": "a", "resourceVersion": "77", "uid": "u"}, "spec": {"resourceVersion": "8"}}),
            r#"{"metadata":{"name":"a","resourceVersion":"4","uid":"u"},"spec":{"resourceVersion":"8"}}"#,
        ),
        (
            json!({"a": "resourceVersion\":\"", "metadata": {"uid": "u"}, "z": [1]}),
            r#"{"a":"resourceVersion\":\"","metadata":{"resourceVersion":"5","uid":"u"},"z":[1]}"#,
        ),
        (json!({"metadata": null}), r#"{"metadata":null}"#),
    ];
    for (number, (value, text)) in cases.iter().enumerate() {
        let draft = Draft::new(value, Attributes::default());
        let object = store
            .put(&format!("things//{number}"), Expected::Absent, draft)
            .await
            .expect("a put");
        assert_eq!(std::str::from_utf8(&object.json).expect("text"), *text);
    }
}

#[tokio::test]
async fn a_prefix_lists_its_keys_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for key in [
        "pods/b/x",
        "pods/a/y",
        "pods/a/x",
        "pods.metrics.k8s.io/a/x",
        "nodes//a",
    ] {
        set(&store, key, "").await;
    }
    let keys = |prefix: &str| -> Vec<String> {
        let objects = store.list(prefix).objects;
        objects
            .iter()
            .map(|object| object.key.to_string())
            .collect()
    };
    assert_eq!(keys("pods/"), ["pods/a/x", "pods/a/y", "pods/b/x"]);
    assert_eq!(keys("pods/a/"), ["pods/a/x", "pods/a/y"]);
    assert_eq!(keys("").len(), 5);
    let object = store.get("pods/a/y").expect("an object");
    assert_eq!((object.namespace(), object.name()), ("a", "y"));
    let node = store.get("nodes//a").expect("an object");
    assert_eq!((node.namespace(), node.name()), ("", "a"));
}

#[tokio::test]
async fn older_revisions_can_be_listed_as_far_as_the_history_reaches() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        history: 3,
        ..quick()
    };
    let store = Store::open(directory.path(), options).expect("a store");
    set(&store, "pods/a/b", "2").await;
    set(&store, "pods/a/d", "3").await;
    set(&store, "pods/a/b", "4").await;
    remove(&store, "pods/a/d").await;
    set(&store, "pods/a/c", "6").await;
    let at = |revision| {
        store
            .list_at("pods/", revision)
            .map(|list| contents(&list.objects))
    };
    let entry =
        |key: &str, revision, text: &str| (format!("pods/a/{key}"), revision, text.to_owned());
    assert_eq!(
        at(2),
        Err(RevisionError::Compacted {
            requested: 2,
            oldest: 3
        })
    );
    assert_eq!(at(3), Ok(vec![entry("b", 2, "2"), entry("d", 3, "3")]));
    assert_eq!(at(4), Ok(vec![entry("b", 4, "4"), entry("d", 3, "3")]));
    assert_eq!(at(5), Ok(vec![entry("b", 4, "4")]));
    assert_eq!(at(6), Ok(vec![entry("b", 4, "4"), entry("c", 6, "6")]));
    assert_eq!(
        at(7),
        Err(RevisionError::Future {
            requested: 7,
            current: 6
        })
    );
}

#[tokio::test]
async fn the_history_is_bounded_in_bytes_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        history_bytes: 10_000,
        ..quick()
    };
    let store = Store::open(directory.path(), options).expect("a store");
    let text = "x".repeat(4_000);
    for _ in 0..20 {
        set(&store, "pods/a/b", &text).await;
    }
    assert_eq!(store.revision() - store.oldest_revision(), 2);
    let large = "x".repeat(120_000);
    set(&store, "pods/a/large", &large).await;
    for _ in 0..20 {
        set(&store, "pods/a/b", &text).await;
    }
    let kept = store.revision() - store.oldest_revision();
    assert_eq!(kept, 7, "a quarter of 124 kB: more where more lives");
}

#[tokio::test]
async fn a_restart_keeps_objects_and_revision() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "pods/a/b", "2").await;
    set(&store, "pods/a/c", "3").await;
    remove(&store, "pods/a/c").await;
    let before = store.list("");
    drop(store);
    let store = open(directory.path());
    let after = store.list("");
    assert_eq!(contents(&after.objects), contents(&before.objects));
    assert_eq!((after.revision, store.oldest_revision()), (4, 4));
    assert_eq!(before.objects[0].json, after.objects[0].json);
    assert_eq!(set(&store, "pods/a/c", "5").await.revision, 5);
}

#[tokio::test]
async fn attributes_are_computed_again_on_a_restart() {
    fn attributes(key: &str, json: &[u8]) -> Attributes {
        let value: Value = serde_json::from_slice(json).expect("JSON");
        Attributes {
            labels: Box::new([("key".into(), key.into())]),
            fields: Box::new([("data", value["data"].as_str().expect("text").into())]),
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        attributes,
        ..quick()
    };
    let store = Store::open(directory.path(), options.clone()).expect("a store");
    set(&store, "pods/a/b", "text").await;
    assert_eq!(
        store.get("pods/a/b").expect("an object").attributes,
        Attributes::default()
    );
    drop(store);
    let store = Store::open(directory.path(), options).expect("a store");
    let object = store.get("pods/a/b").expect("an object");
    assert_eq!(object.attributes.label("key"), Some("pods/a/b"));
    assert_eq!(object.attributes.field("data"), Some("text"));
    assert_eq!(object.attributes.field("other"), None);
}

#[tokio::test]
async fn a_closed_store_refuses_writes_and_frees_its_lock() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "pods/a/b", "2").await;
    store.close().await;
    match store.put("pods/a/c", Expected::Absent, draft("")).await {
        Err(CommitError::Closed) => {}
        other => panic!("{other:?}"),
    }
    assert!(store.get("pods/a/b").is_some(), "reads go on");
    let again = open(directory.path());
    assert_eq!(again.revision(), 2);
    store.close().await;
}

#[tokio::test]
async fn queued_writes_are_done_before_the_store_closes() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let put = tokio::spawn({
        let store = store.clone();
        async move { store.put("pods/a/b", Expected::Absent, draft("1")).await }
    });
    tokio::task::yield_now().await;
    store.close().await;
    assert!(put.await.expect("a task").is_ok());
    assert_eq!(open(directory.path()).list("").objects.len(), 1);
}

#[tokio::test]
async fn compaction_drops_what_was_superseded_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        compact_bytes: 50_000,
        ..quick()
    };
    let store = Store::open(directory.path(), options.clone()).expect("a store");
    let text = "x".repeat(1_000);
    for round in 0..400 {
        set(&store, &format!("pods/a/{}", round % 7), &text).await;
    }
    store.close().await;
    // However far compactions fell behind the writes, the next one catches up, and a store does
    // not close before it ended.
    let store = Store::open(directory.path(), options.clone()).expect("a store");
    remove(&store, "pods/a/0").await;
    let before = store.list("");
    store.close().await;
    let bytes: u64 = files(directory.path(), "")
        .iter()
        .map(|path| path.metadata().expect("a file").len())
        .sum();
    assert!(bytes < 70_000, "{bytes} bytes are left of 400,000");
    assert_eq!(files(directory.path(), "snapshot-").len(), 1);
    let store = Store::open(directory.path(), options).expect("a store");
    let after = store.list("");
    assert_eq!(after.revision, before.revision);
    assert_eq!(contents(&after.objects), contents(&before.objects));
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let inside = directory.path().join("a/b");
    let store = open(&inside);
    set(&store, "secrets/a/b", "2").await;
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&inside), 0o700);
    for file in files(&inside, "") {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn an_object_that_is_too_large_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let text = "x".repeat(64 << 20);
    match store.put("pods/a/b", Expected::Absent, draft(&text)).await {
        Err(CommitError::TooLarge { limit, .. }) => assert_eq!(limit, 64 << 20),
        other => panic!("{other:?}"),
    }
    assert_eq!(set(&store, "pods/a/b", "small").await.revision, 2);
}
