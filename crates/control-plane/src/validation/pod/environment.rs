//! Environment variables of containers.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::validation::names;
use crate::validation::report::{Path, Report, list, member, text};

/// The fields of a pod that a variable may have as its value.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The fields that a file of a volume may hold.
pub(super) const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn variables(report: &mut Report, container: &Value, path: &Path<'_>) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = path.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            report.required(&path.child("name"), "");
        } else {
            report.problems(&path.child("name"), name, names::environment_variable(name));
        }
        if let Some(source) = member(variable, "valueFrom") {
            value_from(report, variable, source, &path.child("valueFrom"));
        }
    }
}

fn value_from(report: &mut Report, variable: &Value, source: &Value, path: &Path<'_>) {
    let mut sources = 0;
    if let Some(field) = member(source, "fieldRef") {
        sources += 1;
        field_ref(report, field, FIELDS, &path.child("fieldRef"));
    }
    if let Some(resource) = member(source, "resourceFieldRef") {
        sources += 1;
        resource_ref(report, resource, false, &path.child("resourceFieldRef"));
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(selector) = member(source, key) {
            sources += 1;
            let path = path.child(key);
            let name = text(selector, "name");
            report.problems(&path.child("name"), name, names::dns1123_subdomain(name));
            let key = text(selector, "key");
            if key.is_empty() {
                report.required(&path.child("key"), "");
            } else {
                report.problems(&path.child("key"), key, names::config_key(key));
            }
        }
    }
    if sources == 0 {
        report.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        );
    } else if !text(variable, "value").is_empty() {
        report.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        report.invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        );
    }
}

/// An `ObjectFieldSelector` that may name one of `allowed`, or a label or annotation.
pub(super) fn field_ref(report: &mut Report, selector: &Value, allowed: &[&str], path: &Path<'_>) {
    let version = text(selector, "apiVersion");
    if version.is_empty() {
        report.required(&path.child("apiVersion"), "");
        return;
    }
    let field_path = path.child("fieldPath");
    let field = text(selector, "fieldPath");
    if field.is_empty() {
        report.required(&field_path, "");
        return;
    }
    let mut unknown = |why: String| {
        report.invalid(
            &field_path,
            field,
            format!("error converting fieldPath: {why}"),
        );
    };
    if version != "v1" {
        unknown(format!("unsupported pod version: {version}"));
        return;
    }
    match subscript(field) {
        Some(("metadata.annotations", key)) => {
            report.problems(path, key, names::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => {
            report.problems(path, key, names::qualified_name(key));
        }
        Some(_) => unknown(format!("field label does not support subscript: {field}")),
        None if !is_field(field) => unknown(format!("field label not supported: {field}")),
        None if !allowed.contains(&field) => report.not_supported(&field_path, field, allowed),
        None => {}
    }
}

/// Every field of a pod that the API knows by its label.
fn is_field(field: &str) -> bool {
    FIELDS.contains(&field)
        || VOLUME_FIELDS.contains(&field)
        || matches!(
            field,
            "spec.restartPolicy" | "spec.schedulerName" | "status.phase"
        )
}

/// `metadata.labels['app']` is `metadata.labels` and `app`.
fn subscript(field: &str) -> Option<(&str, &str)> {
    let (parent, rest) = field.strip_suffix("']")?.split_once("['")?;
    (!parent.is_empty() && !rest.is_empty()).then_some((parent, rest))
}

/// A `ResourceFieldSelector`; in volumes it must name its container.
pub(super) fn resource_ref(
    report: &mut Report,
    selector: &Value,
    in_volume: bool,
    path: &Path<'_>,
) {
    let resource = text(selector, "resource");
    if in_volume && text(selector, "containerName").is_empty() {
        report.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        report.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        report.not_supported(&path.child("resource"), resource, RESOURCES);
    }
    let divisor = text(selector, "divisor");
    if Quantity::parse(divisor).unwrap_or_default() == Quantity::ZERO {
        return;
    }
    let (allowed, shown, what): (&[&str], _, _) = if resource.ends_with(".cpu") {
        (&["1m", "1"], "1m and 1", "cpu")
    } else {
        let what = if resource.ends_with(".memory") {
            "memory"
        } else if resource.ends_with(".ephemeral-storage") {
            "local ephemeral storage"
        } else {
            "hugepages"
        };
        (
            &[
                "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
            ],
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei",
            what,
        )
    };
    if !allowed.contains(&divisor) {
        report.invalid(
            &path.child("divisor"),
            resource,
            format!("only divisor's values {shown} are supported with the {what} resource"),
        );
    }
}

pub(super) fn sources(report: &mut Report, container: &Value, path: &Path<'_>) {
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let item = path.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            report.problems(
                &item.child("prefix"),
                prefix,
                names::environment_variable(prefix),
            );
        }
        let mut sources = 0;
        for key in ["configMapRef", "secretRef"] {
            if let Some(reference) = member(source, key) {
                sources += 1;
                let path = item.child(key);
                let name = text(reference, "name");
                if name.is_empty() {
                    report.required(&path.child("name"), "");
                } else {
                    let checked = names::as_prefix(name, true);
                    report.problems(
                        &path.child("name"),
                        name,
                        names::dns1123_subdomain(&checked),
                    );
                }
            }
        }
        if sources == 0 {
            report.invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            );
        } else if sources > 1 {
            report.invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            );
        }
    }
}
