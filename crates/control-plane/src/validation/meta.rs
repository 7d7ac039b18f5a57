//! `metadata`, the same for all kinds but for the rule of the name.

use serde_json::Value;

use super::names;
use super::report::{IMMUTABLE, NOT_NEGATIVE, Path, Report, flag, list, map, number, text};
use crate::schema::Gvk;
use crate::status::FieldErrorKind;

/// All annotations of an object together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;
/// The longest name of a field manager.
const MANAGER_LIMIT: usize = 128;

/// The rule for a name; the flag tells that the text is the prefix of a generated name.
pub(super) type NameRule = fn(&str, bool) -> Vec<String>;

pub(super) fn subdomain(text: &str, prefix: bool) -> Vec<String> {
    names::dns1123_subdomain(&names::as_prefix(text, prefix))
}

pub(super) fn label(text: &str, prefix: bool) -> Vec<String> {
    names::dns1123_label(&names::as_prefix(text, prefix))
}

pub(super) fn label_1035(text: &str, prefix: bool) -> Vec<String> {
    names::dns1035_label(&names::as_prefix(text, prefix))
}

pub(super) fn segment(text: &str, _prefix: bool) -> Vec<String> {
    names::path_segment(text)
}

/// The rule for names of a kind. Kinds without one take RFC 1123 subdomains.
pub(super) fn name_rule(gvk: &Gvk) -> NameRule {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Namespace") => label,
        ("", "Service") => label_1035,
        ("rbac.authorization.k8s.io", _) => segment,
        ("apps", "StatefulSet") => label,
        ("networking.k8s.io", "IPAddress") => address,
        _ => subdomain,
    }
}

/// What is said of a text that is no address.
pub(super) const NOT_AN_ADDRESS: &str =
    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// The name of an `IPAddress` is that address, written in one way only.
fn address(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!(
            "must be in canonical form ({:?})",
            address.to_string()
        )],
        Err(_) => vec![NOT_AN_ADDRESS.to_owned()],
    }
}

pub(super) fn create(report: &mut Report, object: &Value, namespaced: bool, rule: NameRule) {
    let path = Path::root("metadata");
    let empty = Value::Null;
    let meta = object.get("metadata").unwrap_or(&empty);
    let prefix = text(meta, "generateName");
    if !prefix.is_empty() {
        report.problems(&path.child("generateName"), prefix, rule(prefix, true));
    }
    let name = text(meta, "name");
    if name.is_empty() {
        report.required(&path.child("name"), "name or generateName is required");
    } else {
        report.problems(&path.child("name"), name, rule(name, false));
    }
    let namespace = text(meta, "namespace");
    match (namespaced, namespace) {
        (true, "") => report.required(&path.child("namespace"), ""),
        (true, _) => report.problems(
            &path.child("namespace"),
            namespace,
            names::dns1123_label(namespace),
        ),
        (false, "") => {}
        (false, _) => report.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    if let Some(generation) = number(meta, "generation").filter(|number| *number < 0) {
        report.invalid(&path.child("generation"), generation, NOT_NEGATIVE);
    }
    common(report, meta, &path);
    finalizers(report, meta, &path);
}

pub(super) fn update(report: &mut Report, object: &Value, old: &Value) {
    let path = Path::root("metadata");
    let empty = Value::Null;
    let meta = object.get("metadata").unwrap_or(&empty);
    let before = old.get("metadata").unwrap_or(&empty);
    if before
        .get("deletionTimestamp")
        .is_some_and(Value::is_string)
    {
        let mut added: Vec<&str> = list(meta, "finalizers")
            .iter()
            .filter(|finalizer| !list(before, "finalizers").contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            added.sort_unstable();
            let shown: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
            report.forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            );
        }
    }
    if text(meta, "resourceVersion").is_empty() {
        report.invalid(
            &path.child("resourceVersion"),
            "",
            "must be specified for an update",
        );
    }
    let generation = number(meta, "generation").unwrap_or(0);
    if generation < number(before, "generation").unwrap_or(0) {
        report.invalid(
            &path.child("generation"),
            generation,
            "must not be decremented",
        );
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let value = meta.get(field).unwrap_or(&Value::Null);
        if value != before.get(field).unwrap_or(&Value::Null) {
            let shown = match value {
                Value::Null if matches!(field, "name" | "namespace" | "uid") => "".into(),
                value => value.clone(),
            };
            report.invalid(&path.child(field), shown, IMMUTABLE);
        }
    }
    common(report, meta, &path);
    finalizers(report, meta, &path);
}

fn common(report: &mut Report, meta: &Value, path: &Path<'_>) {
    labels(report, meta, "labels", &path.child("labels"));
    annotations(report, meta, &path.child("annotations"));
    owners(report, meta, &path.child("ownerReferences"));
    managers(report, meta, &path.child("managedFields"));
}

/// The labels in the member `key`, also in templates and selectors.
pub(super) fn labels(report: &mut Report, holder: &Value, key: &str, path: &Path<'_>) {
    for (name, value) in map(holder, key) {
        report.problems(path, name, names::qualified_name(name));
        let value = value.as_str().unwrap_or_default();
        report.problems(path, value, names::label_value(value));
    }
}

pub(super) fn annotations(report: &mut Report, meta: &Value, path: &Path<'_>) {
    let mut size = 0;
    for (name, value) in map(meta, "annotations") {
        report.problems(path, name, names::qualified_name(&name.to_lowercase()));
        size += name.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        report.too_long(path, ANNOTATIONS_LIMIT);
    }
}

fn owners(report: &mut Report, meta: &Value, path: &Path<'_>) {
    let mut controller = String::new();
    for owner in list(meta, "ownerReferences") {
        let api_version = text(owner, "apiVersion");
        if api_version
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .is_empty()
        {
            report.invalid(
                &path.child("apiVersion"),
                api_version,
                "version must not be empty",
            );
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                report.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && text(owner, "kind") == "Event" {
            report.shown(
                FieldErrorKind::Invalid,
                path,
                owner_shown(owner),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if flag(owner, "controller") {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            if controller.is_empty() {
                controller = this;
            } else {
                let all: Vec<String> = list(meta, "ownerReferences")
                    .iter()
                    .map(owner_shown)
                    .collect();
                report.shown(
                    FieldErrorKind::Invalid,
                    path,
                    format!("[{}]", all.join(",")),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {controller} and {this}"
                    ),
                );
            }
        }
    }
}

/// An owner reference with its members in the order of the type.
fn owner_shown(owner: &Value) -> String {
    let members: Vec<String> = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ]
    .into_iter()
    .filter_map(|key| Some(format!("\"{key}\":{}", owner.get(key)?)))
    .collect();
    format!("{{{}}}", members.join(","))
}

fn finalizers(report: &mut Report, meta: &Value, path: &Path<'_>) {
    let path = path.child("finalizers");
    let all = list(meta, "finalizers");
    for (index, finalizer) in all.iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        report.problems(&path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !standard_finalizer(finalizer) {
            report.invalid(
                &path.index(index),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name: &str| all.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        report.invalid(
            &path,
            Value::Array(all.to_vec()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn standard_finalizer(name: &str) -> bool {
    matches!(name, "kubernetes" | "orphan" | "foregroundDeletion")
}

fn managers(report: &mut Report, meta: &Value, path: &Path<'_>) {
    for (index, entry) in list(meta, "managedFields").iter().enumerate() {
        let path = path.index(index);
        let operation = text(entry, "operation");
        if !matches!(operation, "Apply" | "Update") {
            report.invalid(
                &path.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            );
        }
        let kind = text(entry, "fieldsType");
        if !kind.is_empty() && kind != "FieldsV1" {
            report.invalid(&path.child("fieldsType"), kind, "must be `FieldsV1`");
        }
        field_manager(report, text(entry, "manager"), &path.child("manager"));
        let subresource = text(entry, "subresource");
        if subresource.len() > 256 {
            report.too_long(&path.child("subresource"), 256);
        }
    }
}

/// The name of a field manager, also in options.
pub(super) fn field_manager(report: &mut Report, manager: &str, path: &Path<'_>) {
    if manager.len() > MANAGER_LIMIT {
        report.too_long(path, MANAGER_LIMIT);
    }
    for (index, character) in manager.chars().enumerate() {
        if character.is_control() {
            report.invalid(
                path,
                manager,
                format!("invalid character {character:?} (at position {index})"),
            );
        }
    }
}

/// A `LabelSelector`.
pub(super) fn label_selector(report: &mut Report, selector: &Value, path: &Path<'_>) {
    labels_of_selector(report, selector, path);
    for (index, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let expressions = path.child("matchExpressions");
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
            other => report.invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = text(requirement, "key");
        report.problems(&path.child("key"), key, names::qualified_name(key));
        let values_path = path.child("values");
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            report.problems(&values_path.index(index), value, names::label_value(value));
        }
    }
}

fn labels_of_selector(report: &mut Report, selector: &Value, path: &Path<'_>) {
    let path = path.child("matchLabels");
    labels(report, selector, "matchLabels", &path);
}

/// True where the selector is there and chooses these labels; an empty one chooses all.
pub(super) fn selects(selector: Option<&Value>, labels: Option<&Value>) -> bool {
    let Some(selector) = selector else {
        return false;
    };
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let all = map(selector, "matchLabels").all(|(key, value)| label(key) == Some(value));
    all && list(selector, "matchExpressions")
        .iter()
        .all(|requirement| {
            let value = label(text(requirement, "key"));
            let listed = value.is_some_and(|value| list(requirement, "values").contains(value));
            match text(requirement, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// True for a selector that chooses everything.
pub(super) fn selects_all(selector: &Value) -> bool {
    map(selector, "matchLabels").next().is_none() && list(selector, "matchExpressions").is_empty()
}

/// True where a selector can be matched against labels at all.
pub(super) fn is_selector(selector: &Value) -> bool {
    let mut report = Report::default();
    label_selector(&mut report, selector, &Path::root("selector"));
    report.into_errors().is_empty()
}
