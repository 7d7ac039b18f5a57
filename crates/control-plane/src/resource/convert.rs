//! Resources that are served in more than one group-version: conversion from and to the stored one.

use serde_json::{Map, Value, json};

/// How a served version converts from and to the one that is stored.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// The stored group.
    pub group: &'static str,
    /// The stored version.
    pub version: &'static str,
    /// The served form into the stored one.
    pub to_storage: fn(&mut Value),
    /// The stored form into the served one.
    pub from_storage: fn(&mut Value),
}

/// `events.k8s.io/v1` Events, kept as core/v1 Events.
pub(super) const EVENTS: Conversion = Conversion {
    group: "",
    version: "v1",
    to_storage: event_to_core,
    from_storage: event_from_core,
};

/// `autoscaling/v1` HorizontalPodAutoscalers, kept as `autoscaling/v2`.
pub(super) const AUTOSCALERS: Conversion = Conversion {
    group: "autoscaling",
    version: "v2",
    to_storage: autoscaler_to_v2,
    from_storage: autoscaler_from_v2,
};

/// Field names of events.k8s.io/v1 and core/v1 where they differ.
const EVENT_NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

fn event_to_core(event: &mut Value) {
    let Some(object) = event.as_object_mut() else {
        return;
    };
    for (new, core) in EVENT_NAMES {
        rename(object, new, core);
    }
    object.insert("apiVersion".to_owned(), "v1".into());
}

fn event_from_core(event: &mut Value) {
    let Some(object) = event.as_object_mut() else {
        return;
    };
    for (new, core) in EVENT_NAMES {
        rename(object, core, new);
    }
    object.insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
}

/// Annotations in which autoscaling/v1 keeps what only v2 has fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// A part of an object, where it is there.
fn part<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_number()
}

fn is_current_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["current"]["averageUtilization"].is_number()
}

fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let annotations = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)?;
    let text = annotations.remove(key)?;
    serde_json::from_str(text.as_str()?).ok()
}

fn put_annotation(object: &mut Value, key: &str, value: &Value) {
    object["metadata"]["annotations"][key] = value.to_string().into();
}

fn drop_empty_annotations(object: &mut Value) {
    if let Some(metadata) = part(object, "metadata")
        && metadata
            .get("annotations")
            .and_then(Value::as_object)
            .is_some_and(Map::is_empty)
    {
        metadata.remove("annotations");
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v2".into();
    let others = take_annotation(object, METRICS);
    let current = take_annotation(object, CURRENT_METRICS);
    let conditions = take_annotation(object, CONDITIONS);
    let behavior = take_annotation(object, BEHAVIOR);
    drop_empty_annotations(object);
    if let Some(spec) = part(object, "spec") {
        let mut metrics = Vec::new();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": percent}}}));
        }
        if let Some(Value::Array(others)) = others {
            metrics.extend(others);
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), metrics.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = part(object, "status") {
        let mut metrics = Vec::new();
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage") {
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": percent}}}));
        }
        if let Some(Value::Array(others)) = current {
            metrics.extend(others);
        }
        if !metrics.is_empty() {
            status.insert("currentMetrics".to_owned(), metrics.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

fn autoscaler_from_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v1".into();
    let mut others = Vec::new();
    let mut behavior = None;
    if let Some(spec) = part(object, "spec") {
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            for metric in metrics {
                if is_cpu_utilization(&metric)
                    && !spec.contains_key("targetCPUUtilizationPercentage")
                {
                    let percent = metric["resource"]["target"]["averageUtilization"].clone();
                    spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
                } else {
                    others.push(metric);
                }
            }
        }
        behavior = spec.remove("behavior");
    }
    let mut current = Vec::new();
    let mut conditions = None;
    if let Some(status) = part(object, "status") {
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
            for metric in metrics {
                if is_current_cpu(&metric)
                    && !status.contains_key("currentCPUUtilizationPercentage")
                {
                    let percent = metric["resource"]["current"]["averageUtilization"].clone();
                    status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
                } else {
                    current.push(metric);
                }
            }
        }
        conditions = status.remove("conditions");
    }
    if !others.is_empty() {
        put_annotation(object, METRICS, &others.into());
    }
    if !current.is_empty() {
        put_annotation(object, CURRENT_METRICS, &current.into());
    }
    if let Some(conditions) = conditions {
        put_annotation(object, CONDITIONS, &conditions);
    }
    if let Some(behavior) = behavior {
        put_annotation(object, BEHAVIOR, &behavior);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_content_through_both_groups() {
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "hello", "reason": "Scheduled",
            "type": "Normal", "reportingController": "c", "reportingInstance": "i",
            "eventTime": "2026-01-02T03:04:05.000006Z", "series": {"count": 2},
        });
        let served = event.clone();
        event_to_core(&mut event);
        assert_eq!(event["apiVersion"], "v1");
        assert_eq!(event["involvedObject"]["name"], "p");
        assert_eq!(event["message"], "hello");
        event_from_core(&mut event);
        assert_eq!(event, served);
    }

    #[test]
    fn an_autoscaler_keeps_in_annotations_what_v1_has_no_fields_for() {
        let mut object = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]},
        });
        let stored = object.clone();
        autoscaler_from_v2(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);
        assert!(object["metadata"]["annotations"][METRICS].is_string());
        autoscaler_to_v2(&mut object);
        assert_eq!(object, stored);
    }
}
