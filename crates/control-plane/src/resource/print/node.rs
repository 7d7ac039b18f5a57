//! Nodes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::format::{NONE, UNKNOWN, age, items, name, text, text_or, truth};
use super::{AGE, Columns, NAME, string, wide};

pub(in crate::resource) static NODES: Columns = Columns {
    definitions: &[
        NAME,
        string("Status", "Whether the node is ready and takes pods"),
        string("Roles", "The roles that labels give the node"),
        AGE,
        string("Version", "The version of the node's agent"),
        wide("Internal-IP", "The address inside the cluster"),
        wide("External-IP", "The address from outside the cluster"),
        wide("OS-Image", "The operating system"),
        wide("Kernel-Version", "The kernel"),
        wide("Container-Runtime", "What runs the containers"),
    ],
    cells,
};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE: &str = "kubernetes.io/role";

fn status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == "Ready");
    let mut status = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if truth(&node["spec"]["unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(label, value)| match label.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if label == ROLE => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.into_iter().collect::<Vec<_>>().join(",")
    }
}

fn address(node: &Value, kind: &str) -> Value {
    items(&node["status"]["addresses"])
        .iter()
        .find(|address| address["type"] == kind)
        .map_or(NONE, |address| text(&address["address"]))
        .into()
}

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    vec![
        name(node),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        text(&info["kubeletVersion"]).into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        text_or(&info["osImage"], UNKNOWN).into(),
        text_or(&info["kernelVersion"], UNKNOWN).into(),
        text_or(&info["containerRuntimeVersion"], UNKNOWN).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_come_from_both_labels_and_cordons_show() {
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {
                "kubernetes.io/role": "agent", "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                       "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]},
        });
        let now = "2026-01-01T00:00:05Z".parse().expect("a timestamp");
        assert_eq!(
            cells(&node, now),
            [
                "n",
                "NotReady,SchedulingDisabled",
                "agent,worker",
                "5s",
                "",
                "127.0.0.1",
                NONE,
                UNKNOWN,
                UNKNOWN,
                UNKNOWN
            ]
            .map(Value::from)
        );
    }
}
