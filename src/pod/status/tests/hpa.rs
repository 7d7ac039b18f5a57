//! What the documents say of pod conditions and of autoscaling, sentence by sentence.

use super::*;
use crate::pod::compat::Compat;

/// The autoscaler's rule for CPU that the documents quote (`groupPods` of
/// kube-controller-manager): whether it sets a pod's metric aside. Times in seconds.
struct Autoscaler {
    cpu_initialization_period: i64,
    delay_of_initial_readiness: i64,
    window: i64,
}

impl Autoscaler {
    const DEFAULT: Self = Self {
        cpu_initialization_period: 300,
        delay_of_initial_readiness: 30,
        window: 15,
    };

    fn unready(&self, status: &PodStatus, now: i64, metric: i64) -> bool {
        let mut all = status.conditions.iter().flatten();
        let ready = all.find(|it| it.type_ == "Ready");
        let (Some(ready), Some(start)) = (ready, &status.start_time) else {
            return true;
        };
        let start = start.0.as_second();
        let since = ready.last_transition_time.as_ref().unwrap().0.as_second();
        if start + self.cpu_initialization_period > now {
            ready.status == "False" || metric < since + self.window
        } else {
            ready.status == "False" && start + self.delay_of_initial_readiness > since
        }
    }
}

const SECOND: i64 = 1_767_225_600;

fn case(documented: bool) -> Case {
    let mut case = Case::new(json!({"restartPolicy": "Never", "containers": [
        {"name": "first", "image": "host", "command": ["true"]},
        {"name": "second", "image": "host", "command": ["true"]},
    ]}));
    if documented {
        case.host.compat = Compat::VirtualKubeletCmd;
        case.step(Event::Tick);
    }
    case
}

fn running(documented: bool) -> Case {
    let mut case = case(documented);
    case.step(Event::VolumesReady);
    case.started(0);
    case.started(1);
    case
}

fn start(case: &Case) -> String {
    case.json()["startTime"].as_str().unwrap().to_owned()
}

#[test]
fn start_time_is_when_the_pod_was_created_and_stays() {
    for documented in [false, true] {
        let mut case = case(documented);
        let created = start(&case);
        assert_eq!(created, "2026-01-01T00:00:01Z");
        case.step(Event::VolumesReady);
        case.started(0);
        case.started(1);
        case.ended(0, 0, "Completed");
        case.ended(1, 0, "Completed");
        assert_eq!(start(&case), created);
    }
}

#[test]
fn a_pod_that_failed_is_not_ready() {
    for documented in [false, true] {
        let mut case = running(documented);
        case.ended(0, 1, "Error");
        case.ended(1, 0, "Completed");
        assert_eq!(case.json()["phase"], "Failed");
        assert_eq!(case.condition("Ready").0, "False");
    }
}

#[test]
fn a_pod_that_succeeded_is_not_ready() {
    for documented in [false, true] {
        let mut case = running(documented);
        case.ended(0, 0, "Completed");
        case.ended(1, 0, "Completed");
        assert_eq!(case.json()["phase"], "Succeeded");
        assert_eq!(case.condition("Ready").0, "False");
    }
}

#[test]
fn a_pod_that_runs_is_ready() {
    for documented in [false, true] {
        let case = running(documented);
        assert_eq!(case.json()["phase"], "Running");
        assert_eq!(case.condition("Ready").0, "True");
    }
    // The documents go by the phase alone, a kubelet by each container.
    for (documented, ready) in [(false, "False"), (true, "True")] {
        let mut case = running(documented);
        case.ended(1, 0, "Completed");
        assert_eq!(case.json()["phase"], "Running");
        assert_eq!(case.condition("Ready").0, ready);
    }
}

#[test]
fn the_documented_conditions_are_three_with_their_times() {
    let mut case = running(true);
    let first = case.json()["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
    let wanted = |ready: &str| {
        json!([
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z", "observedGeneration": 3},
            {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z", "observedGeneration": 3},
            {"type": "Ready", "status": ready, "lastTransitionTime": first.clone(), "observedGeneration": 3},
        ])
    };
    assert_eq!(case.json()["conditions"], wanted("True"));
    case.ended(0, 1, "Error");
    case.ended(1, 0, "Completed");
    assert_eq!(case.json()["conditions"], wanted("False"));
}

#[test]
fn before_the_first_start_the_documented_times_are_the_pods_own() {
    let case = case(true);
    let (status, _, since) = case.condition("Ready");
    assert_eq!((status, since), ("False", start(&case)));
}

#[test]
fn ready_since_is_the_start_of_the_first_container() {
    let case = running(true);
    let first = &case.json()["containerStatuses"][0];
    assert_eq!(first["name"], "first");
    let started = first["state"]["running"]["startedAt"].clone();
    assert_eq!(json!(case.condition("Ready").2), started);
    // A kubelet's pod is ready when the start of its last container was seen.
    let mut case = running(false);
    let seen = case.condition("Ready").2;
    assert_eq!(seen, case.now().wall.to_string());
    case.step(Event::Tick);
    assert_eq!(case.condition("Ready").2, seen);
}

#[test]
fn the_autoscaler_counts_a_pod_that_runs_and_leaves_out_one_that_does_not() {
    let autoscaler = Autoscaler::DEFAULT;
    for documented in [false, true] {
        let mut case = case(documented);
        let at = |case: &Case, later: i64| {
            let now = SECOND + case.second + later;
            autoscaler.unready(&case.status, now, now)
        };
        assert!(at(&case, 1), "not started");
        case.step(Event::VolumesReady);
        case.started(0);
        case.started(1);
        assert!(at(&case, 1), "its first metric window is not over");
        assert!(!at(&case, 20), "ready for longer than a window");
        assert!(!at(&case, 1000), "past the initialization period");
        case.ended(0, 1, "Error");
        case.ended(1, 1, "Error");
        assert!(at(&case, 20), "failed within the initialization period");
    }
}

#[test]
fn without_conditions_or_start_time_the_autoscaler_would_count_nothing() {
    let case = running(false);
    let now = SECOND + case.second + 1000;
    let mut bare = case.status.clone();
    bare.start_time = None;
    assert!(Autoscaler::DEFAULT.unready(&bare, now, now));
    let mut bare = case.status.clone();
    bare.conditions = None;
    assert!(Autoscaler::DEFAULT.unready(&bare, now, now));
}

#[test]
fn a_start_that_failed_began_with_its_pod() {
    let mut case = case(true);
    case.step(Event::VolumesReady);
    let end = Ended {
        attempt: 0,
        code: 1,
        reason: "cmdStartError",
        message: "cmd.Start() failed".to_owned(),
        started_at: None,
        finished_at: case.now().wall,
        id: None,
    };
    for container in [0, 1] {
        let end = end.clone();
        case.step(Event::Ended { container, end });
    }
    let json = case.json();
    assert_eq!(json["phase"], "Failed");
    // What failed when it was created was never ready, and all its times are the pod's.
    let (status, _, since) = case.condition("Ready");
    assert_eq!((status, since), ("False", start(&case)));
    let terminated = &json["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["startedAt"], json["startTime"]);
    assert_eq!(terminated["reason"], "cmdStartError");
}
