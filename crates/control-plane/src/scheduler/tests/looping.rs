//! The loop over a real registry and store.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::registry::Registry;
use crate::resource::attributes_of;
use crate::store::{Draft, Event, EventKind, Expected, Options, Store, Watcher};

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    store: Store,
    _running: JoinHandle<()>,
    _stop: DropGuard,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// A scheduler over a store with these objects.
    async fn start(objects: &[(&str, Value)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options {
            fsync: false,
            ..Options::default()
        };
        let store = Store::open(directory.path(), options).expect("a store");
        for (key, object) in objects {
            put(&store, key, object).await;
        }
        put(&store, "namespaces//a", &json!({"metadata": {"name": "a"}})).await;
        let stop = CancellationToken::new();
        let running = run(Registry::new(store.clone()), stop.clone());
        Self {
            _running: tokio::spawn(running),
            _stop: stop.drop_guard(),
            store,
            _directory: directory,
        }
    }

    async fn put(&self, key: &str, object: &Value) {
        put(&self.store, key, object).await;
    }

    async fn delete(&self, key: &str) {
        let current = self.store.get(key).expect("an object");
        let last = Draft::new(&current.value(), current.attributes.clone());
        self.store
            .delete(key, current.revision, last)
            .await
            .expect("a delete");
    }

    /// Waits until the object under `key` is as `condition` wants it.
    async fn until(&self, key: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let (snapshot, mut watcher) = self.store.watch_from_now(key);
        let mut value = snapshot
            .objects
            .first()
            .map_or(Value::Null, |object| object.value());
        while !condition(&value) {
            value = next(&mut watcher).await.object.value();
        }
        value
    }

    async fn until_bound(&self, name: &str) -> String {
        let key = format!("pods/a/{name}");
        let pod = self
            .until(&key, |pod| pod["spec"]["nodeName"].is_string())
            .await;
        pod["spec"]["nodeName"].as_str().expect("a name").to_owned()
    }

    /// Waits until the condition of a pod says why it has no node.
    async fn until_refused(&self, name: &str, words: &str) -> Value {
        let key = format!("pods/a/{name}");
        let pod = self
            .until(&key, |pod| {
                let message = pod["status"]["conditions"][0]["message"].as_str();
                message.is_some_and(|message| message.contains(words))
            })
            .await;
        pod["status"]["conditions"][0].clone()
    }
}

async fn put(store: &Store, key: &str, object: &Value) {
    let expected = store.get(key).map_or(Expected::Absent, |object| {
        Expected::Revision(object.revision)
    });
    let draft = Draft::new(object, attributes_of(key, object));
    store.put(key, expected, draft).await.expect("a put");
}

async fn next(watcher: &mut Watcher) -> std::sync::Arc<Event> {
    tokio::time::timeout(PATIENCE, watcher.next())
        .await
        .expect("something happens in time")
        .expect("an open watch")
}

#[tokio::test]
async fn a_pod_is_bound_and_people_are_told() {
    let bench = Bench::start(&[("nodes//n", node("n"))]).await;
    let (_, mut events) = bench.store.watch_from_now("events/a/");
    bench.put("pods/a/p", &pod("p", json!({}))).await;
    assert_eq!(bench.until_bound("p").await, "n");
    let event = next(&mut events).await.object.value();
    assert_eq!(event["reason"], "Scheduled");
    assert_eq!(event["message"], "Successfully assigned a/p to n");
    assert_eq!(event["involvedObject"]["name"], "p");
    assert_eq!(event["reportingComponent"], "default-scheduler");
}

#[tokio::test]
async fn pods_that_waited_when_the_scheduler_started_are_bound() {
    let objects = [("nodes//n", node("n")), ("pods/a/p", pod("p", json!({})))];
    let bench = Bench::start(&objects).await;
    assert_eq!(bench.until_bound("p").await, "n");
}

#[tokio::test]
async fn a_pod_waits_until_a_node_can_take_it() {
    let bench = Bench::start(&[]).await;
    let (_, mut events) = bench.store.watch_from_now("events/a/");
    let spec = with(
        requesting(json!({"cpu": "2"})),
        json!({"nodeSelector": {"disk": "ssd"}}),
    );
    bench.put("pods/a/p", &pod("p", spec)).await;
    let condition = bench
        .until_refused("p", "no nodes available to schedule pods")
        .await;
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(condition["observedGeneration"], 1);
    let event = next(&mut events).await.object.value();
    assert_eq!(event["reason"], "FailedScheduling");
    assert_eq!(event["type"], "Warning");

    bench.put("nodes//n", &node("n")).await;
    bench
        .until_refused("p", "1 node(s) didn't match Pod's node affinity/selector")
        .await;
    let labelled = with(node("n"), json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let small = with(
        labelled.clone(),
        json!({"status": {"allocatable": {"cpu": "1"}}}),
    );
    bench.put("nodes//n", &small).await;
    bench.until_refused("p", "1 Insufficient cpu").await;
    bench.put("nodes//n", &labelled).await;
    assert_eq!(bench.until_bound("p").await, "n");
    let bound = bench.store.get("pods/a/p").expect("a pod").value();
    assert_eq!(bound["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn what_ends_or_goes_makes_room() {
    let bench = Bench::start(&[("nodes//n", node("n"))]).await;
    let full = requesting(json!({"cpu": "2"}));
    for name in ["first", "second", "third"] {
        bench
            .put(&format!("pods/a/{name}"), &pod(name, full.clone()))
            .await;
        if name == "first" {
            bench.until_bound(name).await;
        } else {
            bench.until_refused(name, "1 Insufficient cpu").await;
        }
    }
    let ended = with(
        bench.store.get("pods/a/first").expect("a pod").value(),
        json!({"status": {"phase": "Succeeded"}}),
    );
    bench.put("pods/a/first", &ended).await;
    // The one that waits longest comes first.
    bench.until_bound("second").await;
    bench.delete("pods/a/second").await;
    bench.until_bound("third").await;
}

#[tokio::test]
async fn gates_are_waited_for() {
    let bench = Bench::start(&[("nodes//n", node("n"))]).await;
    let gated = pod("p", json!({"schedulingGates": [{"name": "g"}]}));
    bench.put("pods/a/p", &gated).await;
    let condition = bench
        .until_refused(
            "p",
            "Scheduling is blocked due to non-empty scheduling gates",
        )
        .await;
    assert_eq!(condition["reason"], "SchedulingGated");
    bench.put("pods/a/p", &pod("p", json!({}))).await;
    bench.until_bound("p").await;
}

#[tokio::test]
async fn pods_of_other_schedulers_are_left_alone() {
    let bench = Bench::start(&[("nodes//n", node("n"))]).await;
    bench
        .put(
            "pods/a/other",
            &pod("other", json!({"schedulerName": "mine"})),
        )
        .await;
    bench.put("pods/a/p", &pod("p", json!({}))).await;
    bench.until_bound("p").await;
    let other = bench.store.get("pods/a/other").expect("a pod").value();
    assert_eq!(other["spec"].get("nodeName"), None);
    assert_eq!(other["status"].get("conditions"), None);
}

#[tokio::test]
async fn a_pod_follows_the_one_it_wants_to_be_with() {
    let bench = Bench::start(&[("nodes//n", node("n"))]).await;
    let term = json!([{
        "labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname",
    }]);
    let spec = json!({"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": term,
    }}});
    bench.put("pods/a/p", &pod("p", spec)).await;
    bench
        .until_refused("p", "1 node(s) didn't match pod affinity rules")
        .await;
    let web = with(
        pod("web", json!({})),
        json!({"metadata": {"labels": {"app": "web"}}}),
    );
    bench.put("pods/a/web", &web).await;
    assert_eq!(bench.until_bound("p").await, "n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pods_at_once_are_each_bound_once() {
    const PODS: usize = 1_000;
    let roomy = json!({"status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "400"}}});
    let nodes = ["a", "b", "c"].map(|name| with(node(name), roomy.clone()));
    let keys = ["nodes//a", "nodes//b", "nodes//c"];
    let objects: Vec<_> = keys.into_iter().zip(nodes).collect();
    let bench = Bench::start(&objects).await;
    let (_, mut watcher) = bench.store.watch_from_now("pods/");
    let puts = (0..PODS).map(|number| {
        let name = format!("p{number}");
        let store = bench.store.clone();
        async move {
            put(
                &store,
                &format!("pods/a/{name}"),
                &pod(&name, requesting(json!({"cpu": "100m"}))),
            )
            .await
        }
    });
    futures::future::join_all(puts).await;
    let mut bound = std::collections::BTreeMap::new();
    while bound.len() < PODS {
        let event = next(&mut watcher).await;
        assert_eq!(event.kind, EventKind::Put);
        let pod = event.object.value();
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            let before = bound.insert(event.object.key.to_string(), node.to_owned());
            assert_eq!(before.as_deref().unwrap_or(node), node);
        }
    }
    for name in ["a", "b", "c"] {
        let share = bound.values().filter(|node| *node == name).count();
        assert!((300..=400).contains(&share), "{share} pods are on {name}");
    }
}
