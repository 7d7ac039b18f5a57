//! Services, endpoints, and the rules of network policies.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::report::{IMMUTABLE, Path, Report, list, member, number, text};
use super::{meta, names, pod};
use crate::status::FieldErrorKind;

const NULL: Value = Value::Null;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

fn headless(spec: &Value) -> bool {
    matches!(list(spec, "clusterIPs"), [only] if only == "None")
        || (list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == "None")
}

pub(super) fn service(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&NULL);
    let kind = text(spec, "type");
    let ports = list(spec, "ports");
    let headless = headless(spec);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        report.required(&path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => report.invalid(
            &path.child("clusterIPs").index(0),
            "None",
            format!("may not be set to 'None' for {kind} services"),
        ),
        "ExternalName" => external_name(report, spec, &path),
        _ => {}
    }
    service_ports(report, spec, &path);
    let wrapped = json!({"labels": member(spec, "selector")});
    meta::labels(report, &wrapped, "labels", &path.child("selector"));
    let affinity = path.child("sessionAffinity");
    match text(spec, "sessionAffinity") {
        "" => report.required(&affinity, ""),
        "None" => {
            if member(spec, "sessionAffinityConfig").is_some() {
                report.forbidden(
                    &path.child("sessionAffinityConfig"),
                    "must not be set when session affinity is None",
                );
            }
        }
        "ClientIP" => {
            let seconds = spec
                .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
                .and_then(Value::as_i64);
            if let Some(seconds) = seconds.filter(|seconds| !(1..=86_400).contains(seconds)) {
                let config = path.child("sessionAffinityConfig");
                let client = config.child("clientIP");
                report.invalid(
                    &client.child("timeoutSeconds"),
                    seconds,
                    "must be greater than 0 and less than 86400",
                );
            }
        }
        other => report.not_supported(&affinity, other, &["ClientIP", "None"]),
    }
    if kind != "ExternalName" {
        cluster_ips(report, spec, &path);
    }
    let addresses = path.child("externalIPs");
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        endpoint_address(
            report,
            address.as_str().unwrap_or_default(),
            &addresses.index(index),
        );
    }
    if kind.is_empty() {
        report.required(&path.child("type"), "");
    } else {
        report.one_of(
            &path.child("type"),
            kind,
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        );
    }
    numbers(report, spec, &path);
    if member(spec, "allocateLoadBalancerNodePorts").is_some() && kind != "LoadBalancer" {
        report.forbidden(
            &path.child("allocateLoadBalancerNodePorts"),
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    traffic(report, spec, &path);
}

fn external_name(report: &mut Report, spec: &Value, path: &Path<'_>) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !list(spec, field).is_empty() {
            report.forbidden(
                &path.child(field),
                "may not be set for ExternalName services",
            );
        }
    }
    if member(spec, "ipFamilyPolicy").is_some() {
        report.forbidden(
            &path.child("ipFamilyPolicy"),
            "may not be set for ExternalName services",
        );
    }
    let name = text(spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        report.required(&path.child("externalName"), "");
    } else {
        report.problems(
            &path.child("externalName"),
            name,
            names::dns1123_subdomain(name),
        );
    }
}

fn service_ports(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let ports = list(spec, "ports");
    let ports_path = path.child("ports");
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = ports_path.index(index);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                report.required(&path.child("name"), "");
            }
        } else {
            report.problems(&path.child("name"), name, names::dns1123_label(name));
            if seen.contains(&name) {
                report.duplicate(&path.child("name"), name);
            } else {
                seen.push(name);
            }
        }
        port_number(
            report,
            number(port, "port").unwrap_or(0),
            &path.child("port"),
        );
        protocol(report, port, &path);
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                report.problems(&path.child("targetPort"), name, names::port_name(name));
            }
            other => port_number(
                report,
                other.and_then(Value::as_i64).unwrap_or(0),
                &path.child("targetPort"),
            ),
        }
        if let Some(name) = member(port, "appProtocol").and_then(Value::as_str) {
            report.problems(
                &path.child("appProtocol"),
                name,
                names::qualified_name(name),
            );
        }
    }
}

/// Ports may not repeat, nor may node ports, which a `ClusterIP` service cannot have.
fn numbers(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let ports = list(spec, "ports");
    let path = path.child("ports");
    if text(spec, "type") == "ClusterIP" {
        for (index, port) in ports.iter().enumerate() {
            if number(port, "nodePort").unwrap_or(0) != 0 {
                report.forbidden(
                    &path.index(index).child("nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                );
            }
        }
    }
    for field in ["nodePort", "port"] {
        let mut seen: Vec<(&str, i64)> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let Some(number) = number(port, field).filter(|number| *number != 0) else {
                continue;
            };
            let key = (text(port, "protocol"), number);
            if !seen.contains(&key) {
                seen.push(key);
            } else if field == "nodePort" {
                report.duplicate(&path.index(index).child(field), number);
            } else {
                report.shown(
                    FieldErrorKind::Duplicate,
                    &path.index(index),
                    format!(
                        "{{\"Name\":\"\",\"Protocol\":\"{}\",\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                        key.0
                    ),
                    "",
                );
            }
        }
    }
}

fn cluster_ips(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let all = list(spec, "clusterIPs");
    let all_path = path.child("clusterIPs");
    let first = text(spec, "clusterIP");
    match (first, all) {
        ("", []) => {}
        ("", _) => report.invalid(
            &all_path,
            all.to_vec(),
            "must be empty when `clusterIP` is not specified",
        ),
        (_, []) => report.required(&all_path, ""),
        (first, [head, ..]) if head != first => report.invalid(
            &all_path,
            all.to_vec(),
            "first value must match `clusterIP`",
        ),
        _ => {}
    }
    let families = path.child("ipFamilies");
    let mut seen: Vec<&str> = Vec::new();
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        report.one_of(&families.index(index), family, &["IPv4", "IPv6"]);
        if seen.contains(&family) {
            report.duplicate(&families.index(index), family);
        }
        seen.push(family);
    }
    if let Some(policy) = member(spec, "ipFamilyPolicy").and_then(Value::as_str) {
        report.one_of(
            &path.child("ipFamilyPolicy"),
            policy,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        );
    }
    for (index, address) in all.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if index == 0 && address == "None" {
            if all.len() > 1 {
                report.invalid(
                    &all_path,
                    all.to_vec(),
                    "'None' must be the first and only value",
                );
            }
            continue;
        }
        pod::ip_address(report, address, &all_path.index(index));
    }
    if all.len() > 2 {
        report.invalid(&all_path, all.to_vec(), "may only hold up to 2 values");
    }
}

fn traffic(report: &mut Report, spec: &Value, path: &Path<'_>) {
    let kind = text(spec, "type");
    let outside = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty());
    let policy = text(spec, "externalTrafficPolicy");
    let policy_path = path.child("externalTrafficPolicy");
    match (outside, policy) {
        (false, "") => {}
        (false, _) => report.invalid(
            &policy_path,
            policy,
            "may only be set for externally-accessible services",
        ),
        (true, "") => report.required(&policy_path, ""),
        (true, _) => report.one_of(&policy_path, policy, &["Cluster", "Local"]),
    }
    let check = number(spec, "healthCheckNodePort").unwrap_or(0);
    if check != 0 && !(kind == "LoadBalancer" && policy == "Local") {
        report.invalid(
            &path.child("healthCheckNodePort"),
            check,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    if let Some(policy) = member(spec, "internalTrafficPolicy").and_then(Value::as_str) {
        report.one_of(
            &path.child("internalTrafficPolicy"),
            policy,
            &["Cluster", "Local"],
        );
    }
}

pub(super) fn service_update(report: &mut Report, object: &Value, old: &Value) {
    let path = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&NULL);
    let before = old.get("spec").unwrap_or(&NULL);
    let external = |spec: &Value| text(spec, "type") == "ExternalName";
    let (now, was) = (list(spec, "clusterIPs"), list(before, "clusterIPs"));
    if external(spec) || external(before) || was.is_empty() {
        return;
    }
    let changed = now.first() != was.first();
    if changed {
        report.invalid(
            &path.child("clusterIPs").index(0),
            now.to_vec(),
            if now.is_empty() {
                "primary clusterIP can not be unset"
            } else {
                "may not change once set"
            },
        );
    }
}

fn port_number(report: &mut Report, number: i64, path: &Path<'_>) {
    for problem in names::port_number(number) {
        report.invalid(path, number, problem);
    }
}

fn protocol(report: &mut Report, port: &Value, path: &Path<'_>) {
    match text(port, "protocol") {
        "" => report.required(&path.child("protocol"), ""),
        other => report.one_of(&path.child("protocol"), other, PROTOCOLS),
    }
}

/// An address that traffic can be sent to.
fn endpoint_address(report: &mut Report, address: &str, path: &Path<'_>) {
    let Ok(ip) = address.parse::<IpAddr>() else {
        pod::ip_address(report, address, path);
        return;
    };
    let (link_local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (
            (ip.segments()[0] & 0xffc0) == 0xfe80,
            ip.segments()[0] == 0xff02,
        ),
    };
    let problem = if ip.is_unspecified() {
        format!("may not be unspecified ({address})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    report.invalid(path, address, problem);
}

pub(super) fn endpoints(report: &mut Report, object: &Value) {
    let path = Path::root("subsets");
    for (index, subset) in list(object, "subsets").iter().enumerate() {
        let path = path.index(index);
        let (ready, not_ready) = (list(subset, "addresses"), list(subset, "notReadyAddresses"));
        if ready.is_empty() && not_ready.is_empty() {
            report.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (key, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            let path = path.child(key);
            for (index, address) in addresses.iter().enumerate() {
                let path = path.index(index);
                endpoint_address(report, text(address, "ip"), &path.child("ip"));
                let host = text(address, "hostname");
                if !host.is_empty() {
                    report.problems(&path.child("hostname"), host, names::dns1123_label(host));
                }
            }
        }
        let ports = list(subset, "ports");
        let ports_path = path.child("ports");
        for (index, port) in ports.iter().enumerate() {
            let path = ports_path.index(index);
            let name = text(port, "name");
            if !name.is_empty() {
                report.problems(&path.child("name"), name, names::dns1123_label(name));
            } else if ports.len() > 1 {
                report.required(&path.child("name"), "");
            }
            port_number(
                report,
                number(port, "port").unwrap_or(0),
                &path.child("port"),
            );
            protocol(report, port, &path);
        }
    }
}

pub(super) fn network_policy(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&NULL);
    if let Some(selector) = member(spec, "podSelector") {
        meta::label_selector(report, selector, &path.child("podSelector"));
    }
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules_path = path.child(rules);
        for (index, rule) in list(spec, rules).iter().enumerate() {
            let path = rules_path.index(index);
            let ports = path.child("ports");
            for (index, port) in list(rule, "ports").iter().enumerate() {
                policy_port(report, port, &ports.index(index));
            }
            let peers_path = path.child(peers);
            for (index, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(report, peer, &peers_path.index(index));
            }
        }
    }
    let types = path.child("policyTypes");
    for (index, kind) in list(spec, "policyTypes").iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            report.not_supported(&types.index(index), kind, &["Ingress", "Egress"]);
        }
    }
}

fn policy_port(report: &mut Report, port: &Value, path: &Path<'_>) {
    let protocol = text(port, "protocol");
    if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        report.not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end = number(port, "endPort");
    match port.get("port") {
        Some(Value::String(name)) => {
            if let Some(end) = end {
                report.invalid(
                    &path.child("endPort"),
                    end,
                    "may not be specified when `port` is non-numeric",
                );
            }
            report.problems(&path.child("port"), name, names::port_name(name));
        }
        Some(Value::Number(first)) => {
            let first = first.as_i64().unwrap_or(0);
            port_number(report, first, &path.child("port"));
            if let Some(end) = end {
                if end < first {
                    report.invalid(
                        &path.child("endPort"),
                        first,
                        "must be greater than or equal to `port`",
                    );
                }
                port_number(report, end, &path.child("endPort"));
            }
        }
        _ => {
            if let Some(end) = end {
                report.invalid(
                    &path.child("endPort"),
                    end,
                    "may not be specified when `port` is not specified",
                );
            }
        }
    }
}

fn policy_peer(report: &mut Report, peer: &Value, path: &Path<'_>) {
    let mut peers = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = member(peer, key) {
            peers += 1;
            meta::label_selector(report, selector, &path.child(key));
        }
    }
    if let Some(block) = member(peer, "ipBlock") {
        peers += 1;
        let path = path.child("ipBlock");
        let range = text(block, "cidr");
        if range.is_empty() {
            report.required(&path.child("cidr"), "");
        } else if !is_cidr(range) {
            report.invalid(
                &path.child("cidr"),
                range,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
        if peers > 1 {
            report.forbidden(&path, "may not specify both ipBlock and another peer");
        }
    }
    if peers == 0 {
        report.required(path, "must specify a peer");
    }
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| length <= most)
    })
}

/// What an endpoint slice may not change.
pub(super) fn endpoint_slice_update(report: &mut Report, object: &Value, old: &Value) {
    let kind = text(object, "addressType");
    if kind != text(old, "addressType") {
        report.invalid(&Path::root("addressType"), kind, IMMUTABLE);
    }
}
