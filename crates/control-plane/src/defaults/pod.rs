//! Pods and pod templates.

use serde_json::{Map, Value, json};

use super::edit::{
    Object, child, child_or_new, empty, items, missing, set_missing, set_number, set_text, text,
};

/// Seconds between SIGTERM and SIGKILL where a pod says nothing.
const GRACE_SECONDS: i64 = 30;
/// `0644`, the mode of projected files.
const FILE_MODE: i64 = 0o644;
/// How long a projected service-account token lives where the volume says nothing.
const TOKEN_SECONDS: i64 = 3_600;

/// Both fields of the address of a pod say the same; where they do not, `podIP` counts, which is
/// all that older kubelets know.
fn addresses(status: &mut Object) {
    let address = text(status, "podIP").to_owned();
    let first = items(status, "podIPs")
        .next()
        .map(|first| text(first, "ip").to_owned());
    match first {
        Some(first) if address.is_empty() => {
            status.insert("podIP".to_owned(), first.into());
        }
        Some(first) if first == address => {}
        _ if address.is_empty() => {}
        _ => {
            status.insert("podIPs".to_owned(), json!([{"ip": address}]));
        }
    }
}

/// A pod itself: the defaults of templates, and those that templates do not get.
pub(super) fn pod(pod: &mut Object) {
    if let Some(status) = child(pod, "status") {
        addresses(status);
    }
    let Some(spec) = child_or_new(pod, "spec") else {
        return;
    };
    spec_of_template(spec);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_level_requests(spec);
    set_missing(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        host_ports(spec);
    }
}

/// A `PodTemplateSpec`.
pub(super) fn template(template: &mut Object) {
    if let Some(spec) = child_or_new(template, "spec") {
        spec_of_template(spec);
    }
}

/// A `PodSpec`, wherever it stands.
fn spec_of_template(spec: &mut Object) {
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set_missing(spec, "securityContext", json!({}));
    set_missing(spec, "terminationGracePeriodSeconds", GRACE_SECONDS);
    set_text(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for item in items(spec, list) {
            container(item);
        }
    }
    for item in items(spec, "volumes") {
        volume(item);
    }
}

/// The deprecated `serviceAccount` always says what `serviceAccountName` says.
pub(super) fn service_account(spec: &mut Object) {
    if empty(spec, "serviceAccountName") {
        if let Some(name) = spec.get("serviceAccount").filter(|name| name.is_string()) {
            let name = name.clone();
            spec.insert("serviceAccountName".to_owned(), name);
        }
    } else {
        let name = spec["serviceAccountName"].clone();
        spec.insert("serviceAccount".to_owned(), name);
    }
}

/// Takes out the fields that the served version knows and does not act on unless its alpha
/// features are switched on. `old` is the spec before an update: what it has stays.
pub(super) fn drop_disabled(spec: &mut Object, old: Option<&Value>) {
    let in_use = |field: &str| {
        old.is_some_and(|old| {
            let lists = ["containers", "initContainers"];
            lists.iter().any(|list| {
                old.get(list)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .any(|container| container.get(field).is_some())
            })
        })
    };
    let (policies, rules) = (in_use("restartPolicy"), in_use("restartPolicyRules"));
    for container in items(spec, "containers") {
        if !policies {
            container.remove("restartPolicy");
        }
        if !rules {
            container.remove("restartPolicyRules");
        }
    }
    for container in items(spec, "initContainers") {
        if text(container, "restartPolicy") != "Always" {
            container.remove("restartPolicy");
        }
        if !rules {
            container.remove("restartPolicyRules");
        }
    }
    if old.is_none_or(|old| old.get("hostnameOverride").is_none()) {
        spec.remove("hostnameOverride");
    }
}

/// On the host's network, each container port is a host port.
fn host_ports(spec: &mut Object) {
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            for port in items(container, "ports") {
                if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
                    set_number(port, "hostPort", number);
                }
            }
        }
    }
}

fn container(container: &mut Object) {
    let policy = pull_policy(text(container, "image"));
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    for port in items(container, "ports") {
        set_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        let Some(source) = child(variable, "valueFrom") else {
            continue;
        };
        if let Some(field) = child(source, "fieldRef") {
            set_text(field, "apiVersion", "v1");
        }
        if let Some(file) = child(source, "fileKeyRef") {
            set_missing(file, "optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child(container, probe) {
            set_number(probe, "timeoutSeconds", 1);
            set_number(probe, "periodSeconds", 10);
            set_number(probe, "successThreshold", 1);
            set_number(probe, "failureThreshold", 3);
            if let Some(grpc) = child(probe, "grpc") {
                set_missing(grpc, "service", "");
            }
            http_get(probe);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = child(lifecycle, hook) {
                http_get(hook);
            }
        }
    }
}

fn http_get(handler: &mut Object) {
    if let Some(action) = child(handler, "httpGet") {
        set_text(action, "path", "/");
        set_text(action, "scheme", "HTTP");
    }
}

/// `Always` for the tag `latest`, given or meant, else `IfNotPresent`, which is also for what is
/// no image reference at all.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let (name, digest) = match last.split_once('@') {
        Some((name, _)) => (name, true),
        None => (last, false),
    };
    let (name, tag) = match name.split_once(':') {
        Some((name, tag)) => (name, Some(tag)),
        None => (name, None),
    };
    let reference = !name.is_empty()
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        });
    match tag {
        _ if !reference => "IfNotPresent",
        Some("latest") => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Object) {
    // A volume without a source is an emptyDir; every other member is a source.
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, source) {
            set_missing(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = child(volume, "hostPath") {
        set_missing(source, "type", "");
    }
    if let Some(source) = child(volume, "downwardAPI") {
        downward_items(source);
    }
    if let Some(projected) = child(volume, "projected") {
        for source in items(projected, "sources") {
            if let Some(token) = child(source, "serviceAccountToken") {
                set_missing(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(downward) = child(source, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(image) = child(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        set_text(image, "pullPolicy", policy);
    }
    if let Some(ephemeral) = child(volume, "ephemeral")
        && let Some(claim) = child(ephemeral, "volumeClaimTemplate")
        && let Some(spec) = child_or_new(claim, "spec")
    {
        set_missing(spec, "volumeMode", "Filesystem");
    }
    network_disks(volume);
}

fn downward_items(source: &mut Object) {
    for item in items(source, "items") {
        if let Some(field) = child(item, "fieldRef") {
            set_text(field, "apiVersion", "v1");
        }
    }
}

/// The old volume sources, in pods and in persistent volumes.
pub(super) fn network_disks(source: &mut Object) {
    if let Some(iscsi) = child(source, "iscsi") {
        set_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(source, "rbd") {
        set_text(rbd, "pool", "rbd");
        set_text(rbd, "user", "admin");
        set_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(source, "azureDisk") {
        set_missing(disk, "cachingMode", "ReadWrite");
        set_missing(disk, "kind", "Shared");
        set_missing(disk, "fsType", "ext4");
        set_missing(disk, "readOnly", false);
    }
    if let Some(scale_io) = child(source, "scaleIO") {
        set_text(scale_io, "storageMode", "ThinProvisioned");
        set_text(scale_io, "fsType", "xfs");
    }
}

fn requests_from_limits(container: &mut Object) {
    if let Some(resources) = child(container, "resources")
        && let Some(limits) = child(resources, "limits").map(|limits| limits.clone())
        && let Some(requests) = child_or_new(resources, "requests")
    {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
        if requests.is_empty() {
            resources.remove("requests");
        }
    }
}

/// What a pod asks for as a whole, where it limits itself as a whole: the sum of its containers'
/// requests where they have one, else the limit.
fn pod_level_requests(spec: &mut Object) {
    let Some(limits) = spec
        .get("resources")
        .and_then(|resources| resources.get("limits"))
        .and_then(Value::as_object)
        .filter(|limits| !limits.is_empty())
        .cloned()
    else {
        return;
    };
    let mut wanted = Map::new();
    for (name, limit) in limits {
        let sum = match name.as_str() {
            "cpu" | "memory" => super::resources::sum_of_requests(spec, &name),
            _ => None,
        };
        wanted.insert(name, sum.map_or(limit, Value::String));
    }
    for name in ["cpu", "memory"] {
        if !wanted.contains_key(name)
            && let Some(sum) = super::resources::sum_of_requests(spec, name)
        {
            wanted.insert(name.to_owned(), Value::String(sum));
        }
    }
    if let Some(resources) = child(spec, "resources")
        && let Some(requests) = child_or_new(resources, "requests")
    {
        for (name, amount) in wanted {
            if missing(requests, &name) {
                requests.insert(name, amount);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("localhost:5000/busybox:1", "IfNotPresent"),
            ("", "IfNotPresent"),
            ("No Image", "IfNotPresent"),
            (
                "busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                "IfNotPresent",
            ),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
