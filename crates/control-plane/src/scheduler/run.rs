//! The loop: watches in, bindings out.
//!
//! | task | owns | hears | tells |
//! |---|---|---|---|
//! | the loop, one | cluster, queue | watches of pods, nodes and namespaces; the ends of writes | starts writes |
//! | a write, at most [`WRITES`] | one pod's binding, condition or event | | its end |
//!
//! Nothing is polled: a pod that found no place is tried again when something changed that could
//! make room for it. A timer runs only after a binding failed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::decide::{Decision, decide};
use super::pod::{Pod, SCHEDULER_NAME};
use super::queue::Queue;
use super::report::{self, Outcome, Unscheduled};
use crate::registry::{Context, Registry};
use crate::resource::{ResourceDef, table};
use crate::status::ApiError;
use crate::store::{Event, EventKind, Object, Store, WatchEnd, Watcher};

/// How many writes are on their way at most.
const WRITES: usize = 256;
/// How many pods are placed before the watches are looked at again.
const PLACED_AT_ONCE: usize = 64;
/// How long after a failed binding the pod is tried again: doubled each time, up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Schedules pods until `shutdown`, or until the store closes.
pub async fn run(registry: Registry, shutdown: CancellationToken) {
    let mut scheduler = Scheduler::new(registry);
    tokio::select! {
        // Cancels the loop wherever it waits: a write that was started is in the store's hands.
        () = shutdown.cancelled() => {}
        () = scheduler.run() => {}
    }
}

/// What a write task leaves.
enum Done {
    /// The binding of the pod under this key; what failed, if it did.
    Bound(Arc<str>, Result<(), ApiError>),
    /// The time to try this pod again has come.
    Retry(Arc<str>),
    /// A condition or an event: nothing depends on it.
    Told,
}

struct Watches {
    pods: Watcher,
    nodes: Watcher,
    namespaces: Watcher,
}

struct Scheduler {
    writer: Writer,
    cluster: Cluster,
    queue: Queue,
    watches: Watches,
    writes: JoinSet<Done>,
    /// How often in a row the binding of a pod failed.
    failures: HashMap<Arc<str>, u32>,
}

impl Scheduler {
    fn new(registry: Registry) -> Self {
        let mut cluster = Cluster::default();
        let mut queue = Queue::default();
        let writer = Writer::new(registry);
        let mut writes = JoinSet::new();
        let watches = {
            let (watches, pods) = list(writer.registry.store(), &mut cluster);
            for pod in pods {
                admit(&pod, &mut queue, &mut writes, &writer);
            }
            watches
        };
        Self {
            writer,
            cluster,
            queue,
            watches,
            writes,
            failures: HashMap::new(),
        }
    }

    async fn run(&mut self) {
        loop {
            match self.take_queued() {
                Ok(()) => {}
                Err(WatchEnd::Lagged) => self.start_again(),
                Err(WatchEnd::Closed) => return,
            }
            self.place();
            if self.queue.has_ready() && self.writes.len() < WRITES {
                // More to place, but others have their turn too.
                tokio::task::yield_now().await;
                continue;
            }
            // All are cancel-safe: an event, or the end of a write, is taken or stays queued.
            let heard = tokio::select! {
                event = self.watches.pods.next() => event.map(|event| self.pod_changed(&event)),
                event = self.watches.nodes.next() => event.map(|event| self.node_changed(&event)),
                event = self.watches.namespaces.next() => {
                    event.map(|event| self.namespace_changed(&event))
                }
                Some(done) = self.writes.join_next() => {
                    self.written(done);
                    Ok(())
                }
            };
            match heard {
                Ok(()) => {}
                Err(WatchEnd::Lagged) => self.start_again(),
                Err(WatchEnd::Closed) => return,
            }
        }
    }

    /// Takes in all that happened, so that a decision rests on the newest state.
    fn take_queued(&mut self) -> Result<(), WatchEnd> {
        while let Some(event) = self.watches.nodes.try_next()? {
            self.node_changed(&event);
        }
        while let Some(event) = self.watches.namespaces.try_next()? {
            self.namespace_changed(&event);
        }
        while let Some(event) = self.watches.pods.try_next()? {
            self.pod_changed(&event);
        }
        while let Some(done) = self.writes.try_join_next() {
            self.written(done);
        }
        Ok(())
    }

    /// After a watch was closed because this loop was too slow.
    fn start_again(&mut self) {
        tracing::warn!("the scheduler fell behind and lists everything again");
        self.cluster.clear();
        self.queue.clear();
        let (watches, pods) = list(self.writer.registry.store(), &mut self.cluster);
        self.watches = watches;
        for pod in pods {
            admit(&pod, &mut self.queue, &mut self.writes, &self.writer);
        }
    }

    fn pod_changed(&mut self, event: &Event) {
        let key = &event.object.key;
        let before = self.cluster.pod(key).cloned();
        let had_place = before.as_ref().is_some_and(|pod| pod.is_placed());
        let was_assumed = self.cluster.is_assumed(key);
        if event.kind == EventKind::Delete {
            self.cluster.remove_pod(key);
            self.queue.remove(key);
            self.failures.remove(key);
            if had_place {
                self.queue.retry(|_| true);
            }
            return;
        }
        let pod = self.cluster.set_pod(parse(&event.object));
        if !pod.is_waiting() {
            self.queue.remove(key);
        }
        let is_bound = pod.is_placed() && !self.cluster.is_assumed(key);
        if had_place && !pod.is_placed() {
            self.queue.retry(|_| true);
        } else if is_bound && (was_assumed || !had_place) {
            let cluster = &self.cluster;
            self.queue
                .retry(|key| cluster.pod(key).is_some_and(|pod| pod.follows_others()));
        }
        let asks_the_same = before.is_some_and(|before| before.asks_the_same(&pod));
        if !(asks_the_same && self.queue.is_waiting(key)) {
            admit(&pod, &mut self.queue, &mut self.writes, &self.writer);
        }
    }

    fn node_changed(&mut self, event: &Event) {
        let name = event.object.name();
        let makes_room = match event.kind {
            EventKind::Put => self.cluster.set_node(name, &event.object.value()),
            EventKind::Delete => {
                self.cluster.remove_node(name);
                false
            }
        };
        if makes_room {
            self.queue.retry(|_| true);
        }
    }

    fn namespace_changed(&mut self, event: &Event) {
        let name = event.object.name();
        match event.kind {
            EventKind::Put => {
                if self.cluster.set_namespace(name, &event.object.value()) {
                    let cluster = &self.cluster;
                    self.queue
                        .retry(|key| cluster.pod(key).is_some_and(|pod| pod.looks_at_others()));
                }
            }
            EventKind::Delete => self.cluster.remove_namespace(name),
        }
    }

    /// Decides about the next pods, as far as writes are free.
    fn place(&mut self) {
        for _ in 0..PLACED_AT_ONCE {
            if self.writes.len() >= WRITES {
                return;
            }
            let Some(key) = self.queue.pop() else { return };
            let Some(pod) = self
                .cluster
                .pod(&key)
                .filter(|pod| pod.is_waiting())
                .cloned()
            else {
                self.queue.remove(&key);
                continue;
            };
            match decide(&pod, &self.cluster) {
                Decision::Place { node } => {
                    self.cluster.assume(&pod, &node);
                    self.queue.remove(&key);
                    let writer = self.writer.clone();
                    self.writes
                        .spawn(async move { writer.bind(&pod, &node).await });
                }
                Decision::Unschedulable { message } => {
                    let unscheduled = Unscheduled::no_place(message);
                    if !unscheduled.is_known(&pod) {
                        let writer = self.writer.clone();
                        self.writes
                            .spawn(async move { writer.explain(&pod, &unscheduled, true).await });
                    }
                }
            }
        }
    }

    fn written(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Told) => {}
            Ok(Done::Bound(key, Ok(()))) => {
                self.failures.remove(&key);
            }
            Ok(Done::Bound(key, Err(error))) => self.not_bound(key, &error),
            Ok(Done::Retry(key)) => self.try_again(&key),
            Err(error) => {
                // The pods that were assumed for tasks that panicked cannot be told apart.
                tracing::error!(%error, "a write of the scheduler ended early");
                for key in self.cluster.assumed() {
                    self.cluster.unassume(&key);
                    self.try_again(&key);
                }
            }
        }
    }

    fn not_bound(&mut self, key: Arc<str>, error: &ApiError) {
        let Some(pod) = self.cluster.unassume(&key) else {
            // The watch was faster: the pod is gone, or bound by someone else.
            return;
        };
        tracing::warn!(namespace = %pod.namespace, pod = %pod.name, error = %error.message, "cannot bind");
        // What was counted for it is free again.
        self.queue.retry(|_| true);
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = (BACKOFF.0 * 2_u32.saturating_pow(*failures)).min(BACKOFF.1);
        *failures = failures.saturating_add(1).min(16);
        self.writes.spawn(async move {
            tokio::time::sleep(wait).await;
            Done::Retry(key)
        });
    }

    fn try_again(&mut self, key: &str) {
        if let Some(pod) = self.cluster.pod(key) {
            admit(pod, &mut self.queue, &mut self.writes, &self.writer);
        }
    }
}

/// Lists everything and watches from there on. Gives the pods that are listed.
fn list(store: &Store, cluster: &mut Cluster) -> (Watches, Vec<Arc<Pod>>) {
    let (namespaces, namespace_watch) = store.watch_from_now("namespaces/");
    for object in &namespaces.objects {
        cluster.set_namespace(object.name(), &object.value());
    }
    let (nodes, node_watch) = store.watch_from_now("nodes/");
    for object in &nodes.objects {
        cluster.set_node(object.name(), &object.value());
    }
    let (pods, pod_watch) = store.watch_from_now("pods/");
    let listed: Vec<Arc<Pod>> = pods
        .objects
        .iter()
        .map(|object| cluster.set_pod(parse(object)))
        .collect();
    // Pods that were assumed and are gone.
    for key in cluster.assumed() {
        if !listed.iter().any(|pod| pod.key == key) {
            cluster.remove_pod(&key);
        }
    }
    let watches = Watches {
        pods: pod_watch,
        nodes: node_watch,
        namespaces: namespace_watch,
    };
    (watches, listed)
}

fn parse(object: &Object) -> Pod {
    Pod::parse(object.key.clone(), &object.value())
}

/// Queues a pod that waits for a node; one with gates is only told that it waits for those.
fn admit(pod: &Arc<Pod>, queue: &mut Queue, writes: &mut JoinSet<Done>, writer: &Writer) {
    if !pod.is_waiting() {
        return;
    }
    if !pod.gated {
        queue.push(pod);
        return;
    }
    let gated = Unscheduled::gated();
    if !gated.is_known(pod) {
        let (pod, writer) = (pod.clone(), writer.clone());
        writes.spawn(async move { writer.explain(&pod, &gated, false).await });
    }
}

/// Writes what was decided.
#[derive(Clone)]
struct Writer {
    registry: Registry,
    context: Arc<Context>,
    instance: Arc<str>,
    pods: Option<&'static ResourceDef>,
    events: Option<&'static ResourceDef>,
}

impl Writer {
    fn new(registry: Registry) -> Self {
        let host = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into());
        Self {
            registry,
            context: Arc::new(Context::system("system:kube-scheduler")),
            instance: format!("{SCHEDULER_NAME}-{host}").into(),
            pods: table().by_plural("", "v1", "pods"),
            events: table().by_plural("events.k8s.io", "v1", "events"),
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Done {
        let binding = report::binding(pod, node);
        let bound = self
            .registry
            .bind(&self.context, &pod.namespace, &pod.name, &binding)
            .await;
        if bound.is_ok() {
            let note = format!(
                "Successfully assigned {}/{} to {node}",
                pod.namespace, pod.name
            );
            self.tell(pod, Outcome::Scheduled, &note).await;
        }
        Done::Bound(pod.key.clone(), bound.map(|_| ()))
    }

    /// Notes on the pod why it has no node, and tells people, where it is news.
    async fn explain(&self, pod: &Pod, unscheduled: &Unscheduled, tell: bool) -> Done {
        if let Some(pods) = self.pods {
            let written = self.registry.modify(
                &self.context,
                pods,
                &pod.namespace,
                &pod.name,
                "status",
                |current| {
                    let same = current["metadata"]["uid"] == *pod.uid;
                    if same
                        && current["spec"]["nodeName"]
                            .as_str()
                            .unwrap_or_default()
                            .is_empty()
                    {
                        unscheduled.set_condition(current, Timestamp::now());
                    }
                    Ok(())
                },
            );
            if let Err(error) = written.await {
                tracing::debug!(pod = %pod.key, error = %error.message, "cannot write the condition");
            }
        }
        if tell {
            self.tell(pod, Outcome::Failed, &unscheduled.message).await;
        }
        Done::Told
    }

    async fn tell(&self, pod: &Pod, outcome: Outcome, note: &str) {
        let Some(events) = self.events else { return };
        let event = report::event(pod, outcome, note, &self.instance, Timestamp::now());
        let created = self
            .registry
            .create(&self.context, events, &pod.namespace, event);
        if let Err(error) = created.await {
            tracing::debug!(pod = %pod.key, error = %error.message, "cannot write the event");
        }
    }
}
