//! Claims of storage.

use serde_json::Value;

use super::pod;
use super::report::{Path, Report, list, member, text};
use super::{meta, names};
use crate::quantity::Quantity;

const MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// A `PersistentVolumeClaimSpec`, in claims and in templates.
pub(super) fn claim_spec(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let modes = list(spec, "accessModes");
    let modes_path = path.child("accessModes");
    if modes.is_empty() {
        report.required(&modes_path, "at least 1 access mode is required");
    }
    if let Some(selector) = member(spec, "selector") {
        meta::label_selector(report, selector, &path.child("selector"));
    }
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        report.one_of(&modes_path, mode, MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        report.forbidden(
            &modes_path,
            "may not use ReadWriteOncePod with other access modes",
        );
    }
    let resources = path.child("resources");
    let storage = spec
        .get("resources")
        .and_then(|resources| resources.get("requests"))
        .map(|requests| text(requests, "storage"))
        .filter(|text| !text.is_empty());
    match storage {
        None => report.required(&resources.key("storage"), ""),
        Some(amount) => {
            if Quantity::parse(amount).is_some_and(|amount| amount <= Quantity::ZERO) {
                report.invalid(
                    &resources.key("storage"),
                    amount,
                    "must be greater than zero",
                );
            }
        }
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        report.problems(
            &path.child("storageClassName"),
            class,
            names::dns1123_subdomain(class),
        );
    }
    if let Some(mode) = member(spec, "volumeMode").and_then(Value::as_str) {
        report.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

pub(super) fn claim(report: &mut Report, object: &Value) {
    let empty = Value::Null;
    claim_spec(
        report,
        object.get("spec").unwrap_or(&empty),
        &Path::root("spec"),
    );
}

pub(super) fn claim_update(report: &mut Report, object: &Value, old: &Value) {
    let changed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("volumeAttributesClassName");
            if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
                resources.remove("requests");
            }
            // A claim may be bound by its volume's name, once.
            if old
                .get("spec")
                .is_none_or(|before| text(before, "volumeName").is_empty())
            {
                spec.remove("volumeName");
            }
        }
        spec
    };
    let (now, before) = (changed(object), changed(old));
    if now != before {
        report.forbidden(
            &Path::root("spec"),
            format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
                super::diff::unified(&before, &now)
            ),
        );
    }
    let asked = |object: &Value| {
        object
            .pointer("/spec/resources/requests/storage")
            .and_then(Value::as_str)
            .and_then(Quantity::parse)
    };
    if asked(object) < asked(old) {
        let spec = Path::root("spec");
        let resources = spec.child("resources");
        report.forbidden(
            &resources.child("requests").child("storage"),
            "field can not be less than status.capacity",
        );
    }
}

/// A persistent volume: a capacity, access modes and one source.
pub(super) fn volume(report: &mut Report, object: &Value) {
    let empty = Value::Null;
    let spec = object.get("spec").unwrap_or(&empty);
    let path = Path::root("spec");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        report.required(&path.child("accessModes"), "");
    }
    for mode in modes {
        report.one_of(
            &path.child("accessModes"),
            mode.as_str().unwrap_or_default(),
            MODES,
        );
    }
    let capacity = spec.get("capacity").unwrap_or(&empty);
    if capacity.as_object().is_none_or(serde_json::Map::is_empty) {
        report.required(&path.child("capacity"), "");
    } else if capacity.get("storage").is_none() || capacity.as_object().is_some_and(|c| c.len() > 1)
    {
        report.not_supported(&path.child("capacity"), capacity.clone(), &["storage"]);
    }
    if let Some(affinity) = member(spec, "nodeAffinity")
        && let Some(required) = member(affinity, "required")
    {
        let affinity = path.child("nodeAffinity");
        pod::node_selector(report, required, &affinity.child("required"));
    }
    report.one_of(
        &path.child("persistentVolumeReclaimPolicy"),
        text(spec, "persistentVolumeReclaimPolicy"),
        &["Delete", "Recycle", "Retain"],
    );
    let known = [
        "hostPath",
        "local",
        "nfs",
        "csi",
        "iscsi",
        "fc",
        "rbd",
        "cephfs",
        "cinder",
        "glusterfs",
        "flexVolume",
        "flocker",
        "azureFile",
        "azureDisk",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "vsphereVolume",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "scaleIO",
        "storageos",
    ];
    let sources: Vec<&str> = known
        .into_iter()
        .filter(|source| member(spec, source).is_some())
        .collect();
    if sources.is_empty() {
        report.required(&path, "must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        report.forbidden(
            &path.child(extra),
            "may not specify more than 1 volume type",
        );
    }
}
