use super::super::testing::{eventually, registry};
use super::*;

struct World {
    _dir: tempfile::TempDir,
    registry: Registry,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    /// With the controller.
    async fn start() -> Self {
        let mut world = Self::idle().await;
        world.task = Some(tokio::spawn(run(world.registry.clone())));
        world
    }

    /// Without the controller.
    async fn idle() -> Self {
        let (dir, registry) = registry();
        let world = Self {
            _dir: dir,
            task: None,
            registry,
        };
        for namespace in ["default", "kube-node-lease"] {
            world
                .create("", "namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
                .await;
        }
        world
            .create("", "serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}))
            .await;
        world
    }

    async fn create(&self, group: &str, plural: &str, object: Value) {
        let namespace = text(&object, "/metadata/namespace").to_owned();
        self.registry
            .create(
                &Context::system("test"),
                stored(group, plural),
                &namespace,
                object,
            )
            .await
            .unwrap();
    }

    async fn create_node(&self, ready: &str) {
        self.create(
            "",
            "nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        )
        .await;
        self.set_ready(ready).await;
    }

    async fn set_ready(&self, ready: &str) {
        let now = rfc3339(Timestamp::now());
        self.registry
            .modify(
                &Context::system("test"),
                stored("", "nodes"),
                "",
                "n1",
                "status",
                |node| {
                    node["status"]["conditions"] =
                        json!([{"type": "Ready", "status": ready, "lastHeartbeatTime": now}]);
                    Ok(())
                },
            )
            .await
            .unwrap();
    }

    async fn create_pod(&self, name: &str, tolerations: Value) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "tolerations": tolerations, "containers": [{"name": "c", "image": "host"}]},
        });
        self.create("", "pods", pod).await;
    }

    async fn renew(&self, count: u32) {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "n1", "namespace": "kube-node-lease"},
        });
        let leases = stored("coordination.k8s.io", "leases");
        if self.registry.get(leases, "kube-node-lease", "n1").is_err() {
            self.create("coordination.k8s.io", "leases", lease).await;
        }
        self.registry
            .modify(
                &Context::system("test"),
                leases,
                "kube-node-lease",
                "n1",
                "",
                |lease| {
                    lease["spec"]["renewTime"] =
                        json!(format!("2026-01-01T00:00:{count:02}.000000Z"));
                    Ok(())
                },
            )
            .await
            .unwrap();
    }

    fn node(&self) -> Option<Value> {
        self.registry
            .get(stored("", "nodes"), "", "n1")
            .ok()
            .map(|node| node.value())
    }

    fn pod(&self, name: &str) -> Option<Value> {
        self.registry
            .get(stored("", "pods"), "default", name)
            .ok()
            .map(|pod| pod.value())
    }

    fn taints(&self) -> Vec<String> {
        let node = self.node().expect("the node is there");
        let taints = node["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        taints
            .iter()
            .map(|taint| format!("{}:{}", text(taint, "/key"), text(taint, "/effect")))
            .collect()
    }

    async fn tainted(&self, expected: &[&str]) {
        eventually(&self.registry, || (self.taints() == expected).then_some(())).await;
    }

    fn stored(&self, resource: &str, namespace: &str, name: &str) -> Arc<Object> {
        self.registry
            .store()
            .get(&format!("{resource}/{namespace}/{name}"))
            .expect("it is there")
    }

    async fn ready_pod(&self, name: &str) {
        self.registry
            .modify(
                &Context::system("test"),
                stored("", "pods"),
                "default",
                name,
                "status",
                |pod| {
                    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
                    Ok(())
                },
            )
            .await
            .unwrap();
    }

    async fn end(self) {
        self.registry.store().close().await;
        self.task.expect("it was started").await.unwrap();
    }
}

const READY: [&str; 0] = [];
const NOT_READY: [&str; 2] = [
    "node.kubernetes.io/not-ready:NoSchedule",
    "node.kubernetes.io/not-ready:NoExecute",
];
const UNREACHABLE: [&str; 2] = [
    "node.kubernetes.io/unreachable:NoSchedule",
    "node.kubernetes.io/unreachable:NoExecute",
];

#[tokio::test]
async fn taints_come_and_go_with_the_ready_condition() {
    let world = World::start().await;
    world
        .create(
            "",
            "nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        )
        .await;
    assert_eq!(world.taints(), NOT_READY[..1]);
    world.set_ready("True").await;
    world.tainted(&READY).await;
    world.set_ready("False").await;
    world.tainted(&NOT_READY).await;
    world.set_ready("True").await;
    world.tainted(&READY).await;
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_tolerates_nothing_leaves_a_node_that_is_not_ready_and_others_stay() {
    let world = World::start().await;
    world.create_node("True").await;
    world.tainted(&READY).await;
    world.create_pod("stays", json!([])).await;
    let at_once = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
    ]);
    world.create_pod("leaves", at_once).await;
    world.set_ready("False").await;
    let left = eventually(&world.registry, || {
        let pod = world.pod("leaves")?;
        pod["metadata"]["deletionTimestamp"]
            .is_string()
            .then_some(pod)
    })
    .await;
    let reason = left["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "DisruptionTarget")
        .map(|condition| condition["reason"].clone());
    assert_eq!(reason, Some(json!("DeletionByTaintManager")));
    let other = world.pod("stays").unwrap();
    assert!(
        other["metadata"].get("deletionTimestamp").is_none(),
        "five minutes by default"
    );
    world.end().await;
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_node_is_unknown_fifty_seconds_after_its_last_renewal() {
    let world = World::idle().await;
    world.create_node("True").await;
    world.create_pod("p", json!([])).await;
    world.ready_pod("p").await;
    let mut nodes = Nodes::new(world.registry.clone());
    let start = Instant::now();
    nodes.see_nodes(&News::All(vec![world.stored("nodes", "", "n1")]), start);
    while nodes.queue.take(start).is_some() {}
    let mut last = start;
    for count in 1..10 {
        last = start + 20 * SECOND * count;
        world.renew(count).await;
        let lease = world.stored("leases.coordination.k8s.io", "kube-node-lease", "n1");
        nodes.see_lease(&lease, last);
        // The same lease again is no sign of life.
        nodes.see_lease(&lease, last + 19 * SECOND);
        assert_eq!(nodes.queue.take(last + 20 * SECOND), None);
    }
    assert_eq!(nodes.queue.take(last + GRACE - SECOND), None);
    let work = nodes.queue.take(last + GRACE).unwrap();
    assert_eq!(work, Work::Silent("n1".to_owned()));
    // We were held up: the node is not to blame.
    let late = last + GRACE + 2 * HELD_UP;
    nodes.settle(&work, late).await.unwrap();
    assert_eq!(condition(&world.node().unwrap(), "Ready"), Some("True"));
    let last = late;
    assert_eq!(nodes.queue.take(last + GRACE - SECOND), None);
    assert_eq!(nodes.queue.take(last + GRACE), Some(work.clone()));
    nodes.settle(&work, last + GRACE).await.unwrap();
    assert_eq!(condition(&world.node().unwrap(), "Ready"), Some("Unknown"));
    assert_eq!(condition(&world.pod("p").unwrap(), "Ready"), Some("False"));
    // What it wrote leads to the taints, and is no sign of life either.
    nodes.see_nodes(
        &News::All(vec![world.stored("nodes", "", "n1")]),
        last + GRACE,
    );
    let work = nodes.queue.take(last + GRACE).unwrap();
    nodes.settle(&work, last + GRACE).await.unwrap();
    assert_eq!(world.taints(), UNREACHABLE);
    assert_eq!(nodes.queue.take(last + 10 * GRACE), None);
}

#[tokio::test]
async fn pods_of_a_node_that_is_gone_go_after_it_unless_it_comes_back() {
    let world = World::idle().await;
    world.create_node("True").await;
    world.create_pod("p", json!([])).await;
    let mut nodes = Nodes::new(world.registry.clone());
    let start = Instant::now();
    let pod = world.stored("pods", "default", "p");
    nodes.see_pod(&pod, start);
    assert_eq!(
        nodes.queue.take(start + 10 * QUARANTINE),
        None,
        "its node is there"
    );
    let node = world.stored("nodes", "", "n1");
    let delete = || async {
        world
            .registry
            .delete(
                &Context::system("test"),
                stored("", "nodes"),
                "",
                "n1",
                &DeleteOptions::default(),
            )
            .await
            .unwrap();
    };
    delete().await;
    let gone = crate::store::Event {
        kind: crate::store::EventKind::Delete,
        object: node,
        previous: None,
    };
    nodes.see_nodes(&News::Deleted(Arc::new(gone)), start);
    assert_eq!(nodes.queue.take(start + QUARANTINE - SECOND), None);
    let work = nodes.queue.take(start + QUARANTINE).unwrap();
    world.create_node("True").await;
    nodes.settle(&work, start + QUARANTINE).await.unwrap();
    assert!(world.pod("p").is_some(), "its node came back");
    delete().await;
    nodes.settle(&work, start + QUARANTINE).await.unwrap();
    assert!(world.pod("p").is_none());
}
