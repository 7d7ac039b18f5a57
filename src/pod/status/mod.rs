//! A pod's status, derived from the machine's state.
//!
//! Nothing here is stored: what the API should hold is computed from the state, the
//! object and what was last derived (for transition times), and written when it differs.

mod container;
mod documented;
mod patch;
#[cfg(test)]
mod tests;

pub use patch::patch;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    Host,
    compat::Compat,
    machine::{Container, ContainerPlan, Ending, Role, State, Terminal, Volumes},
};

/// Condition types that this node writes. All others belong to somebody else.
pub const OWN_CONDITIONS: [&str; 5] = [
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
];

/// Written by this node where it ends the pod itself, by others where they do.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// What a kubelet says of a pod that ended with its node.
const SHUT_DOWN: &str = "Pod was terminated in response to imminent node shutdown.";

/// Derives the status. `earlier` is the last one (ours, or the API's when the agent
/// has just started) and gives `startTime` and the transition times.
pub fn derive(
    state: &State,
    pod: &Pod,
    host: &Host,
    earlier: &PodStatus,
    now: Timestamp,
) -> PodStatus {
    let address = host.address.to_string();
    let phase = phase(state);
    let start_time = earlier.start_time.clone().or(Some(Time(now)));
    let images = container::images(pod);
    let statuses = |list: &str| {
        let mut statuses: Vec<_> = all(state)
            .filter(|(plan, _)| plan.list() == list)
            .map(|(plan, it)| container::status(state, plan, it, images.get(&*plan.name)))
            .collect();
        // Init containers stay in the order of the spec, as a kubelet leaves them.
        if list != "initContainers" {
            statuses.sort_by(|a, b| a.name.cmp(&b.name));
        }
        (!statuses.is_empty()).then_some(statuses)
    };
    let (reason, message) = match (phase, state.failure(), state.ending()) {
        ("Failed", Some(failure), _) => (
            Some(failure.reason.to_string()),
            Some(failure.message.clone()),
        ),
        ("Failed", None, Some(Ending::NodeShutdown)) => {
            (Some("Terminated".to_owned()), Some(SHUT_DOWN.to_owned()))
        }
        _ => (None, None),
    };
    let documented = Compat::of(pod, host.compat).documented();
    let generation = pod.metadata.generation;
    let mut conditions = if documented {
        documented::conditions(state, phase, start_time.as_ref(), generation)
    } else {
        conditions(state, pod, phase, earlier, now)
    };
    let shut_down = (phase == "Failed" && state.ending() == Some(Ending::NodeShutdown))
        .then_some(("TerminationByKubelet", SHUT_DOWN));
    if let Some((reason, message)) = state.disruption().or(shut_down) {
        let truth = Truth {
            is: true,
            reason: Some(reason),
            message: Some(message.to_owned()),
        };
        conditions.push(condition(
            DISRUPTION_TARGET,
            truth,
            generation,
            earlier,
            now,
        ));
    }
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        start_time,
        host_ip: Some(address.clone()),
        host_ips: Some(vec![HostIP {
            ip: address.clone(),
        }]),
        pod_ip: Some(address.clone()),
        pod_ips: Some(vec![PodIP { ip: address }]),
        init_container_statuses: statuses("initContainers"),
        container_statuses: statuses("containers"),
        ephemeral_container_statuses: statuses("ephemeralContainers"),
        conditions: Some(conditions),
        observed_generation: generation,
        ..PodStatus::default()
    };
    if documented {
        documented::start_times(&mut status);
    }
    status
}

/// Fills in what tells the content of each container's image: `known` by container, else as `earlier` has it for the
/// same image.
pub fn know_images(
    status: &mut PodStatus,
    known: &[(std::sync::Arc<str>, Box<str>)],
    earlier: &PodStatus,
) {
    let lists = [
        (
            &mut status.init_container_statuses,
            &earlier.init_container_statuses,
        ),
        (&mut status.container_statuses, &earlier.container_statuses),
        (
            &mut status.ephemeral_container_statuses,
            &earlier.ephemeral_container_statuses,
        ),
    ];
    for (list, before) in lists {
        for it in list.iter_mut().flatten() {
            let own = known.iter().find(|(name, _)| **name == *it.name);
            let told = { before.iter().flatten() }
                .find(|old| old.name == it.name && old.image == it.image);
            it.image_id = match (own, told) {
                (Some((_, id)), _) => id.to_string(),
                (None, Some(old)) => old.image_id.clone(),
                (None, None) => continue,
            };
        }
    }
}

fn conditions(
    state: &State,
    pod: &Pod,
    phase: &str,
    earlier: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let generation = pod.metadata.generation;
    let all = [
        // Said by the scheduler where there was one; a pod may name its node itself.
        ("PodScheduled", Truth::yes(true)),
        ("PodReadyToStartContainers", ready_to_start(state)),
        ("Initialized", initialized(state, phase)),
        ("ContainersReady", containers_ready(state, phase)),
        ("Ready", ready(state, pod, phase)),
    ];
    let conditions = all.into_iter();
    conditions
        .map(|(type_, truth)| condition(type_, truth, generation, earlier, now))
        .collect()
}

/// Whether those of the conditions that are ours say the same in both.
pub fn same_conditions(ours: &PodStatus, theirs: &PodStatus) -> bool {
    let mut conditions = ours.conditions.iter().flatten();
    conditions.all(|it| {
        let mut theirs = theirs.conditions.iter().flatten();
        let found = theirs.find(|other| other.type_ == it.type_);
        found.is_some_and(|other| other.status == it.status)
    })
}

/// The terminal phase a status tells of, if it does.
pub fn terminal(status: &PodStatus) -> Option<Terminal> {
    match status.phase.as_deref() {
        Some("Succeeded") => Some(Terminal::Succeeded),
        Some("Failed") => Some(Terminal::Failed),
        _ => None,
    }
}

/// When the last container of a pod in a terminal phase ended; long ago where nobody says.
pub fn over(status: &PodStatus) -> Option<Timestamp> {
    terminal(status)?;
    let all = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    let ends = all.filter_map(|it| it.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    Some(ends.map(|it| it.0).max().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The phase, by the kubelet's rules (`getPhase`).
fn phase(state: &State) -> &'static str {
    match state.terminal() {
        Some(Terminal::Succeeded) => return "Succeeded",
        Some(Terminal::Failed) => return "Failed",
        None => {}
    }
    // A main container that never ran keeps the pod Pending, whatever the others do.
    let never_ran =
        all(state).any(|(plan, it)| plan.role == Role::Main && it.last.is_none() && !it.running());
    if never_ran || !state.initialized() {
        "Pending"
    } else {
        "Running"
    }
}

fn all(state: &State) -> impl Iterator<Item = (&ContainerPlan, &Container)> {
    state.plan().containers.iter().zip(state.containers())
}

struct Truth {
    is: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Truth {
    fn yes(is: bool) -> Self {
        Self {
            is,
            reason: None,
            message: None,
        }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self {
            is: false,
            reason: Some(reason),
            message,
        }
    }
}

fn ready_to_start(state: &State) -> Truth {
    let prepared = *state.volumes() == Volumes::Ready || state.active();
    Truth::yes(prepared && state.terminal().is_none())
}

fn initialized(state: &State, phase: &str) -> Truth {
    if phase == "Succeeded" {
        return Truth {
            reason: Some("PodCompleted"),
            ..Truth::yes(true)
        };
    }
    if state.initialized() {
        return Truth::yes(true);
    }
    let incomplete = all(state).filter(|(plan, it)| match plan.role {
        Role::Init => !it.done(),
        Role::Sidecar => !it.started,
        Role::Main | Role::Ephemeral => false,
    });
    let names: Vec<_> = incomplete.map(|(plan, _)| &*plan.name).collect();
    let message = format!("containers with incomplete status: [{}]", names.join(" "));
    Truth::no("ContainersNotInitialized", Some(message))
}

fn containers_ready(state: &State, phase: &str) -> Truth {
    match phase {
        "Succeeded" => return Truth::no("PodCompleted", None),
        "Failed" => return Truth::no("PodFailed", None),
        _ => {}
    }
    let unready = all(state)
        .filter(|(plan, it)| matches!(plan.role, Role::Sidecar | Role::Main) && !it.ready);
    let names: Vec<_> = unready.map(|(plan, _)| &*plan.name).collect();
    if names.is_empty() {
        return Truth::yes(true);
    }
    let message = format!("containers with unready status: [{}]", names.join(" "));
    Truth::no("ContainersNotReady", Some(message))
}

fn ready(state: &State, pod: &Pod, phase: &str) -> Truth {
    let containers = containers_ready(state, phase);
    if !containers.is {
        return containers;
    }
    let gates = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions = || {
        pod.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
    };
    let problems: Vec<_> = gates
        .filter_map(|gate| {
            let type_ = &gate.condition_type;
            match conditions().find(|condition| condition.type_ == *type_) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {type_:?} does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {type_:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if problems.is_empty() {
        return Truth::yes(true);
    }
    Truth::no("ReadinessGatesNotReady", Some(problems.join(", ")))
}

fn condition(
    type_: &str,
    truth: Truth,
    generation: Option<i64>,
    earlier: &PodStatus,
    now: Timestamp,
) -> PodCondition {
    let status = if truth.is { "True" } else { "False" };
    let mut all = earlier.conditions.iter().flatten();
    let since = all
        .find(|it| it.type_ == type_ && it.status == status)
        .and_then(|it| it.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: truth.reason.map(str::to_owned),
        message: truth.message,
        last_transition_time: since.or(Some(Time(now))),
        observed_generation: generation,
        ..PodCondition::default()
    }
}
