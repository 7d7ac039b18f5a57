//! What an earlier agent left: attempts on disk, and what the API was told of them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

use super::{
    Context,
    ending::{self, How},
    hooks, start,
};
use crate::{
    container::{Adopted, ContainerDir, Handle},
    pod::{
        api::chain,
        compat,
        machine::{ContainerPlan, Ended, Plan, Recovered, RecoveredRun, Role},
        orphan::until_read,
    },
};

/// Whether the API was told that something ran.
pub(super) fn ran_before(status: &PodStatus) -> bool {
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    { all }.any(ran)
}

fn ran(status: &ContainerStatus) -> bool {
    let started = |state: &Option<_>| {
        state
            .as_ref()
            .is_some_and(|it: &k8s_openapi::api::core::v1::ContainerState| {
                it.running.is_some() || it.terminated.is_some()
            })
    };
    started(&status.state) || started(&status.last_state) || status.restart_count > 0
}

/// Reads the records of a pod's containers and adopts what runs.
pub(super) async fn containers(
    context: &Context,
    pod: &Pod,
    uid: &str,
    plan: &Plan,
    status: &PodStatus,
    handles: &mut [Option<Handle>],
) -> Vec<Recovered> {
    let mut recovered = Vec::with_capacity(plan.containers.len());
    for (container, handle) in plan.containers.iter().zip(handles) {
        let on_disk = match context.root.container(uid, &container.name) {
            Ok(dir) => {
                let how = How::of(context, pod, &container.name);
                let mut found = attempts(context, &dir, how, handle).await;
                if let Some(run) = found.as_mut().and_then(|it| it.running.as_mut()) {
                    run.pre_stopped = hooks::pre_stopped(&dir, run.attempt);
                }
                found
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    uid,
                    "records of a container cannot be read"
                );
                None
            }
        };
        let mut found = on_disk.unwrap_or_else(|| from_status(container, status));
        if let Some(run) = &mut found.running {
            told(run, container, status);
        }
        recovered.push(found);
    }
    recovered
}

async fn attempts(
    context: &Context,
    dir: &ContainerDir,
    how: How,
    handle: &mut Option<Handle>,
) -> Option<Recovered> {
    let mut numbers = until_read(dir.uid(), || dir.attempts()).await;
    // The newest three: one may not have started, two are shown.
    let first = numbers.len().saturating_sub(3);
    let mut found = Recovered {
        next_attempt: 0,
        restarts: 0,
        running: None,
        ended: Vec::new(),
    };
    let mut any = false;
    for attempt in numbers.drain(first..) {
        match context.launcher.adopt(dir, attempt).await {
            Ok(Adopted::Running(adopted)) => {
                let (id, started_at) = start::identity(&adopted.status()).unwrap_or_else(|| {
                    (Arc::from(format!("vk-cmd://{attempt}")), Timestamp::now())
                });
                found.running = Some(run(attempt, id, started_at));
                *handle = Some(adopted);
            }
            Ok(Adopted::Exited(status) | Adopted::Lost(status)) => {
                let waits = ending::not_yet(context, dir, how, attempt, &status).await;
                if waits.is_some() {
                    found.next_attempt = attempt;
                    continue;
                }
                let end = ending::read(context, dir, how, attempt, &status);
                found.ended.push(end.await);
            }
            Ok(Adopted::NeverStarted) => {
                found.next_attempt = attempt;
                continue;
            }
            Ok(Adopted::Cancelled) => {
                found.next_attempt = attempt + 1;
                continue;
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    container = dir.name(),
                    attempt,
                    "not adopted yet"
                );
                found.running = Some(run(attempt, Arc::from(""), Timestamp::now()));
            }
        }
        any = true;
        found.next_attempt = attempt + 1;
        found.restarts = attempt;
    }
    any.then_some(found)
}

fn run(attempt: u32, id: Arc<str>, started_at: Timestamp) -> RecoveredRun {
    RecoveredRun {
        attempt,
        id,
        started_at,
        started: false,
        ready: false,
        pre_stopped: false,
    }
}

/// What the API was told of a running attempt: a restart of the agent makes nothing
/// unready.
fn told(run: &mut RecoveredRun, container: &ContainerPlan, status: &PodStatus) {
    let mut all = list(container, status).iter().flatten();
    let same = |it: &&ContainerStatus| {
        it.name == *container.name && it.container_id.as_deref() == Some(&*run.id)
    };
    if let Some(told) = all.find(same) {
        run.started = told.started == Some(true);
        run.ready = run.started && told.ready;
    }
}

fn list<'a>(container: &ContainerPlan, status: &'a PodStatus) -> &'a Option<Vec<ContainerStatus>> {
    match container.role {
        Role::Init | Role::Sidecar => &status.init_container_statuses,
        Role::Main => &status.container_statuses,
        Role::Ephemeral => &status.ephemeral_container_statuses,
    }
}

/// Where the disk knows nothing of a container that the API was told of, its processes
/// are out of reach: on another machine, or gone with one.
fn from_status(container: &ContainerPlan, status: &PodStatus) -> Recovered {
    let mut all = list(container, status).iter().flatten();
    let Some(told) = all.find(|it| it.name == *container.name && ran(it)) else {
        return Recovered {
            next_attempt: 0,
            restarts: 0,
            running: None,
            ended: Vec::new(),
        };
    };
    let restarts = u32::try_from(told.restart_count).unwrap_or_default();
    let terminated = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|it| it.terminated.clone())
    };
    let current = match terminated(&told.state) {
        Some(end) => Some(from_terminated(restarts, &end)),
        None => told.state.as_ref().and_then(|it| it.running.as_ref()).map(|running| {
            let mut end = unknown(
                restarts,
                "The container could not be located when its node came back. The container used to be Running",
            );
            end.started_at = running.started_at.as_ref().map(|time| time.0);
            end
        }),
    };
    let last = terminated(&told.last_state);
    let last = last.map(|end| from_terminated(restarts.saturating_sub(1), &end));
    Recovered {
        next_attempt: restarts + 1,
        restarts,
        running: None,
        ended: last.into_iter().chain(current).collect(),
    }
}

fn unknown(attempt: u32, message: &str) -> Ended {
    Ended {
        attempt,
        code: 137,
        reason: "ContainerStatusUnknown",
        message: message.to_owned(),
        started_at: None,
        finished_at: Timestamp::now(),
        id: None,
    }
}

fn from_terminated(attempt: u32, end: &ContainerStateTerminated) -> Ended {
    const REASONS: [&str; 5] = [
        "Completed",
        "Error",
        "OOMKilled",
        "StartError",
        "ContainerStatusUnknown",
    ];
    let told = end.reason.as_deref().unwrap_or_default();
    let mut all = REASONS.into_iter().chain(compat::REASONS);
    let reason = all.find(|it| *it == told);
    Ended {
        attempt,
        code: end.exit_code,
        reason: reason.unwrap_or(if end.exit_code == 0 {
            "Completed"
        } else {
            "Error"
        }),
        message: end.message.clone().unwrap_or_default(),
        started_at: end.started_at.as_ref().map(|time| time.0),
        finished_at: end
            .finished_at
            .as_ref()
            .map_or_else(Timestamp::now, |time| time.0),
        id: end.container_id.as_deref().map(Arc::from),
    }
}
