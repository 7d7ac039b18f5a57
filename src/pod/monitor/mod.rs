//! One task that knows what the node's containers use, and acts where a limit is crossed.
//!
//! | in | from |
//! |---|---|
//! | [`Watched`], as long as its [`Guard`] lives | workers, an attempt that runs each |
//! | requests for a [`Sample`] | the kubelet API, the node's eviction |
//! | `watch` of [`Placement`] | the manager: cores |
//!
//! | out | to |
//! |---|---|
//! | kills for memory | shims, which record the cause |
//! | [`Verdict`] | the manager: a pod that outgrew its storage |
//!
//! Nothing is looked at unless somebody asks or a container has a limit. All containers are looked
//! at in one pass over `/proc`, away from the tasks that must not wait, and the pause after it grows
//! with what it cost: a hundredth of a core where all is well, a twentieth where a container has
//! come near its limit.

mod look;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::resources::{Facts, Placement, amounts::StorageLimits};
use crate::container::{
    Handle, ProcessId, Root,
    stats::{Meter, Usage, disk::DiskUsage, pass::Shim},
};
use look::{Look, Looked, Seen};

/// How often storage is measured where a pod has a limit of it; a walk may be long on a network
/// file system, so that the pause is never less than a hundred walks.
const STORAGE_PERIOD: Duration = Duration::from_secs(10);
/// The grace of an eviction for storage (a kubelet's `immediateEvictionGracePeriodSeconds`).
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// An attempt that runs.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) facts: Arc<Facts>,
    pub(crate) container: Arc<str>,
    pub(crate) main: ProcessId,
    pub(crate) started_at: Timestamp,
    /// Bytes of memory.
    pub(crate) memory_limit: Option<u64>,
    /// Its processes are not below a shim that is seen from here: the shim is asked.
    pub(crate) elsewhere: bool,
    pub(crate) handle: Handle,
}

/// What one container uses.
#[derive(Clone, Debug)]
pub struct ContainerUse {
    /// Its pod.
    pub facts: Arc<Facts>,
    /// Its name.
    pub container: Arc<str>,
    /// When the running attempt started.
    pub started_at: Timestamp,
    /// Nanoseconds of CPU since then; at least 1, and never less than before.
    pub cpu: u64,
    /// Nanoseconds of CPU a second, lately; none before a second has passed between two looks.
    pub rate: Option<u64>,
    /// Its memory and processes.
    pub usage: Usage,
}

/// Files of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDisk {
    /// All of them: directories of containers, volumes, logs, records.
    pub total: DiskUsage,
    /// By container: its directory, and its logs with their records.
    pub containers: BTreeMap<String, (DiskUsage, DiskUsage)>,
}

/// What all of them use at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub taken_at: Timestamp,
    /// Containers that run, in the order of namespace, pod and start.
    pub containers: Vec<ContainerUse>,
    /// Nanoseconds of CPU by UID of the pod, of all that ran in it, and never less than before.
    pub pods: HashMap<String, u64>,
    /// Files by UID of the pod, where they were asked for.
    pub disks: HashMap<String, PodDisk>,
}

/// A pod has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// UID of the pod.
    pub uid: String,
    /// `Evicted`, `OutOfcpu`, …
    pub reason: String,
    /// The kubelet's words.
    pub message: String,
    /// Reason of the condition `DisruptionTarget`, where the pod is to have it.
    pub disruption: Option<&'static str>,
    /// How long its processes may take.
    pub grace: Duration,
}

#[derive(Debug)]
enum Order {
    Watch(u64, Box<Watched>),
    Unwatch(u64),
    Sample {
        disks: bool,
        reply: oneshot::Sender<Arc<Sample>>,
    },
}

/// The way to the task; cheap to clone.
#[derive(Clone, Debug)]
pub struct Monitor {
    orders: mpsc::UnboundedSender<Order>,
    next: Arc<AtomicU64>,
}

/// As long as it lives its attempt is watched.
#[derive(Debug)]
pub(crate) struct Guard {
    id: u64,
    orders: mpsc::UnboundedSender<Order>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A monitor that is gone watches nothing.
        let _ = self.orders.send(Order::Unwatch(self.id));
    }
}

impl Monitor {
    /// The way to a monitor, and the monitor; it ends when every way to it is gone.
    pub(crate) fn new(
        root: Root,
        placement: watch::Receiver<Arc<Placement>>,
        verdicts: mpsc::Sender<Verdict>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (orders, ordered) = mpsc::unbounded_channel();
        let task = Task {
            root,
            placement,
            verdicts,
            entries: HashMap::new(),
            waiting: Vec::new(),
            looking: JoinSet::new(),
            measuring: JoinSet::new(),
            kills: JoinSet::new(),
            look_at: None,
            measure_at: None,
            disks: HashMap::new(),
            sentenced: HashSet::new(),
            ended: HashMap::new(),
        };
        let next = Arc::new(AtomicU64::new(0));
        (Self { orders, next }, task.run(ordered))
    }

    /// Watches an attempt until the guard goes.
    pub(crate) fn watch(&self, watched: Watched) -> Guard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let _ = self.orders.send(Order::Watch(id, Box::new(watched)));
        Guard {
            id,
            orders: self.orders.clone(),
        }
    }

    /// What containers use now, looked at after this was asked; with `disks`, what their files take.
    /// None once the agent ends.
    pub async fn sample(&self, disks: bool) -> Option<Arc<Sample>> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Sample { disks, reply }).ok()?;
        answer.await.ok()
    }
}

struct Entry {
    watched: Watched,
    shim: Option<Shim>,
    meter: Meter,
    usage: Option<Usage>,
    /// CPU at an earlier look, for the rate.
    earlier: Option<(Instant, u64)>,
    rate: Option<u64>,
    /// Cores that its processes were moved to.
    cores: Option<Vec<usize>>,
    /// When its exact memory may be asked for again.
    exact_after: Option<Instant>,
    killed: bool,
}

struct Task {
    root: Root,
    placement: watch::Receiver<Arc<Placement>>,
    verdicts: mpsc::Sender<Verdict>,
    entries: HashMap<u64, Entry>,
    waiting: Vec<(bool, oneshot::Sender<Arc<Sample>>)>,
    looking: JoinSet<Looked>,
    measuring: JoinSet<(Duration, HashMap<String, PodDisk>)>,
    kills: JoinSet<()>,
    look_at: Option<Instant>,
    measure_at: Option<Instant>,
    disks: HashMap<String, PodDisk>,
    /// Pods that were told to end, so that they are told once.
    sentenced: HashSet<String>,
    /// CPU of ended attempts, as long as their pod has a worker.
    ended: HashMap<String, (Weak<Facts>, u64)>,
}

impl Task {
    async fn run(mut self, mut ordered: mpsc::UnboundedReceiver<Order>) {
        loop {
            // What is under way already begins again when it has come back.
            let look_at = self.look_at.filter(|_| self.looking.is_empty());
            let measure_at = self.measure_at.filter(|_| self.measuring.is_empty());
            let wake = look_at.into_iter().chain(measure_at).min();
            tokio::select! {
                // Cancel-safe per docs on `recv`.
                order = ordered.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
                // Cancel-safe per docs on `join_next`, for each of the three.
                Some(looked) = self.looking.join_next() => match looked {
                    Ok(looked) => self.looked(looked),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(measured) = self.measuring.join_next() => match measured {
                    Ok((cost, disks)) => self.measured(cost, disks),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(_) = self.kills.join_next() => {}
                // Cancel-safe per docs on `changed`.
                Ok(()) = self.placement.changed() => {
                    self.placement.borrow_and_update();
                    if !self.entries.is_empty() {
                        self.look_at = Some(Instant::now());
                    }
                }
                // Cancel-safe: made anew each time.
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
            self.begin();
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Watch(id, watched) => {
                let now = Instant::now();
                if watched.memory_limit.is_some() {
                    self.look_at = Some(now);
                }
                if !watched.facts.storage.is_empty() && self.measure_at.is_none() {
                    self.measure_at = Some(now);
                }
                let pinned = self.placement.borrow();
                let pinned = pinned.cores(&watched.facts.uid, &watched.container);
                if pinned.is_some() {
                    self.look_at = Some(now);
                }
                let entry = Entry {
                    watched: *watched,
                    shim: None,
                    meter: Meter::default(),
                    usage: None,
                    earlier: None,
                    rate: None,
                    cores: None,
                    exact_after: None,
                    killed: false,
                };
                self.entries.insert(id, entry);
            }
            Order::Unwatch(id) => {
                if let Some(gone) = self.entries.remove(&id) {
                    let facts = &gone.watched.facts;
                    let uid = &facts.uid;
                    self.ended.retain(|_, (pod, _)| pod.strong_count() > 0);
                    let ended = self.ended.entry(uid.clone());
                    let (_, cpu) = ended.or_insert_with(|| (Arc::downgrade(facts), 0));
                    *cpu = cpu.saturating_add(gone.meter.shown());
                    let left = self.entries.values().any(|it| it.watched.facts.uid == *uid);
                    if !left {
                        self.sentenced.remove(uid);
                        self.disks.remove(uid);
                    }
                }
            }
            Order::Sample { disks, reply } => self.waiting.push((disks, reply)),
        }
    }

    /// Begins what is due, one of a kind at a time.
    fn begin(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let wanted = |with_disks: bool| self.waiting.iter().any(|(disks, _)| *disks == with_disks);
        if self.measuring.is_empty() && (due(self.measure_at) || wanted(true)) {
            self.measure_at = None;
            let root = self.root.clone();
            let pods = self.pods();
            self.measuring
                .spawn_blocking(move || look::measure(&root, &pods));
        }
        if self.looking.is_empty() && (due(self.look_at) || wanted(false)) {
            self.look();
        }
    }

    fn pods(&self) -> Vec<String> {
        let mut pods: Vec<String> = self
            .entries
            .values()
            .map(|it| it.watched.facts.uid.clone())
            .collect();
        pods.sort_unstable();
        pods.dedup();
        pods
    }

    fn look(&mut self) {
        self.look_at = None;
        let now = Instant::now();
        let placement = self.placement.borrow().clone();
        let mut asked = JoinSet::new();
        for (id, entry) in self.entries.iter().filter(|(_, it)| it.watched.elsewhere) {
            let may_be_exact = entry.exact_after.is_none_or(|at| at <= now) && !entry.killed;
            let limit = entry.watched.memory_limit.filter(|_| may_be_exact);
            let (id, handle) = (*id, entry.watched.handle.clone());
            asked.spawn(async move { (id, look::ask(&handle, limit).await) });
        }
        let here = self
            .entries
            .iter_mut()
            .filter(|(_, it)| !it.watched.elsewhere);
        let looks = here.map(|(id, entry)| {
            let watched = &entry.watched;
            let wanted = placement.cores(&watched.facts.uid, &watched.container);
            let moved = wanted.filter(|it| entry.cores.as_deref() != Some(*it));
            let cores = moved.map(<[usize]>::to_vec);
            if cores.is_some() {
                entry.cores.clone_from(&cores);
            }
            Look {
                id: *id,
                main: watched.main.clone(),
                shim: entry.shim,
                limit: watched.memory_limit.filter(|_| !entry.killed),
                may_be_exact: entry.exact_after.is_none_or(|at| at <= now),
                cores,
            }
        });
        let looks: Vec<_> = looks.collect();
        let answers = std::mem::take(&mut self.waiting);
        let (with_disks, without) = answers.into_iter().partition(|(disks, _)| *disks);
        self.waiting = with_disks;
        let replies = without.into_iter().map(|it| it.1).collect();
        if asked.is_empty() {
            self.looking
                .spawn_blocking(move || look::look(looks, replies));
        } else {
            self.looking.spawn(look::both(looks, asked, replies));
        }
    }

    fn looked(&mut self, looked: Looked) {
        let Looked {
            taken_at,
            cost,
            seen,
            replies,
        } = looked;
        let mut nearest: Option<f64> = None;
        for Seen {
            id,
            shim,
            usage,
            exact,
        } in seen
        {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.shim = shim.or(entry.shim);
            if let Some(usage) = usage {
                let nanos = u64::try_from(usage.cpu.as_nanos()).unwrap_or(u64::MAX);
                let cpu = entry.meter.record(nanos);
                entry.usage = Some(usage);
                let now = Instant::now();
                let (since, before) = *entry.earlier.get_or_insert((now, cpu));
                let passed = now.duration_since(since);
                if passed >= Duration::from_secs(1) {
                    entry.rate = Some(((cpu - before) as f64 / passed.as_secs_f64()) as u64);
                    entry.earlier = Some((now, cpu));
                }
            }
            let Some(limit) = entry.watched.memory_limit.filter(|_| !entry.killed) else {
                continue;
            };
            if let Some((bytes, cost)) = exact {
                entry.exact_after = Some(Instant::now() + cost * 50);
                if bytes > limit {
                    entry.killed = true;
                    let handle = entry.watched.handle.clone();
                    tracing::info!(
                        pod = entry.watched.facts.name,
                        namespace = entry.watched.facts.namespace,
                        container = &*entry.watched.container,
                        bytes,
                        limit,
                        "a container is over its memory limit and is killed"
                    );
                    self.kills.spawn(async move {
                        if let Err(error) = handle.kill_for_memory().await {
                            tracing::debug!(%error, "a container over its memory limit was not killed");
                        }
                    });
                    continue;
                }
            }
            let share = entry
                .usage
                .map_or(0.0, |it| it.rss as f64 / limit.max(1) as f64);
            nearest = Some(nearest.unwrap_or(0.0).max(share));
        }
        self.answer(taken_at, replies);
        if let Some(nearest) = nearest {
            let next = Instant::now() + pause(cost, nearest);
            self.look_at = Some(self.look_at.map_or(next, |at| at.min(next)));
        }
    }

    fn measured(&mut self, cost: Duration, disks: HashMap<String, PodDisk>) {
        self.disks = disks;
        let mut limits: HashMap<&str, &Arc<StorageLimits>> = HashMap::new();
        for entry in self.entries.values() {
            let facts = &entry.watched.facts;
            if !facts.storage.is_empty() {
                limits.insert(&facts.uid, &facts.storage);
            }
        }
        for (uid, limits) in &limits {
            let over = self.disks.get(*uid).and_then(|disk| outgrown(disk, limits));
            let Some(message) = over.filter(|_| !self.sentenced.contains(*uid)) else {
                continue;
            };
            let verdict = Verdict {
                uid: (*uid).to_owned(),
                reason: "Evicted".to_owned(),
                message,
                disruption: None,
                grace: EVICTION_GRACE,
            };
            // Told again after the next walk where the manager is behind.
            if self.verdicts.try_send(verdict).is_ok() {
                self.sentenced.insert((*uid).to_owned());
            }
        }
        if !limits.is_empty() {
            self.measure_at = Some(Instant::now() + STORAGE_PERIOD.max(cost * 100));
        }
        // Those who want both are answered after the next look.
        for (disks, _) in &mut self.waiting {
            *disks = false;
        }
    }

    fn answer(&self, taken_at: Timestamp, replies: Vec<oneshot::Sender<Arc<Sample>>>) {
        if replies.is_empty() {
            return;
        }
        let mut containers: Vec<ContainerUse> = self
            .entries
            .values()
            .filter_map(|entry| {
                Some(ContainerUse {
                    facts: entry.watched.facts.clone(),
                    container: entry.watched.container.clone(),
                    started_at: entry.watched.started_at,
                    cpu: entry.meter.shown(),
                    rate: entry.rate,
                    usage: entry.usage?,
                })
            })
            .collect();
        containers.sort_by(|a, b| {
            fn key(it: &ContainerUse) -> (&str, &str, &str, Timestamp) {
                let facts = &it.facts;
                (&facts.namespace, &facts.name, &facts.uid, it.started_at)
            }
            key(a).cmp(&key(b))
        });
        let mut pods: HashMap<String, u64> = HashMap::new();
        for container in &containers {
            let cpu = pods.entry(container.facts.uid.clone()).or_insert_with(|| {
                let ended = self.ended.get(&container.facts.uid);
                ended.map_or(0, |(_, cpu)| *cpu)
            });
            *cpu = cpu.saturating_add(container.cpu);
        }
        let sample = Arc::new(Sample {
            taken_at,
            containers,
            pods,
            disks: self.disks.clone(),
        });
        for reply in replies {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(sample.clone());
        }
    }
}

/// The pause after a pass that took `cost`; `nearest` is the largest share of a limit in use.
fn pause(cost: Duration, nearest: f64) -> Duration {
    if nearest > 0.5 {
        (cost * 20).clamp(Duration::from_millis(50), Duration::from_secs(1))
    } else {
        (cost * 100).clamp(Duration::from_millis(500), Duration::from_secs(5))
    }
}

/// Which limit of storage a pod has outgrown, in the kubelet's words.
fn outgrown(disk: &PodDisk, limits: &StorageLimits) -> Option<String> {
    if let Some(limit) = limits.pod.filter(|limit| disk.total.bytes > *limit) {
        let limit = binary(limit);
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    limits.containers.iter().find_map(|(name, (limit, text))| {
        let (files, logs) = disk.containers.get(name)?;
        (files.bytes + logs.bytes > *limit).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit {text:?}. ")
        })
    })
}

/// Bytes as the API prints them.
pub fn binary(bytes: u64) -> String {
    let suffixes = [
        ("Ei", 60),
        ("Pi", 50),
        ("Ti", 40),
        ("Gi", 30),
        ("Mi", 20),
        ("Ki", 10),
    ];
    let whole = |shift: &u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match suffixes.iter().find(|(_, shift)| whole(shift)) {
        Some((suffix, shift)) => format!("{}{suffix}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_faster_near_a_limit_and_cost_little() {
        let millis = Duration::from_millis;
        assert_eq!(pause(millis(10), 0.1), millis(1000));
        assert_eq!(pause(millis(10), 0.9), millis(200));
        assert_eq!(pause(millis(0), 0.9), millis(50));
        assert_eq!(pause(millis(900), 0.0), millis(5000));
    }

    #[test]
    fn a_pod_that_outgrew_its_storage_is_told_which_limit() {
        let bytes = |bytes| DiskUsage { bytes, inodes: 1 };
        let disk = PodDisk {
            total: bytes(3000),
            containers: BTreeMap::from([("c".to_owned(), (bytes(900), bytes(200)))]),
        };
        let limits = |container: u64, pod| StorageLimits {
            containers: BTreeMap::from([("c".to_owned(), (container, "1k".to_owned()))]),
            pod: Some(pod),
        };
        assert_eq!(outgrown(&disk, &limits(1100, 3000)), None);
        assert_eq!(
            outgrown(&disk, &limits(1000, 3000)).as_deref(),
            Some("Container c exceeded its local ephemeral storage limit \"1k\". ")
        );
        assert_eq!(
            outgrown(&disk, &limits(1000, 2048)).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 2Ki. ")
        );
    }

    #[test]
    fn bytes_are_printed_as_the_api_does() {
        assert_eq!(binary(1 << 30), "1Gi");
        assert_eq!(binary(1536 << 10), "1536Ki");
        assert_eq!(binary(1000), "1000");
        assert_eq!(binary(0), "0");
    }
}
