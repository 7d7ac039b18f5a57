//! One container's status.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::pod::machine::{Container, ContainerPlan, Ended, Role, Slot, State};

/// Image by container name.
pub(super) fn images(pod: &Pod) -> BTreeMap<&str, &str> {
    let spec = pod.spec.iter();
    let all = spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        let added = spec.ephemeral_containers.iter().flatten();
        let fixed = init.chain(&spec.containers).map(|it| (&it.name, &it.image));
        fixed.chain(added.map(|it| (&it.name, &it.image)))
    });
    all.map(|(name, image)| (name.as_str(), image.as_deref().unwrap_or_default()))
        .collect()
}

pub(super) fn status(
    state: &State,
    plan: &ContainerPlan,
    container: &Container,
    image: Option<&&str>,
) -> ContainerStatus {
    let (current, last) = states(state, plan, container);
    let running = current.running.is_some();
    let id = match &container.slot {
        Slot::Running { id, .. } => Some(id),
        _ => container.last.as_ref().and_then(|last| last.id.as_ref()),
    };
    let image = image.copied().unwrap_or_default();
    ContainerStatus {
        name: plan.name.to_string(),
        image: image.to_owned(),
        image_id: String::new(),
        container_id: id.and_then(name),
        ready: match plan.role {
            Role::Init => container.done(),
            Role::Sidecar | Role::Main => container.ready,
            Role::Ephemeral => false,
        },
        started: (plan.role != Role::Ephemeral).then_some(running && container.started),
        restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
        state: Some(current),
        last_state: Some(last.unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn states(
    state: &State,
    plan: &ContainerPlan,
    container: &Container,
) -> (ContainerState, Option<ContainerState>) {
    let last = container.last.as_ref().map(terminated);
    match &container.slot {
        Slot::Running { started_at, .. }
            if !container.hooking && container.hook_failure.is_none() =>
        {
            let running = ContainerStateRunning {
                started_at: Some(Time(*started_at)),
            };
            (
                ContainerState {
                    running: Some(running),
                    ..ContainerState::default()
                },
                last,
            )
        }
        Slot::Ended {
            pause: Some((_, pause)),
            ..
        } if state.terminal().is_none() => {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(pause.as_secs()),
                plan.name,
                state.plan().label
            );
            (waiting("CrashLoopBackOff", &message), last)
        }
        Slot::Waiting {
            problem: Some(problem),
            ..
        } if state.terminal().is_none() => (waiting(problem.reason, &problem.message), last),
        Slot::Starting { .. } | Slot::Running { .. }
            if last.is_some() && container.hook_failure.is_some() =>
        {
            let said = container.hook_failure.as_deref().unwrap_or_default();
            (waiting("PostStartHookError", said), last)
        }
        // A start that is under way is shown as what it replaces.
        Slot::Ended { .. }
        | Slot::Starting { .. }
        | Slot::Running { .. }
        | Slot::Waiting { .. } => {
            let before = container.before.as_ref().map(terminated);
            match last {
                Some(last) => (last, before),
                None => (never_started(state, plan), None),
            }
        }
    }
}

fn never_started(state: &State, plan: &ContainerPlan) -> ContainerState {
    if state.terminal().is_some() && state.initialized() && plan.role == Role::Main {
        let terminated = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(
                "The container could not be located when the pod was terminated".to_owned(),
            ),
            ..ContainerStateTerminated::default()
        };
        return ContainerState {
            terminated: Some(terminated),
            ..ContainerState::default()
        };
    }
    if let Some(refusal) = &state.plan().refusal {
        return waiting(refusal.reason, &refusal.message);
    }
    let has_init = { state.plan().containers.iter() }.any(|plan| plan.role.is_init());
    waiting(
        if has_init {
            "PodInitializing"
        } else {
            "ContainerCreating"
        },
        "",
    )
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn terminated(end: &Ended) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: end.code,
        // A kubelet says it by the code alone.
        signal: None,
        reason: Some(end.reason.to_owned()),
        message: (!end.message.is_empty()).then(|| end.message.clone()),
        started_at: end.started_at.map(Time),
        finished_at: Some(Time(end.finished_at)),
        container_id: end.id.as_ref().and_then(name),
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// Empty where the process was gone before it was known.
fn name(id: &Arc<str>) -> Option<String> {
    (!id.is_empty()).then(|| id.to_string())
}

/// `10s`, `1m20s`, `5m0s`: how Go prints a duration.
fn go_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
