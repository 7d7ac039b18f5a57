//! The work away from the monitor's task: passes over `/proc`, walks over files.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::oneshot, task::JoinSet};

use super::{PodDisk, Sample};
use crate::container::{
    Handle, ProcessId, Root, process,
    protocol::Told,
    stats::{Pass, Usage, disk, memory, pass::Shim},
};

/// What is to be looked at.
pub(super) struct Look {
    pub(super) id: u64,
    pub(super) main: ProcessId,
    pub(super) shim: Option<Shim>,
    /// Bytes of memory.
    pub(super) limit: Option<u64>,
    /// Whether the exact memory may be asked for.
    pub(super) may_be_exact: bool,
    /// Cores to move it to.
    pub(super) cores: Option<Vec<usize>>,
}

/// What was seen of it.
pub(super) struct Seen {
    pub(super) id: u64,
    pub(super) shim: Option<Shim>,
    pub(super) usage: Option<Usage>,
    /// Exact bytes of memory, where they were asked for, and how long that took.
    pub(super) exact: Option<(u64, Duration)>,
}

pub(super) struct Looked {
    pub(super) taken_at: Timestamp,
    pub(super) cost: Duration,
    pub(super) seen: Vec<Seen>,
    pub(super) replies: Vec<oneshot::Sender<Arc<Sample>>>,
}

/// One pass. A `/proc` that cannot be listed shows nothing, and the last values stay.
pub(super) fn look(looks: Vec<Look>, replies: Vec<oneshot::Sender<Arc<Sample>>>) -> Looked {
    let begun = std::time::Instant::now();
    let pass = match Pass::take() {
        Ok(pass) => pass,
        Err(error) => {
            tracing::error!(%error, "processes cannot be looked at");
            return Looked {
                taken_at: Timestamp::now(),
                cost: begun.elapsed(),
                seen: Vec::new(),
                replies,
            };
        }
    };
    let seen = looks.iter().map(|look| one(&pass, look)).collect();
    Looked {
        taken_at: pass.taken_at(),
        cost: begun.elapsed(),
        seen,
        replies,
    }
}

fn one(pass: &Pass, look: &Look) -> Seen {
    let shim = look.shim.or_else(|| pass.shim_of(&look.main));
    let usage = shim.and_then(|shim| pass.usage(shim));
    let mut exact = None;
    // The sum of the resident sets is never less than the exact memory.
    if let (Some(limit), Some(usage), Some(shim)) = (look.limit, usage, shim)
        && usage.rss > limit
        && look.may_be_exact
    {
        let begun = std::time::Instant::now();
        let bytes = memory::exact(&pass.tree(shim), pass.page());
        exact = Some((bytes, begun.elapsed()));
    }
    if let (Some(cores), Some(shim)) = (&look.cores, shim) {
        let tree = pass.tree(shim);
        let all = std::iter::once(shim.pid()).chain(tree.iter().map(|it| it.pid));
        for pid in all {
            if let Err(error) = process::set_cores(pid, cores) {
                tracing::debug!(%error, pid, ?cores, "a process was not moved");
            }
        }
    }
    Seen {
        id: look.id,
        shim,
        usage,
        exact,
    }
}

/// What the files of pods take, and how long it took to find out.
pub(super) fn measure(root: &Root, pods: &[String]) -> (Duration, HashMap<String, PodDisk>) {
    let begun = std::time::Instant::now();
    let disks = pods.iter().map(|uid| {
        let dir = root.path().join("pods").join(uid);
        let containers = root.containers(uid).unwrap_or_default();
        let containers = containers.into_iter().filter_map(|name| {
            let container = root.container(uid, &name).ok()?;
            let files = disk::usage(&container.path());
            let logs = disk::usage(&container.records_path());
            Some((name, (files, logs)))
        });
        let disk = PodDisk {
            containers: containers.collect(),
            total: disk::usage(&dir),
        };
        (uid.clone(), disk)
    });
    let disks = disks.collect();
    (begun.elapsed(), disks)
}

/// How long a shim may take to say what its container uses. One that does not is asked again at the next look.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asks a shim; `limit` is that of memory.
pub(super) async fn ask(handle: &Handle, limit: Option<u64>) -> Option<(Told, Duration)> {
    let begun = std::time::Instant::now();
    match tokio::time::timeout(PATIENCE, handle.usage(limit)).await {
        Ok(Ok(told)) => Some((told, begun.elapsed())),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a container's usage is not known");
            None
        }
        Err(_) => None,
    }
}

/// A pass, and the answers of those that it does not show. Cancel-safe: nothing is kept.
pub(super) async fn both(
    looks: Vec<Look>,
    mut asked: JoinSet<(u64, Option<(Told, Duration)>)>,
    replies: Vec<oneshot::Sender<Arc<Sample>>>,
) -> Looked {
    let mut told = Vec::new();
    while let Some(answer) = asked.join_next().await {
        if let Ok((id, Some((Told { usage, exact }, cost)))) = answer {
            told.push(Seen {
                id,
                shim: None,
                usage: Some(usage),
                exact: exact.map(|bytes| (bytes, cost)),
            });
        }
    }
    let passed = tokio::task::spawn_blocking(move || look(looks, replies)).await;
    let mut looked = match passed {
        Ok(looked) => looked,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and nobody waits for it.
        Err(_) => std::future::pending().await,
    };
    looked.seen.extend(told);
    looked
}
