//! The strategic merge patch that carries a status to the API.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::OWN_CONDITIONS;

/// The patch of `pods/status`. The UID in it makes the write fail where the name has
/// passed to another pod. Conditions are merged by type, and only ours are sent.
pub fn patch(pod: &Pod, status: &PodStatus) -> Value {
    let mut sent = status.clone();
    if let Some(conditions) = &mut sent.conditions {
        conditions.retain(|condition| OWN_CONDITIONS.contains(&condition.type_.as_str()));
    }
    let mut sent = serde_json::to_value(sent).unwrap_or_default();
    // A merge leaves out nothing by itself: what is gone has to be said.
    for field in ["reason", "message"] {
        if sent.get(field).is_none() && pod.status.as_ref().is_some_and(|it| is_set(it, field)) {
            sent[field] = Value::Null;
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
