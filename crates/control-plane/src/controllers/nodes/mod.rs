//! The life of nodes as the cluster sees it: taints by their conditions, `Unknown` for those that
//! are no longer heard of, and what becomes of their pods.
//!
//! A node is heard of when its lease is renewed or it writes its Ready condition. What counts is
//! when *we* saw that, by our monotonic clock: clocks of nodes may be wrong, and a control plane
//! that was down gives every node the whole time again.

mod health;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::health::{Eviction, condition};
use super::feed::{Feed, News};
use super::meta::Meta;
use super::queue::Queue;
use super::text;
use crate::registry::{Context, DeleteOptions, Registry, rfc3339};
use crate::resource::stored;
use crate::status::ApiError;
use crate::store::Object;

/// How long a node may be silent (the real `--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);

/// A look at a node that comes so much too late tells that we were held up ourselves (stopped, or
/// out of CPU); the node's renewals may then still be on their way, and it gets the whole time again.
const HELD_UP: Duration = Duration::from_secs(5);

/// How long a node must be gone before its pods go (the real pod garbage collector's quarantine).
const QUARANTINE: Duration = Duration::from_secs(40);

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Work {
    /// The node may have been silent for too long.
    Silent(String),
    /// The node's taints may have to change.
    Taints(String),
    /// The pod may have to leave its node.
    Evict(Arc<str>),
    /// The pod's node may be gone.
    Orphan(Arc<str>),
}

/// The last sign of life of a node, as it stood in its lease or status.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sign {
    lease: String,
    heartbeat: String,
    /// When we saw it.
    seen: Option<Instant>,
}

struct Nodes {
    registry: Registry,
    context: Context,
    queue: Queue<Work>,
    signs: HashMap<String, Sign>,
}

/// Looks after nodes until the store is closed.
pub async fn run(registry: Registry) {
    let store = registry.store().clone();
    let mut nodes_feed = Feed::new(&store, "nodes/");
    let mut leases = Feed::new(&store, "leases.coordination.k8s.io/kube-node-lease/");
    let mut pods = Feed::new(&store, "pods/");
    let mut nodes = Nodes::new(registry);
    loop {
        // All arms are cancel-safe: feeds and the queue lose nothing when another is taken.
        // Leases go first: a sign of life that is queued must count before silence does.
        tokio::select! {
            biased;
            news = leases.next() => {
                let Some(news) = news else { return };
                for lease in news.present() {
                    nodes.see_lease(lease, Instant::now());
                }
            }
            news = nodes_feed.next() => {
                let Some(news) = news else { return };
                nodes.see_nodes(&news, Instant::now());
            }
            news = pods.next() => {
                let Some(news) = news else { return };
                for pod in news.present() {
                    nodes.see_pod(pod, Instant::now());
                }
            }
            work = nodes.queue.next() => {
                match nodes.settle(&work, Instant::now()).await {
                    Ok(()) => nodes.queue.succeeded(&work),
                    Err(error) if error.is_not_found() => nodes.queue.succeeded(&work),
                    Err(error) => {
                        tracing::warn!(?work, %error, "cannot settle the node or pod");
                        nodes.queue.retry(work);
                    }
                }
            }
        }
    }
}

impl Nodes {
    fn new(registry: Registry) -> Self {
        Self {
            registry,
            context: Context::system("system:node-controller"),
            queue: Queue::default(),
            signs: HashMap::new(),
        }
    }

    fn see_lease(&mut self, lease: &Object, now: Instant) {
        let renewed = text(&lease.value(), "/spec/renewTime").to_owned();
        let sign = self.signs.entry(lease.name().to_owned()).or_default();
        if sign.lease != renewed {
            sign.lease = renewed;
            self.alive(lease.name(), now);
        }
    }

    /// The time of silence starts again.
    fn alive(&mut self, node: &str, now: Instant) {
        if let Some(sign) = self.signs.get_mut(node) {
            sign.seen = Some(now);
        }
        self.queue.set(Work::Silent(node.to_owned()), now + GRACE);
    }

    fn see_nodes(&mut self, news: &News, now: Instant) {
        for object in news.present() {
            let node = object.value();
            let name = object.name();
            let heartbeat = node["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "Ready" && condition["status"] != "Unknown")
                .map(|condition| text(condition, "/lastHeartbeatTime").to_owned());
            let is_new = !self.signs.contains_key(name);
            let sign = self.signs.entry(name.to_owned()).or_default();
            let spoke = heartbeat.is_some_and(|heartbeat| {
                let changed = sign.heartbeat != heartbeat;
                sign.heartbeat = heartbeat;
                changed
            });
            if is_new || spoke {
                self.alive(name, now);
            }
            if health::taints(&node, Timestamp::UNIX_EPOCH).is_some() {
                self.queue.add_at(Work::Taints(name.to_owned()), now);
            }
            let drives_away = node["spec"]["taints"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|taint| taint["effect"] == "NoExecute");
            if drives_away {
                for pod in self.pods_on(name) {
                    self.queue.add_at(Work::Evict(pod.key.clone()), now);
                }
            }
        }
        if let News::Deleted(event) = news {
            let name = event.object.name();
            self.signs.remove(name);
            self.queue.remove(&Work::Silent(name.to_owned()));
            let due = now + QUARANTINE;
            for pod in self.pods_on(name) {
                self.queue.add_at(Work::Orphan(pod.key.clone()), due);
            }
        }
    }

    fn see_pod(&mut self, pod: &Object, now: Instant) {
        let Some(node) = node_of(pod) else { return };
        match self.registry.store().get(&format!("nodes//{node}")) {
            None => {
                let due = now + QUARANTINE;
                self.queue.add_at(Work::Orphan(pod.key.clone()), due);
            }
            Some(node) if super::meta::mentions(&node, "\"NoExecute\"") => {
                self.queue.add_at(Work::Evict(pod.key.clone()), now);
            }
            Some(_) => {}
        }
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
        let mut pods = self.registry.store().list("pods/").objects;
        pods.retain(|pod| node_of(pod) == Some(node));
        pods
    }

    async fn settle(&mut self, work: &Work, clock: Instant) -> Result<(), ApiError> {
        let now = Timestamp::now();
        match work {
            Work::Silent(node) if self.is_held_up(node, clock) => {
                self.alive(node, clock);
                Ok(())
            }
            Work::Silent(node) => self.mark_unknown(node, now).await,
            Work::Taints(node) => self.set_taints(node, now).await,
            Work::Evict(pod) => self.evict(pod, now).await,
            Work::Orphan(pod) => self.collect_orphan(pod, now).await,
        }
    }

    fn is_held_up(&self, node: &str, now: Instant) -> bool {
        self.signs
            .get(node)
            .and_then(|sign| sign.seen)
            .is_some_and(|seen| now.saturating_duration_since(seen) > GRACE + HELD_UP)
    }

    async fn mark_unknown(&self, name: &str, now: Timestamp) -> Result<(), ApiError> {
        let nodes = stored("", "nodes");
        let mut was_silent = true;
        self.registry
            .modify(&self.context, nodes, "", name, "status", |node| {
                was_silent = !health::mark_unknown(node, now);
                Ok(())
            })
            .await?;
        if was_silent {
            return Ok(());
        }
        tracing::info!(node = name, "the node is no longer heard of");
        for pod in self.pods_on(name) {
            if condition(&pod.value(), "Ready") != Some("True") {
                continue;
            }
            let marked = self
                .registry
                .modify(
                    &self.context,
                    stored("", "pods"),
                    pod.namespace(),
                    pod.name(),
                    "status",
                    |pod| {
                        not_ready(pod, now);
                        Ok(())
                    },
                )
                .await;
            unless_gone(marked)?;
        }
        Ok(())
    }

    async fn set_taints(&self, name: &str, now: Timestamp) -> Result<(), ApiError> {
        self.registry
            .modify(&self.context, stored("", "nodes"), "", name, "", |node| {
                if let Some(taints) = health::taints(node, now) {
                    match (taints.is_empty(), node["spec"].as_object_mut()) {
                        (true, Some(spec)) => {
                            spec.remove("taints");
                        }
                        _ => node["spec"]["taints"] = json!(taints),
                    }
                }
                Ok(())
            })
            .await
            .map(|_| ())
    }

    async fn evict(&mut self, key: &Arc<str>, now: Timestamp) -> Result<(), ApiError> {
        let store = self.registry.store();
        let Some(object) = store.get(key) else {
            return Ok(());
        };
        let Some(node) = node_of(&object).and_then(|node| store.get(&format!("nodes//{node}")))
        else {
            return Ok(());
        };
        let pod = object.value();
        let meta = Meta::of(&object);
        if meta.is_terminating() || is_over(&pod) {
            return Ok(());
        }
        let at = match health::eviction(&node.value(), &pod, now) {
            Eviction::Never => return Ok(()),
            Eviction::At(at) => at,
        };
        if at > now {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            self.queue
                .set(Work::Evict(key.clone()), Instant::now() + wait);
            return Ok(());
        }
        tracing::info!(%key, "the pod does not tolerate its node's taints any longer");
        self.disrupt(
            &object,
            now,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            false,
        )
        .await?;
        let mut options = DeleteOptions::now(&meta.uid);
        options.grace_period_seconds = None;
        self.delete(&object, &options).await
    }

    async fn collect_orphan(&self, key: &str, now: Timestamp) -> Result<(), ApiError> {
        let store = self.registry.store();
        let Some(object) = store.get(key) else {
            return Ok(());
        };
        let Some(node) = node_of(&object) else {
            return Ok(());
        };
        if store.get(&format!("nodes//{node}")).is_some() {
            return Ok(());
        }
        tracing::info!(key, node, "the pod's node is gone");
        if !is_over(&object.value()) {
            self.disrupt(
                &object,
                now,
                "DeletionByPodGC",
                "PodGC: node no longer exists",
                true,
            )
            .await?;
        }
        let options = DeleteOptions::now(&Meta::of(&object).uid);
        self.delete(&object, &options).await
    }

    /// Says in the pod's status why it goes, before it goes.
    async fn disrupt(
        &self,
        pod: &Object,
        now: Timestamp,
        reason: &str,
        message: &str,
        fails: bool,
    ) -> Result<(), ApiError> {
        let written = self
            .registry
            .modify(
                &self.context,
                stored("", "pods"),
                pod.namespace(),
                pod.name(),
                "status",
                |pod| {
                    if fails && !is_over(pod) {
                        pod["status"]["phase"] = json!("Failed");
                    }
                    set_condition(
                        pod,
                        json!({
                            "type": "DisruptionTarget", "status": "True", "reason": reason,
                            "message": message, "lastProbeTime": null,
                            "lastTransitionTime": rfc3339(now),
                        }),
                    );
                    Ok(())
                },
            )
            .await;
        unless_gone(written)
    }

    async fn delete(&self, pod: &Object, options: &DeleteOptions) -> Result<(), ApiError> {
        let deleted = self
            .registry
            .delete(
                &self.context,
                stored("", "pods"),
                pod.namespace(),
                pod.name(),
                options,
            )
            .await;
        match deleted {
            // Another pod with the name is not meant.
            Err(error) if error.is_conflict() => Ok(()),
            other => unless_gone(other),
        }
    }
}

fn unless_gone<T>(outcome: Result<T, ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// The node that a pod is bound to.
fn node_of(pod: &Object) -> Option<&str> {
    pod.attributes
        .field("spec.nodeName")
        .filter(|node| !node.is_empty())
}

fn is_over(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn set_condition(object: &mut Value, condition: Value) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
        conditions.retain(|other| other["type"] != condition["type"]);
        conditions.push(condition);
    }
}

fn not_ready(pod: &mut Value, now: Timestamp) {
    let conditions = pod
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if condition["type"] == "Ready" && condition["status"] == "True" {
            condition["status"] = json!("False");
            condition["lastTransitionTime"] = json!(rfc3339(now));
        }
    }
}

#[cfg(test)]
mod tests;
