//! The core group, but for pods.

use serde_json::{Map, Value, json};

use super::edit::{
    Object, child, child_or_new, empty, items, missing, set_missing, set_text, text,
};
use super::pod;

/// How long a client's sessions stick to one endpoint.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn apply(kind: &str, object: &mut Object) {
    match kind {
        "Pod" => pod::pod(object),
        "PodTemplate" => {
            if let Some(template) = child(object, "template") {
                pod::template(template);
            }
        }
        "ReplicationController" => replication_controller(object),
        "Service" => service(object),
        "Secret" => set_text(object, "type", "Opaque"),
        "Namespace" => namespace(object),
        "Node" => node(object),
        "Endpoints" => {
            for subset in items(object, "subsets") {
                for port in items(subset, "ports") {
                    set_text(port, "protocol", "TCP");
                }
            }
        }
        "PersistentVolume" => persistent_volume(object),
        "PersistentVolumeClaim" => persistent_volume_claim(object),
        "LimitRange" => limit_range(object),
        _ => {}
    }
}

fn replication_controller(object: &mut Object) {
    let labels = object
        .get("spec")
        .and_then(|spec| spec.pointer("/template/metadata/labels"))
        .filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty()))
        .cloned();
    let Some(spec) = child_or_new(object, "spec") else {
        return;
    };
    set_missing(spec, "replicas", 1);
    if let Some(template) = child(spec, "template") {
        pod::template(template);
    }
    let Some(labels) = labels else { return };
    if empty(spec, "selector") {
        spec.insert("selector".to_owned(), labels.clone());
    }
    if let Some(metadata) = child_or_new(object, "metadata")
        && empty(metadata, "labels")
    {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn service(object: &mut Object) {
    if let Some(spec) = child_or_new(object, "spec") {
        set_text(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => {
                spec.remove("sessionAffinityConfig");
            }
            "ClientIP" => {
                if let Some(config) = child_or_new(spec, "sessionAffinityConfig")
                    && let Some(client) = child_or_new(config, "clientIP")
                {
                    set_missing(client, "timeoutSeconds", AFFINITY_SECONDS);
                }
            }
            _ => {}
        }
        set_text(spec, "type", "ClusterIP");
        for port in items(spec, "ports") {
            set_text(port, "protocol", "TCP");
            let target = port.get("targetPort");
            let unset = matches!(target, None | Some(Value::Null))
                || target.and_then(Value::as_i64) == Some(0)
                || target.and_then(Value::as_str) == Some("");
            if unset && let Some(number) = port.get("port").cloned() {
                port.insert("targetPort".to_owned(), number);
            }
        }
        let kind = text(spec, "type").to_owned();
        let outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
            || (kind == "ClusterIP" && !empty(spec, "externalIPs"));
        if outside {
            set_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set_missing(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_missing(spec, "allocateLoadBalancerNodePorts", true);
        }
    }
    if let Some(status) = child(object, "status")
        && let Some(balancer) = child(status, "loadBalancer")
    {
        for ingress in items(balancer, "ingress") {
            if !empty(ingress, "ip") {
                set_missing(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn namespace(object: &mut Object) {
    if let Some(metadata) = child(object, "metadata") {
        let name = text(metadata, "name").to_owned();
        if !name.is_empty()
            && let Some(labels) = child_or_new(metadata, "labels")
        {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }
    if let Some(status) = child_or_new(object, "status") {
        set_text(status, "phase", "Active");
    }
}

fn node(object: &mut Object) {
    let Some(status) = child(object, "status") else {
        return;
    };
    if missing(status, "allocatable")
        && let Some(capacity) = status.get("capacity").filter(|value| value.is_object())
    {
        let capacity = capacity.clone();
        status.insert("allocatable".to_owned(), capacity);
    }
}

fn persistent_volume(object: &mut Object) {
    if let Some(status) = child_or_new(object, "status") {
        set_text(status, "phase", "Pending");
    }
    let Some(spec) = child_or_new(object, "spec") else {
        return;
    };
    set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_missing(spec, "volumeMode", "Filesystem");
    if let Some(path) = child(spec, "hostPath") {
        set_missing(path, "type", "");
    }
    pod::network_disks(spec);
}

fn persistent_volume_claim(object: &mut Object) {
    if let Some(status) = child_or_new(object, "status") {
        set_text(status, "phase", "Pending");
    }
    if let Some(spec) = child_or_new(object, "spec") {
        set_missing(spec, "volumeMode", "Filesystem");
    }
}

/// For containers: a limit defaults to the maximum, a request to the limit, then to the minimum.
fn limit_range(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    for item in items(spec, "limits").filter(|item| text(item, "type") == "Container") {
        let amounts = |item: &Object, key: &str| -> Map<String, Value> {
            item.get(key)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default()
        };
        let mut limits = amounts(item, "default");
        for (name, amount) in amounts(item, "max") {
            limits.entry(name).or_insert(amount);
        }
        let mut requests = amounts(item, "defaultRequest");
        for (name, amount) in limits.clone().into_iter().chain(amounts(item, "min")) {
            requests.entry(name).or_insert(amount);
        }
        for (key, amounts) in [("default", limits), ("defaultRequest", requests)] {
            if !amounts.is_empty() {
                item.insert(key.to_owned(), json!(amounts));
            }
        }
    }
}
