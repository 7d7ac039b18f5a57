//! Volumes, and what containers do with them.

use std::collections::HashMap;

use serde_json::Value;

use super::{Context, environment};
use crate::quantity::Quantity;
use crate::validation::names;
use crate::validation::report::{Path, Report, flag, list, member, number, text};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// The sources of a volume, in the order in which the real server looks for them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks the volumes, and returns the good ones by name.
pub(super) fn all<'a>(
    report: &mut Report,
    spec: &'a Value,
    metadata: Option<&Value>,
    path: &Path<'_>,
) -> HashMap<&'a str, &'a Value> {
    let pod = metadata.map_or("", |metadata| text(metadata, "name"));
    let volumes = list(spec, "volumes");
    let mut good = HashMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        let before = report.len();
        source(report, volume, name, pod, &path);
        if name.is_empty() {
            report.required(&path.child("name"), "");
        } else {
            report.problems(&path.child("name"), name, names::dns1123_label(name));
        }
        if good.contains_key(name) {
            report.duplicate(&path.child("name"), name);
        }
        if report.len() == before {
            good.insert(name, volume);
        }
        let claim = volume
            .get("persistentVolumeClaim")
            .map_or("", |claim| text(claim, "claimName"));
        let created = volumes.iter().any(|other| {
            member(other, "ephemeral").is_some()
                && claim == format!("{pod}-{}", text(other, "name"))
        });
        if !pod.is_empty() && created {
            report.invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    good
}

fn source(report: &mut Report, volume: &Value, name: &str, pod: &str, path: &Path<'_>) {
    let mut found = false;
    for kind in SOURCES {
        let Some(source) = member(volume, kind) else {
            continue;
        };
        let path = path.child(kind);
        if found {
            report.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        match *kind {
            "emptyDir" => {
                let limit = Quantity::parse(text(source, "sizeLimit"));
                if limit.is_some_and(|limit| limit < Quantity::ZERO) {
                    report.forbidden(
                        &path.child("sizeLimit"),
                        "SizeLimit field must be a valid resource quantity",
                    );
                }
            }
            "hostPath" => host_path(report, source, &path),
            "secret" => {
                require(report, source, &["secretName"], &path);
                mode(report, source, "defaultMode", &path);
                key_paths(report, source, &path);
            }
            "configMap" => {
                require(report, source, &["name"], &path);
                mode(report, source, "defaultMode", &path);
                key_paths(report, source, &path);
            }
            "downwardAPI" => {
                mode(report, source, "defaultMode", &path);
                for file in list(source, "items") {
                    downward_file(report, file, &path);
                }
            }
            "projected" => {
                mode(report, source, "defaultMode", &path);
                projected(report, source, &path);
            }
            "persistentVolumeClaim" => require(report, source, &["claimName"], &path),
            "nfs" => nfs(report, source, &path),
            "csi" => require(report, source, &["driver"], &path),
            "ephemeral" => ephemeral(report, source, name, pod, &path),
            "image" => require(report, source, &["reference"], &path),
            "gitRepo" => {
                require(report, source, &["repository"], &path);
                relative(report, text(source, "directory"), &path.child("directory"));
            }
            "gcePersistentDisk" => require(report, source, &["pdName"], &path),
            "awsElasticBlockStore" | "cinder" | "portworxVolume" => {
                require(report, source, &["volumeID"], &path);
            }
            "iscsi" => require(report, source, &["targetPortal", "iqn"], &path),
            "glusterfs" => require(report, source, &["endpoints", "path"], &path),
            "rbd" => require(report, source, &["monitors", "image"], &path),
            "cephfs" => require(report, source, &["monitors"], &path),
            "flexVolume" => require(report, source, &["driver"], &path),
            "azureFile" => require(report, source, &["secretName", "shareName"], &path),
            "vsphereVolume" => require(report, source, &["volumePath"], &path),
            "photonPersistentDisk" => require(report, source, &["pdID"], &path),
            "azureDisk" => require(report, source, &["diskName", "diskURI"], &path),
            "scaleIO" => require(report, source, &["gateway", "system", "volumeName"], &path),
            // The remaining sources have no member that must be there.
            _ => {}
        }
    }
    if !found {
        report.required(path, "must specify a volume type");
    }
}

fn require(report: &mut Report, source: &Value, fields: &[&str], path: &Path<'_>) {
    for field in fields {
        let empty = match source.get(field) {
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Null) | None => true,
            Some(_) => false,
        };
        if empty {
            report.required(&path.child(field), "");
        }
    }
}

fn host_path(report: &mut Report, source: &Value, path: &Path<'_>) {
    require(report, source, &["path"], path);
    no_backsteps(report, text(source, "path"), &path.child("path"));
    if let Some(kind) = member(source, "type").and_then(Value::as_str) {
        report.one_of(
            &path.child("type"),
            kind,
            &[
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ],
        );
    }
}

fn nfs(report: &mut Report, source: &Value, path: &Path<'_>) {
    require(report, source, &["server", "path"], path);
    let target = text(source, "path");
    if !target.starts_with('/') {
        report.invalid(&path.child("path"), target, "must be an absolute path");
    }
}

fn ephemeral(report: &mut Report, source: &Value, name: &str, pod: &str, path: &Path<'_>) {
    match member(source, "volumeClaimTemplate") {
        None => report.required(&path.child("volumeClaimTemplate"), ""),
        Some(template) => {
            let template_path = path.child("volumeClaimTemplate");
            let empty = Value::Null;
            crate::validation::storage::claim_spec(
                report,
                template.get("spec").unwrap_or(&empty),
                &template_path.child("spec"),
            );
        }
    }
    if !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        for problem in names::dns1123_subdomain(&claim) {
            report.invalid(
                &path.child("name"),
                name,
                format!("PVC name {claim:?}: {problem}"),
            );
        }
    }
}

fn mode(report: &mut Report, holder: &Value, key: &str, path: &Path<'_>) {
    if let Some(mode) = number(holder, key).filter(|mode| !(0..=0o777).contains(mode)) {
        report.invalid(&path.child(key), mode, MODE);
    }
}

fn key_paths(report: &mut Report, source: &Value, path: &Path<'_>) {
    let items = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = items.index(index);
        require(report, item, &["key", "path"], &path);
        inside(report, text(item, "path"), &path.child("path"));
        mode(report, item, "mode", &path);
    }
}

fn downward_file(report: &mut Report, file: &Value, path: &Path<'_>) {
    require(report, file, &["path"], path);
    inside(report, text(file, "path"), &path.child("path"));
    let resource = member(file, "resourceFieldRef");
    if let Some(field) = member(file, "fieldRef") {
        environment::field_ref(
            report,
            field,
            environment::VOLUME_FIELDS,
            &path.child("fieldRef"),
        );
        if resource.is_some() {
            report.invalid(
                path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
    } else if let Some(resource) = resource {
        environment::resource_ref(report, resource, true, &path.child("resourceFieldRef"));
    } else {
        report.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(report, file, "mode", path);
}

fn projected(report: &mut Report, volume: &Value, path: &Path<'_>) {
    let mut paths: Vec<&str> = Vec::new();
    let sources = path.child("sources");
    for (index, source) in list(volume, "sources").iter().enumerate() {
        let source_path = sources.index(index);
        let mut kinds = 0;
        for kind in ["secret", "configMap"] {
            let Some(projection) = member(source, kind) else {
                continue;
            };
            kinds += 1;
            let kind_path = source_path.child(kind);
            require(report, projection, &["name"], &kind_path);
            key_paths(report, projection, &kind_path);
            for item in list(projection, "items") {
                once(
                    report,
                    &mut paths,
                    text(item, "path"),
                    text(projection, "name"),
                    path,
                );
            }
        }
        if let Some(projection) = member(source, "downwardAPI") {
            kinds += 1;
            for file in list(projection, "items") {
                downward_file(report, file, &source_path.child("downwardAPI"));
                once(
                    report,
                    &mut paths,
                    text(file, "path"),
                    text(file, "path"),
                    path,
                );
            }
        }
        if let Some(token) = member(source, "serviceAccountToken") {
            kinds += 1;
            token_projection(
                report,
                token,
                path,
                &source_path.child("serviceAccountToken"),
            );
        }
        if let Some(bundle) = member(source, "clusterTrustBundle") {
            kinds += 1;
            let bundle_path = source_path.child("clusterTrustBundle");
            require(report, bundle, &["path"], &bundle_path);
            inside(report, text(bundle, "path"), &bundle_path.child("path"));
            once(
                report,
                &mut paths,
                text(bundle, "path"),
                text(bundle, "path"),
                path,
            );
        }
        if kinds > 1 {
            report.forbidden(
                &source_path,
                "may not specify more than 1 volume type per source",
            );
        }
    }
}

/// No two sources of a projected volume may write one file.
fn once<'a>(
    report: &mut Report,
    paths: &mut Vec<&'a str>,
    file: &'a str,
    shown: &str,
    path: &Path<'_>,
) {
    if file.is_empty() {
        return;
    }
    if paths.contains(&file) {
        report.invalid(path, shown, "conflicting duplicate paths");
    } else {
        paths.push(file);
    }
}

fn token_projection(report: &mut Report, token: &Value, volume: &Path<'_>, path: &Path<'_>) {
    let seconds = number(token, "expirationSeconds").unwrap_or(0);
    if seconds < 600 {
        report.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > 1 << 32 {
        report.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    let file = text(token, "path");
    if file.is_empty() {
        report.required(&volume.child("path"), "");
    } else {
        inside(report, file, &volume.child("path"));
    }
}

/// A path below the volume: relative, without `..`, not beginning with the `..` that the
/// kubelet keeps for itself.
fn inside(report: &mut Report, target: &str, path: &Path<'_>) {
    relative(report, target, path);
    // `..` and `../x` were told about already.
    if target.starts_with("..") && !target.starts_with("../") {
        report.invalid(path, target, "must not start with '..'");
    }
}

fn relative(report: &mut Report, target: &str, path: &Path<'_>) {
    if target.starts_with('/') {
        report.invalid(path, target, "must be a relative path");
    }
    no_backsteps(report, target, path);
}

fn no_backsteps(report: &mut Report, target: &str, path: &Path<'_>) {
    if target.split('/').any(|part| part == "..") {
        report.invalid(path, target, "must not contain '..'");
    }
}

pub(super) fn mounts(
    report: &mut Report,
    container: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    let devices = list(container, "volumeDevices");
    let mut seen: Vec<&str> = Vec::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let item = path.index(index);
        let name = text(mount, "name");
        let target = text(mount, "mountPath");
        if name.is_empty() {
            report.required(&item.child("name"), "");
        }
        if !context.volumes.contains_key(name) {
            report.not_found(&item.child("name"), name);
        }
        if target.is_empty() {
            report.required(&item.child("mountPath"), "");
        }
        if seen.contains(&target) {
            report.invalid(&item.child("mountPath"), target, "must be unique");
        }
        seen.push(target);
        if devices.iter().any(|device| text(device, "name") == name) {
            report.invalid(
                &item.child("name"),
                name,
                "must not already exist in volumeDevices",
            );
        }
        if devices
            .iter()
            .any(|device| text(device, "devicePath") == target)
        {
            report.invalid(
                &item.child("mountPath"),
                target,
                "must not already exist as a path in volumeDevices",
            );
        }
        let sub_path = text(mount, "subPath");
        if !sub_path.is_empty() {
            relative(report, sub_path, &path.child("subPath"));
        }
        let expression = text(mount, "subPathExpr");
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                report.invalid(
                    &item.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            relative(report, expression, &path.child("subPathExpr"));
        }
        propagation(report, mount, container, path);
    }
}

fn propagation(report: &mut Report, mount: &Value, container: &Value, path: &Path<'_>) {
    let mode = member(mount, "mountPropagation").and_then(Value::as_str);
    if let Some(mode) = mode {
        let path = path.child("mountPropagation");
        report.one_of(&path, mode, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container
            .get("securityContext")
            .is_some_and(|security| flag(security, "privileged"));
        if mode == "Bidirectional" && !privileged {
            report.forbidden(
                &path,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    let path = path.child("recursiveReadOnly");
    match member(mount, "recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                report.forbidden(&path, "may only be specified when readOnly is true");
            }
            if mode.is_some_and(|mode| mode != "None") {
                report.forbidden(
                    &path,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        Some(other) => {
            report.not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"]);
        }
    }
}

pub(super) fn devices(
    report: &mut Report,
    container: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    let mounts = list(container, "volumeMounts");
    let mut targets: Vec<&str> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let item = path.index(index);
        let name = text(device, "name");
        let target = text(device, "devicePath");
        if name.is_empty() {
            report.required(&item.child("name"), "");
        }
        if seen.contains(&name) {
            report.invalid(&item.child("name"), name, "must be unique");
        }
        match context.volumes.get(name) {
            None => report.not_found(&item.child("name"), name),
            Some(volume)
                if member(volume, "persistentVolumeClaim").is_none()
                    && member(volume, "ephemeral").is_none() =>
            {
                report.invalid(
                    &item.child("name"),
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
        }
        if target.is_empty() {
            report.required(&item.child("devicePath"), "");
        }
        if targets.contains(&target) {
            report.invalid(&item.child("devicePath"), target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            report.invalid(
                &item.child("devicePath"),
                target,
                "can not contain backsteps ('..')",
            );
        } else {
            targets.push(target);
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            report.invalid(
                &item.child("name"),
                name,
                "must not already exist in volumeMounts",
            );
        }
        if mounts
            .iter()
            .any(|mount| text(mount, "mountPath") == target)
        {
            report.invalid(
                &item.child("devicePath"),
                target,
                "must not already exist as a path in volumeMounts",
            );
        }
        seen.push(name);
    }
}
