use super::super::testing::{eventually, registry};
use super::*;

struct World {
    _dir: tempfile::TempDir,
    registry: Registry,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    async fn start() -> Self {
        let (dir, registry) = registry();
        let world = Self {
            _dir: dir,
            task: tokio::spawn(run(registry.clone())),
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

    async fn end(self) {
        self.registry.store().close().await;
        self.task.await.unwrap();
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

/// The clock is stopped: it jumps whenever all tasks wait, so that minutes take no time.
#[tokio::test(start_paused = true)]
async fn a_node_is_unknown_fifty_seconds_after_its_last_renewal() {
    let world = World::start().await;
    world.create_node("True").await;
    world.create_pod("p", json!([])).await;
    for count in 1..10 {
        world.renew(count).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(
            condition(&world.node().unwrap(), "Ready"),
            Some("True"),
            "renewal {count}"
        );
    }
    let last = Instant::now() - Duration::from_secs(20);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(condition(&world.node().unwrap(), "Ready"), Some("True"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    eventually(&world.registry, || {
        (condition(&world.node()?, "Ready") == Some("Unknown")).then_some(())
    })
    .await;
    assert!(last.elapsed() >= GRACE);
    world.tainted(&UNREACHABLE).await;
    // It comes back.
    world.set_ready("True").await;
    world.tainted(&READY).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_is_gone_go_after_it() {
    let world = World::start().await;
    world.create_node("True").await;
    world.create_pod("p", json!([])).await;
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
    tokio::time::sleep(QUARANTINE / 2).await;
    assert!(world.pod("p").is_some());
    tokio::time::sleep(QUARANTINE).await;
    eventually(&world.registry, || world.pod("p").is_none().then_some(())).await;
    world.end().await;
}
