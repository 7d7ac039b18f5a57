//! Affinity, tolerations and topology.

use serde_json::Value;

use crate::validation::report::{Path, Report, list, member, number, text};
use crate::validation::{meta, names};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The effect of a taint or toleration.
pub(in crate::validation) fn taint_effect(report: &mut Report, effect: &str, path: &Path<'_>) {
    if effect.is_empty() {
        report.required(path, "");
    } else if !EFFECTS.contains(&effect) {
        report.not_supported(path, effect, EFFECTS);
    }
}

pub(in crate::validation) fn tolerations(report: &mut Report, spec: &Value, path: &Path<'_>) {
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = path.index(index);
        let key = text(toleration, "key");
        let operator = text(toleration, "operator");
        let value = text(toleration, "value");
        let effect = text(toleration, "effect");
        if !key.is_empty() {
            report.problems(&path.child("key"), key, names::qualified_name(key));
        } else if operator != "Exists" {
            report.invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if member(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            report.invalid(
                &path.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "Equal" | "" => {
                let problems = names::label_value(value);
                if !problems.is_empty() {
                    report.invalid(&path.child("operator"), value, problems.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    report.invalid(
                        &path.child("operator"),
                        value,
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            other => {
                report.not_supported(&path.child("operator"), other, &["Equal", "Exists"]);
            }
        }
        if !effect.is_empty() {
            taint_effect(report, effect, &path.child("effect"));
        }
    }
}

pub(super) fn affinity(report: &mut Report, affinity: &Value, path: &Path<'_>) {
    if let Some(node) = member(affinity, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(required) = member(node, REQUIRED) {
            node_selector(report, required, &path.child(REQUIRED));
        }
        let preferred = path.child(PREFERRED);
        for (index, term) in list(node, PREFERRED).iter().enumerate() {
            let path = preferred.index(index);
            weight(report, term, &path);
            if let Some(preference) = member(term, "preference") {
                node_term(report, preference, false, &path.child("preference"));
            }
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = member(affinity, kind) else {
            continue;
        };
        let path = path.child(kind);
        let required = path.child(REQUIRED);
        for (index, term) in list(pods, REQUIRED).iter().enumerate() {
            pod_term(report, term, &required.index(index));
        }
        let preferred = path.child(PREFERRED);
        for (index, term) in list(pods, PREFERRED).iter().enumerate() {
            let path = preferred.index(index);
            weight(report, term, &path);
            if let Some(term) = member(term, "podAffinityTerm") {
                pod_term(report, term, &path.child("podAffinityTerm"));
            }
        }
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn weight(report: &mut Report, term: &Value, path: &Path<'_>) {
    let weight = number(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        report.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`.
pub(in crate::validation) fn node_selector(report: &mut Report, selector: &Value, path: &Path<'_>) {
    let path = path.child("nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        report.required(&path, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(report, term, true, &path.index(index));
    }
}

/// A term of a node selector; only required ones have their values checked, as the real server
/// does it.
fn node_term(report: &mut Report, term: &Value, required: bool, path: &Path<'_>) {
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let path = expressions.index(index);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    report.required(
                        &path.child("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    report.forbidden(
                        &path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    report.required(
                        &path.child("values"),
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    );
                }
            }
            other => report.invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = text(requirement, "key");
        report.problems(&path.child("key"), key, names::qualified_name(key));
        if required {
            let values_path = path.child("values");
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                report.problems(&values_path.index(index), value, names::label_value(value));
            }
        }
    }
    let fields = path.child("matchFields");
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        let path = fields.index(index);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    report.required(
                        &path.child("values"),
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    );
                }
            }
            other => report.invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = text(requirement, "key");
        if key == "metadata.name" {
            let values_path = path.child("values");
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                report.problems(
                    &values_path.index(index),
                    value,
                    names::dns1123_subdomain(value),
                );
            }
        } else {
            report.invalid(&path.child("key"), key, "not a valid field selector key");
        }
    }
}

fn pod_term(report: &mut Report, term: &Value, path: &Path<'_>) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if let Some(value) = member(term, selector) {
            meta::label_selector(report, value, &path.child(selector));
        }
    }
    for namespace in list(term, "namespaces") {
        let namespace = namespace.as_str().unwrap_or_default();
        report.problems(
            &path.child("namespace"),
            namespace,
            names::dns1123_label(namespace),
        );
    }
    for keys in ["matchLabelKeys", "mismatchLabelKeys"] {
        label_keys(report, term, keys, path);
    }
    let mismatched = list(term, "mismatchLabelKeys");
    let keys = path.child("matchLabelKeys");
    for (index, key) in list(term, "matchLabelKeys").iter().enumerate() {
        if mismatched.contains(key) {
            report.invalid(
                &keys.index(index),
                key.clone(),
                "exists in both matchLabelKeys and mismatchLabelKeys",
            );
        }
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        report.required(&path.child("topologyKey"), "can not be empty");
    }
    report.problems(&path.child("topologyKey"), key, names::qualified_name(key));
}

fn label_keys(report: &mut Report, term: &Value, field: &str, path: &Path<'_>) {
    let keys = list(term, field);
    if keys.is_empty() {
        return;
    }
    let path = path.child(field);
    if member(term, "labelSelector").is_none() {
        report.forbidden(&path, "must not be specified when labelSelector is not set");
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        report.problems(&path.index(index), key, names::qualified_name(key));
    }
}

pub(super) fn topology(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let skew = number(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            report.invalid(&path.child("maxSkew"), skew, "must be greater than zero");
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            report.required(&path.child("topologyKey"), "can not be empty");
        }
        let action = text(constraint, "whenUnsatisfiable");
        report.one_of(
            &path.child("whenUnsatisfiable"),
            action,
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        let repeated = constraints[index + 1..].iter().any(|other| {
            text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action
        });
        if repeated {
            report.duplicate(
                &path.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            );
        }
        if let Some(domains) = number(constraint, "minDomains") {
            let path = path.child("minDomains");
            if domains <= 0 {
                report.invalid(&path, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                report.invalid(
                    &path,
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = member(constraint, field).and_then(Value::as_str) {
                report.one_of(&path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        label_keys(report, constraint, "matchLabelKeys", &path);
        if let Some(selector) = member(constraint, "labelSelector") {
            meta::label_selector(report, selector, &path.child("labelSelector"));
        }
    }
}
