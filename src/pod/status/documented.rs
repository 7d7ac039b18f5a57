//! Conditions and times as virtual-kubelet-cmd's documents describe them: three
//! conditions, ready exactly while the pod runs, with the times that its autoscaling
//! chapter asks for.

use k8s_openapi::{
    api::core::v1::{PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::pod::machine::{Slot, State};

/// The conditions: `PodScheduled` and `Initialized` true since the pod's start, `Ready`
/// by the phase, since the start of the first container.
pub(super) fn conditions(
    state: &State,
    phase: &str,
    start: Option<&Time>,
    generation: Option<i64>,
) -> Vec<PodCondition> {
    let first = super::all(state).find(|(plan, _)| !plan.role.is_init());
    let first = first.and_then(|(_, it)| match &it.slot {
        Slot::Running { started_at, .. } => Some(Time(*started_at)),
        _ => it.last.as_ref()?.started_at.map(Time),
    });
    let condition = |type_: &str, is: bool, since: Option<Time>| PodCondition {
        type_: type_.to_owned(),
        status: if is { "True" } else { "False" }.to_owned(),
        last_transition_time: since,
        observed_generation: generation,
        ..PodCondition::default()
    };
    let ready_since = first.or_else(|| start.cloned());
    vec![
        condition("PodScheduled", true, start.cloned()),
        condition("Initialized", true, start.cloned()),
        condition("Ready", phase == "Running", ready_since),
    ]
}

/// What never started is documented to have started with its pod.
pub(super) fn start_times(status: &mut PodStatus) {
    let start = status.start_time.clone();
    for container in status.container_statuses.iter_mut().flatten() {
        let state = container.state.as_mut();
        if let Some(ended) = state.and_then(|state| state.terminated.as_mut())
            && ended.started_at.is_none()
        {
            ended.started_at.clone_from(&start);
        }
    }
}
