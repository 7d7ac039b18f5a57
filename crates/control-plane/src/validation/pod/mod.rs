//! Pods and pod templates.

mod container;
mod environment;
mod handler;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
mod volume;

use std::collections::HashMap;

use serde_json::Value;

use super::report::{Path, Report, flag, list, member, number, text};
use super::{meta, names};
use crate::status::FieldErrorKind;

pub(super) use resources::amount;
pub(super) use scheduling::{node_selector, taint_effect};
pub(super) use status::update as update_status;
pub(super) use update::{ephemeral_containers, update};

const NULL: Value = Value::Null;

/// What the checks of containers need to know of their pod.
struct Context<'a> {
    /// The volumes that are good, by name.
    volumes: HashMap<&'a str, &'a Value>,
    /// `terminationGracePeriodSeconds`.
    grace: Option<i64>,
    /// The pod's `restartPolicy`.
    restart_policy: &'a str,
    /// The names of the pod's resource claims.
    claims: Vec<&'a str>,
    /// `spec.os.name`; empty for none.
    os: &'a str,
    /// Users of the pod are users of the host.
    host_users: bool,
}

pub(super) fn create(report: &mut Report, pod: &Value) {
    let path = Path::root("spec");
    let spec = pod.get("spec").unwrap_or(&NULL);
    whole(report, pod);
    if !list(spec, "ephemeralContainers").is_empty() {
        report.forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        );
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        report.forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
}

/// Metadata and spec of a pod, as they must be on create and after each update.
fn whole(report: &mut Report, pod: &Value) {
    let path = Path::root("spec");
    let spec_value = pod.get("spec").unwrap_or(&NULL);
    meta::create(report, pod, true, meta::subdomain);
    spec(report, spec_value, pod.get("metadata"), true, &path);
    if text(spec_value, "serviceAccountName").is_empty() {
        let volumes = path.child("volumes");
        for (index, volume) in list(spec_value, "volumes").iter().enumerate() {
            let volume_path = volumes.index(index);
            let projected_path = volume_path.child("projected");
            let projected = volume.get("projected").unwrap_or(&NULL);
            for (index, source) in list(projected, "sources").iter().enumerate() {
                if member(source, "serviceAccountToken").is_some() {
                    report.forbidden(
                        &projected_path
                            .child("sources")
                            .index(index)
                            .child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        let path = path.child(key);
        for (index, container) in list(spec_value, key).iter().enumerate() {
            container::padded_image(report, container, &path.index(index));
        }
    }
}

/// A `PodTemplateSpec`.
pub(super) fn template(report: &mut Report, template: &Value, path: &Path<'_>) {
    let metadata = template.get("metadata").unwrap_or(&NULL);
    meta::labels(report, metadata, "labels", &path.child("labels"));
    meta::annotations(report, metadata, &path.child("annotations"));
    let spec_value = template.get("spec").unwrap_or(&NULL);
    let spec_path = path.child("spec");
    spec(report, spec_value, None, false, &spec_path);
    if !list(spec_value, "ephemeralContainers").is_empty() {
        report.forbidden(
            &spec_path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// A `PodSpec`; `metadata` is the pod's, and `is_pod` tells a pod from a template.
fn spec(
    report: &mut Report,
    spec: &Value,
    metadata: Option<&Value>,
    is_pod: bool,
    path: &Path<'_>,
) {
    if member(spec, "terminationGracePeriodSeconds").is_none() {
        report.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::all(report, spec, metadata, &path.child("volumes"));
    let context = Context {
        volumes,
        grace: number(spec, "terminationGracePeriodSeconds"),
        restart_policy: text(spec, "restartPolicy"),
        claims: list(spec, "resourceClaims")
            .iter()
            .map(|claim| text(claim, "name"))
            .collect(),
        os: spec.get("os").map_or("", |os| text(os, "name")),
        host_users: spec.get("hostUsers").and_then(Value::as_bool) != Some(false),
    };
    resource_claims(report, spec, &path.child("resourceClaims"));
    container::regular(report, spec, &context, &path.child("containers"));
    container::init(report, spec, &context, &path.child("initContainers"));
    container::ephemeral(report, spec, &context, &path.child("ephemeralContainers"));
    resources::whole_pod(report, spec, &context, path);
    if flag(spec, "hostNetwork") {
        host_network_ports(report, spec, is_pod, &path.child("containers"));
    }
    policies(report, spec, path);
    meta::labels(report, spec, "nodeSelector", &path.child("nodeSelector"));
    security::pod(report, spec, &path.child("securityContext"));
    if let Some(affinity) = member(spec, "affinity") {
        scheduling::affinity(report, affinity, &path.child("affinity"));
    }
    dns(report, spec, &path.child("dnsConfig"));
    let gates = path.child("readinessGates");
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        report.problems(
            &gates.index(index).child("conditionType"),
            kind,
            names::qualified_name(kind),
        );
    }
    let gates = path.child("schedulingGates");
    let mut seen: Vec<&str> = Vec::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        report.problems(&gates.index(index), name, names::qualified_name(name));
        if seen.contains(&name) {
            report.duplicate(&gates.index(index), name);
        }
        seen.push(name);
    }
    scheduling::topology(report, spec, &path.child("topologySpreadConstraints"));
    if !context.host_users {
        for (field, label) in [
            ("hostNetwork", "hostNetwork"),
            ("hostPID", "HostPID"),
            ("hostIPC", "HostIPC"),
        ] {
            if flag(spec, field) {
                report.forbidden(&path.child(label), "when `hostUsers` is false");
            }
        }
    }
    named(report, spec, path);
}

fn resource_claims(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            report.required(&path.child("name"), "");
        } else if seen.contains(&name) {
            report.duplicate(&path.child("name"), name);
        } else {
            report.problems(&path.child("name"), name, names::dns1123_label(name));
            seen.push(name);
        }
        let direct = member(claim, "resourceClaimName").is_some();
        let template = member(claim, "resourceClaimTemplateName").is_some();
        if direct && template {
            report.shown(
                FieldErrorKind::Invalid,
                &path,
                claim_shown(claim),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            );
        } else if !direct && !template {
            report.shown(
                FieldErrorKind::Invalid,
                &path,
                claim_shown(claim),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            );
        }
    }
}

/// A resource claim in the form that the real server has it inside.
fn claim_shown(claim: &Value) -> String {
    let shown = |key: &str| claim.get(key).unwrap_or(&NULL).to_string();
    format!(
        "{{\"Name\":{},\"ResourceClaimName\":{},\"ResourceClaimTemplateName\":{}}}",
        shown("name"),
        shown("resourceClaimName"),
        shown("resourceClaimTemplateName")
    )
}

fn host_network_ports(report: &mut Report, spec: &Value, is_pod: bool, path: &Path<'_>) {
    for (index, container) in list(spec, "containers").iter().enumerate() {
        let container_path = path.index(index);
        let ports_path = container_path.child("ports");
        for (index, port) in list(container, "ports").iter().enumerate() {
            let host = number(port, "hostPort").unwrap_or(0);
            if (is_pod || host != 0) && Some(host) != number(port, "containerPort") {
                report.invalid(
                    &ports_path.index(index).child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn policies(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let restart = path.child("restartPolicy");
    match text(spec, "restartPolicy") {
        "Always" | "OnFailure" | "Never" => {}
        "" => report.required(&restart, ""),
        other => report.not_supported(&restart, other, &["Always", "OnFailure", "Never"]),
    }
    let dns = path.child("dnsPolicy");
    match text(spec, "dnsPolicy") {
        "ClusterFirstWithHostNet" | "ClusterFirst" | "Default" | "None" => {}
        "" => report.required(&dns, ""),
        other => report.not_supported(
            &dns,
            other,
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        ),
    }
}

fn dns(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let config = member(spec, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        let Some(config) = config else {
            report.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        };
        if list(config, "nameservers").is_empty() {
            report.required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    let Some(config) = config else { return };
    let servers = list(config, "nameservers");
    let servers_path = path.child("nameservers");
    if servers.len() > 3 {
        report.invalid(
            &servers_path,
            servers.to_vec(),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in servers.iter().enumerate() {
        ip_address(
            report,
            server.as_str().unwrap_or_default(),
            &servers_path.index(index),
        );
    }
    let searches = list(config, "searches");
    let searches_path = path.child("searches");
    if searches.len() > 32 {
        report.invalid(
            &searches_path,
            searches.to_vec(),
            "must not have more than 32 search paths",
        );
    }
    for (index, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            report.problems(
                &searches_path.index(index),
                search,
                names::search_domain(search),
            );
        }
    }
    let options = path.child("options");
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            report.required(&options.index(index), "must not be empty");
        }
    }
}

/// An IP address.
pub(super) fn ip_address(report: &mut Report, address: &str, path: &Path<'_>) {
    if address.parse::<std::net::IpAddr>().is_err() {
        report.invalid(path, address, super::meta::NOT_AN_ADDRESS);
    }
}

/// The fields that name something, and the numbers.
fn named(report: &mut Report, spec: &Value, path: &Path<'_>) {
    for field in ["serviceAccountName", "nodeName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            report.problems(&path.child(field), name, names::dns1123_subdomain(name));
        }
    }
    if let Some(deadline) = number(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&deadline)
    {
        report.invalid(
            &path.child("activeDeadlineSeconds"),
            deadline,
            names::between(1, i64::from(i32::MAX)),
        );
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            report.problems(&path.child(field), name, names::dns1123_label(name));
        }
    }
    scheduling::tolerations(report, spec, &path.child("tolerations"));
    let aliases = path.child("hostAliases");
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = aliases.index(index);
        ip_address(report, text(alias, "ip"), &path.child("ip"));
        let hosts = path.child("hostnames");
        for (index, host) in list(alias, "hostnames").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            report.problems(&hosts.index(index), host, names::dns1123_subdomain(host));
        }
    }
    for field in ["priorityClassName", "runtimeClassName"] {
        if let Some(name) = member(spec, field).and_then(Value::as_str)
            && (field == "runtimeClassName" || !name.is_empty())
        {
            report.problems(&path.child(field), name, names::dns1123_subdomain(name));
        }
    }
    if let Some(policy) = member(spec, "preemptionPolicy").and_then(Value::as_str) {
        preemption_policy(report, policy, &path.child("preemptionPolicy"));
    }
    if let Some(os) = member(spec, "os") {
        let name = text(os, "name");
        let path = path.child("os");
        if name.is_empty() {
            report.required(&path.child("name"), "cannot be empty");
        } else if !matches!(name, "linux" | "windows") {
            report.not_supported(&path, name, &["linux", "windows"]);
        }
    }
}

/// `PreemptLowerPriority` or `Never`.
pub(super) fn preemption_policy(report: &mut Report, policy: &str, path: &Path<'_>) {
    match policy {
        "PreemptLowerPriority" | "Never" => {}
        "" => report.required(path, ""),
        other => report.not_supported(path, other, &["PreemptLowerPriority", "Never"]),
    }
}
