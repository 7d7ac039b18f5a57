//! The pods of this node: one worker task each, owned here and fed from one watch.
//!
//! | task | owner | in | out |
//! |---|---|---|---|
//! | manager | the agent | watch of pods, requests of the kubelet API, orders of the agent | `Desired` to workers |
//! | worker, one per pod | the manager's `JoinSet` | `Desired` | `Snapshot` |
//!
//! At the start nothing is ended before the first list is complete: a pod whose object
//! was not listed yet may well exist.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    api::{Retry, chain},
    containers,
    garbage::{self, Dead, Retention},
    kept::Kept,
    monitor::Verdict,
    orphan,
    record::Record,
    resources::{Assigned, Ledger, Placement, Rejection, affinity},
    status,
    worker::{Context, Desired, Shutdown, Snapshot, Worker},
};
use crate::{
    container::{ContainerDir, dir::DirError},
    node::walltime::{Closing, Outlook},
};

/// What others may ask of the pods; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pods {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
pub(crate) enum Request {
    Find {
        namespace: String,
        name: String,
        reply: oneshot::Sender<Option<PodView>>,
    },
    List {
        reply: oneshot::Sender<Vec<PodView>>,
    },
}

/// A pod as the kubelet API sees it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The object, with the status that this agent gives it.
    pub pod: Arc<Pod>,
    /// Its containers, init containers first.
    pub containers: Vec<ContainerView>,
}

/// A container and where its files are.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Its name in the pod.
    pub name: String,
    /// Its directories.
    pub directory: ContainerDir,
    /// The attempt that runs or ran last; none before the first start.
    pub current: Option<u32>,
    /// The attempt before it that has a log.
    pub previous: Option<u32>,
    /// Whether the current attempt runs.
    pub running: bool,
    /// Why it waits, if it does (`ContainerCreating`, `CrashLoopBackOff`, …).
    pub waiting: Option<String>,
}

impl Pods {
    /// The pod of that namespace and name, if this node has it.
    pub async fn find(&self, namespace: &str, name: &str) -> Option<PodView> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Find {
            namespace: namespace.into(),
            name: name.into(),
            reply,
        };
        self.requests.send(request).await.ok()?;
        answer.await.ok().flatten()
    }

    /// All pods of this node; empty once the agent has ended.
    pub async fn list(&self) -> Vec<PodView> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::List { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}

/// Starts the pods of a node. The future ends when `stop` says so and the workers have
/// ended, or at once when it is dropped; containers live on in both cases unless they
/// were told to end.
pub(crate) fn manage(
    context: Context,
    client: Client,
    orders: watch::Receiver<Order>,
    outlook: watch::Receiver<Outlook>,
    desk: Desk,
) -> (Pods, impl Future<Output = ()> + Send) {
    let (requests, asked) = mpsc::channel(64);
    let manager = Manager {
        context: Arc::new(context),
        entries: HashMap::new(),
        names: HashMap::new(),
        workers: JoinSet::new(),
        listing: None,
        on_disk: None,
        deferred: Vec::new(),
        orphans: HashSet::new(),
        sweeping: JoinSet::new(),
        orders,
        outlook,
        closing: None,
        desk,
    };
    (Pods { requests }, manager.run(client, asked))
}

/// Where pods are taken or turned away, and told to go.
pub(crate) struct Desk {
    /// What is left of the node.
    pub(crate) ledger: Ledger,
    /// Tells what containers were given.
    pub(crate) placement: watch::Sender<Arc<Placement>>,
    /// Pods that have to end.
    pub(crate) verdicts: mpsc::Receiver<Verdict>,
    /// How long data of pods that are over is kept.
    pub(crate) dead: Retention,
    /// Somebody needs the room of what is over.
    pub(crate) reclaim: mpsc::Receiver<()>,
    /// The labels that the node was registered with.
    pub(crate) labels: BTreeMap<String, String>,
}

/// What the agent orders of all pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// Run what the API wants.
    #[default]
    Run,
    /// End everything within this grace.
    Drain(Duration),
    /// The same, and write nothing more: another agent speaks for this node.
    Abandon(Duration),
}

struct Manager {
    context: Arc<Context>,
    entries: HashMap<Uid, Entry>,
    /// The newest pod of each name.
    names: HashMap<(String, String), Uid>,
    workers: JoinSet<Uid>,
    /// UIDs seen since a listing began.
    listing: Option<HashSet<Uid>>,
    /// Pods found on disk at the start and what they had been given, until the first listing is
    /// complete.
    on_disk: Option<HashMap<Uid, Arc<Assigned>>>,
    /// Pods of the first listing that are new: those that were here before have what they had.
    deferred: Vec<(Uid, Pod)>,
    /// Pods without an object whose processes are being ended; their worker removes their data.
    orphans: HashSet<Uid>,
    /// The removal of data under way.
    sweeping: JoinSet<Sweep>,
    orders: watch::Receiver<Order>,
    outlook: watch::Receiver<Outlook>,
    /// What the workers know of the node's end.
    closing: Option<Closing>,
    desk: Desk,
}

type Uid = Arc<str>;

/// A step of the removal of data.
enum Sweep {
    /// UIDs that have a directory.
    Listed(Retention, Vec<String>),
    Removed,
}

struct Entry {
    desired: watch::Sender<Desired>,
    snapshot: watch::Receiver<Snapshot>,
}

impl Manager {
    async fn run(mut self, client: Client, mut asked: mpsc::Receiver<Request>) {
        let Some(found) = self.of_earlier_agents().await else {
            return;
        };
        self.on_disk = Some(found);
        let node = &self.context.host.node;
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let pods = watcher(Api::<Pod>::all(client), mine).default_backoff();
        let mut pods = pin!(pods);
        self.look_ahead();
        let mut sweeps = tokio::time::interval(garbage::PERIOD);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if *self.orders.borrow() != Order::Run && self.workers.is_empty() {
                return;
            }
            tokio::select! {
                // Cancel-safe: `next` of a pinned stream.
                event = pods.next() => match event {
                    Some(Ok(event)) => self.observe(event),
                    Some(Err(error)) => tracing::warn!(error = chain(&error), "the watch of pods broke off; it is taken up again"),
                    // The watcher never ends.
                    None => return,
                },
                // Cancel-safe per docs on `recv`.
                Some(request) = asked.recv() => self.answer(request),
                Some(()) = self.desk.reclaim.recv() => self.sweep(Retention { max_count: 0, max_age: None }),
                // Cancel-safe per docs on `tick`.
                _ = sweeps.tick() => self.sweep(self.desk.dead),
                Some(swept) = self.sweeping.join_next() => match swept {
                    Ok(Sweep::Listed(policy, there)) => self.swept(policy, there),
                    Ok(Sweep::Removed) => {}
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(verdict) = self.desk.verdicts.recv() => self.sentence(verdict),
                // Cancel-safe per docs on `join_next`.
                Some(ended) = self.workers.join_next() => match ended {
                    Ok(uid) => self.forget(&uid),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                // Cancel-safe per docs on `changed`.
                Ok(()) = self.orders.changed() => self.drain(),
                Ok(()) = self.outlook.changed() => self.look_ahead(),
            }
        }
    }

    /// What is on disk. Until that can be read nothing is known of what runs, so nothing is begun and nothing is
    /// removed; none where the agent ends before.
    async fn of_earlier_agents(&mut self) -> Option<HashMap<Uid, Arc<Assigned>>> {
        let mut retry = Retry::default();
        loop {
            let root = self.context.root.clone();
            let read = move || {
                let with_record = |uid: String| {
                    let record = Record::read(&root, &uid);
                    let assigned = record.map(|it| it.assigned).unwrap_or_default();
                    (Uid::from(uid), assigned)
                };
                let found = root.pods()?.into_iter().map(with_record);
                Ok::<HashMap<_, _>, DirError>(found.collect())
            };
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(found)) => return Some(found),
                Ok(Err(error)) => {
                    let error = chain(&error);
                    tracing::error!(error, "the pods of earlier agents cannot be read");
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
            // Cancel-safe: both arms.
            tokio::select! {
                () = tokio::time::sleep(retry.failed()) => {}
                Ok(_) = self.orders.wait_for(|it| *it != Order::Run) => return None,
            }
        }
    }

    fn observe(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => {
                self.listing = Some(HashSet::new());
                // Of a listing that broke off; they come again.
                self.deferred.clear();
            }
            watcher::Event::InitApply(pod) => {
                if let Some(uid) = self.apply(pod)
                    && let Some(listing) = &mut self.listing
                {
                    listing.insert(uid);
                }
            }
            watcher::Event::InitDone => self.listed(),
            watcher::Event::Apply(pod) => {
                self.apply(pod);
            }
            watcher::Event::Delete(pod) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                if let Some(entry) = self.entries.get(uid) {
                    let pod = Kept::at_rest(&trim(pod));
                    entry.desired.send_modify(|desired| {
                        desired.pod = pod;
                        desired.removed = true;
                    });
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod) -> Option<Uid> {
        let uid = pod.metadata.uid.as_deref()?;
        if let Some((uid, entry)) = self.entries.get_key_value(uid) {
            let uid = uid.clone();
            let pod = trim(pod);
            let shown = entry.snapshot.borrow().status.clone();
            entry.desired.send_if_modified(|desired| {
                let matters = matters(&desired.pod, &pod, &shown);
                if matters {
                    desired.pod = Kept::at_rest(&pod);
                } else {
                    desired.pod.rest();
                }
                matters
            });
            return Some(uid);
        }
        let uid = Uid::from(uid);
        let first = self.on_disk.as_ref().filter(|_| self.listing.is_some());
        if first.is_some_and(|found| !found.contains_key(&uid)) {
            self.deferred.push((uid.clone(), pod));
            return Some(uid);
        }
        // Nothing new is begun by a node that goes down.
        if *self.orders.borrow() == Order::Run {
            self.begin(uid.clone(), pod);
        }
        Some(uid)
    }

    fn begin(&mut self, uid: Uid, mut pod: Pod) {
        pod.metadata.managed_fields = None;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = (text(&pod.metadata.namespace), text(&pod.metadata.name));
        self.names.insert(name, uid.clone());
        let before = self
            .on_disk
            .as_mut()
            .and_then(|found| found.remove_entry(&uid));
        let known = before.is_some();
        let verdict = self.register(&uid, &pod, before.map(|it| it.1));
        let asks = pod.spec.as_ref().filter(|spec| affinity::asks(spec));
        let stranger = verdict.is_none()
            && !known
            && asks.is_some_and(|spec| {
                !affinity::matches(spec, &self.context.host.node, &self.desk.labels)
            });
        let status = pod.status.clone().unwrap_or_default();
        let (over, status) = (status::over(&status), Kept::at_rest(&status));
        let pod = Kept::at_rest(&pod);
        let (desired, wanted) = watch::channel(Desired {
            pod: pod.clone(),
            removed: false,
            shutdown: None,
            closing: self.closing,
            verdict: verdict.map(Arc::new),
        });
        let (show, snapshot) = watch::channel(Snapshot {
            pod: pod.resting(),
            status,
            over,
            attempts: Vec::new(),
            idle: false,
        });
        self.entries
            .insert(uid.clone(), Entry { desired, snapshot });
        let context = self.context.clone();
        self.workers.spawn(async move {
            // Never closed. What an earlier agent began is looked after at once.
            let turns = context.beginnings.clone();
            let turn = if known {
                None
            } else {
                turns.acquire_owned().await.ok()
            };
            let mut worker = Worker::new(context, wanted, show, known, turn).await;
            if stranger {
                // Others may have labelled the node since.
                worker.check_node().await;
            }
            worker.run().await;
            uid
        });
    }

    /// Enters a pod into the ledger; tells where it is not taken. A pod that is over takes nothing.
    fn register(&mut self, uid: &Uid, pod: &Pod, before: Option<Arc<Assigned>>) -> Option<Verdict> {
        let over = pod.status.as_ref().and_then(status::terminal).is_some();
        if over {
            return None;
        }
        self.release_the_ended();
        let refused = match before {
            Some(assigned) => {
                self.desk
                    .ledger
                    .restore(uid, pod, Assigned::clone(&assigned));
                None
            }
            None => self.desk.ledger.admit(uid, pod).err(),
        };
        self.publish_placement();
        refused.map(|Rejection { reason, message }| Verdict {
            uid: uid.to_string(),
            reason,
            message: format!("Pod was rejected: {message}"),
            disruption: None,
            grace: Duration::ZERO,
        })
    }

    fn release_the_ended(&mut self) {
        let over = |uid: &&Uid| match self.entries.get(&**uid) {
            Some(entry) => entry.snapshot.borrow().over.is_some(),
            None => true,
        };
        let ended: Vec<Uid> = self.desk.ledger.pods().filter(over).cloned().collect();
        for uid in ended {
            self.desk.ledger.release(&uid);
        }
    }

    fn publish_placement(&self) {
        let placement = self.desk.ledger.placement();
        self.desk.placement.send_if_modified(|shown| {
            let changed = **shown != placement;
            if changed {
                *shown = Arc::new(placement);
            }
            changed
        });
    }

    /// Has data removed that nobody needs any more. Not before it is known who needs what, and not by a node that
    /// goes down, whose workers leave while their pods' logs stay.
    fn sweep(&mut self, policy: Retention) {
        let settled = self.on_disk.is_none() && *self.orders.borrow() == Order::Run;
        if settled && self.sweeping.is_empty() {
            let root = self.context.root.clone();
            self.sweeping
                .spawn_blocking(move || Sweep::Listed(policy, garbage::list(&root)));
        }
    }

    /// What was there when the look began is compared with who is known now: a pod that begins meanwhile is not in
    /// the list.
    fn swept(&mut self, policy: Retention, there: Vec<String>) {
        if *self.orders.borrow() != Order::Run {
            return;
        }
        let dead = self.entries.iter().filter_map(|(uid, entry)| {
            let snapshot = entry.snapshot.borrow();
            let ended_at = snapshot.over.filter(|_| snapshot.idle)?;
            Some(Dead {
                uid: uid.clone(),
                ended_at,
            })
        });
        let chosen = garbage::choose(dead.collect(), policy, Timestamp::now());
        let known = |uid: &str| self.entries.contains_key(uid) || self.orphans.contains(uid);
        let gone = garbage::unwanted(there, &chosen, known);
        if !gone.is_empty() {
            let root = self.context.root.clone();
            self.sweeping.spawn_blocking(move || {
                garbage::remove(&root, &gone);
                Sweep::Removed
            });
        }
    }

    fn sentence(&mut self, verdict: Verdict) {
        let Some(entry) = self.entries.get(verdict.uid.as_str()) else {
            return;
        };
        entry.desired.send_if_modified(|desired| {
            let first = desired.verdict.is_none();
            if first {
                desired.verdict = Some(Arc::new(verdict));
            }
            first
        });
    }

    /// The list is complete: what is not in it is gone.
    fn listed(&mut self) {
        let Some(listed) = self.listing.take() else {
            return;
        };
        for (uid, entry) in &self.entries {
            if !listed.contains(uid) {
                entry.desired.send_modify(|desired| desired.removed = true);
            }
        }
        let left = self.on_disk.take().unwrap_or_default();
        let mut deferred = std::mem::take(&mut self.deferred);
        deferred.sort_by(|(_, a), (_, b)| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|it| it.0);
            created(a).cmp(&created(b))
        });
        for (uid, pod) in deferred {
            if *self.orders.borrow() == Order::Run {
                self.begin(uid, pod);
            }
        }
        for uid in left.into_keys() {
            if !listed.contains(&uid) {
                let context = self.context.clone();
                self.orphans.insert(uid.clone());
                self.workers.spawn(async move {
                    orphan::end(&context, &uid).await;
                    uid
                });
            }
        }
    }

    /// Tells the workers of the end of the walltime, where that is news.
    fn look_ahead(&mut self) {
        let closing = self.outlook.borrow_and_update().closing;
        if closing == self.closing {
            return;
        }
        self.closing = closing;
        for entry in self.entries.values() {
            entry
                .desired
                .send_modify(|desired| desired.closing = closing);
        }
    }

    fn drain(&mut self) {
        let (grace, silent) = match *self.orders.borrow_and_update() {
            Order::Run => return,
            Order::Drain(grace) => (grace, false),
            Order::Abandon(grace) => (grace, true),
        };
        for entry in self.entries.values() {
            let shutdown = Some(Shutdown { grace, silent });
            entry
                .desired
                .send_modify(|desired| desired.shutdown = shutdown);
        }
    }

    fn forget(&mut self, uid: &Uid) {
        self.orphans.remove(uid);
        if self.entries.remove(uid).is_some() {
            if self.desk.ledger.release(uid) {
                self.publish_placement();
            }
            self.names.retain(|_, named| named != uid);
        }
    }

    fn answer(&self, request: Request) {
        // Whoever asked may have stopped waiting.
        match request {
            Request::Find {
                namespace,
                name,
                reply,
            } => {
                let uid = self.names.get(&(namespace, name));
                let entry = uid.and_then(|uid| self.entries.get(uid));
                let _ = reply.send(entry.and_then(|entry| self.view(entry)));
            }
            Request::List { reply } => {
                let views = self.entries.values().filter_map(|entry| self.view(entry));
                let _ = reply.send(views.collect());
            }
        }
    }

    fn view(&self, entry: &Entry) -> Option<PodView> {
        let Snapshot {
            pod,
            status,
            attempts,
            over: _,
            idle: _,
        } = entry.snapshot.borrow().clone();
        let uid = pod.metadata.uid.as_deref()?;
        let statuses = || {
            let lists = status
                .init_container_statuses
                .iter()
                .chain(&status.container_statuses)
                .chain(&status.ephemeral_container_statuses);
            lists.flatten()
        };
        let specs = containers::all(&pod).enumerate();
        let containers = specs.filter_map(|(index, (_, container))| {
            let state = statuses().find(|it| it.name == container.name);
            let state = state.and_then(|it| it.state.as_ref());
            let (current, previous) = attempts.get(index).copied().unwrap_or_default();
            Some(ContainerView {
                name: container.name.clone(),
                directory: self.context.root.container(uid, &container.name).ok()?,
                current,
                previous,
                running: state.is_some_and(|it| it.running.is_some()),
                waiting: state
                    .and_then(|it| it.waiting.as_ref())
                    .and_then(|it| it.reason.clone()),
            })
        });
        let containers = containers.collect();
        let mut object = Pod::clone(&pod.typed());
        let mut shown = PodStatus::clone(&status);
        shown.qos_class = object.status.as_ref().and_then(|it| it.qos_class.clone());
        object.status = Some(shown);
        Some(PodView {
            pod: Arc::new(object),
            containers,
        })
    }
}

/// Keeps of an object what its worker may ask for: a thousand of them are in memory.
fn trim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
    pod
}

/// Whether a worker has to look at the new object; our own status writes come back, too.
/// `shown` is the status that the worker wants to be there.
fn matters(old: &Pod, new: &Pod, shown: &PodStatus) -> bool {
    let of = |pod: &Pod| {
        let metadata = &pod.metadata;
        (
            metadata.deletion_timestamp.clone(),
            metadata.deletion_grace_period_seconds,
            metadata.generation,
            // Counted by a newer generation only where the server does so.
            containers::ephemeral_count(pod),
            pod.spec.as_ref().and_then(|it| it.active_deadline_seconds),
        )
    };
    let conditions = |pod: &Pod| -> Vec<(String, String)> {
        let all = pod
            .status
            .iter()
            .flat_map(|it| it.conditions.iter().flatten());
        all.filter(|it| !status::OWN_CONDITIONS.contains(&it.type_.as_str()))
            .map(|it| (it.type_.clone(), it.status.clone()))
            .collect()
    };
    of(old) != of(new)
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || conditions(old) != conditions(new)
        || (new.status.as_ref()).is_some_and(|status| !status::same_conditions(shown, status))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(conditions: Value) -> Pod {
        let pod = json!({"metadata": {"name": "p"}, "status": {"conditions": conditions}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn our_own_words_wake_nobody_and_anothers_do() {
        let ready = |status| json!([{"type": "Ready", "status": status}]);
        let shown = pod(ready("True")).status.unwrap();
        let matters = |old: Value, new: Value| matters(&pod(old), &pod(new), &shown);
        assert!(!matters(ready("False"), ready("True")));
        assert!(
            matters(ready("True"), ready("False")),
            "the node controller's"
        );
        assert!(matters(ready("True"), json!([])));
        let gate = |status| json!([{"type": "Ready", "status": "True"}, {"type": "example.com/g", "status": status}]);
        assert!(matters(gate("False"), gate("True")));
        assert!(!matters(gate("True"), gate("True")));
    }
}
