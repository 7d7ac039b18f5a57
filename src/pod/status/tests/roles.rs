//! Sidecars, probes, hooks, failures of the pod as a whole, as a status shows them.

use super::*;
use crate::pod::machine::{Failure, Hook, Probe};

fn spec(container: Value) -> Value {
    json!({"restartPolicy": "Never", "containers": [container], "initContainers": [
        {"name": "init", "image": "host", "command": ["true"]},
        {"name": "car", "image": "host", "command": ["true"], "restartPolicy": "Always"},
    ]})
}

fn plain() -> Value {
    json!({"name": "c", "image": "host", "command": ["true"]})
}

fn message(case: &Case, type_: &str) -> String {
    let mut all = case.status.conditions.iter().flatten();
    let it = all.find(|it| it.type_ == type_).unwrap();
    it.message.clone().unwrap_or_default()
}

#[test]
fn a_pod_is_pending_until_its_sidecars_have_started() {
    let mut case = Case::new(spec(plain()));
    case.step(Event::VolumesReady);
    assert_eq!(
        message(&case, "Initialized"),
        "containers with incomplete status: [init car]"
    );
    assert_eq!(
        message(&case, "ContainersReady"),
        "containers with unready status: [car c]"
    );
    case.started(0);
    case.ended(0, 0, "Completed");
    assert_eq!(
        message(&case, "Initialized"),
        "containers with incomplete status: [car]"
    );
    case.started(1);
    assert_eq!(case.condition("Initialized").0, "True");
    let status = case.json();
    assert_eq!(status["phase"], "Pending");
    let init = &status["initContainerStatuses"];
    assert_eq!(
        (&init[0]["name"], &init[0]["ready"]),
        (&json!("init"), &json!(true))
    );
    assert_eq!(init[0]["started"], false);
    assert_eq!(
        (&init[1]["ready"], &init[1]["started"]),
        (&json!(true), &json!(true))
    );
    case.started(2);
    assert_eq!(case.json()["phase"], "Running");
    assert_eq!(case.condition("Ready").0, "True");
}

#[test]
fn a_pod_whose_work_is_done_runs_until_its_sidecars_have_ended() {
    let mut case = Case::new(spec(plain()));
    case.step(Event::VolumesReady);
    case.started(0);
    case.ended(0, 0, "Completed");
    case.started(1);
    case.started(2);
    case.ended(2, 0, "Completed");
    assert_eq!(case.json()["phase"], "Running");
    assert_eq!(case.condition("Ready").1, "ContainersNotReady");
    case.ended(1, 143, "Error");
    assert_eq!(case.json()["phase"], "Succeeded");
    assert_eq!(case.condition("Ready").1, "PodCompleted");
}

#[test]
fn a_sidecar_that_is_down_makes_the_pod_unready_and_no_more() {
    let mut case = Case::new(spec(plain()));
    case.step(Event::VolumesReady);
    case.started(0);
    case.ended(0, 0, "Completed");
    case.started(1);
    case.started(2);
    case.ended(1, 1, "Error");
    let status = case.json();
    assert_eq!(status["phase"], "Running");
    assert_eq!(
        message(&case, "ContainersReady"),
        "containers with unready status: [car]"
    );
    assert_eq!(case.condition("Initialized").0, "True");
}

#[test]
fn probes_show_in_started_and_ready() {
    let mut container = plain();
    container["startupProbe"] = json!({"exec": {"command": ["true"]}});
    container["readinessProbe"] = json!({"exec": {"command": ["true"]}});
    let mut case = Case::admitted(json!({"containers": [container]}));
    case.step(Event::VolumesReady);
    case.started(0);
    let flags = |case: &Case| {
        let status = &case.json()["containerStatuses"][0];
        (status["started"] == true, status["ready"] == true)
    };
    assert_eq!(flags(&case), (false, false));
    assert_eq!(case.json()["phase"], "Running");
    let probed = |probe, healthy| Event::Probed {
        container: 0,
        attempt: 0,
        probe,
        healthy,
    };
    case.step(probed(Probe::Startup, true));
    assert_eq!(flags(&case), (true, false));
    case.step(probed(Probe::Readiness, true));
    assert_eq!(flags(&case), (true, true));
    let since = case.condition("Ready").2;
    case.step(Event::Tick);
    assert_eq!(case.condition("Ready"), ("True", "", since));
    case.step(probed(Probe::Readiness, false));
    assert_eq!(case.condition("Ready").1, "ContainersNotReady");
}

#[test]
fn a_container_waits_while_its_post_start_hook_runs() {
    let mut container = plain();
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["true"]}}});
    let mut case = Case::admitted(json!({"containers": [container]}));
    case.step(Event::VolumesReady);
    case.started(0);
    let status = case.json();
    assert_eq!(status["phase"], "Pending");
    let state = &status["containerStatuses"][0]["state"];
    assert_eq!(state["waiting"]["reason"], "ContainerCreating");
    case.step(Event::HookDone {
        container: 0,
        attempt: 0,
        hook: Hook::PostStart,
        failure: None,
    });
    let status = case.json();
    assert_eq!(status["phase"], "Running");
    assert!(status["containerStatuses"][0]["state"]["running"].is_object());
}

#[test]
fn a_post_start_hook_that_failed_is_why_its_container_waits() {
    let mut container = plain();
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["false"]}}});
    let mut case = Case::admitted(json!({"containers": [container]}));
    case.step(Event::VolumesReady);
    case.started(0);
    case.step(Event::HookDone {
        container: 0,
        attempt: 0,
        hook: Hook::PostStart,
        failure: Some("it said no".to_owned()),
    });
    let running = |case: &Case| case.json()["containerStatuses"][0]["state"]["running"].is_object();
    assert!(!running(&case), "it never counted as running");
    case.ended(0, 143, "Error");
    let status = case.json();
    let of = &status["containerStatuses"][0];
    assert_eq!(of["state"]["waiting"]["reason"], "PostStartHookError");
    assert_eq!(of["state"]["waiting"]["message"], "it said no");
    assert_eq!(of["lastState"]["terminated"]["exitCode"], 143);
}

#[test]
fn a_failure_shows_once_nothing_runs_any_more() {
    let mut case = Case::two();
    case.step(Event::VolumesReady);
    case.started(0);
    case.started(1);
    case.step(Event::Fail {
        failure: Box::new(Failure {
            reason: "Evicted".into(),
            message: "The node was low on resource: memory.".to_owned(),
            disruption: Some("TerminationByKubelet"),
            warning: true,
        }),
        grace: None,
    });
    let status = case.json();
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Running"), &Value::Null)
    );
    assert_eq!(case.condition("DisruptionTarget").1, "TerminationByKubelet");
    case.ended(0, 143, "Error");
    case.ended(1, 143, "Error");
    let status = case.json();
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Failed"), &json!("Evicted"))
    );
    assert_eq!(status["message"], "The node was low on resource: memory.");
    let sent = patch(&case.pod, &case.status);
    let sent = sent["status"]["conditions"].as_array().unwrap();
    assert!(sent.iter().any(|it| it["type"] == "DisruptionTarget"));
}
