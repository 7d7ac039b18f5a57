//! Pods.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{
    NONE, age, condition_is_true, count, human_duration, items, name, number, text, text_or,
    timestamp, truth,
};
use super::{AGE, Columns, NAME, string, wide};

pub(in crate::resource) static PODS: Columns = Columns {
    definitions: &[
        NAME,
        string("Ready", "How many of the containers are ready"),
        string("Status", "What the pod does, or why it does not run"),
        string(
            "Restarts",
            "How often containers were restarted, and when last",
        ),
        AGE,
        wide("IP", "The pod's address"),
        wide("Node", "The node the pod is bound to"),
        wide("Nominated Node", "The node that makes room for the pod"),
        wide("Readiness Gates", "How many of the readiness gates hold"),
    ],
    cells,
};

/// Restarts so far, and the end of the run before the last of them.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += number(&container["restartCount"]);
        let finished = timestamp(&container["lastState"]["terminated"]["finishedAt"]);
        self.last = self.last.max(finished);
    }

    fn show(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                let ago = human_duration((now - last).get_seconds());
                format!("{} ({ago} ago)", self.count)
            }
            _ => self.count.to_string(),
        }
    }
}

/// The reason of a terminated state, or its signal or exit code.
fn end_of(terminated: &Value) -> String {
    let signal = number(&terminated["signal"]);
    match text(&terminated["reason"]) {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", number(&terminated["exitCode"])),
        reason => reason.to_owned(),
    }
}

struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

fn is_sidecar(pod: &Value, container: &str) -> bool {
    items(&pod["spec"]["initContainers"])
        .iter()
        .any(|init| init["name"] == container && init["restartPolicy"] == "Always")
}

fn summarize(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(&status["phase"]);
    let mut summary = Summary {
        status: text_or(&status["reason"], phase).to_owned(),
        ready: 0,
        total: count(&spec["containers"])
            + items(&spec["initContainers"])
                .iter()
                .filter(|init| init["restartPolicy"] == "Always")
                .count(),
        restarts: Restarts::default(),
    };
    if items(&status["conditions"]).iter().any(|condition| {
        condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated"
    }) {
        summary.status = "SchedulingGated".to_owned();
    }

    let mut sidecars = Restarts::default();
    let mut initializing = false;
    for (index, container) in items(&status["initContainerStatuses"]).iter().enumerate() {
        let (terminated, waiting) = (
            &container["state"]["terminated"],
            &container["state"]["waiting"],
        );
        let sidecar = is_sidecar(pod, text(&container["name"]));
        summary.restarts.add(container);
        if sidecar {
            sidecars.add(container);
        }
        if terminated.is_object() && number(&terminated["exitCode"]) == 0 {
            continue;
        }
        if sidecar && truth(&container["started"]) {
            summary.ready += usize::from(truth(&container["ready"]));
            continue;
        }
        summary.status = if terminated.is_object() {
            format!("Init:{}", end_of(terminated))
        } else if !matches!(text(&waiting["reason"]), "" | "PodInitializing") {
            format!("Init:{}", text(&waiting["reason"]))
        } else {
            format!("Init:{index}/{}", count(&spec["initContainers"]))
        };
        initializing = true;
        break;
    }

    if !initializing || condition_is_true(&status["conditions"], "Initialized") {
        summary.restarts = sidecars;
        let mut running = false;
        for container in items(&status["containerStatuses"]).iter().rev() {
            let state = &container["state"];
            summary.restarts.add(container);
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                summary.status = waiting.to_owned();
            } else if state["terminated"].is_object() {
                summary.status = end_of(&state["terminated"]);
            } else if truth(&container["ready"]) && state["running"].is_object() {
                running = true;
                summary.ready += 1;
            }
        }
        if summary.status == "Completed" && running {
            summary.status = if condition_is_true(&status["conditions"], "Ready") {
                "Running".to_owned()
            } else {
                "NotReady".to_owned()
            };
        }
    }

    if pod["metadata"]["deletionTimestamp"].is_string() {
        if text(&status["reason"]) == "NodeLost" {
            summary.status = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.status = "Terminating".to_owned();
        }
    }
    summary
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let gates = items(&pod["spec"]["readinessGates"]);
    let gates = if gates.is_empty() {
        NONE.to_owned()
    } else {
        let open = gates
            .iter()
            .filter(|gate| {
                condition_is_true(&pod["status"]["conditions"], text(&gate["conditionType"]))
            })
            .count();
        format!("{open}/{}", gates.len())
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        summary.restarts.show(now).into(),
        age(pod, now),
        text_or(&pod["status"]["podIPs"][0]["ip"], NONE).into(),
        text_or(&pod["spec"]["nodeName"], NONE).into(),
        text_or(&pod["status"]["nominatedNodeName"], NONE).into(),
        gates.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(status: Value, shown: [&str; 3]) {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": status,
        });
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a timestamp");
        let cells = cells(&pod, now);
        assert_eq!(cells.len(), PODS.definitions.len());
        assert_eq!(cells[1..4], shown.map(Value::from), "{status}");
        assert_eq!(cells[4], "60s");
    }

    #[test]
    fn the_status_column_says_what_holds_the_pod_up() {
        check(json!({"phase": "Pending"}), ["0/2", "Pending", "0"]);
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
            ["0/2", "Init:0/1", "0"],
        );
        check(
            json!({"phase": "Failed", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]}),
            ["0/2", "Init:ExitCode:3", "0"],
        );
        check(
            json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "state": {"running": {}}},
                {"name": "b", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:30Z"}}}]}),
            ["1/2", "CrashLoopBackOff", "4 (30s ago)"],
        );
        check(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
                {"name": "a", "state": {"terminated": {"reason": "Completed"}}},
                {"name": "b", "ready": true, "state": {"running": {}}}]}),
            ["1/2", "NotReady", "0"],
        );
        check(
            json!({"phase": "Succeeded", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"reason": "Completed"}}},
                {"name": "b", "state": {"terminated": {"reason": "Completed"}}}]}),
            ["0/2", "Completed", "0"],
        );
    }
}
