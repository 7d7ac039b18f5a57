//! Containers: regular, init and ephemeral ones.

use serde_json::Value;

use super::{Context, environment, handler, resources, security, volume};
use crate::validation::names;
use crate::validation::report::{Path, Report, list, member, number, text};

/// The fields an ephemeral container may have.
const EPHEMERAL_FIELDS: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "env",
    "envFrom",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

pub(super) fn regular(report: &mut Report, spec: &Value, context: &Context<'_>, path: &Path<'_>) {
    let containers = list(spec, "containers");
    if containers.is_empty() {
        report.required(path, "");
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(report, container, context, &path);
        let name = text(container, "name");
        if seen.contains(&name) {
            report.duplicate(&path.child("name"), name);
        } else {
            seen.push(name);
        }
        lifecycle_and_probes(report, container, context, &path);
        if member(container, "restartPolicy").is_some() {
            report.forbidden(
                &path.child("restartPolicy"),
                "may not be set for non-init containers",
            );
        }
    }
    host_ports(report, containers, path);
}

pub(super) fn init(report: &mut Report, spec: &Value, context: &Context<'_>, path: &Path<'_>) {
    let mut seen: Vec<&str> = list(spec, "containers")
        .iter()
        .map(|container| text(container, "name"))
        .collect();
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let container_path = path.index(index);
        common(report, container, context, &container_path);
        let policy = member(container, "restartPolicy").and_then(Value::as_str);
        if let Some(policy) = policy.filter(|policy| *policy != "Always") {
            report.not_supported(&container_path.child("restartPolicy"), policy, &["Always"]);
        }
        let name = text(container, "name");
        if seen.contains(&name) {
            report.duplicate(&container_path.child("name"), name);
        } else if !name.is_empty() {
            seen.push(name);
        }
        host_ports(report, std::slice::from_ref(container), path);
        if policy == Some("Always") {
            lifecycle_and_probes(report, container, context, &container_path);
        } else {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if member(container, field).is_some() {
                    report.forbidden(
                        &container_path.child(field),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
        }
    }
}

pub(super) fn ephemeral(report: &mut Report, spec: &Value, context: &Context<'_>, path: &Path<'_>) {
    let others: Vec<&str> = list(spec, "containers")
        .iter()
        .chain(list(spec, "initContainers"))
        .map(|container| text(container, "name"))
        .collect();
    let mut seen = others.clone();
    for (index, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        common(report, container, context, &path);
        padded_image(report, container, &path);
        let name = text(container, "name");
        if seen.contains(&name) {
            report.duplicate(&path.child("name"), name);
        } else {
            seen.push(name);
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            report.not_found(&path.child("targetContainerName"), target);
        }
        for (field, value) in container.as_object().into_iter().flatten() {
            // The encoder writes an empty `resources` for every container.
            let empty = value.is_null()
                || value.as_object().is_some_and(serde_json::Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            if !empty && !EPHEMERAL_FIELDS.contains(&field.as_str()) {
                report.forbidden(
                    &path.child(field),
                    "cannot be set for an Ephemeral Container",
                );
            }
        }
        let mounts = path.child("volumeMounts");
        for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    report.forbidden(
                        &mounts.index(index).child(field),
                        "cannot be set for an Ephemeral Container",
                    );
                }
            }
        }
    }
}

/// White space around an image's name is refused in pods, and let through in templates.
pub(super) fn padded_image(report: &mut Report, container: &Value, path: &Path<'_>) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        report.invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
}

fn common(report: &mut Report, container: &Value, context: &Context<'_>, path: &Path<'_>) {
    let name = text(container, "name");
    if name.is_empty() {
        report.required(&path.child("name"), "");
    } else {
        report.problems(&path.child("name"), name, names::dns1123_label(name));
    }
    if text(container, "image").is_empty() {
        report.required(&path.child("image"), "");
    }
    let policy = path.child("terminationMessagePolicy");
    match text(container, "terminationMessagePolicy") {
        "File" | "FallbackToLogsOnError" => {}
        "" => report.required(&policy, ""),
        other => report.not_supported(&policy, other, &["File", "FallbackToLogsOnError"]),
    }
    ports(report, container, &path.child("ports"));
    environment::variables(report, container, &path.child("env"));
    environment::sources(report, container, &path.child("envFrom"));
    volume::mounts(report, container, context, &path.child("volumeMounts"));
    volume::devices(report, container, context, &path.child("volumeDevices"));
    let policy = path.child("imagePullPolicy");
    match text(container, "imagePullPolicy") {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => report.required(&policy, ""),
        other => report.not_supported(&policy, other, &["Always", "IfNotPresent", "Never"]),
    }
    if let Some(requirements) = member(container, "resources") {
        resources::of_container(report, requirements, context, &path.child("resources"));
    }
    resize_policy(report, container, context, &path.child("resizePolicy"));
    if let Some(security) = member(container, "securityContext") {
        security::container(report, security, context, &path.child("securityContext"));
    }
}

fn ports(report: &mut Report, container: &Value, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if !problems.is_empty() {
                report.problems(&path.child("name"), name, problems);
            } else if seen.contains(&name) {
                report.duplicate(&path.child("name"), name);
            } else {
                seen.push(name);
            }
        }
        match number(port, "containerPort").unwrap_or(0) {
            0 => report.required(&path.child("containerPort"), ""),
            number => port_number(report, number, &path.child("containerPort")),
        }
        match number(port, "hostPort").unwrap_or(0) {
            0 => {}
            number => port_number(report, number, &path.child("hostPort")),
        }
        match text(port, "protocol") {
            "TCP" | "UDP" | "SCTP" => {}
            "" => report.required(&path.child("protocol"), ""),
            other => {
                report.not_supported(&path.child("protocol"), other, &["SCTP", "TCP", "UDP"]);
            }
        }
    }
}

fn port_number(report: &mut Report, number: i64, path: &Path<'_>) {
    for problem in names::port_number(number) {
        report.invalid(path, number, problem);
    }
}

/// No two containers may take one port of the host.
fn host_ports(report: &mut Report, containers: &[Value], path: &Path<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let container_path = path.index(index);
        let ports_path = container_path.child("ports");
        for (index, port) in list(container, "ports").iter().enumerate() {
            let Some(number) = number(port, "hostPort").filter(|number| *number != 0) else {
                continue;
            };
            let taken = format!(
                "{}/{}/{number}",
                text(port, "protocol"),
                text(port, "hostIP")
            );
            if seen.contains(&taken) {
                report.duplicate(&ports_path.index(index).child("hostPort"), taken);
            } else {
                seen.push(taken);
            }
        }
    }
}

fn lifecycle_and_probes(
    report: &mut Report,
    container: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    if let Some(lifecycle) = member(container, "lifecycle") {
        handler::lifecycle(report, lifecycle, context, &path.child("lifecycle"));
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = member(container, field) {
            handler::probe(report, field, probe, context, &path.child(field));
        }
    }
}

fn resize_policy(report: &mut Report, container: &Value, context: &Context<'_>, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let resource = text(policy, "resourceName");
        if seen.contains(&resource) {
            report.duplicate(&path.index(index), resource);
        }
        seen.push(resource);
        match resource {
            "cpu" | "memory" => {}
            "" => report.required(path, ""),
            other => report.not_supported(path, other, &["cpu", "memory"]),
        }
        let restart = text(policy, "restartPolicy");
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => report.required(path, ""),
            other => report.not_supported(path, other, &["NotRequired", "RestartContainer"]),
        }
        if context.restart_policy == "Never" && restart != "NotRequired" {
            report.invalid(
                path,
                restart,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}
