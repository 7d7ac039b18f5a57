//! Controllers of pods that run for ever: group `apps` and replication controllers, with what
//! scales and guards them.

use serde_json::{Value, json};

use super::report::{IMMUTABLE, Path, Report, list, member, number, text};
use super::{meta, names, pod, storage};
use crate::status::FieldErrorKind;

const NULL: Value = Value::Null;
const MISMATCH: &str = "`selector` does not match template `labels`";

pub(super) fn spec_of(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&NULL)
}

pub(super) fn template_labels(spec: &Value) -> Option<&Value> {
    spec.pointer("/template/metadata/labels")
}

/// The labels of a template that its selector does not choose.
pub(super) fn mismatch(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let template = path.child("template");
    let metadata = template.child("metadata");
    report.invalid(
        &metadata.child("labels"),
        template_labels(spec).cloned().unwrap_or_default(),
        MISMATCH,
    );
}

/// A template of pods that run for ever.
fn lasting_template(report: &mut Report, spec: &Value, kind: &str, path: &Path<'_>) {
    let template_path = path.child("template");
    let pod_path = template_path.child("spec");
    let Some(template) = member(spec, "template") else {
        report.required(&template_path, "");
        return;
    };
    pod::template(report, template, &template_path);
    let pod_spec = spec_of(template);
    let policy = text(pod_spec, "restartPolicy");
    if policy != "Always" {
        report.not_supported(&pod_path.child("restartPolicy"), policy, &["Always"]);
    }
    if member(pod_spec, "activeDeadlineSeconds").is_some() {
        report.forbidden(
            &pod_path.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

/// The status of a Deployment or a ReplicaSet: none of its pods is counted that is not among `replicas`.
pub(super) fn replicated_status(report: &mut Report, object: &Value) {
    let path = Path::root("status");
    let status = object.get("status").unwrap_or(&NULL);
    let count = |field| number(status, field).unwrap_or_default();
    // A field that the kind does not have is not there.
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        report.not_negative(&path.child(field), number(status, field));
    }
    let labeled = status.get("fullyLabeledReplicas").is_some();
    let first = if labeled {
        "fullyLabeledReplicas"
    } else {
        "updatedReplicas"
    };
    for field in [first, "readyReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            report.invalid(
                &path.child(field),
                count(field),
                "cannot be greater than status.replicas",
            );
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        report.invalid(
            &path.child("availableReplicas"),
            count("availableReplicas"),
            "cannot be greater than readyReplicas",
        );
    }
}

pub(super) fn immutable(report: &mut Report, object: &Value, old: &Value, fields: &[&str]) {
    let path = Path::root("spec");
    for field in fields {
        let value = spec_of(object).get(field).unwrap_or(&NULL);
        if value != spec_of(old).get(field).unwrap_or(&NULL) {
            report.invalid(&path.child(field), value.clone(), IMMUTABLE);
        }
    }
}

/// Deployments and replica sets.
pub(super) fn replicated(report: &mut Report, object: &Value, kind: &str) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    if kind == "Deployment" {
        replicas(report, spec, &path);
        selector(report, spec, "deployment", &path);
        template_of_replicas(report, spec, &path);
        deployment_strategy(report, spec, &path);
        for field in ["minReadySeconds", "revisionHistoryLimit"] {
            report.not_negative(&path.child(field), number(spec, field));
        }
        if let Some(deadline) = number(spec, "progressDeadlineSeconds") {
            let path = path.child("progressDeadlineSeconds");
            report.not_negative(&path, Some(deadline));
            if deadline <= number(spec, "minReadySeconds").unwrap_or(0) {
                report.invalid(&path, deadline, "must be greater than minReadySeconds");
            }
        }
    } else {
        replicas(report, spec, &path);
        report.not_negative(
            &path.child("minReadySeconds"),
            number(spec, "minReadySeconds"),
        );
        selector(report, spec, "deployment", &path);
        template_of_replicas(report, spec, &path);
    }
}

pub(super) fn replicated_update(report: &mut Report, object: &Value, old: &Value) {
    immutable(report, object, old, &["selector"]);
}

fn replicas(report: &mut Report, spec: &Value, path: &Path<'_>) {
    report.not_negative(&path.child("replicas"), number(spec, "replicas"));
}

fn selector(report: &mut Report, spec: &Value, kind: &str, path: &Path<'_>) {
    let path = path.child("selector");
    match member(spec, "selector") {
        None => report.required(&path, ""),
        Some(selector) => {
            meta::label_selector(report, selector, &path);
            if meta::selects_all(selector) {
                report.invalid(
                    &path,
                    selector.clone(),
                    format!("empty selector is invalid for {kind}"),
                );
            }
        }
    }
}

fn template_of_replicas(report: &mut Report, spec: &Value, path: &Path<'_>) {
    if let Some(selector) = member(spec, "selector")
        && !meta::is_selector(selector)
    {
        report.invalid(
            &path.child("selector"),
            selector.clone(),
            "invalid label selector",
        );
        return;
    }
    if !meta::selects(member(spec, "selector"), template_labels(spec)) {
        mismatch(report, spec, path);
    }
    lasting_template(report, spec, "ReplicaSet", path);
}

/// A strategy in the form that the real server has it inside.
fn strategy_shown(kind: &str, rolling: Option<&Value>) -> String {
    format!(
        "{{\"Type\":{kind:?},\"RollingUpdate\":{}}}",
        rolling.unwrap_or(&NULL)
    )
}

/// A number, or a share such as `25%`.
fn int_or_percent(report: &mut Report, holder: &Value, key: &str, path: &Path<'_>) {
    match holder.get(key) {
        Some(Value::String(share)) => {
            report.problems(&path.child(key), share, names::percent(share));
        }
        Some(other) => report.not_negative(&path.child(key), other.as_i64()),
        None => {}
    }
}

fn share(holder: &Value, key: &str) -> Option<i64> {
    let text = holder.get(key)?.as_str()?;
    text.strip_suffix('%')?.parse().ok()
}

fn amount(holder: &Value, key: &str) -> i64 {
    share(holder, key).unwrap_or_else(|| number(holder, key).unwrap_or(0))
}

fn not_above_all(report: &mut Report, holder: &Value, key: &str, path: &Path<'_>) {
    if share(holder, key).is_some_and(|share| share > 100) {
        report.invalid(
            &path.child(key),
            text(holder, key),
            "must not be greater than 100%",
        );
    }
}

fn deployment_strategy(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let path = path.child("strategy");
    let strategy = spec.get("strategy").unwrap_or(&NULL);
    let rolling_path = path.child("rollingUpdate");
    let rolling = member(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "Recreate" => {
            if rolling.is_some() {
                report.forbidden(
                    &rolling_path,
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = rolling else {
                report.required(&rolling_path, "this should be defaulted and never be nil");
                return;
            };
            int_or_percent(report, rolling, "maxUnavailable", &rolling_path);
            int_or_percent(report, rolling, "maxSurge", &rolling_path);
            if amount(rolling, "maxUnavailable") == 0 && amount(rolling, "maxSurge") == 0 {
                report.invalid(
                    &rolling_path.child("maxUnavailable"),
                    rolling.get("maxUnavailable").cloned().unwrap_or_default(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            not_above_all(report, rolling, "maxUnavailable", &rolling_path);
        }
        other => report.shown(
            FieldErrorKind::NotSupported,
            &path,
            strategy_shown(other, rolling),
            "supported values: \"Recreate\", \"RollingUpdate\"",
        ),
    }
}

pub(super) fn daemon_set(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    if let Some(selector) = member(spec, "selector") {
        meta::label_selector(report, selector, &path.child("selector"));
    }
    if !meta::selects(member(spec, "selector"), template_labels(spec)) {
        mismatch(report, spec, &path);
    }
    if let Some(selector) = member(spec, "selector")
        && meta::selects_all(selector)
    {
        report.invalid(
            &path.child("selector"),
            selector.clone(),
            "empty selector is invalid for daemonset",
        );
    }
    lasting_template(report, spec, "DaemonSet", &path);
    report.not_negative(
        &path.child("minReadySeconds"),
        number(spec, "minReadySeconds"),
    );
    let strategy_path = path.child("updateStrategy");
    let strategy = spec.get("updateStrategy").unwrap_or(&NULL);
    let rolling_path = strategy_path.child("rollingUpdate");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => match member(strategy, "rollingUpdate") {
            None => report.required(&rolling_path, ""),
            Some(rolling) => {
                for key in ["maxUnavailable", "maxSurge"] {
                    int_or_percent(report, rolling, key, &rolling_path);
                }
                for key in ["maxUnavailable", "maxSurge"] {
                    not_above_all(report, rolling, key, &rolling_path);
                }
                match (
                    amount(rolling, "maxUnavailable"),
                    amount(rolling, "maxSurge"),
                ) {
                    (0, 0) => report.required(
                        &rolling_path.child("maxUnavailable"),
                        "cannot be 0 when maxSurge is 0",
                    ),
                    (0, _) | (_, 0) => {}
                    _ => report.invalid(
                        &rolling_path.child("maxSurge"),
                        rolling.get("maxSurge").cloned().unwrap_or_default(),
                        "may not be set when maxUnavailable is non-zero",
                    ),
                }
            }
        },
        other => report.shown(
            FieldErrorKind::NotSupported,
            &strategy_path,
            strategy_shown(other, member(strategy, "rollingUpdate")),
            "supported values: \"RollingUpdate\", \"OnDelete\"",
        ),
    }
    report.not_negative(
        &path.child("revisionHistoryLimit"),
        number(spec, "revisionHistoryLimit"),
    );
}

pub(super) fn stateful_set(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    let policy = text(spec, "podManagementPolicy");
    match policy {
        "OrderedReady" | "Parallel" => {}
        "" => report.required(&path.child("podManagementPolicy"), ""),
        other => report.invalid(
            &path.child("podManagementPolicy"),
            other,
            "must be 'OrderedReady' or 'Parallel'",
        ),
    }
    let strategy = spec.get("updateStrategy").unwrap_or(&NULL);
    let strategy_path = path.child("updateStrategy");
    let rolling_path = strategy_path.child("rollingUpdate");
    let rolling = member(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "" => report.required(&strategy_path, ""),
        "OnDelete" => {
            if let Some(rolling) = rolling {
                report.invalid(
                    &rolling_path,
                    rolling.clone(),
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => {
            if let Some(rolling) = rolling {
                report.not_negative(
                    &rolling_path.child("partition"),
                    number(rolling, "partition"),
                );
            }
        }
        other => report.shown(
            FieldErrorKind::Invalid,
            &strategy_path,
            strategy_shown(other, rolling),
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
    if let Some(policy) = member(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let value = text(policy, field);
            if !matches!(value, "Retain" | "Delete") {
                report.not_supported(&path.child(field), value, &["Retain", "Delete"]);
            }
        }
    }
    let claims = path.child("volumeClaimTemplates");
    for (index, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
        storage::claim_spec(report, spec_of(claim), &claims.index(index).child("spec"));
    }
    replicas(report, spec, &path);
    report.not_negative(
        &path.child("minReadySeconds"),
        number(spec, "minReadySeconds"),
    );
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        report.problems(
            &path.child("serviceName"),
            service,
            names::dns1123_label(service),
        );
    }
    selector(report, spec, "statefulset", &path);
    let spec = with_claimed_volumes(spec);
    if !meta::selects(member(&spec, "selector"), template_labels(&spec)) {
        mismatch(report, &spec, &path);
    }
    lasting_template(report, &spec, "StatefulSet", &path);
}

/// The spec with the volumes that its claims will give each pod.
fn with_claimed_volumes(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims: Vec<Value> = list(&spec, "volumeClaimTemplates")
        .iter()
        .filter_map(|claim| claim.pointer("/metadata/name"))
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    if claims.is_empty() {
        return spec;
    }
    if let Some(pod) = spec
        .pointer_mut("/template/spec")
        .and_then(Value::as_object_mut)
    {
        let own = pod
            .get("volumes")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let others = own
            .into_iter()
            .filter(|volume| !claims.iter().any(|claim| claim["name"] == volume["name"]));
        let volumes: Vec<Value> = claims.iter().cloned().chain(others).collect();
        pod.insert("volumes".to_owned(), volumes.into());
    }
    spec
}

pub(super) fn stateful_set_update(report: &mut Report, object: &Value, old: &Value) {
    const MUTABLE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = spec_of(object).as_object().cloned().unwrap_or_default();
        spec.retain(|key, _| !MUTABLE.contains(&key.as_str()));
        spec
    };
    if fixed(object) != fixed(old) {
        report.forbidden(
            &Path::root("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

pub(super) fn replication_controller(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    report.not_negative(
        &path.child("minReadySeconds"),
        number(spec, "minReadySeconds"),
    );
    let empty = member(spec, "selector")
        .and_then(Value::as_object)
        .is_none_or(serde_json::Map::is_empty);
    if empty {
        report.required(&path.child("selector"), "");
    }
    match number(spec, "replicas") {
        None => report.required(&path.child("replicas"), ""),
        some => report.not_negative(&path.child("replicas"), some),
    }
    let chosen = json!({"matchLabels": member(spec, "selector")});
    if member(spec, "template").is_some() && !meta::selects(Some(&chosen), template_labels(spec)) {
        mismatch(report, spec, &path);
    }
    lasting_template(report, spec, "ReplicationController", &path);
}

/// A horizontal pod autoscaler.
pub(super) fn autoscaler(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    let least = number(spec, "minReplicas");
    let most = number(spec, "maxReplicas").unwrap_or(0);
    if let Some(least) = least.filter(|least| *least < 1) {
        report.invalid(
            &path.child("minReplicas"),
            least,
            "must be greater than or equal to 1",
        );
    }
    if most < 1 {
        report.invalid(&path.child("maxReplicas"), most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        report.invalid(
            &path.child("maxReplicas"),
            most,
            "must be greater than or equal to `minReplicas`",
        );
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&NULL);
    let target_path = path.child("scaleTargetRef");
    for field in ["kind", "name"] {
        let value = text(target, field);
        if value.is_empty() {
            report.required(&target_path.child(field), "");
        } else {
            report.problems(&target_path.child(field), value, names::path_segment(value));
        }
    }
}

/// A budget of disruptions.
pub(super) fn disruption_budget(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    if member(spec, "minAvailable").is_some() && member(spec, "maxUnavailable").is_some() {
        let shown = |key: &str| spec.get(key).unwrap_or(&NULL).to_string();
        report.shown(
            FieldErrorKind::Invalid,
            &path,
            format!(
                "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
                shown("minAvailable"),
                shown("selector"),
                shown("maxUnavailable"),
                shown("unhealthyPodEvictionPolicy"),
            ),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if member(spec, field).is_some() {
            int_or_percent(report, spec, field, &path);
            not_above_all(report, spec, field, &path);
        }
    }
    if let Some(selector) = member(spec, "selector") {
        meta::label_selector(report, selector, &path.child("selector"));
    }
}
