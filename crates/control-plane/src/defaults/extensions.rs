//! All groups but the core group and those of the workloads.

use serde_json::{Value, json};

use super::edit::{
    Object, child, child_or_new, empty, items, missing, set_missing, set_number, set_text, text,
};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn apply(group: &str, kind: &str, object: &mut Object) {
    match (group, kind) {
        (RBAC, "RoleBinding" | "ClusterRoleBinding") => binding(object),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(object),
        ("networking.k8s.io", "IngressClass") => {
            if let Some(spec) = child(object, "spec")
                && let Some(parameters) = child(spec, "parameters")
            {
                set_missing(parameters, "scope", "Cluster");
            }
        }
        ("storage.k8s.io", "StorageClass") => {
            set_missing(object, "reclaimPolicy", "Delete");
            set_missing(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "CSIDriver") => csi_driver(object),
        ("scheduling.k8s.io", "PriorityClass") => {
            set_missing(object, "preemptionPolicy", "PreemptLowerPriority");
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            for port in items(object, "ports") {
                set_missing(port, "name", "");
                set_missing(port, "protocol", "TCP");
            }
        }
        ("admissionregistration.k8s.io", kind) => admission(kind, object),
        ("flowcontrol.apiserver.k8s.io", kind) => flow_control(kind, object),
        ("resource.k8s.io", "ResourceClaim") => {
            if let Some(spec) = child(object, "spec") {
                device_requests(spec);
            }
        }
        ("resource.k8s.io", "ResourceClaimTemplate") => {
            if let Some(spec) = child(object, "spec")
                && let Some(claim) = child(spec, "spec")
            {
                device_requests(claim);
            }
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            custom_resource_definition(object);
        }
        ("apiregistration.k8s.io", "APIService") => {
            if let Some(spec) = child(object, "spec")
                && let Some(service) = child(spec, "service")
            {
                set_missing(service, "port", 443);
            }
        }
        _ => {}
    }
}

fn binding(object: &mut Object) {
    if let Some(role) = child_or_new(object, "roleRef") {
        set_text(role, "apiGroup", RBAC);
    }
    for subject in items(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_text(subject, "apiGroup", RBAC);
        }
    }
}

fn network_policy(object: &mut Object) {
    let Some(spec) = child_or_new(object, "spec") else {
        return;
    };
    if empty(spec, "policyTypes") {
        let types = if empty(spec, "egress") {
            json!(["Ingress"])
        } else {
            json!(["Ingress", "Egress"])
        };
        spec.insert("policyTypes".to_owned(), types);
    }
    for rules in ["ingress", "egress"] {
        for rule in items(spec, rules) {
            for port in items(rule, "ports") {
                set_missing(port, "protocol", "TCP");
            }
        }
    }
}

fn csi_driver(object: &mut Object) {
    let Some(spec) = child_or_new(object, "spec") else {
        return;
    };
    set_missing(spec, "attachRequired", true);
    set_missing(spec, "podInfoOnMount", false);
    set_missing(spec, "storageCapacity", false);
    set_missing(spec, "requiresRepublish", false);
    set_missing(spec, "seLinuxMount", false);
    set_missing(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if empty(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}

fn admission(kind: &str, object: &mut Object) {
    match kind {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            for webhook in items(object, "webhooks") {
                set_missing(webhook, "failurePolicy", "Fail");
                match_resources(webhook);
                set_missing(webhook, "timeoutSeconds", 10);
                if kind.starts_with("Mutating") {
                    set_missing(webhook, "reinvocationPolicy", "Never");
                }
                for rule in items(webhook, "rules") {
                    set_missing(rule, "scope", "*");
                }
                if let Some(client) = child(webhook, "clientConfig")
                    && let Some(service) = child(client, "service")
                {
                    set_missing(service, "port", 443);
                }
            }
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            let Some(spec) = child(object, "spec") else {
                return;
            };
            set_missing(spec, "failurePolicy", "Fail");
            if let Some(constraints) = child(spec, "matchConstraints") {
                match_resources(constraints);
                rule_scopes(constraints);
            }
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            if let Some(spec) = child(object, "spec")
                && let Some(resources) = child(spec, "matchResources")
            {
                match_resources(resources);
                rule_scopes(resources);
            }
        }
        _ => {}
    }
}

fn match_resources(object: &mut Object) {
    set_missing(object, "matchPolicy", "Equivalent");
    set_missing(object, "namespaceSelector", json!({}));
    set_missing(object, "objectSelector", json!({}));
}

fn rule_scopes(object: &mut Object) {
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items(object, list) {
            set_missing(rule, "scope", "*");
        }
    }
}

fn flow_control(kind: &str, object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    if kind == "FlowSchema" {
        set_number(spec, "matchingPrecedence", 1_000);
        return;
    }
    if let Some(exempt) = child(spec, "exempt") {
        set_missing(exempt, "nominalConcurrencyShares", 0);
        set_missing(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = child(spec, "limited") {
        set_missing(limited, "nominalConcurrencyShares", 30);
        set_missing(limited, "lendablePercent", 0);
        if let Some(response) = child(limited, "limitResponse")
            && let Some(queuing) = child(response, "queuing")
        {
            set_number(queuing, "handSize", 8);
            set_number(queuing, "queues", 64);
            set_number(queuing, "queueLengthLimit", 50);
        }
    }
}

fn device_requests(claim: &mut Object) {
    let Some(devices) = child(claim, "devices") else {
        return;
    };
    for request in items(devices, "requests") {
        if let Some(exact) = child(request, "exactly") {
            exact_count(exact);
        }
        for alternative in items(request, "firstAvailable") {
            exact_count(alternative);
        }
    }
}

fn exact_count(request: &mut Object) {
    set_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set_number(request, "count", 1);
    }
}

fn custom_resource_definition(object: &mut Object) {
    let Some(spec) = child_or_new(object, "spec") else {
        return;
    };
    if let Some(names) = child_or_new(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if empty(names, "singular") && !kind.is_empty() {
            names.insert("singular".to_owned(), kind.to_lowercase().into());
        }
        if empty(names, "listKind") && !kind.is_empty() {
            names.insert("listKind".to_owned(), format!("{kind}List").into());
        }
    }
    if missing(spec, "conversion") {
        spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
    }
    if let Some(service) = spec
        .get_mut("conversion")
        .and_then(|conversion| conversion.pointer_mut("/webhook/clientConfig/service"))
        .and_then(Value::as_object_mut)
    {
        set_missing(service, "port", 443);
    }
}
