//! What may change in a pod.

use serde_json::{Map, Value};

use super::{NULL, scheduling, whole};
use crate::validation::names;
use crate::validation::report::{Path, Report, list, member, number, text};
use crate::validation::{diff, meta};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Problems of a pod that is to replace `old`.
pub(in crate::validation) fn update(report: &mut Report, pod: &Value, old: &Value) {
    meta::update(report, pod, old);
    whole(report, pod);
    let path = Path::root("spec");
    let spec = pod.get("spec").unwrap_or(&NULL);
    let before = old.get("spec").unwrap_or(&NULL);
    for key in ["containers", "initContainers"] {
        if list(spec, key).len() != list(before, key).len() {
            report.forbidden(
                &path.child(key),
                "pod updates may not add or remove containers",
            );
            return;
        }
    }
    deadline(report, spec, before, &path.child("activeDeadlineSeconds"));
    added_tolerations(report, spec, before, &path.child("tolerations"));
    gates(report, spec, before, &path.child("schedulingGates"));
    if spec == before {
        return;
    }
    let rest = without_updatable(report, spec, before, &path);
    if rest != *before {
        report.forbidden(
            &path,
            format!(
                "pod updates may not change fields other than {UPDATABLE}\n{}",
                diff::unified(before, &rest)
            ),
        );
    }
}

fn deadline(report: &mut Report, spec: &Value, before: &Value, path: &Path<'_>) {
    let old = number(before, "activeDeadlineSeconds");
    match (number(spec, "activeDeadlineSeconds"), old) {
        (Some(new), old) => {
            if !(0..=i64::from(i32::MAX)).contains(&new) {
                report.invalid(path, new, names::between(0, i64::from(i32::MAX)));
            }
            if old.is_some_and(|old| old < new) {
                report.invalid(path, new, "must be less than or equal to previous value");
            }
        }
        (None, Some(_)) => report.invalid(
            path,
            Value::Null,
            "must not update from a positive integer to nil value",
        ),
        (None, None) => {}
    }
}

fn added_tolerations(report: &mut Report, spec: &Value, before: &Value, path: &Path<'_>) {
    let same = |old: &Value, new: &Value| {
        ["key", "operator", "value", "effect"]
            .iter()
            .all(|field| text(old, field) == text(new, field))
    };
    for old in list(before, "tolerations") {
        if !list(spec, "tolerations").iter().any(|new| same(old, new)) {
            report.forbidden(
                path,
                "existing toleration can not be modified except its tolerationSeconds",
            );
        }
    }
    scheduling::tolerations(report, spec, path);
}

fn gates(report: &mut Report, spec: &Value, before: &Value, path: &Path<'_>) {
    let known: Vec<&str> = list(before, "schedulingGates")
        .iter()
        .map(|gate| text(gate, "name"))
        .collect();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !known.contains(&name) {
            report.forbidden(
                &path.index(index).child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
}

/// The new spec with all that may change put back to what it was.
fn without_updatable(report: &mut Report, spec: &Value, before: &Value, path: &Path<'_>) -> Value {
    let mut rest = spec.as_object().cloned().unwrap_or_default();
    let restore = |rest: &mut Map<String, Value>, field: &str| match before.get(field) {
        Some(value) => {
            rest.insert(field.to_owned(), value.clone());
        }
        None => {
            rest.remove(field);
        }
    };
    for key in ["containers", "initContainers"] {
        let containers = rest.get_mut(key).and_then(Value::as_array_mut);
        for (container, old) in containers.into_iter().flatten().zip(list(before, key)) {
            if let Some(container) = container.as_object_mut() {
                match old.get("image") {
                    Some(image) => container.insert("image".to_owned(), image.clone()),
                    None => container.remove("image"),
                };
            }
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(&mut rest, field);
    }
    let grace = |spec: &Value| number(spec, "terminationGracePeriodSeconds");
    if grace(before).is_some_and(|grace| grace < 0) && grace(spec) == Some(1) {
        restore(&mut rest, "terminationGracePeriodSeconds");
    }
    if !list(before, "schedulingGates").is_empty() {
        // A pod that is not to be scheduled yet may have its node selection narrowed.
        let selector = before.get("nodeSelector").and_then(Value::as_object);
        let kept = selector.into_iter().flatten().all(|(key, value)| {
            spec.get("nodeSelector").and_then(|new| new.get(key)) == Some(value)
        });
        if !kept {
            report.invalid(
                &path.child("nodeSelector"),
                spec.get("nodeSelector").cloned().unwrap_or_default(),
                "only additions are allowed (no mutations or deletions)",
            );
        }
        restore(&mut rest, "nodeSelector");
        node_affinity(&mut rest, before);
    }
    Value::Object(rest)
}

fn node_affinity(rest: &mut Map<String, Value>, before: &Value) {
    let old = before
        .get("affinity")
        .and_then(|affinity| affinity.get("nodeAffinity"));
    let mut affinity = rest
        .get("affinity")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    match old {
        Some(old) => affinity.insert("nodeAffinity".to_owned(), old.clone()),
        None => affinity.remove("nodeAffinity"),
    };
    if affinity.is_empty() && before.get("affinity").is_none() {
        rest.remove("affinity");
    } else {
        rest.insert("affinity".to_owned(), Value::Object(affinity));
    }
}

/// Problems of a pod that gets new ephemeral containers: those it has stay as they are.
pub(in crate::validation) fn ephemeral_containers(report: &mut Report, pod: &Value, old: &Value) {
    meta::update(report, pod, old);
    whole(report, pod);
    let spec_path = Path::root("spec");
    let path = spec_path.child("ephemeralContainers");
    let spec = pod.get("spec").unwrap_or(&NULL);
    let mirror = member(old, "metadata")
        .and_then(|metadata| metadata.get("annotations"))
        .is_some_and(|annotations| annotations.get("kubernetes.io/config.mirror").is_some());
    if mirror {
        report.forbidden(
            &Path::root(""),
            "static pods do not support ephemeral containers",
        );
        return;
    }
    for before in list(old.get("spec").unwrap_or(&NULL), "ephemeralContainers") {
        let name = text(before, "name");
        let now = list(spec, "ephemeralContainers")
            .iter()
            .find(|container| text(container, "name") == name);
        match now {
            None => report.forbidden(
                &path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(now) if now != before => report.forbidden(
                &path,
                format!(
                    "existing ephemeral containers {name:?} may not be changed\n{}",
                    diff::unified(before, now)
                ),
            ),
            Some(_) => {}
        }
    }
}
