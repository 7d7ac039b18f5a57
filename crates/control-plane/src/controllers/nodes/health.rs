//! What a node's conditions mean for its taints, and what its taints mean for its pods. Pure.
//!
//! Facts: kubernetes/kubernetes pkg/controller/nodelifecycle and pkg/controller/tainteviction.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::registry::rfc3339;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions other than Ready that keep new pods away while they are `True`.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// The conditions that become `Unknown` when a node is no longer heard of.
const HEARTBEATS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn field<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The status of a condition, if it is there.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    items(object, "/status/conditions")
        .iter()
        .find(|condition| field(condition, "type") == kind)
        .map(|condition| field(condition, "status"))
}

fn is_ours(taint: &Value) -> bool {
    let (key, effect) = (field(taint, "key"), field(taint, "effect"));
    match key {
        NOT_READY | UNREACHABLE => matches!(effect, "NoSchedule" | "NoExecute"),
        UNSCHEDULABLE => effect == "NoSchedule",
        _ => effect == "NoSchedule" && PRESSURES.iter().any(|(_, taint)| *taint == key),
    }
}

/// The taints that `node` should have, or `None` where it has them. Taints of others stay, in
/// their order. A node that never said whether it is ready keeps the taint that it was born with.
pub(super) fn taints(node: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match condition(node, "Ready") {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some(_) => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        None => wanted.push((NOT_READY, "NoSchedule")),
    }
    for (kind, taint) in PRESSURES {
        if condition(node, kind) == Some("True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let present = items(node, "/spec/taints");
    let is = |taint: &Value, (key, effect): (&str, &str)| {
        field(taint, "key") == key && field(taint, "effect") == effect
    };
    let mut result: Vec<Value> = present
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|wanted| is(taint, *wanted)))
        .cloned()
        .collect();
    let mut changed = result.len() != present.len();
    for (key, effect) in wanted {
        if !result.iter().any(|taint| is(taint, (key, effect))) {
            result.push(json!({"key": key, "effect": effect, "timeAdded": rfc3339(now)}));
            changed = true;
        }
    }
    changed.then_some(result)
}

/// Marks a node that is no longer heard of; `false` where it is so marked already.
pub(super) fn mark_unknown(node: &mut Value, now: Timestamp) -> bool {
    let now = rfc3339(now);
    if !node["status"]["conditions"].is_array() {
        node["status"]["conditions"] = json!([]);
    }
    let created = node["metadata"]["creationTimestamp"].clone();
    let Some(conditions) = node["status"]["conditions"].as_array_mut() else {
        return false;
    };
    let mut changed = false;
    for kind in HEARTBEATS {
        match conditions
            .iter_mut()
            .find(|condition| field(condition, "type") == kind)
        {
            Some(condition) if field(condition, "status") == "Unknown" => {}
            Some(condition) => {
                condition["status"] = json!("Unknown");
                condition["reason"] = json!("NodeStatusUnknown");
                condition["message"] = json!("Kubelet stopped posting node status.");
                condition["lastTransitionTime"] = json!(now);
                changed = true;
            }
            None => {
                conditions.push(json!({
                    "type": kind,
                    "status": "Unknown",
                    "reason": "NodeStatusNeverUpdated",
                    "message": "Kubelet never posted node status.",
                    "lastHeartbeatTime": created,
                    "lastTransitionTime": now,
                }));
                changed = true;
            }
        }
    }
    changed
}

/// When a pod must leave its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// It may stay.
    Never,
    /// It must leave at that time.
    At(Timestamp),
}

/// When the `NoExecute` taints of `node` drive `pod` away.
pub(super) fn eviction(node: &Value, pod: &Value, now: Timestamp) -> Eviction {
    let tolerations = items(pod, "/spec/tolerations");
    let mut earliest: Option<Timestamp> = None;
    for taint in items(node, "/spec/taints") {
        if field(taint, "effect") != "NoExecute" {
            continue;
        }
        let fitting: Vec<&Value> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        let leaves = if fitting.is_empty() {
            Some(now)
        } else {
            // The shortest of those that say how long; one without a time tolerates for ever.
            let seconds = fitting
                .iter()
                .filter_map(|toleration| toleration.get("tolerationSeconds")?.as_i64())
                .min();
            seconds.map(|seconds| {
                let added: Timestamp = field(taint, "timeAdded").parse().unwrap_or(now);
                let tolerated = SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)));
                added.checked_add(tolerated).unwrap_or(Timestamp::MAX)
            })
        };
        if let Some(leaves) = leaves {
            earliest = Some(earliest.map_or(leaves, |earliest| earliest.min(leaves)));
        }
    }
    earliest.map_or(Eviction::Never, Eviction::At)
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let (effect, key) = (field(toleration, "effect"), field(toleration, "key"));
    if !effect.is_empty() && effect != field(taint, "effect") {
        return false;
    }
    if !key.is_empty() && key != field(taint, "key") {
        return false;
    }
    match field(toleration, "operator") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && field(toleration, "value") == field(taint, "value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn node(ready: Option<&str>, taints: Value) -> Value {
        let conditions: Vec<Value> = ready
            .map(|status| json!({"type": "Ready", "status": status}))
            .into_iter()
            .collect();
        json!({"status": {"conditions": conditions}, "spec": {"taints": taints}})
    }

    fn short(taints: &[Value]) -> Vec<String> {
        taints
            .iter()
            .map(|taint| {
                let key = field(taint, "key");
                format!(
                    "{}:{}",
                    key.rsplit('/').next().unwrap(),
                    field(taint, "effect")
                )
            })
            .collect()
    }

    #[test]
    fn taints_follow_the_conditions_and_those_of_others_stay() {
        let born = json!([{"key": "gpu", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        let of = |node: &Value| taints(node, now()).map(|taints| short(&taints));
        assert_eq!(of(&node(None, born.clone())), None);
        assert_eq!(
            of(&node(Some("True"), born.clone())).unwrap(),
            ["gpu:NoSchedule"]
        );
        assert_eq!(
            of(&node(Some("False"), born.clone())).unwrap(),
            [
                "gpu:NoSchedule",
                "not-ready:NoSchedule",
                "not-ready:NoExecute"
            ]
        );
        assert_eq!(
            of(&node(Some("Unknown"), born)).unwrap(),
            [
                "gpu:NoSchedule",
                "unreachable:NoSchedule",
                "unreachable:NoExecute"
            ]
        );
        let mut cordoned = node(Some("True"), Value::Null);
        cordoned["spec"]["unschedulable"] = json!(true);
        cordoned["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "DiskPressure", "status": "True"}));
        assert_eq!(
            of(&cordoned).unwrap(),
            ["disk-pressure:NoSchedule", "unschedulable:NoSchedule"]
        );
        assert_eq!(
            of(&node(
                Some("True"),
                json!([{"key": UNSCHEDULABLE, "effect": "NoSchedule"}])
            ))
            .unwrap(),
            [""; 0]
        );
    }

    #[test]
    fn a_silent_node_is_unknown_in_all_that_it_used_to_say() {
        let mut node = node(Some("True"), Value::Null);
        assert!(mark_unknown(&mut node, now()));
        assert_eq!(condition(&node, "Ready"), Some("Unknown"));
        assert_eq!(
            node["status"]["conditions"][0]["reason"],
            "NodeStatusUnknown"
        );
        assert_eq!(
            node["status"]["conditions"][1]["reason"],
            "NodeStatusNeverUpdated"
        );
        assert!(!mark_unknown(&mut node, now()), "once is enough");
    }

    #[test]
    fn a_pod_leaves_when_its_tolerations_end() {
        let added = "2026-01-01T00:00:10Z";
        let node = json!({"spec": {"taints": [
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": added},
            {"key": "x", "effect": "NoSchedule"},
        ]}});
        let of = |tolerations: Value| {
            eviction(&node, &json!({"spec": {"tolerations": tolerations}}), now())
        };
        let at = |seconds: i64| {
            Eviction::At(added.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds))
        };
        assert_eq!(of(json!([])), Eviction::At(now()));
        assert_eq!(of(json!([{"operator": "Exists"}])), Eviction::Never);
        let exists = |seconds: Value| json!({"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert_eq!(of(json!([exists(json!(300))])), at(300));
        let late = json!({"spec": {"taints": [
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "9999-12-30T00:00:00Z"},
        ]}});
        let patient = json!({"spec": {"tolerations": [exists(json!(i64::MAX))]}});
        assert_eq!(
            eviction(&late, &patient, now()),
            Eviction::At(Timestamp::MAX)
        );
        assert_eq!(of(json!([exists(json!(300)), exists(json!(20))])), at(20));
        assert_eq!(of(json!([exists(json!(-5))])), at(0));
        assert_eq!(
            of(json!([{"key": UNREACHABLE, "operator": "Equal", "value": "v"}])),
            Eviction::At(now())
        );
        assert_eq!(
            of(json!([{"key": UNREACHABLE, "effect": "NoSchedule", "operator": "Exists"}])),
            Eviction::At(now())
        );
    }

    proptest! {
        /// Settled taints stay as they are, and nobody else's are lost.
        #[test]
        fn taints_settle_at_once(
            ready in proptest::option::of(proptest::sample::select(&["True", "False", "Unknown"][..])),
            unschedulable in any::<bool>(),
            present in proptest::sample::subsequence(
                &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute"), (UNREACHABLE, "NoSchedule"),
                  (UNREACHABLE, "NoExecute"), (UNSCHEDULABLE, "NoSchedule"), ("mine", "NoExecute"), (UNSCHEDULABLE, "NoExecute")][..], 0..7),
        ) {
            let list: Vec<Value> = present.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
            let mut node = node(ready, json!(list));
            node["spec"]["unschedulable"] = json!(unschedulable);
            if let Some(settled) = taints(&node, now()) {
                node["spec"]["taints"] = json!(settled);
            }
            prop_assert_eq!(taints(&node, now()), None);
            let left = short(items(&node, "/spec/taints"));
            for taint in list.iter().filter(|taint| !is_ours(taint)) {
                prop_assert!(left.contains(&short(std::slice::from_ref(taint))[0]));
            }
            let unreachable = left.iter().any(|taint| taint.starts_with("unreachable"));
            prop_assert_eq!(unreachable, ready == Some("Unknown"));
        }
    }
}
