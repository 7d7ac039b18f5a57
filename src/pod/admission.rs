//! What of a pod this node can run, before anything is run.
//!
//! A field that asks for something not built refuses the pod: it stays Pending with
//! the field's name in its status and an event. A field that cannot hold for plain
//! processes, and whose absence changes no result, is named in one warning.
//! The structs of the API are taken apart field by field, so that a field that a
//! newer API brings must be decided on before this compiles.

mod check;
mod image;
#[cfg(test)]
mod tests;

pub use image::{Image, image};

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};

use super::{
    Host,
    compat::{self, Compat},
    containers,
    images::Means,
    machine::{ContainerPlan, Extras, Plan, Refusal, RestartPolicy, RestartRule, Role},
    signal,
};
use check::Check;
use image::image_refusal;

/// The pod's plan, and what it has to be warned about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// For the machine.
    pub plan: Arc<Plan>,
    /// Fields that cannot hold here, named with their values.
    pub warnings: Vec<String>,
}

/// Who processes here run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Looks at every field of the pod.
pub fn admit(pod: &Pod, host: &Host) -> Admitted {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut check = Check::new(host, pod);
    check.any_user = host.images == Means::Engine { users: true }
        && containers::all(pod).all(|(_, it)| matches!(image(&it), Image::Reference));
    check.spec(spec);
    check.warnings.extend(compat::unknown_annotation(pod));
    let policy = pod_policy(pod, host);
    let containers = containers::all(pod)
        .map(|(role, container)| match role {
            Role::Ephemeral => added_one(&container, host, pod),
            _ => planned(role, &container, policy, host),
        })
        .collect();
    let refusal = (!check.refused.is_empty()).then(|| config_error(check.refused.join("; ")));
    let metadata = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, namespace, uid) = (
        text(&metadata.name),
        text(&metadata.namespace),
        text(&metadata.uid),
    );
    let grace = spec.termination_grace_period_seconds.unwrap_or(30).max(0);
    let plan = Plan {
        label: format!("{name}_{namespace}({uid})"),
        containers,
        grace: Duration::from_secs(grace.unsigned_abs()),
        refusal,
    };
    Admitted {
        plan: Arc::new(plan),
        warnings: check.warnings,
    }
}

/// The ephemeral containers that were added after the first so many. One that asks for
/// what is not built is refused alone.
pub fn added(pod: &Pod, host: &Host, known: usize) -> Vec<ContainerPlan> {
    let all = containers::all(pod).filter(|(role, _)| *role == Role::Ephemeral);
    all.skip(known)
        .map(|(_, container)| added_one(&container, host, pod))
        .collect()
}

fn added_one(container: &Container, host: &Host, pod: &Pod) -> ContainerPlan {
    let mut check = Check::new(host, pod);
    check.container(
        container,
        &format!("ephemeral container {}", container.name),
    );
    let mut plan = planned(Role::Ephemeral, container, RestartPolicy::Never, host);
    if !check.refused.is_empty() {
        plan.refusal = Some(config_error(check.refused.join("; ")));
    }
    plan
}

fn planned(role: Role, container: &Container, policy: RestartPolicy, host: &Host) -> ContainerPlan {
    let own = restart_policy(container.restart_policy.as_deref());
    ContainerPlan {
        name: Arc::from(container.name.as_str()),
        role,
        restart: own.unwrap_or(policy),
        extras: extras(container),
        refusal: image_refusal(container, &host.images),
    }
}

/// The pod's own policy; the documents' semantics run everything once.
fn pod_policy(pod: &Pod, host: &Host) -> RestartPolicy {
    if Compat::of(pod, host.compat).documented() {
        return RestartPolicy::Never;
    }
    let spec = pod.spec.as_ref();
    let word = spec.and_then(|it| it.restart_policy.as_deref());
    restart_policy(word).unwrap_or_default()
}

fn extras(container: &Container) -> Option<Box<Extras>> {
    let grace = |probe: &Option<Probe>| {
        let seconds = probe.as_ref()?.termination_grace_period_seconds?;
        Some(Duration::from_secs(seconds.max(0).unsigned_abs()))
    };
    let rules = container.restart_policy_rules.iter().flatten();
    let rules = rules.filter_map(|rule| rule.exit_codes.as_ref());
    let lifecycle = container.lifecycle.as_ref();
    let extras = Extras {
        rules: rules
            .map(|codes| RestartRule {
                among: codes.operator == "In",
                codes: codes.values.clone().unwrap_or_default(),
            })
            .collect(),
        post_start: lifecycle.is_some_and(|it| it.post_start.is_some()),
        pre_stop: lifecycle.is_some_and(|it| it.pre_stop.is_some()),
        startup: container.startup_probe.is_some(),
        readiness: container.readiness_probe.is_some(),
        liveness: container.liveness_probe.is_some(),
        startup_grace: grace(&container.startup_probe),
        liveness_grace: grace(&container.liveness_probe),
        stop_signal: lifecycle
            .and_then(|it| it.stop_signal.as_deref())
            .and_then(signal::number),
    };
    (extras != Extras::default()).then(|| Box::new(extras))
}

fn restart_policy(word: Option<&str>) -> Option<RestartPolicy> {
    match word? {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

/// A pod that cannot be configured stays Pending and says why.
pub(super) fn config_error(message: String) -> Refusal {
    Refusal {
        reason: "CreateContainerConfigError",
        event: "Failed",
        message,
    }
}
