//! The Node object and its parts, made from facts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use serde_json::{Map, Value, json};

use super::board::{Board, Notices};
use super::capacity::Capacity;
use super::devices::Devices;
use super::pressure::Pressure;
use super::walltime::{Outlook, Phase};

/// The version that the node reports: control planes check the skew, and parse it.
pub const KUBELET_VERSION: &str = concat!("v1.34.4-vk-cmd-", env!("CARGO_PKG_VERSION"));
/// The label that the documents' pods select. It is the one that a node identity may not set
/// itself on a real cluster.
pub const ROLE_LABEL: (&str, &str) = ("kubernetes.io/role", "agent");
/// The label that says how many seconds are left.
pub const ALIVE_LABEL: &str = "jiriaf.alivetime";
/// The annotation that tells our cordon from an administrator's.
pub const CORDONED_BY: &str = "vk-cmd.io/cordoned-by";
const WALLTIME: &str = "walltime";
/// How many pods a node takes. A kubelet's 110 is about pod networks, which this node has none of;
/// the original's number is kept.
pub const PODS: u32 = 1000;

/// What the agent was told about its node.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// The name.
    pub name: String,
    /// Where the control plane reaches it.
    pub address: IpAddr,
    /// The host's name.
    pub hostname: String,
    /// The port of the kubelet API.
    pub kubelet_port: u16,
    /// Labels beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// The taint to register with.
    pub taint: Option<Taint>,
    /// The GPUs to advertise.
    pub devices: Devices,
    /// What other parts of the agent have to say in the status.
    pub board: Board,
}

/// Facts of the host that do not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Host {
    /// The kernel's boot id.
    pub boot_id: String,
    /// The machine's id; empty where it has none.
    pub machine_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
}

/// The architecture as Kubernetes names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Host {
    /// Reads them; what a host does not tell is left empty.
    pub fn read() -> Self {
        let line = |path: &str| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let release = line("/etc/os-release");
        let os_image = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .unwrap_or_else(|| "Linux".to_owned());
        Self {
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image,
        }
    }
}

/// The labels that the node is to have.
pub fn labels(spec: &NodeSpec, with_role: bool) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", spec.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("type", "virtual-kubelet"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    if with_role {
        labels.insert(ROLE_LABEL.0.to_owned(), ROLE_LABEL.1.to_owned());
    }
    labels.extend(spec.labels.clone());
    labels
}

/// The merge patch that brings a node to what its walltime asks for; none where it is there. A cordon that
/// somebody else set stays.
pub fn walltime_patch(spec: &NodeSpec, node: &Value, outlook: &Outlook) -> Option<Value> {
    let metadata = &node["metadata"];
    let mut patch = Map::new();
    let label = outlook.label.map(|seconds| seconds.to_string());
    // A value that the user gave the node stays.
    let given = spec.labels.contains_key(ALIVE_LABEL);
    if !given && metadata["labels"][ALIVE_LABEL].as_str() != label.as_deref() {
        patch.insert(
            "metadata".to_owned(),
            json!({"labels": {ALIVE_LABEL: label}}),
        );
    }
    let cordoned = node["spec"]["unschedulable"] == true;
    let by_us = metadata["annotations"][CORDONED_BY] == WALLTIME;
    let draining = outlook.phase != Phase::Open;
    let wanted = match (draining, cordoned, by_us) {
        (true, false, _) => Some((json!(true), json!(WALLTIME))),
        (false, _, true) => Some((Value::Null, Value::Null)),
        _ => None,
    };
    if let Some((unschedulable, by)) = wanted {
        patch.insert("spec".to_owned(), json!({"unschedulable": unschedulable}));
        let metadata = patch.entry("metadata").or_insert_with(|| json!({}));
        metadata["annotations"] = json!({CORDONED_BY: by});
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Whether the API holds other conditions than were sent: somebody declared the node Unknown, most likely.
pub fn contradicted(node: &Value, sent: &Value) -> bool {
    let list = |status: &Value| status["conditions"].as_array().cloned().unwrap_or_default();
    let held = list(&node["status"]);
    list(sent).iter().any(|ours| {
        let same = |it: &&Value| it["type"] == ours["type"];
        held.iter()
            .find(same)
            .is_none_or(|it| it["status"] != ours["status"])
    })
}

/// The node as it is registered.
pub fn node(spec: &NodeSpec, status: Value, with_role: bool, outlook: &Outlook) -> Value {
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": spec.name, "labels": labels(spec, with_role)},
        "spec": {},
        "status": status,
    });
    if let Some(taint) = &spec.taint {
        body["spec"]["taints"] = json!([taint]);
    }
    if let Some(label) = outlook.label
        && !spec.labels.contains_key(ALIVE_LABEL)
    {
        body["metadata"]["labels"][ALIVE_LABEL] = json!(label.to_string());
    }
    if outlook.phase != Phase::Open {
        body["spec"]["unschedulable"] = json!(true);
        body["metadata"]["annotations"] = json!({CORDONED_BY: WALLTIME});
    }
    body
}

/// The status. `previous` is the status that the API server has, from which times of transition
/// are kept; `ready` is why the node is not ready, where it is not.
pub fn status(
    spec: &NodeSpec,
    host: &Host,
    capacity: &Capacity,
    pressure: Pressure,
    not_ready: Option<(&str, &str)>,
    previous: &Value,
    now: Timestamp,
) -> Value {
    let mut resources = json!({
        "cpu": quantity_of_millis(capacity.millicpus),
        "memory": format!("{}Ki", capacity.memory / 1024),
        "ephemeral-storage": format!("{}Ki", capacity.storage / 1024),
        "pods": PODS.to_string(),
    });
    for (resource, devices) in &spec.devices {
        resources[*resource] = devices.len().to_string().into();
    }
    let notices = spec.board.subscribe().borrow().clone();
    let port = notices.kubelet_port.unwrap_or(spec.kubelet_port);
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": spec.address.to_string()},
            {"type": "Hostname", "address": spec.hostname},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": host.boot_id,
            "machineID": host.machine_id,
            "systemUUID": "",
            "kernelVersion": host.kernel,
            "osImage": host.os_image,
            "operatingSystem": "linux",
            "containerRuntimeVersion": concat!("vk-cmd://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
        },
        "conditions": conditions(pressure, not_ready, &notices, previous, now),
    })
}

fn quantity_of_millis(millis: u64) -> String {
    if millis.is_multiple_of(1000) {
        (millis / 1000).to_string()
    } else {
        format!("{millis}m")
    }
}

fn conditions(
    pressure: Pressure,
    not_ready: Option<(&str, &str)>,
    notices: &Notices,
    previous: &Value,
    now: Timestamp,
) -> Vec<Value> {
    let stamp = format!("{now:.0}");
    let condition = |kind: &str, on: bool, reason: &str, message: &str| {
        let status = if on { "True" } else { "False" };
        let old = previous["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|old| old["type"] == kind && old["status"] == status);
        let since = old
            .and_then(|old| old["lastTransitionTime"].as_str())
            .unwrap_or(&stamp);
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastHeartbeatTime": stamp, "lastTransitionTime": since})
    };
    let pressed = |kind, on, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if on { bad } else { good };
        condition(kind, on, reason, message)
    };
    let (ready_reason, ready_message) =
        not_ready.unwrap_or(("KubeletReady", "the agent takes pods"));
    let mut all = vec![
        pressed(
            "MemoryPressure",
            pressure.memory,
            (
                "KubeletHasInsufficientMemory",
                "less than 100 MiB of memory are available",
            ),
            ("KubeletHasSufficientMemory", "enough memory is available"),
        ),
        pressed(
            "DiskPressure",
            pressure.disk,
            (
                "KubeletHasDiskPressure",
                "less than a gibibyte and a tenth of the disk of pod data is free",
            ),
            (
                "KubeletHasNoDiskPressure",
                "enough of the disk of pod data is free",
            ),
        ),
        pressed(
            "PIDPressure",
            pressure.pids,
            (
                "KubeletHasInsufficientPID",
                "nine tenths of the host's process ids are in use",
            ),
            ("KubeletHasSufficientPID", "enough process ids are free"),
        ),
        condition("Ready", not_ready.is_none(), ready_reason, ready_message),
    ];
    all.extend(
        notices
            .conditions
            .iter()
            .map(|(kind, it)| condition(kind, it.status, &it.reason, &it.message)),
    );
    all
}

/// The status without its heartbeats: what has to change for it to be sent before its time.
pub fn essence(status: &Value) -> Value {
    let mut essence = status.clone();
    for condition in essence["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(map) = condition.as_object_mut() {
            map.remove("lastHeartbeatTime");
        }
    }
    essence
}

/// What of `wanted` an object's labels lack, as the labels of a merge patch.
pub fn missing_labels(node: &Value, wanted: &BTreeMap<String, String>) -> Map<String, Value> {
    let has = &node["metadata"]["labels"];
    wanted
        .iter()
        .filter(|(key, value)| has[key.as_str()] != **value)
        .map(|(key, value)| (key.clone(), Value::String(value.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> NodeSpec {
        NodeSpec {
            name: "n".to_owned(),
            address: IpAddr::from([127, 0, 0, 1]),
            hostname: "h".to_owned(),
            kubelet_port: 10250,
            labels: BTreeMap::from([("jiriaf.site".to_owned(), "Local".to_owned())]),
            taint: None,
            devices: Devices::from([(crate::node::devices::NVIDIA, vec!["0".to_owned()])]),
            board: Board::default(),
        }
    }

    fn status_at(seconds: i64, not_ready: Option<(&str, &str)>, previous: &Value) -> Value {
        let capacity = Capacity {
            millicpus: 1500,
            memory: 2048,
            storage: 4096,
            ..Capacity::default()
        };
        let host = Host {
            boot_id: "b".to_owned(),
            machine_id: String::new(),
            kernel: "6".to_owned(),
            os_image: "Linux".to_owned(),
        };
        let now = Timestamp::from_second(seconds).expect("a time");
        status(
            &spec(),
            &host,
            &capacity,
            Pressure::default(),
            not_ready,
            previous,
            now,
        )
    }

    #[test]
    fn a_transition_keeps_its_time_until_the_next() {
        let time = |status: &Value| {
            status["conditions"][3]["lastTransitionTime"]
                .as_str()
                .map(str::to_owned)
        };
        let first = status_at(0, None, &Value::Null);
        let second = status_at(60, None, &first);
        assert_eq!(time(&second), time(&first));
        assert_eq!(essence(&second), essence(&first));
        let third = status_at(120, Some(("Why", "so")), &second);
        assert_ne!(time(&third), time(&first));
        assert_ne!(essence(&third), essence(&second));
    }

    #[test]
    fn capacity_is_in_quantities() {
        let status = status_at(0, None, &Value::Null);
        assert_eq!(status["capacity"]["cpu"], "1500m");
        assert_eq!(status["allocatable"]["memory"], "2Ki");
        assert_eq!(status["allocatable"]["nvidia.com/gpu"], "1");
    }

    #[test]
    fn a_cordon_is_ours_or_the_administrators() {
        let outlook = |phase, label| Outlook {
            phase,
            label,
            closing: None,
        };
        let mut node = json!({"metadata": {"labels": {}}, "spec": {}});
        assert_eq!(
            walltime_patch(&spec(), &node, &outlook(Phase::Open, None)),
            None
        );
        let patch = walltime_patch(&spec(), &node, &outlook(Phase::Open, Some(600)));
        assert_eq!(
            patch,
            Some(json!({"metadata": {"labels": {ALIVE_LABEL: "600"}}}))
        );
        node["metadata"]["labels"][ALIVE_LABEL] = json!("600");
        assert_eq!(
            walltime_patch(&spec(), &node, &outlook(Phase::Open, Some(600))),
            None
        );

        let draining = outlook(Phase::Draining, Some(600));
        let cordon = json!({"spec": {"unschedulable": true}, "metadata": {"annotations": {CORDONED_BY: "walltime"}}});
        assert_eq!(walltime_patch(&spec(), &node, &draining), Some(cordon));
        node["spec"]["unschedulable"] = json!(true);
        assert_eq!(walltime_patch(&spec(), &node, &draining), None);
        assert_eq!(
            walltime_patch(&spec(), &node, &outlook(Phase::Open, Some(600))),
            None,
            "an administrator's"
        );
        node["metadata"]["annotations"] = json!({CORDONED_BY: "walltime"});
        let lifted = walltime_patch(&spec(), &node, &outlook(Phase::Open, None)).expect("ours");
        assert_eq!(lifted["spec"]["unschedulable"], Value::Null);
        assert_eq!(lifted["metadata"]["labels"][ALIVE_LABEL], Value::Null);
        assert_eq!(lifted["metadata"]["annotations"][CORDONED_BY], Value::Null);
    }

    #[test]
    fn conditions_of_others_contradict_nothing() {
        let sent = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let held = |status: &str| {
            json!({"status": {"conditions": [
            {"type": "Ready", "status": status}, {"type": "Other", "status": "False"}]}})
        };
        assert!(!contradicted(&held("True"), &sent));
        assert!(contradicted(&held("Unknown"), &sent));
        assert!(contradicted(&json!({"status": {}}), &sent));
    }

    #[test]
    fn only_labels_that_differ_are_patched() {
        let node = json!({"metadata": {"labels": {"type": "virtual-kubelet", "jiriaf.site": "old", "mine": "kept"}}});
        let missing = missing_labels(&node, &labels(&spec(), false));
        assert!(!missing.contains_key("type") && !missing.contains_key("mine"));
        assert_eq!(missing["jiriaf.site"], "Local");
        assert!(!missing.contains_key(ROLE_LABEL.0));
        assert!(labels(&spec(), true).contains_key(ROLE_LABEL.0));
    }
}
