//! The strategic merge patch that carries a status to the API.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::{DISRUPTION_TARGET, OWN_CONDITIONS};

/// The patch of `pods/status`. The UID in it makes the write fail where the name has
/// passed to another pod. Conditions are merged by type, and only ours are sent.
pub fn patch(pod: &Pod, status: &PodStatus) -> Value {
    let mut sent = status.clone();
    if let Some(conditions) = &mut sent.conditions {
        conditions.retain(|condition| {
            let type_ = condition.type_.as_str();
            type_ == DISRUPTION_TARGET || OWN_CONDITIONS.contains(&type_)
        });
    }
    let mut sent = serde_json::to_value(sent).unwrap_or_default();
    // A merge leaves out nothing by itself: what is gone has to be said.
    for field in ["reason", "message"] {
        if sent.get(field).is_none() && pod.status.as_ref().is_some_and(|it| is_set(it, field)) {
            sent[field] = Value::Null;
        }
    }
    // Addresses are merged by address; one that is not ours any more has to go.
    let ours = status.pod_ip.as_deref();
    let foreign = |all: Vec<&String>| all.iter().any(|ip| Some(ip.as_str()) != ours);
    let before = pod.status.as_ref();
    let pod_ips = before
        .iter()
        .flat_map(|it| it.pod_ips.iter().flatten())
        .map(|it| &it.ip);
    let host_ips = before
        .iter()
        .flat_map(|it| it.host_ips.iter().flatten())
        .map(|it| &it.ip);
    for (field, stale) in [
        ("podIPs", foreign(pod_ips.collect())),
        ("hostIPs", foreign(host_ips.collect())),
    ] {
        if let Some(list) = sent[field].as_array_mut()
            && stale
        {
            list.push(json!({"$patch": "replace"}));
        }
    }
    for condition in sent["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    json!({ "metadata": { "uid": pod.metadata.uid }, "status": sent })
}

fn is_set(status: &PodStatus, field: &str) -> bool {
    match field {
        "reason" => status.reason.is_some(),
        _ => status.message.is_some(),
    }
}
