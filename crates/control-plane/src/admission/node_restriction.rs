//! NodeRestriction: a node changes its own node and its own pods' status, and no more.
//!
//! Rules and words are those of the real plugin
//! (kubernetes/kubernetes, plugin/pkg/admission/noderestriction), with one exception: a node may
//! set the label `kubernetes.io/role` on itself, since nobody else does it in a cluster that is
//! made by one command.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Lookup, Operation, Request, service_account, text};
use crate::auth::User;
use crate::auth::graph::{MIRROR_POD_ANNOTATION, RefKind, references};
use crate::status::ApiError;

/// The label that nodes may set here, though it is in a reserved domain.
const ROLE_LABEL: &str = "kubernetes.io/role";

/// Labels in reserved domains that a kubelet may set on its node.
const KUBELET_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    ROLE_LABEL,
];

/// Domains in which a kubelet may set any label, sub-domains included.
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Admits a create or an update.
pub(super) fn admit(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let Some(node) = request.user.node_name() else {
        return Ok(());
    };
    let creates = request.operation == Operation::Create;
    let refusal = match (request.group, request.resource, request.subresource) {
        ("", "pods", "") if creates => check_new_pod(lookup, node, object),
        ("", "pods", "") => Some(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
        ("", "pods", "status") => check_pod_status(node, object, old),
        ("", "pods", "eviction") => check_eviction(lookup, request, node),
        ("", "pods", other) => Some(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("", "nodes", _) => check_node(request, node, object, old),
        ("", "persistentvolumeclaims", "status") => None,
        ("", "persistentvolumeclaims", _) => Some("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") => check_token(lookup, request, node, object),
        ("coordination.k8s.io", "leases", _) => check_lease(request, node, object),
        ("storage.k8s.io", "csinodes", _) => (name_of(request, object) != node).then(|| {
            "can only access CSINode with the same name as the requesting node".to_owned()
        }),
        _ => None,
    };
    match refusal {
        None => Ok(()),
        Some(why) => Err(request.refuse(object, why)),
    }
}

/// Admits a delete of `old`.
pub(super) fn admit_delete(
    user: &User,
    group: &str,
    resource: &str,
    _namespace: &str,
    name: &str,
    old: &Value,
) -> Result<(), ApiError> {
    let Some(node) = user.node_name() else {
        return Ok(());
    };
    let why = match (group, resource) {
        ("", "pods") if text(old, "/spec/nodeName") != node => {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }
        ("", "nodes") if name != node => {
            format!("node {node:?} is not allowed to modify node {name:?}")
        }
        ("coordination.k8s.io", "leases") if name != node => {
            "can only access node lease with the same name as the requesting node".to_owned()
        }
        _ => return Ok(()),
    };
    Err(ApiError::forbidden(group, resource, name, why))
}

fn name_of<'a>(request: &Request<'a>, object: &'a Value) -> &'a str {
    if request.name.is_empty() {
        text(object, "/metadata/name")
    } else {
        request.name
    }
}

fn check_lease(request: &Request<'_>, node: &str, object: &Value) -> Option<String> {
    if request.namespace != "kube-node-lease" {
        return Some(
            "can only access leases in the \"kube-node-lease\" system namespace".to_owned(),
        );
    }
    (name_of(request, object) != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

fn check_new_pod(lookup: &dyn Lookup, node: &str, pod: &Value) -> Option<String> {
    if !service_account::is_mirror(pod) {
        return Some(format!(
            "pod does not have {MIRROR_POD_ANNOTATION:?} annotation, node {node:?} can only create \
             mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return Some(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = pod
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let owner = match owners {
        [owner] => owner,
        [] => {
            return Some(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return Some(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    let field = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
    if (field("apiVersion"), field("kind"), field("name")) != ("v1", "Node", node) {
        return Some(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if owner["controller"] != true {
        return Some(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Some(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    match lookup.object(&format!("nodes//{node}")) {
        None => {
            return Some(format!(
                "error looking up node {node} to verify uid: not found"
            ));
        }
        Some(stored) => {
            let (expected, got) = (field("uid"), text(&stored, "/metadata/uid"));
            if expected != got {
                return Some(format!(
                    "node {node} UID mismatch: expected {expected} got {got}"
                ));
            }
        }
    }
    let mut refusal = None;
    references(pod, "", &mut |kind, _| {
        let what = match kind {
            RefKind::ServiceAccount => "a service account",
            RefKind::Secret => "secrets",
            RefKind::ConfigMap => "configmaps",
            RefKind::PersistentVolumeClaim => "persistentvolumeclaims",
            RefKind::Pod => return,
        };
        refusal.get_or_insert_with(|| {
            format!("node {node:?} can not create pods that reference {what}")
        });
    });
    refusal
}

fn check_pod_status(node: &str, pod: &Value, old: Option<&Value>) -> Option<String> {
    let old = old?;
    if text(old, "/spec/nodeName") != node {
        return Some(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels = |pod: &Value| {
        pod.pointer("/metadata/labels")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    if labels(pod) != labels(old) {
        return Some(format!(
            "node {node:?} cannot update labels through pod status"
        ));
    }
    let claims = |pod: &Value| {
        pod.pointer("/status/resourceClaimStatuses")
            .filter(|claims| !claims.is_null())
            .cloned()
    };
    (claims(pod) != claims(old))
        .then(|| format!("node {node:?} cannot update resource claim statuses"))
}

fn check_eviction(lookup: &dyn Lookup, request: &Request<'_>, node: &str) -> Option<String> {
    let pod = lookup.object(&format!("pods/{}/{}", request.namespace, request.name))?;
    (text(&pod, "/spec/nodeName") != node)
        .then(|| format!("node {node} can only evict pods with spec.nodeName set to itself"))
}

fn check_node(
    request: &Request<'_>,
    node: &str,
    object: &Value,
    old: Option<&Value>,
) -> Option<String> {
    let name = name_of(request, object);
    if name != node {
        return Some(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        ));
    }
    let empty = Map::new();
    let labels = |value: Option<&Value>| {
        value
            .and_then(|value| value.pointer("/metadata/labels")?.as_object().cloned())
            .unwrap_or_else(|| empty.clone())
    };
    let (new_labels, old_labels) = (labels(Some(object)), labels(old));
    let forbidden: BTreeSet<&str> = new_labels
        .keys()
        .chain(old_labels.keys())
        .filter(|label| new_labels.get(*label) != old_labels.get(*label))
        .filter(|label| is_forbidden_label(label))
        .map(String::as_str)
        .collect();
    let list = || forbidden.iter().copied().collect::<Vec<_>>().join(", ");
    let Some(old) = old else {
        return (!forbidden.is_empty()).then(|| {
            format!(
                "node {node:?} is not allowed to set the following labels: {}",
                list()
            )
        });
    };
    let differs = |pointer: &str| {
        let present = |value: Option<&Value>| -> Vec<Value> {
            value.and_then(Value::as_array).cloned().unwrap_or_default()
        };
        present(object.pointer(pointer)) != present(old.pointer(pointer))
    };
    if differs("/spec/taints") {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    if !forbidden.is_empty() {
        return Some(format!("is not allowed to modify labels: {}", list()));
    }
    differs("/metadata/ownerReferences")
        .then(|| format!("node {node:?} is not allowed to modify ownerReferences"))
}

fn is_in_domain(domain: &str, of: &str) -> bool {
    domain == of
        || domain
            .strip_suffix(of)
            .is_some_and(|rest| rest.ends_with('.'))
}

fn is_forbidden_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return false;
    };
    if is_in_domain(domain, "node-restriction.kubernetes.io") {
        return true;
    }
    (is_in_domain(domain, "kubernetes.io") || is_in_domain(domain, "k8s.io"))
        && !KUBELET_LABELS.contains(&label)
        && !KUBELET_DOMAINS
            .iter()
            .any(|allowed| is_in_domain(domain, allowed))
}

fn check_token(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    node: &str,
    token: &Value,
) -> Option<String> {
    let reference = token
        .pointer("/spec/boundObjectRef")
        .filter(|reference| !reference.is_null());
    let Some(reference) = reference.filter(|reference| text(reference, "/kind") == "Pod") else {
        return Some("node requested token not bound to a pod".to_owned());
    };
    let uid = text(reference, "/uid");
    if uid.is_empty() {
        return Some("node requested token with a pod binding without a uid".to_owned());
    }
    let name = text(reference, "/name");
    // A pod that is not there is for the token request to tell.
    let pod = lookup.object(&format!("pods/{}/{name}", request.namespace))?;
    if text(&pod, "/metadata/uid") != uid {
        return Some(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The \
             object might have been deleted and then recreated"
        ));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Some(
            "node requested token bound to a pod scheduled on a different node".to_owned(),
        );
    }
    let asked = token
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let audience = match asked {
        // The audience of the API server, as a projection without an audience means it.
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Some("node may only request 0 or 1 audiences".to_owned()),
    };
    let is_known = pod
        .pointer("/spec/volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.pointer("/projected/sources")?.as_array())
        .flatten()
        .filter_map(|source| source.get("serviceAccountToken"))
        .any(|projection| text(projection, "/audience") == audience);
    (!is_known).then(|| {
        format!(
            "audience {audience:?} not found in pod spec volume, system:node:{node} is not \
             authorized to request tokens for this audience"
        )
    })
}

#[cfg(test)]
mod tests;
