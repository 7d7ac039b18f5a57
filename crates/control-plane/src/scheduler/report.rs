//! What the scheduler writes: bindings, conditions and events, as objects. No IO.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::{Pod, SCHEDULER_NAME};
use crate::registry::rfc3339;

/// The longest note of an event, in bytes.
const NOTE_LIMIT: usize = 1024;

/// The reason of the condition of a pod that has no place.
pub(super) const UNSCHEDULABLE: &str = "Unschedulable";
const GATED: &str = "SchedulingGated";
const GATED_MESSAGE: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// The Binding that puts a pod on a node.
pub(super) fn binding(pod: &Pod, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
        "target": {"kind": "Node", "name": node},
    })
}

/// Why a pod is not scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unscheduled {
    reason: &'static str,
    pub(super) message: String,
}

impl Unscheduled {
    pub(super) fn no_place(message: String) -> Self {
        Self {
            reason: UNSCHEDULABLE,
            message,
        }
    }

    pub(super) fn gated() -> Self {
        Self {
            reason: GATED,
            message: GATED_MESSAGE.into(),
        }
    }

    /// Whether the pod's condition says this already.
    pub(super) fn is_known(&self, pod: &Pod) -> bool {
        pod.unscheduled
            .as_ref()
            .is_some_and(|(reason, message)| **reason == *self.reason && **message == self.message)
    }

    /// Sets the condition `PodScheduled` of a pod that is not bound.
    pub(super) fn set_condition(&self, pod: &mut Value, now: Timestamp) {
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": self.reason,
            "message": self.message,
            "lastProbeTime": null,
            "lastTransitionTime": rfc3339(now),
        });
        if let (UNSCHEDULABLE, Some(generation)) =
            (self.reason, pod["metadata"]["generation"].as_i64())
        {
            condition["observedGeneration"] = generation.into();
        }
        if !pod["status"].is_object() {
            pod["status"] = json!({});
        }
        let conditions = &mut pod["status"]["conditions"];
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        let Some(conditions) = conditions.as_array_mut() else {
            return;
        };
        let found = conditions
            .iter_mut()
            .find(|found| found["type"] == "PodScheduled");
        match found {
            Some(found) => {
                if found["status"] == "False" {
                    condition["lastTransitionTime"] = found["lastTransitionTime"].clone();
                }
                *found = condition;
            }
            None => conditions.push(condition),
        }
    }
}

/// Which of the two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Scheduled,
    Failed,
}

/// The event that tells people of a decision, as `events.k8s.io/v1`. `instance` tells schedulers
/// of the same name apart.
pub(super) fn event(
    pod: &Pod,
    outcome: Outcome,
    note: &str,
    instance: &str,
    now: Timestamp,
) -> Value {
    let (kind, reason, action) = match outcome {
        Outcome::Scheduled => ("Normal", "Scheduled", "Binding"),
        Outcome::Failed => ("Warning", "FailedScheduling", "Scheduling"),
    };
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "namespace": pod.namespace,
            "name": format!("{}.{:x}", pod.name, now.as_nanosecond()),
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        "type": kind,
        "reason": reason,
        "action": action,
        "note": shortened(note),
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "resourceVersion": pod.resource_version,
        },
        "reportingController": SCHEDULER_NAME,
        "reportingInstance": instance,
    })
}

fn shortened(note: &str) -> String {
    const MARK: &str = " ...";
    if note.len() <= NOTE_LIMIT {
        return note.into();
    }
    let end = note.floor_char_boundary(NOTE_LIMIT - MARK.len());
    format!("{}{MARK}", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05.678901234Z".parse().expect("a time")
    }

    fn value() -> Value {
        json!({
            "metadata": {
                "namespace": "a", "name": "p", "uid": "u", "generation": 3, "resourceVersion": "7",
            },
            "spec": {},
        })
    }

    #[test]
    fn an_event_tells_what_the_real_one_does() {
        let pod = Pod::parse("pods/a/p".into(), &value());
        let event = event(
            &pod,
            Outcome::Scheduled,
            "note",
            "default-scheduler-h",
            now(),
        );
        assert_eq!(event["metadata"]["name"], "p.1886caf2450d67f2");
        assert_eq!(event["eventTime"], "2026-01-02T03:04:05.678901Z");
        assert_eq!(event["reason"], "Scheduled");
        assert_eq!(event["action"], "Binding");
        assert_eq!(event["regarding"]["resourceVersion"], "7");
    }

    #[test]
    fn a_note_is_cut_to_what_an_event_may_hold() {
        let long = "é".repeat(600);
        let cut = shortened(&long);
        assert!(cut.len() <= NOTE_LIMIT && cut.ends_with("é ..."));
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn the_condition_is_set_once_and_keeps_its_transition_time() {
        let mut pod = value();
        let first = Unscheduled::no_place("first".into());
        first.set_condition(&mut pod, now());
        let later = "2026-01-02T04:00:00Z".parse().expect("a time");
        let second = Unscheduled::no_place("second".into());
        second.set_condition(&mut pod, later);
        let expected = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "second",
            "observedGeneration": 3,
            "lastProbeTime": null,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }]);
        assert_eq!(pod["status"]["conditions"], expected);
        let parsed = Pod::parse("pods/a/p".into(), &pod);
        assert!(second.is_known(&parsed) && !first.is_known(&parsed));
    }
}
