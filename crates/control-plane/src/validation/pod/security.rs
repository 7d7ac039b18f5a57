//! Security contexts.

use serde_json::Value;

use super::Context;
use crate::validation::names;
use crate::validation::report::{Path, Report, flag, list, member, number, text};

fn id(report: &mut Report, holder: &Value, key: &str, path: &Path<'_>) {
    if let Some(id) = number(holder, key) {
        id_value(report, id, &path.child(key));
    }
}

fn id_value(report: &mut Report, id: i64, path: &Path<'_>) {
    let most = i64::from(i32::MAX);
    if !(0..=most).contains(&id) {
        report.invalid(path, id, names::between(0, most));
    }
}

/// The pod's security context.
pub(super) fn pod(report: &mut Report, spec: &Value, path: &Path<'_>) {
    if flag(spec, "hostPID") && flag(spec, "shareProcessNamespace") {
        report.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    let Some(security) = member(spec, "securityContext") else {
        return;
    };
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(report, security, key, path);
    }
    let groups = path.child("supplementalGroups");
    for (index, group) in list(security, "supplementalGroups").iter().enumerate() {
        if let Some(group) = group.as_i64() {
            id_value(report, group, &groups.index(index));
        }
    }
    sysctls(report, security, spec, &path.child("sysctls"));
    if let Some(policy) = member(security, "fsGroupChangePolicy").and_then(Value::as_str) {
        report.one_of(
            &path.child("fsGroupChangePolicy"),
            policy,
            &["Always", "OnRootMismatch"],
        );
    }
    profiles(report, security, path);
    if let Some(policy) = member(security, "supplementalGroupsPolicy").and_then(Value::as_str) {
        report.one_of(
            &path.child("supplementalGroupsPolicy"),
            policy,
            &["Merge", "Strict"],
        );
    }
}

fn sysctls(report: &mut Report, security: &Value, spec: &Value, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, sysctl) in list(security, "sysctls").iter().enumerate() {
        let path = path.index(index);
        let name = text(sysctl, "name");
        if name.is_empty() {
            report.required(&path.child("name"), "");
        } else if !is_sysctl(name) {
            report.invalid(
                &path.child("name"),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if seen.contains(&name) {
            report.duplicate(&path.child("name"), name);
        }
        if name.starts_with("net.") && flag(spec, "hostNetwork") {
            report.invalid(
                &path.child("name"),
                name,
                "may not be specified when 'hostNetwork' is true",
            );
        }
        if (name.starts_with("kernel.shm")
            || name.starts_with("kernel.msg")
            || name.starts_with("fs.mqueue."))
            && flag(spec, "hostIPC")
        {
            report.invalid(
                &path.child("name"),
                name,
                "may not be specified when 'hostIPC' is true",
            );
        }
        seen.push(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            bytes.first().copied().is_some_and(outer)
                && bytes.last().copied().is_some_and(outer)
                && bytes
                    .iter()
                    .all(|byte| outer(*byte) || matches!(byte, b'-' | b'_'))
        })
}

/// A container's security context.
pub(super) fn container(
    report: &mut Report,
    security: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    id(report, security, "runAsUser", path);
    id(report, security, "runAsGroup", path);
    if let Some(kind) = member(security, "procMount").and_then(Value::as_str) {
        let path = path.child("procMount");
        match kind {
            "Default" => {}
            "Unmasked" if context.host_users => {
                report.invalid(&path, kind, "`hostUsers` must be false to use `Unmasked`");
            }
            "Unmasked" => {}
            other => report.not_supported(&path, other, &["Default", "Unmasked"]),
        }
    }
    seccomp(report, security, path);
    if security
        .get("allowPrivilegeEscalation")
        .and_then(Value::as_bool)
        == Some(false)
    {
        if flag(security, "privileged") {
            report.invalid(
                path,
                security.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = security
            .get("capabilities")
            .map(|capabilities| list(capabilities, "add"))
            .unwrap_or_default();
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            report.invalid(
                path,
                security.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    app_armor(report, security, path);
}

fn profiles(report: &mut Report, security: &Value, path: &Path<'_>) {
    seccomp(report, security, path);
    app_armor(report, security, path);
}

fn seccomp(report: &mut Report, security: &Value, path: &Path<'_>) {
    let Some(profile) = member(security, "seccompProfile") else {
        return;
    };
    let path = path.child("seccompProfile");
    let kind = text(profile, "type");
    match kind {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => report.required(
            &path.child("type"),
            "type is required when seccompProfile is set",
        ),
        other => report.not_supported(
            &path.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
    let local = member(profile, "localhostProfile").and_then(Value::as_str);
    let path = path.child("localhostProfile");
    match (kind, local) {
        ("Localhost", None) => {
            report.required(&path, "must be set when seccomp type is Localhost");
        }
        ("Localhost", Some(file)) => {
            if file.starts_with('/') {
                report.invalid(&path, file, "must be a relative path");
            }
            if file.split('/').any(|part| part == "..") {
                report.invalid(&path, file, "must not contain '..'");
            }
        }
        (_, Some(_)) => report.invalid(
            &path,
            profile.clone(),
            "can only be set when seccomp type is Localhost",
        ),
        (_, None) => {}
    }
}

fn app_armor(report: &mut Report, security: &Value, path: &Path<'_>) {
    let Some(profile) = member(security, "appArmorProfile") else {
        return;
    };
    let path = path.child("appArmorProfile");
    let local = member(profile, "localhostProfile").and_then(Value::as_str);
    match text(profile, "type") {
        "Localhost" => {
            let path = path.child("localhostProfile");
            match local {
                None | Some("") => {
                    report.required(&path, "must be set when AppArmor type is Localhost");
                }
                Some(name) => {
                    if name.trim() != name {
                        report.invalid(&path, name, "must not be padded with whitespace");
                    }
                    if name.len() > 4_095 {
                        report.too_long(&path, 4_095);
                    }
                }
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = local {
                report.invalid(
                    &path.child("localhostProfile"),
                    name,
                    "can only be set when AppArmor type is Localhost",
                );
            }
        }
        "" => report.required(
            &path.child("type"),
            "type is required when appArmorProfile is set",
        ),
        other => report.not_supported(
            &path.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}
