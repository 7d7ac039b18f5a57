//! Namespaces, nodes, leases, events, priority classes and RBAC objects.

use serde_json::Value;

use super::pod::{preemption_policy, taint_effect};
use super::report::{IMMUTABLE, Path, Report, list, map, member, number, text};
use super::{meta, names, pod};
use crate::status::FieldErrorKind;

const NULL: Value = Value::Null;
const RBAC: &str = "rbac.authorization.k8s.io";
/// Higher priorities belong to the system.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(super) fn namespace(report: &mut Report, object: &Value) {
    let spec = object.get("spec").unwrap_or(&NULL);
    let root = Path::root("spec");
    let path = root.child("finalizers");
    for finalizer in list(spec, "finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        report.problems(&path, name, names::qualified_name(name));
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            report.invalid(
                &path,
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

pub(super) fn namespace_status(report: &mut Report, object: &Value) {
    let deleted = object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string);
    let phase = object
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let root = Path::root("status");
    let path = root.child("Phase");
    if deleted && phase != "Terminating" {
        report.invalid(
            &path,
            phase,
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        );
    } else if !deleted && phase != "Active" {
        report.invalid(
            &path,
            phase,
            "may only be 'Active' if `deletionTimestamp` is empty",
        );
    }
}

/// Taints and amounts of a node.
pub(super) fn node(report: &mut Report, object: &Value) {
    let spec = object.get("spec").unwrap_or(&NULL);
    // The real server says `metadata.taints` too.
    let root = Path::root("metadata");
    let path = root.child("taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        let path = path.index(index);
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        report.problems(&path.child("key"), key, names::qualified_name(key));
        let value = text(taint, "value");
        let problems = names::label_value(value);
        if !problems.is_empty() {
            report.invalid(&path.child("value"), value, problems.join(";"));
        }
        taint_effect(report, effect, &path.child("effect"));
        if seen.contains(&(key, effect)) {
            let added = member(taint, "timeAdded").unwrap_or(&NULL);
            report.shown(
                FieldErrorKind::Duplicate,
                &path,
                format!(
                    "{{\"Key\":{key:?},\"Value\":{value:?},\"Effect\":{effect:?},\"TimeAdded\":{added}}}"
                ),
                "taints must be unique by key and effect pair",
            );
        }
        seen.push((key, effect));
    }
    let status = object.get("status").unwrap_or(&NULL);
    let root = Path::root("status");
    for part in ["capacity", "allocatable"] {
        let path = root.child(part);
        for (name, amount) in map(status, part) {
            pod::amount(
                report,
                name,
                amount.as_str().unwrap_or_default(),
                &path.child(name),
            );
        }
    }
}

pub(super) fn node_update(report: &mut Report, object: &Value, old: &Value) {
    let spec = object.get("spec").unwrap_or(&NULL);
    let before = old.get("spec").unwrap_or(&NULL);
    let status = object.get("status").unwrap_or(&NULL);
    let root = Path::root("status");
    let path = root.child("addresses");
    let addresses = list(status, "addresses");
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            report.shown(
                FieldErrorKind::Duplicate,
                &path.index(index),
                format!(
                    "{{\"Type\":{:?},\"Address\":{:?}}}",
                    text(address, "type"),
                    text(address, "address")
                ),
                "",
            );
        }
    }
    let root = Path::root("spec");
    if !list(before, "podCIDRs").is_empty() && spec.get("podCIDRs") != before.get("podCIDRs") {
        report.forbidden(
            &root.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    let provider = text(before, "providerID");
    if !provider.is_empty() && provider != text(spec, "providerID") {
        report.forbidden(
            &root.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
}

pub(super) fn lease(report: &mut Report, object: &Value) {
    let spec = object.get("spec").unwrap_or(&NULL);
    let path = Path::root("spec");
    if let Some(seconds) = number(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        report.invalid(
            &path.child("leaseDurationSeconds"),
            seconds,
            "must be greater than 0",
        );
    }
    report.not_negative(
        &path.child("leaseTransitions"),
        number(spec, "leaseTransitions"),
    );
    if !text(spec, "preferredHolder").is_empty() && text(spec, "strategy").is_empty() {
        report.forbidden(
            &path.child("preferredHolder"),
            "may only be specified if `strategy` is defined",
        );
    }
}

/// An event. Both groups share one store in the form of the core group.
pub(super) fn event(report: &mut Report, object: &Value) {
    let namespace = object
        .get("metadata")
        .map_or("", |meta| text(meta, "namespace"));
    let involved = object.get("involvedObject").unwrap_or(&NULL);
    let of = text(involved, "namespace");
    let root = Path::root("involvedObject");
    let mismatch = |report: &mut Report| {
        report.invalid(
            &root.child("namespace"),
            of,
            "does not match event.namespace",
        );
    };
    if member(object, "eventTime").is_none() {
        let wrong = if of.is_empty() {
            !matches!(namespace, "" | "default")
        } else {
            namespace != of
        };
        if wrong {
            mismatch(report);
        }
    } else {
        if of.is_empty() && !matches!(namespace, "default" | "kube-system") {
            mismatch(report);
        }
        let reporter = text(object, "reportingComponent");
        let path = Path::root("reportingComponent");
        if reporter.is_empty() {
            report.required(&path, "");
        }
        report.problems(&path, reporter, names::qualified_name(reporter));
        for (field, limit) in [
            ("reportingInstance", 128),
            ("action", 128),
            ("reason", 128),
            ("message", 1_024),
        ] {
            let value = text(object, field);
            if value.is_empty() && field != "message" {
                report.required(&Path::root(field), "");
            }
            if value.len() > limit {
                report.invalid(
                    &Path::root(field),
                    "",
                    format!("can have at most {limit} characters"),
                );
            }
        }
    }
    report.problems(
        &Path::root("namespace"),
        namespace,
        names::dns1123_subdomain(namespace),
    );
}

pub(super) fn priority_class(report: &mut Report, object: &Value) {
    let name = object.get("metadata").map_or("", |meta| text(meta, "name"));
    let value = number(object, "value").unwrap_or(0);
    if name.starts_with("system-") {
        let known = match name {
            "system-node-critical" => Some(2_000_001_000),
            "system-cluster-critical" => Some(2_000_000_000),
            _ => None,
        };
        if known != Some(value) {
            let metadata = Path::root("metadata");
            let why = match known {
                None => format!("{name} is not a known system priority class"),
                Some(known) => format!("value of {name} PriorityClass must be {known}"),
            };
            report.forbidden(
                &metadata.child("name"),
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}"),
            );
        }
    } else if value > HIGHEST_USER_PRIORITY {
        report.forbidden(
            &Path::root("value"),
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
        );
    }
    if let Some(policy) = member(object, "preemptionPolicy").and_then(Value::as_str) {
        preemption_policy(report, policy, &Path::root("preemptionPolicy"));
    }
}

pub(super) fn priority_class_update(report: &mut Report, object: &Value, old: &Value) {
    if number(object, "value") != number(old, "value") {
        report.forbidden(&Path::root("value"), "may not be changed in an update.");
    }
    let policy = text(object, "preemptionPolicy");
    if policy != text(old, "preemptionPolicy") {
        report.invalid(&Path::root("preemptionPolicy"), policy, IMMUTABLE);
    }
}

/// A role or cluster role.
pub(super) fn role(report: &mut Report, object: &Value, namespaced: bool) {
    let path = Path::root("rules");
    for (index, rule) in list(object, "rules").iter().enumerate() {
        let path = path.index(index);
        if list(rule, "verbs").is_empty() {
            report.required(
                &path.child("verbs"),
                "verbs must contain at least one value",
            );
        }
        let urls = list(rule, "nonResourceURLs");
        if !urls.is_empty() {
            let path = path.child("nonResourceURLs");
            if namespaced {
                report.invalid(
                    &path,
                    urls.to_vec(),
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            let resources = ["apiGroups", "resources", "resourceNames"];
            if resources.iter().any(|key| !list(rule, key).is_empty()) {
                report.invalid(
                    &path,
                    urls.to_vec(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            report.required(
                &path.child("apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if list(rule, "resources").is_empty() {
            report.required(
                &path.child("resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
    if let Some(rule) = member(object, "aggregationRule") {
        let root = Path::root("aggregationRule");
        let path = root.child("clusterRoleSelectors");
        let selectors = list(rule, "clusterRoleSelectors");
        if selectors.is_empty() {
            report.required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for (index, selector) in selectors.iter().enumerate() {
            meta::label_selector(report, selector, &path.index(index));
        }
    }
}

/// A role binding or cluster role binding.
pub(super) fn role_binding(report: &mut Report, object: &Value, namespaced: bool) {
    let role = object.get("roleRef").unwrap_or(&NULL);
    let path = Path::root("roleRef");
    let group = text(role, "apiGroup");
    if group != RBAC {
        report.not_supported(&path.child("apiGroup"), group, &[RBAC]);
    }
    let kinds: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    let kind = text(role, "kind");
    if !kinds.contains(&kind) {
        report.not_supported(&path.child("kind"), kind, kinds);
    }
    let name = text(role, "name");
    if name.is_empty() {
        report.required(&path.child("name"), "");
    } else {
        report.problems(&path.child("name"), name, names::path_segment(name));
    }
    let path = Path::root("subjects");
    for (index, subject) in list(object, "subjects").iter().enumerate() {
        let path = path.index(index);
        let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
        if name.is_empty() {
            report.required(&path.child("name"), "");
        }
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    report.problems(&path.child("name"), name, names::dns1123_subdomain(name));
                }
                if !group.is_empty() {
                    report.not_supported(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && text(subject, "namespace").is_empty() {
                    report.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != RBAC {
                    report.not_supported(&path.child("apiGroup"), group, &[RBAC]);
                }
            }
            other => report.not_supported(
                &path.child("kind"),
                other,
                &["ServiceAccount", "User", "Group"],
            ),
        }
    }
}

pub(super) fn role_binding_update(report: &mut Report, object: &Value, old: &Value) {
    let role = object.get("roleRef").unwrap_or(&NULL);
    if role != old.get("roleRef").unwrap_or(&NULL) {
        report.shown(
            FieldErrorKind::Invalid,
            &Path::root("roleRef"),
            format!(
                "{{\"APIGroup\":{:?},\"Kind\":{:?},\"Name\":{:?}}}",
                text(role, "apiGroup"),
                text(role, "kind"),
                text(role, "name")
            ),
            "cannot change roleRef",
        );
    }
}
