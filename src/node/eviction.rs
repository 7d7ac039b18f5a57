//! Pods go where the node is short of something, the worst first, one at a time, as a kubelet does.
//!
//! Ranking and words are a kubelet's (`pkg/kubelet/eviction`): first those that use more than they
//! asked for, then by priority, then by how much more they use.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::pressure::{Crossed, Held, Left, Pressure, Signal, Thresholds, pressure};
use super::usage::NodeMeter;
use crate::pod::monitor::{Monitor, Sample, Verdict, binary};
use crate::pod::resources::Facts;

/// How often it is looked (a kubelet's `monitoringInterval`).
const PERIOD: Duration = Duration::from_secs(10);
/// After an eviction its pod is given this long to be gone before another goes.
const SETTLE: Duration = Duration::from_secs(20);
/// The grace of an eviction (a kubelet's `immediateEvictionGracePeriodSeconds`).
const GRACE: Duration = Duration::from_secs(1);
/// Pods of this priority and above are the cluster's own, and stay (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// What the task works with.
pub struct Evictor {
    /// When the node is short.
    pub thresholds: Thresholds,
    /// What the node uses.
    pub meter: NodeMeter,
    /// The root of pod data.
    pub data: PathBuf,
    /// What pods use.
    pub monitor: Monitor,
    /// Where verdicts go.
    pub verdicts: mpsc::Sender<Verdict>,
    /// Where the node's conditions are published.
    pub pressure: watch::Sender<Pressure>,
    /// Asks for data of pods that are over to be removed.
    pub reclaim: mpsc::Sender<()>,
}

impl Evictor {
    /// Looks after the node until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut held = Held::default();
        let mut reclaimed = false;
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                // Cancel-safe: both only wait.
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            wait = PERIOD;
            let crossed = match self.look().await {
                Ok(crossed) => crossed,
                Err(error) => {
                    tracing::warn!(%error, "what is left of the node cannot be read");
                    continue;
                }
            };
            let now = held.report(Instant::now(), pressure(&crossed));
            self.pressure.send_if_modified(|shown| {
                let changed = *shown != now;
                *shown = now;
                changed
            });
            let Some(worst) = crossed.first() else {
                reclaimed = false;
                continue;
            };
            let of_disk = matches!(worst.signal, Signal::Storage | Signal::Inodes);
            if of_disk && !reclaimed {
                // What nobody uses any more goes before what runs.
                reclaimed = true;
                let _ = self.reclaim.try_send(());
                continue;
            }
            let Some(sample) = self.monitor.sample(of_disk).await else {
                return;
            };
            if let Some(verdict) = choose(&uses(&sample), worst) {
                tracing::warn!(
                    uid = verdict.uid,
                    message = verdict.message,
                    "a pod is evicted"
                );
                if self.verdicts.send(verdict).await.is_err() {
                    return;
                }
                wait = SETTLE;
            }
        }
    }

    async fn look(&self) -> std::io::Result<Vec<Crossed>> {
        let (meter, data) = (self.meter.clone(), self.data.clone());
        let left = tokio::task::spawn_blocking(move || {
            let usage = meter.read()?;
            Left::of(&usage, meter.memory(), &data)
        });
        let left = left.await.map_err(std::io::Error::other)??;
        Ok(self.thresholds.crossed(&left))
    }
}

/// What a pod uses.
#[derive(Debug, Clone, Default)]
struct PodUse {
    facts: std::sync::Arc<Facts>,
    processes: u64,
    inodes: u64,
    /// Bytes of memory and of storage, by container.
    containers: Vec<(String, u64, u64)>,
    /// Bytes of storage of the pod.
    storage: u64,
}

fn uses(sample: &Sample) -> Vec<PodUse> {
    let mut pods: Vec<PodUse> = Vec::new();
    for container in &sample.containers {
        let uid = &container.facts.uid;
        let disk = sample.disks.get(uid);
        if pods.last().is_none_or(|pod| pod.facts.uid != *uid) {
            let total = disk.map(|disk| disk.total).unwrap_or_default();
            pods.push(PodUse {
                facts: container.facts.clone(),
                inodes: total.inodes,
                storage: total.bytes,
                ..PodUse::default()
            });
        }
        let Some(pod) = pods.last_mut() else { continue };
        let own = disk.and_then(|disk| disk.containers.get(&*container.container));
        let own = own.map_or(0, |(files, logs)| files.bytes + logs.bytes);
        pod.processes += u64::from(container.usage.processes);
        let name = container.container.to_string();
        pod.containers
            .push((name, container.usage.working_set, own));
    }
    pods
}

impl PodUse {
    /// What it uses of what the node is short of, and what it asked for.
    fn share(&self, signal: Signal) -> (u64, u64) {
        let (memory, storage) = self.facts.total;
        match signal {
            Signal::Memory => (self.containers.iter().map(|it| it.1).sum(), memory),
            Signal::Storage => (self.storage, storage),
            Signal::Inodes => (self.inodes, 0),
            Signal::Pids => (self.processes, 0),
        }
    }
}

/// Which pod goes, and what it is told; none where none may.
fn choose(pods: &[PodUse], crossed: &Crossed) -> Option<Verdict> {
    let worst = pods
        .iter()
        .filter(|pod| pod.facts.priority < CRITICAL)
        .max_by_key(|pod| {
            let (used, asked) = pod.share(crossed.signal);
            // Process ids have no requests, so that only priority and number count.
            let over = used > asked && crossed.signal != Signal::Pids;
            let more = i128::from(used) - i128::from(asked);
            (over, -i64::from(pod.facts.priority), more)
        })?;
    Some(Verdict {
        uid: worst.facts.uid.clone(),
        reason: "Evicted".to_owned(),
        message: message(worst, crossed),
        disruption: Some("TerminationByKubelet"),
        grace: GRACE,
    })
}

fn message(pod: &PodUse, crossed: &Crossed) -> String {
    let resource = crossed.signal.resource();
    let bytes = matches!(crossed.signal, Signal::Memory | Signal::Storage);
    let print = |amount: u64| {
        if bytes {
            quantity(amount)
        } else {
            amount.to_string()
        }
    };
    let mut text = format!("The node was low on resource: {resource}. ");
    let (threshold, available) = (print(crossed.threshold), print(crossed.available));
    text.push_str(&format!(
        "Threshold quantity: {threshold}, available: {available}. "
    ));
    if !bytes {
        return text;
    }
    for (name, memory, storage) in &pod.containers {
        let asked = pod.facts.requests.get(name).copied().unwrap_or_default();
        let (used, asked) = match crossed.signal {
            Signal::Memory => (*memory, asked.0),
            _ => (*storage, asked.1),
        };
        if used > asked {
            let (used, asked) = (quantity(used), quantity(asked));
            text.push_str(&format!(
                "Container {name} was using {used}, request is {asked}, has larger consumption of {resource}. "
            ));
        }
    }
    text
}

/// Bytes in whole kibibytes, as usage is told.
fn quantity(bytes: u64) -> String {
    binary(if bytes >= 1024 {
        bytes / 1024 * 1024
    } else {
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn pod(name: &str, priority: i32, used: u64, asked: u64) -> PodUse {
        PodUse {
            facts: Arc::new(Facts {
                uid: name.to_owned(),
                priority,
                requests: BTreeMap::from([("c".to_owned(), (asked, asked))]),
                total: (asked, asked),
                ..Facts::default()
            }),
            processes: used,
            inodes: used,
            containers: vec![("c".to_owned(), used, used)],
            storage: used,
        }
    }

    const MEMORY: Crossed = Crossed {
        signal: Signal::Memory,
        threshold: 100 << 20,
        available: 5 << 10,
    };

    fn first(pods: &[PodUse], crossed: &Crossed) -> Option<String> {
        choose(pods, crossed).map(|it| it.uid)
    }

    #[test]
    fn who_uses_more_than_asked_goes_first_then_by_priority_then_by_excess() {
        let modest = pod("modest", 0, 500, 1000);
        let greedy = pod("greedy", 10, 600, 0);
        let greedier = pod("greedier", 10, 700, 0);
        let important = pod("important", 20, 9000, 0);
        let critical = pod("critical", CRITICAL, 90_000, 0);
        let all = [
            modest.clone(),
            greedy,
            greedier,
            important,
            critical.clone(),
        ];
        assert_eq!(first(&all, &MEMORY).as_deref(), Some("greedier"));
        assert_eq!(
            first(&[modest, critical.clone()], &MEMORY).as_deref(),
            Some("modest")
        );
        assert_eq!(first(&[critical], &MEMORY), None);
        let pids = Crossed {
            signal: Signal::Pids,
            threshold: 10,
            available: 5,
        };
        let few = pod("few", 0, 3, 0);
        let many = pod("many", 1, 30, 0);
        assert_eq!(
            first(&[few, many], &pids).as_deref(),
            Some("few"),
            "priority first"
        );
    }

    #[test]
    fn the_words_are_a_kubelets() {
        let verdict = choose(&[pod("p", 0, 3 << 20, 1 << 20)], &MEMORY).expect("one goes");
        assert_eq!(
            verdict.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 5Ki. Container c was using 3Mi, request is 1Mi, has larger consumption of memory. "
        );
        assert_eq!(verdict.reason, "Evicted");
        assert_eq!(verdict.disruption, Some("TerminationByKubelet"));
    }

    proptest! {
        #[test]
        fn nobody_within_its_request_goes_before_one_beyond(
            all in prop::collection::vec((0..5_i32, 0..100_u64, 0..100_u64), 1..10),
        ) {
            let pods: Vec<PodUse> = all
                .iter()
                .enumerate()
                .map(|(n, (priority, used, asked))| pod(&n.to_string(), *priority, *used, *asked))
                .collect();
            let gone: usize = first(&pods, &MEMORY).expect("one").parse().expect("a number");
            let over = |(_, used, asked): &(i32, u64, u64)| used > asked;
            if all.iter().any(over) {
                prop_assert!(over(&all[gone]));
                let least = all.iter().filter(|it| over(it)).map(|it| it.0).min();
                prop_assert_eq!(Some(all[gone].0), least);
            }
        }
    }
}
