use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::*;

mod hpa;
mod roles;
use crate::pod::{
    admission::admit,
    machine::{Ended, Event, Now, Slot, Waiting},
};

struct Case {
    pod: Pod,
    state: State,
    host: Host,
    second: i64,
    status: PodStatus,
}

impl Case {
    fn new(spec: Value) -> Self {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3},
            "spec": spec,
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "example.com/mine", "status": "True"},
            ]},
        }))
        .unwrap();
        let host = Host::for_tests();
        let state = State::new(admit(&pod, &host).plan);
        let status = pod.status.clone().unwrap();
        let mut case = Self {
            pod,
            state,
            host,
            second: 0,
            status,
        };
        case.step(Event::Tick);
        case
    }

    /// A pod that is run whatever admission says of it: that is not what is tested here.
    fn admitted(spec: Value) -> Self {
        let mut case = Self::new(spec);
        let mut plan = case.state.plan().clone();
        plan.refusal = None;
        case.state = State::new(Arc::new(plan));
        case.step(Event::Tick);
        case
    }

    fn two() -> Self {
        Self::new(json!({"containers": [
            {"name": "b", "image": "host", "command": ["true"]},
            {"name": "a", "image": "host", "command": ["true"]},
        ]}))
    }

    fn now(&self) -> Now {
        let wall = Timestamp::from_second(1_767_225_600 + self.second).unwrap();
        Now {
            wall,
            mono: Duration::from_secs(3600 + self.second.unsigned_abs()),
        }
    }

    fn step(&mut self, event: Event) -> &PodStatus {
        self.second += 1;
        let now = self.now();
        self.state.step(event, now);
        self.status = derive(&self.state, &self.pod, &self.host, &self.status, now.wall);
        &self.status
    }

    fn started(&mut self, container: usize) -> &PodStatus {
        let attempt = self.state.containers()[container].next_attempt;
        let (id, started_at) = (Arc::from("vk-cmd://b-7-9"), self.now().wall);
        self.step(Event::Started {
            container,
            attempt,
            id,
            started_at,
        })
    }

    fn ended(&mut self, container: usize, code: i32, reason: &'static str) -> &PodStatus {
        let Slot::Running {
            attempt,
            started_at,
            ref id,
        } = self.state.containers()[container].slot
        else {
            panic!("not running")
        };
        let end = Ended {
            attempt,
            code,
            reason,
            message: String::new(),
            started_at: Some(started_at),
            finished_at: self.now().wall,
            id: Some(id.clone()),
        };
        self.step(Event::Ended { container, end })
    }

    fn condition(&self, type_: &str) -> (&str, &str, String) {
        let mut all = self.status.conditions.iter().flatten();
        let it = all.find(|it| it.type_ == type_).unwrap();
        let since = it.last_transition_time.as_ref().unwrap().0.to_string();
        (&it.status, it.reason.as_deref().unwrap_or_default(), since)
    }

    fn json(&self) -> Value {
        serde_json::to_value(&self.status).unwrap()
    }
}

#[test]
fn from_pending_to_succeeded() {
    let mut case = Case::new(json!({"restartPolicy": "Never", "containers": [
        {"name": "c", "image": "host", "command": ["true"]}]}));
    let status = case.json();
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["startTime"], "2026-01-01T00:00:01Z");
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"],
        json!({"reason": "ContainerCreating"})
    );
    assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.7"}]));
    assert_eq!(status["observedGeneration"], 3);
    assert_eq!(case.condition("PodScheduled").2, "2026-01-01T00:00:00Z");
    assert_eq!(
        case.condition("Ready"),
        ("False", "ContainersNotReady", "2026-01-01T00:00:01Z".into())
    );
    case.step(Event::VolumesReady);
    assert_eq!(case.condition("PodReadyToStartContainers").0, "True");
    case.started(0);
    let status = case.json();
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["startTime"], "2026-01-01T00:00:01Z");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "vk-cmd://b-7-9");
    assert_eq!(
        (&container["ready"], &container["started"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        case.condition("Ready"),
        ("True", "", "2026-01-01T00:00:03Z".into())
    );
    case.ended(0, 0, "Completed");
    let status = case.json();
    assert_eq!(status["phase"], "Succeeded");
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["reason"], "Completed");
    assert_eq!(terminated["exitCode"], 0);
    assert_eq!(
        case.condition("Ready"),
        ("False", "PodCompleted", "2026-01-01T00:00:04Z".into())
    );
    assert_eq!(case.condition("ContainersReady").1, "PodCompleted");
    assert_eq!(
        case.condition("Initialized"),
        ("True", "PodCompleted", "2026-01-01T00:00:01Z".into())
    );
}

#[test]
fn statuses_are_sorted_and_the_pod_is_pending_until_all_ran() {
    let mut case = Case::two();
    case.step(Event::VolumesReady);
    case.started(0);
    let status = case.json();
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["containerStatuses"][0]["name"], "a");
    assert_eq!(status["containerStatuses"][1]["name"], "b");
    let ready = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["type"] == "Ready");
    assert_eq!(
        ready.unwrap()["message"],
        "containers with unready status: [a]"
    );
    case.started(1);
    assert_eq!(case.json()["phase"], "Running");
}

#[test]
fn crash_loop() {
    let mut case =
        Case::new(json!({"containers": [{"name": "c", "image": "host", "command": ["x"]}]}));
    case.step(Event::VolumesReady);
    case.started(0);
    case.ended(0, 2, "Error");
    let status = case.json();
    assert_eq!(status["phase"], "Running");
    assert_eq!(
        status["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        2
    );
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    case.started(0);
    let status = case.json();
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(
        status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        2
    );
    case.ended(0, 3, "Error");
    let status = case.json();
    assert_eq!(status["phase"], "Running");
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"],
        json!({"reason": "CrashLoopBackOff",
               "message": "back-off 10s restarting failed container=c pod=p_ns(u)"})
    );
    assert_eq!(
        status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        3
    );
    assert_eq!(case.condition("Ready").0, "False");
}

#[test]
fn problems_are_shown_and_go_away() {
    let mut case = Case::two();
    case.step(Event::VolumesReady);
    let problem = Waiting {
        reason: "CreateContainerConfigError",
        message: "configmap \"x\" not found".into(),
    };
    case.step(Event::ConfigFailed {
        container: 0,
        attempt: 0,
        problem,
    });
    let status = case.json();
    assert_eq!(
        status["containerStatuses"][1]["state"]["waiting"],
        json!({"reason": "CreateContainerConfigError", "message": "configmap \"x\" not found"})
    );
    assert_eq!(status["phase"], "Pending");
}

#[test]
fn a_refused_pod_shows_the_reason_in_every_container() {
    let case = Case::new(json!({"containers": [
        {"name": "a", "image": "host"}, {"name": "b", "image": "host", "securityContext": {"privileged": true}}]}));
    let status = case.json();
    assert_eq!(status["phase"], "Pending");
    for index in 0..2 {
        let waiting = &status["containerStatuses"][index]["state"]["waiting"];
        assert_eq!(waiting["reason"], "CreateContainerConfigError");
        assert!(
            waiting["message"]
                .as_str()
                .unwrap()
                .contains("spec.containers[1].securityContext.privileged")
        );
    }
}

#[test]
fn a_pod_deleted_before_it_ran_is_failed_with_unknown_containers() {
    let mut case = Case::two();
    case.step(Event::Delete {
        grace: Duration::from_secs(30),
    });
    let status = case.json();
    assert_eq!(status["phase"], "Failed");
    let terminated = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["reason"], "ContainerStatusUnknown");
    assert_eq!(terminated["exitCode"], 137);
    assert_eq!(case.condition("Ready").1, "PodFailed");
}

#[test]
fn a_node_that_goes_down_says_so() {
    let mut case =
        Case::new(json!({"containers": [{"name": "c", "image": "host", "command": ["x"]}]}));
    case.step(Event::VolumesReady);
    case.started(0);
    case.step(Event::Shutdown {
        grace: Duration::from_secs(5),
    });
    case.ended(0, 143, "Error");
    assert_eq!(case.json()["reason"], "Terminated");
    assert_eq!(case.json()["phase"], "Failed");
}

#[test]
fn readiness_gates() {
    let mut case = Case::new(json!({
        "readinessGates": [{"conditionType": "example.com/mine"}],
        "containers": [{"name": "c", "image": "host", "command": ["x"]}]}));
    case.step(Event::VolumesReady);
    case.started(0);
    assert_eq!(case.condition("Ready").0, "True");
    case.pod.status = None;
    case.step(Event::Tick);
    assert_eq!(
        (case.condition("Ready").0, case.condition("Ready").1),
        ("False", "ReadinessGatesNotReady")
    );
    assert_eq!(case.condition("ContainersReady").0, "True");
}

#[test]
fn init_containers_have_their_own_list() {
    let mut case = Case::new(json!({
        "initContainers": [{"name": "i", "image": "host", "command": ["x"]}],
        "containers": [{"name": "c", "image": "host", "command": ["x"]}]}));
    let status = case.json();
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    assert_eq!(case.condition("Initialized").1, "ContainersNotInitialized");
    case.step(Event::VolumesReady);
    case.started(0);
    assert_eq!(case.json()["phase"], "Pending");
    case.ended(0, 0, "Completed");
    assert_eq!(case.condition("Initialized").0, "True");
    assert_eq!(case.json()["initContainerStatuses"][0]["ready"], true);
    assert_eq!(case.json()["phase"], "Pending");
    case.started(1);
    assert_eq!(case.json()["phase"], "Running");
}

#[test]
fn the_patch_sends_what_is_ours() {
    let mut case = Case::two();
    let patch = patch(&case.pod, &case.status);
    assert_eq!(patch["metadata"], json!({"uid": "u"}));
    let types: Vec<_> = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(types, OWN_CONDITIONS);
    assert!(patch["status"].get("reason").is_none());
    case.pod.status.as_mut().unwrap().reason = Some("Old".into());
    let ips = &super::patch(&case.pod, &case.status)["status"]["podIPs"];
    assert_eq!(*ips, json!([{"ip": "10.0.0.7"}]));
    let stale = k8s_openapi::api::core::v1::PodIP {
        ip: "10.9.9.9".into(),
    };
    case.pod.status.as_mut().unwrap().pod_ips = Some(vec![stale]);
    let ips = &super::patch(&case.pod, &case.status)["status"]["podIPs"];
    assert_eq!(*ips, json!([{"ip": "10.0.0.7"}, {"$patch": "replace"}]));
    assert_eq!(
        super::patch(&case.pod, &case.status)["status"]["reason"],
        Value::Null
    );
}

#[test]
fn transition_times_change_with_the_status_alone() {
    let mut case = Case::two();
    case.step(Event::VolumesReady);
    case.started(0);
    case.started(1);
    let (_, _, since) = case.condition("Ready");
    for _ in 0..3 {
        case.step(Event::Tick);
        assert_eq!(case.condition("Ready").2, since);
    }
}
