//! What all workers of a node share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{OnceCell, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    container::{Launcher, LogPolicy, Root, cgroup::Delegated},
    events::Recorder,
    pod::{
        Host,
        api::PodApi,
        images::Images,
        machine::Now,
        monitor::Monitor,
        objects::Follow,
        probe::{Client, Prober},
        resources::{Placement, not_enforced},
    },
};

/// What all workers share.
pub(crate) struct Context {
    pub(crate) api: PodApi,
    pub(crate) events: Recorder,
    /// Word of changes to config maps and secrets, and the services of the cluster.
    pub(crate) follow: Follow,
    pub(crate) root: Root,
    pub(crate) launcher: Launcher,
    pub(crate) epoch: u64,
    pub(crate) monitor: Monitor,
    /// When logs are rotated.
    pub(crate) log: LogPolicy,
    /// Cores and devices that containers were given.
    pub(crate) placement: watch::Receiver<Arc<Placement>>,
    pub(crate) host: Host,
    /// Where control groups are made.
    pub(crate) groups: Option<Delegated>,
    /// How many processes a pod has at most, where groups can hold it to that.
    pub(crate) pod_pids: Option<u64>,
    /// Looks after all probes of the node.
    pub(crate) prober: Prober,
    /// For hooks.
    pub(crate) http: Client,
    /// The site's engine, for what runs in an image.
    pub(crate) images: Option<Images>,
    pub(crate) home: Option<PathBuf>,
    pub(crate) clock: Clock,
    /// Pods that come into being at once: those that wait for their turn take little memory,
    /// and write no status that says so.
    pub(crate) beginnings: Arc<Semaphore>,
    /// Work on the disk at once: a thousand pods do not take a thousand threads.
    pub(crate) disk: Semaphore,
    /// Cancelled where a shim tells of an agent with a newer epoch.
    pub(crate) superseded: CancellationToken,
    /// Whether containers can have mount namespaces, once somebody asked; else why not.
    pub(crate) private_mounts: OnceCell<Result<(), String>>,
}

impl Context {
    /// How much work on the disk goes on at once.
    pub(crate) const DISK: usize = 8;
    /// How many pods come into being at once.
    pub(crate) const BEGINNINGS: usize = 16;

    /// Whether containers can have mount namespaces of their own; else why not.
    pub(super) async fn private_mounts(&self) -> Result<(), String> {
        let tried = self
            .private_mounts
            .get_or_init(|| self.launcher.probe_mounts());
        tried.await.clone()
    }

    /// What this node cannot hold a pod to.
    pub(super) fn not_enforced(&self, pod: &Pod) -> Vec<String> {
        let held = self.groups.as_ref().map(|it| it.controllers);
        let held = held.unwrap_or_default();
        let mut found = not_enforced(pod, held.cpu);
        if let Some(most) = self.pod_pids.filter(|_| !held.pids) {
            found.push(format!(
                "--pod-max-pids={most} (no control group was delegated that could hold it)"
            ));
        }
        found
    }

    /// Does work on the disk away from the tasks that must not wait.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        // Never closed.
        let _turn = self.disk.acquire().await;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| error.to_string())
    }
}

/// Both clocks. Monotonic time starts far from zero, so that what happened before the
/// agent started has a place on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    const OFFSET: Duration = Duration::from_secs(7 * 24 * 3600);
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            wall: Timestamp::now(),
            mono: Self::OFFSET + self.start.elapsed(),
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The monotonic time of an instant; what lies a week before the start and more is one moment.
    pub(crate) fn mono(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.start) {
            Some(after) => Self::OFFSET + after,
            None => Self::OFFSET.saturating_sub(self.start - at),
        }
    }

    pub(crate) fn instant(&self, mono: Duration) -> Instant {
        let after = mono.saturating_sub(Self::OFFSET);
        // A grace may be as long as a pod's author likes; no clock holds all of them.
        self.start + after.min(Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_grace_is_no_moment_beyond_the_clock() {
        let clock = Clock::start();
        let grace = Duration::from_secs(i64::MAX.unsigned_abs());
        let far = clock.instant(clock.now().mono.saturating_add(grace));
        assert!(far > clock.instant(clock.now().mono));
        assert_eq!(clock.instant(Duration::MAX), far);
    }
}
