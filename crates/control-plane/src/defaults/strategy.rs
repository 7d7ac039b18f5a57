//! What the server writes into an object on create and update, whatever the client sent:
//! status, generation, and the fields that belong to one sub-resource alone.

use serde_json::{Map, Value, json};

use super::edit::{Object, child, child_or_new, empty, items, missing, set_missing, text};
use super::{pod, qos_class};
use crate::schema::{Gvk, schema};

/// What makes the generation of an object rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    /// A change of `spec`.
    Spec,
    /// A change of `spec` or of the annotations.
    SpecOrAnnotations,
    /// A change of anything but the metadata, or of the labels.
    BodyOrLabels,
    /// A change of anything but the metadata.
    Body,
    /// Nothing: it is set once.
    Never,
}

/// The kinds that have a generation.
fn generation(gvk: &Gvk) -> Option<Generation> {
    use Generation::{Body, BodyOrLabels, Never, Spec, SpecOrAnnotations};
    Some(match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod" | "ReplicationController")
        | ("apps", "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job" | "CronJob")
        | ("networking.k8s.io", "Ingress" | "IngressClass" | "NetworkPolicy")
        | ("policy", "PodDisruptionBudget")
        | ("storage.k8s.io", "CSIDriver")
        | ("flowcontrol.apiserver.k8s.io", "FlowSchema" | "PriorityLevelConfiguration")
        | ("resource.k8s.io", "DeviceClass" | "ResourceSlice" | "DeviceTaintRule")
        | ("apiextensions.k8s.io", "CustomResourceDefinition")
        | (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy"
            | "ValidatingAdmissionPolicyBinding"
            | "MutatingAdmissionPolicy"
            | "MutatingAdmissionPolicyBinding",
        ) => Spec,
        ("apps", "Deployment") => SpecOrAnnotations,
        ("discovery.k8s.io", "EndpointSlice") => BodyOrLabels,
        ("", "PodTemplate")
        | (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => Body,
        ("scheduling.k8s.io", "PriorityClass") => Never,
        _ => return None,
    })
}

/// Makes an object ready to be created: drops the status a client may not set, sets the first
/// status (`phase`, `qosClass`), the first generation, and what a kind generates (a job's
/// selector). `metadata.uid`, `name` and `creationTimestamp` are set before.
pub fn prepare_for_create(gvk: &Gvk, object: &mut Value) {
    let whole = object;
    let class = (gvk.group.is_empty() && gvk.kind == "Pod").then(|| qos_class(whole));
    let Some(object) = whole.as_object_mut() else {
        return;
    };
    if let Some(metadata) = child_or_new(object, "metadata") {
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ] {
            metadata.remove(field);
        }
        if generation(gvk)
            .is_some_and(|rule| !(rule == Generation::Spec && gvk.kind == "CSIDriver"))
        {
            metadata.insert("generation".to_owned(), 1.into());
        }
    }
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => new_pod(object, class.unwrap_or("BestEffort")),
        ("", "Node") => {}
        ("", "Namespace") => {
            object.insert("status".to_owned(), json!({"phase": "Active"}));
            if let Some(spec) = child_or_new(object, "spec") {
                set_missing(spec, "finalizers", json!([]));
                if let Some(finalizers) = spec.get_mut("finalizers").and_then(Value::as_array_mut)
                    && !finalizers.iter().any(|name| name == "kubernetes")
                {
                    finalizers.push("kubernetes".into());
                }
            }
        }
        ("", "PersistentVolumeClaim") => {
            object.insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        ("", "PersistentVolume") => {
            let status = json!({"phase": "Pending", "lastPhaseTransitionTime": created(object)});
            object.insert("status".to_owned(), status);
        }
        (group, kind) => {
            match (group, kind) {
                ("", "Service") => new_service(object),
                ("batch", "Job") => job_selector(object),
                ("apps", "DaemonSet") => template_generation(object, None),
                _ => {}
            }
            if has_status(gvk) {
                reset_status(gvk, object);
            }
            if kind == "CustomResourceDefinition" {
                stored_versions(object);
            }
        }
    }
}

/// When the object was created, which is now.
fn created(object: &Object) -> Value {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("creationTimestamp"))
        .cloned()
        .unwrap_or_default()
}

/// A new definition of custom resources has stored none but in its storage version.
fn stored_versions(object: &mut Object) {
    let versions: Vec<Value> = object
        .get("spec")
        .and_then(|spec| spec.get("versions"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    if let Some(status) = child_or_new(object, "status") {
        status.insert("storedVersions".to_owned(), versions.into());
    }
}

/// Daemon sets count the changes of their template in an annotation.
fn template_generation(object: &mut Object, old: Option<&Object>) {
    const ANNOTATION: &str = "deprecated.daemonset.template.generation";
    let template = |object: &Object| {
        object
            .get("spec")
            .and_then(|spec| spec.get("template"))
            .cloned()
    };
    let before = old
        .and_then(|old| old.get("metadata")?.get("annotations")?.get(ANNOTATION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<i64>().ok())
        .unwrap_or(0);
    let changed = old.is_none_or(|old| template(old) != template(object));
    let now = before + i64::from(changed);
    if let Some(metadata) = child_or_new(object, "metadata")
        && let Some(annotations) = child_or_new(metadata, "annotations")
    {
        annotations.insert(ANNOTATION.to_owned(), now.to_string().into());
    }
}

fn new_pod(object: &mut Object, class: &str) {
    let now = created(object);
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if let Some(spec) = child(object, "spec") {
        // Admission may have named another account since the defaults ran.
        pod::service_account(spec);
        pod::drop_disabled(spec, None);
        if !empty(spec, "schedulingGates") {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": null,
                "lastTransitionTime": now,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
    }
    object.insert("status".to_owned(), status);
}

/// A job selects its pods by its own UID, unless it says that it selects them by hand.
fn job_selector(object: &mut Object) {
    let (name, uid) = child(object, "metadata")
        .map(|metadata| {
            (
                text(metadata, "name").to_owned(),
                text(metadata, "uid").to_owned(),
            )
        })
        .unwrap_or_default();
    let Some(spec) = child(object, "spec") else {
        return;
    };
    if spec.get("manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let mut before = Value::Null;
    let mut after = Value::Null;
    if let Some(template) = child_or_new(spec, "template")
        && let Some(metadata) = child_or_new(template, "metadata")
        && let Some(labels) = child_or_new(metadata, "labels")
    {
        before = Value::Object(labels.clone());
        for (label, value) in [
            ("job-name", &name),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("batch.kubernetes.io/controller-uid", &uid),
        ] {
            set_missing(labels, label, value.as_str());
        }
        after = Value::Object(labels.clone());
    }
    if let Some(selector) = child_or_new(spec, "selector")
        && let Some(labels) = child_or_new(selector, "matchLabels")
    {
        set_missing(labels, "batch.kubernetes.io/controller-uid", uid);
    }
    // A job without labels of its own has those of its pods, also those generated here.
    if let Some(metadata) = child_or_new(object, "metadata")
        && (empty(metadata, "labels") || metadata.get("labels") == Some(&before))
    {
        metadata.insert("labels".to_owned(), after);
    }
}

/// True for kinds whose status only its own sub-resource may write.
fn has_status(gvk: &Gvk) -> bool {
    let schema = schema();
    schema
        .type_of_gvk(gvk)
        .is_some_and(|id| schema.get(id).field("status").is_some())
}

/// The status of an object that nothing has looked at yet, as Go encodes the zero value.
fn reset_status(gvk: &Gvk, object: &mut Object) {
    object.remove("status");
    let Some(id) = schema().type_of_gvk(gvk) else {
        return;
    };
    let mut shell = Value::Object(Map::new());
    if crate::codec::coerce(&mut shell, id).is_ok()
        && let Some(status) = shell.get_mut("status")
    {
        object.insert("status".to_owned(), status.take());
    }
}

/// Makes an object ready to replace `old`. `subresource` is empty for the object itself,
/// else `status`, `ephemeralcontainers`, `resize`, `approval`, `finalize` …: all that the
/// sub-resource may not change is taken from `old`. Raises `metadata.generation` where the kind
/// has one and the spec changed.
pub fn prepare_for_update(gvk: &Gvk, object: &mut Value, old: &Value, subresource: &str) {
    let (Some(object), Some(old)) = (object.as_object_mut(), old.as_object()) else {
        return;
    };
    keep_metadata(object, old);
    let is_pod = gvk.group.is_empty() && gvk.kind == "Pod";
    match subresource {
        "" => {
            if is_pod || (gvk.group.is_empty() && gvk.kind == "Node") || has_status(gvk) {
                restore(object, old, "status");
            }
            match (gvk.group.as_str(), gvk.kind.as_str()) {
                ("", "Namespace") => namespace(object, old),
                ("", "Service") => service(object, old),
                ("", "Pod") => {
                    if let Some(spec) = child(object, "spec") {
                        pod::service_account(spec);
                        pod::drop_disabled(spec, old.get("spec"));
                    }
                }
                ("apps", "DaemonSet") => template_generation(object, Some(old)),
                ("certificates.k8s.io", "CertificateSigningRequest") => {
                    restore(object, old, "spec");
                }
                _ => {}
            }
        }
        "status" => {
            only(object, old, &["status"]);
            if is_pod {
                pod_status(object, old);
            } else if gvk.group == "apps"
                && let Some(metadata) = child(object, "metadata")
            {
                let labels = old.get("metadata").and_then(|old| old.get("labels"));
                put(metadata, "labels", labels);
            }
        }
        "approval" => {
            let conditions = object
                .get("status")
                .and_then(|status| status.get("conditions"))
                .cloned();
            only(object, old, &[]);
            if let Some(status) = child_or_new(object, "status") {
                put(status, "conditions", conditions.as_ref());
            }
        }
        "finalize" => only(object, old, &["spec"]),
        "ephemeralcontainers" => take_from_spec(object, old, |spec, given| {
            put(
                spec,
                "ephemeralContainers",
                given.get("ephemeralContainers"),
            );
        }),
        "resize" => take_from_spec(object, old, resize),
        _ => {}
    }
    raise_generation(gvk, object, old);
}

fn put(object: &mut Object, key: &str, value: Option<&Value>) {
    match value {
        Some(value) => object.insert(key.to_owned(), value.clone()),
        None => object.remove(key),
    };
}

fn restore(object: &mut Object, old: &Object, key: &str) {
    put(object, key, old.get(key));
}

/// Takes all from `old` but the metadata and the members in `changed`.
fn only(object: &mut Object, old: &Object, changed: &[&str]) {
    let kept =
        |key: &str| matches!(key, "metadata" | "apiVersion" | "kind") || changed.contains(&key);
    object.retain(|key, _| kept(key));
    for (key, value) in old {
        if !kept(key) {
            object.insert(key.clone(), value.clone());
        }
    }
}

/// What no client may change in the metadata.
fn keep_metadata(object: &mut Object, old: &Object) {
    let empty_metadata = Map::new();
    let before = old
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty_metadata);
    let Some(metadata) = child_or_new(object, "metadata") else {
        return;
    };
    metadata.remove("selfLink");
    put(metadata, "generation", before.get("generation"));
    put(
        metadata,
        "creationTimestamp",
        before.get("creationTimestamp"),
    );
    if empty(metadata, "uid") {
        put(metadata, "uid", before.get("uid"));
    }
    if !missing(before, "deletionTimestamp") {
        put(
            metadata,
            "deletionTimestamp",
            before.get("deletionTimestamp"),
        );
    }
    if missing(metadata, "deletionGracePeriodSeconds") {
        put(
            metadata,
            "deletionGracePeriodSeconds",
            before.get("deletionGracePeriodSeconds"),
        );
    }
}

fn raise_generation(gvk: &Gvk, object: &mut Object, old: &Object) {
    let Some(rule) = generation(gvk) else { return };
    let body = |object: &Object| -> Map<String, Value> {
        object
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let of_metadata = |object: &Object, key: &str| -> Map<String, Value> {
        object
            .get("metadata")
            .and_then(|metadata| metadata.get(key))
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let spec_changed = object.get("spec") != old.get("spec");
    let changed = match rule {
        Generation::Never => false,
        Generation::Spec => spec_changed,
        Generation::SpecOrAnnotations => {
            spec_changed || of_metadata(object, "annotations") != of_metadata(old, "annotations")
        }
        Generation::Body => body(object) != body(old),
        Generation::BodyOrLabels => {
            body(object) != body(old) || of_metadata(object, "labels") != of_metadata(old, "labels")
        }
    };
    if changed && let Some(metadata) = child(object, "metadata") {
        let before = metadata
            .get("generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        metadata.insert("generation".to_owned(), (before + 1).into());
    }
}

fn namespace(object: &mut Object, old: &Object) {
    let finalizers = old.get("spec").and_then(|spec| spec.get("finalizers"));
    if let Some(spec) = child_or_new(object, "spec") {
        put(spec, "finalizers", finalizers);
    }
    if let Some(metadata) = child(object, "metadata") {
        let name = text(metadata, "name").to_owned();
        if let Some(labels) = child_or_new(metadata, "labels") {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }
}

/// What was given to a service stays with it when an update does not name it.
/// The addresses of a new service agree with each other; none is allocated.
fn new_service(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let first = spec.get("clusterIP").cloned().unwrap_or_default();
    if empty(spec, "clusterIPs") && !empty(spec, "clusterIP") {
        spec.insert("clusterIPs".to_owned(), json!([first]));
    }
    // Nothing is said of the pods behind it, so they may have addresses of both kinds.
    let anything = text(spec, "clusterIP") == "None" && empty(spec, "selector");
    if anything && empty(spec, "ipFamilies") && missing(spec, "ipFamilyPolicy") {
        spec.insert("ipFamilies".to_owned(), json!(["IPv4", "IPv6"]));
        spec.insert("ipFamilyPolicy".to_owned(), "RequireDualStack".into());
    }
    if empty(spec, "ipFamilies") {
        let is_v6 = text(spec, "clusterIP").contains(':');
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        spec.insert("ipFamilies".to_owned(), json!([family]));
    }
    set_missing(spec, "ipFamilyPolicy", "SingleStack");
}

/// Takes away what belonged to the former type, unless the client gave it anew.
fn drop_fields_of_former_type(spec: &mut Object, before: &Object) {
    let kind = text(spec, "type").to_owned();
    let is_outside = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let drop = |spec: &mut Object, field: &str| {
        if spec.get(field) == before.get(field) {
            spec.remove(field);
        }
    };
    if kind == "ExternalName" && text(before, "type") != "ExternalName" {
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            drop(spec, field);
        }
    }
    if is_outside(text(before, "type")) && !is_outside(&kind) {
        if kind == "ExternalName" || empty(spec, "externalIPs") {
            drop(spec, "externalTrafficPolicy");
        }
        let olds = before.get("ports").and_then(Value::as_array);
        for port in items(spec, "ports") {
            let number = port.get("nodePort").cloned();
            let was = |old: &Value| number.as_ref() == old.get("nodePort");
            if number.is_some() && olds.into_iter().flatten().any(was) {
                port.remove("nodePort");
            }
        }
    }
    if text(before, "type") == "LoadBalancer" && kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            drop(spec, field);
        }
        if spec.get("healthCheckNodePort") == before.get("healthCheckNodePort") {
            spec.remove("healthCheckNodePort");
        }
    }
}

fn service(object: &mut Object, old: &Object) {
    let Some(before) = old.get("spec").and_then(Value::as_object) else {
        return;
    };
    let Some(spec) = child(object, "spec") else {
        return;
    };
    drop_fields_of_former_type(spec, before);
    let kind = text(spec, "type").to_owned();
    if kind == "ExternalName" || text(before, "type") == "ExternalName" {
        new_service(object);
        return;
    }
    if empty(spec, "clusterIP") && empty(spec, "clusterIPs") {
        restore(spec, before, "clusterIP");
        restore(spec, before, "clusterIPs");
    } else if empty(spec, "clusterIPs") && spec.get("clusterIP") == before.get("clusterIP") {
        restore(spec, before, "clusterIPs");
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if empty(spec, field) {
            restore(spec, before, field);
        }
    }
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if !has_ports(&kind) || !has_ports(text(before, "type")) {
        return;
    }
    let olds = before.get("ports").and_then(Value::as_array);
    for port in items(spec, "ports") {
        let same = olds.into_iter().flatten().find(|old| {
            old.get("port") == port.get("port") && old.get("protocol") == port.get("protocol")
        });
        if missing(port, "nodePort")
            && let Some(number) = same.and_then(|old| old.get("nodePort"))
        {
            port.insert("nodePort".to_owned(), number.clone());
        }
    }
}

/// A node may write neither whose a pod is, nor when it goes.
fn pod_status(object: &mut Object, old: &Object) {
    let before = old.get("metadata").and_then(Value::as_object);
    if let (Some(metadata), Some(before)) = (child(object, "metadata"), before) {
        for field in [
            "ownerReferences",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            put(metadata, field, before.get(field));
        }
    }
    let old_status = old.get("status").and_then(Value::as_object);
    let (Some(status), Some(before)) = (child_or_new(object, "status"), old_status) else {
        return;
    };
    for field in ["qosClass", "observedGeneration"] {
        if empty(status, field) {
            restore(status, before, field);
        }
    }
    let olds = before.get("conditions").and_then(Value::as_array);
    for condition in items(status, "conditions") {
        let same = olds
            .into_iter()
            .flatten()
            .find(|old| old.get("type") == condition.get("type"));
        if missing(condition, "observedGeneration")
            && let Some(generation) = same.and_then(|old| old.get("observedGeneration"))
        {
            condition.insert("observedGeneration".to_owned(), generation.clone());
        }
    }
}

/// Makes of the object the old one, but for what `change` takes from the given spec.
fn take_from_spec(object: &mut Object, old: &Object, change: impl FnOnce(&mut Object, &Object)) {
    let given = object
        .get("spec")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let version = object
        .get("metadata")
        .and_then(|metadata| metadata.get("resourceVersion"))
        .cloned();
    *object = old.clone();
    if let Some(metadata) = child(object, "metadata") {
        put(metadata, "resourceVersion", version.as_ref());
    }
    if let Some(spec) = child_or_new(object, "spec") {
        change(spec, &given);
    }
}

/// Containers' resources and resize policies are all that a resize changes.
fn resize(spec: &mut Object, given: &Object) {
    for list in ["containers", "initContainers"] {
        let wanted = given.get(list).and_then(Value::as_array);
        for container in items(spec, list) {
            let same = wanted
                .into_iter()
                .flatten()
                .find(|other| other.get("name") == container.get("name"));
            if let Some(other) = same {
                put(container, "resources", other.get("resources"));
                put(container, "resizePolicy", other.get("resizePolicy"));
            }
        }
    }
    put(spec, "resources", given.get("resources"));
}

#[cfg(test)]
mod tests;
