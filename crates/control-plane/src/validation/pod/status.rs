//! The status of a pod, as its node writes it.

use serde_json::Value;

use super::{NULL, ip_address};
use crate::status::FieldErrorKind;
use crate::validation::report::{IMMUTABLE, Path, Report, list, member, text};
use crate::validation::{meta, names};

/// Problems of a pod whose status is to replace that of `old`.
pub(in crate::validation) fn update(report: &mut Report, pod: &Value, old: &Value) {
    meta::update(report, pod, old);
    let path = Path::root("status");
    let status = pod.get("status").unwrap_or(&NULL);
    let before = old.get("status").unwrap_or(&NULL);
    let conditions = path.child("conditions");
    for (index, condition) in list(status, "conditions").iter().enumerate() {
        let kind = text(condition, "type");
        report.problems(
            &conditions.index(index).child("Type"),
            kind,
            names::qualified_name(kind),
        );
    }
    let node = |pod: &Value| text(pod.get("spec").unwrap_or(&NULL), "nodeName").to_owned();
    if node(pod) != node(old) {
        report.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let nominated = text(status, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(before, "nominatedNodeName") {
        report.problems(
            &path.child("nominatedNodeName"),
            nominated,
            names::dns1123_subdomain(nominated),
        );
    }
    if text(status, "qosClass") != text(before, "qosClass") {
        report.invalid(&path.child("qosClass"), text(status, "qosClass"), IMMUTABLE);
    }
    let spec = old.get("spec").unwrap_or(&NULL);
    finished(report, spec, status, before, "containerStatuses", &path);
    finished(report, spec, status, before, "initContainerStatuses", &path);
    addresses(report, status, &path);
}

/// A container that ended and is not started again stays ended.
fn finished(
    report: &mut Report,
    spec: &Value,
    status: &Value,
    before: &Value,
    key: &str,
    path: &Path<'_>,
) {
    let pod_policy = text(spec, "restartPolicy");
    if pod_policy == "Always" {
        return;
    }
    let path = path.child(key);
    let terminated = |status: &Value| {
        member(status, "state")
            .and_then(|state| member(state, "terminated"))
            .cloned()
    };
    for old in list(before, key) {
        let Some(end) = terminated(old) else { continue };
        let name = text(old, "name");
        let restartable = list(spec, "initContainers").iter().any(|container| {
            text(container, "name") == name && text(container, "restartPolicy") == "Always"
        });
        let failed = end.get("exitCode").and_then(Value::as_i64) != Some(0);
        if restartable || (failed && pod_policy == "OnFailure") {
            continue;
        }
        let statuses = list(status, key);
        let now = statuses
            .iter()
            .position(|status| text(status, "name") == name);
        if let Some(index) = now
            && terminated(&statuses[index]).is_none()
        {
            report.forbidden(
                &path.index(index).child("state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

fn addresses(report: &mut Report, status: &Value, path: &Path<'_>) {
    for (key, first) in [("podIPs", None), ("hostIPs", Some("hostIP"))] {
        let path = path.child(key);
        let addresses = list(status, key);
        if let (Some(first), Some(address)) = (first, addresses.first())
            && text(status, first) != text(address, "ip")
        {
            report.invalid(
                &path.index(0).child("ip"),
                text(address, "ip"),
                "must be equal to `hostIP`",
            );
        }
        for (index, address) in addresses.iter().enumerate() {
            ip_address(report, text(address, "ip"), &path.index(index));
        }
        let six = |address: &Value| text(address, "ip").contains(':');
        let dual = matches!(addresses, [one, two] if six(one) != six(two));
        if addresses.len() > 1 && !dual {
            let shown: Vec<String> = addresses
                .iter()
                .map(|address| format!("{{\"IP\":{:?}}}", text(address, "ip")))
                .collect();
            report.shown(
                FieldErrorKind::Invalid,
                &path,
                format!("[{}]", shown.join(",")),
                "may specify no more than one IP for each IP family",
            );
        }
    }
}
