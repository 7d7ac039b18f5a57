//! Claims: from a PersistentVolumeClaim to a path of this node.
//!
//! What is said of claims that cannot be used is the kubelet's wording.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim};

use crate::pod::resources::affinity;

/// A directory that a claim stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The PersistentVolume, which failures name.
    pub volume: String,
    /// Where it is on this node.
    pub path: PathBuf,
    /// `hostPath.type`, none for a `local` volume.
    pub kind: Option<String>,
}

/// Name of the PersistentVolume that a claim is bound to, and the claim's UID.
///
/// # Errors
/// Why the claim cannot be used yet.
pub fn bound(claim: &PersistentVolumeClaim) -> Result<(&str, &str), String> {
    const PROTECTION: &str = "kubernetes.io/pvc-protection";
    let metadata = &claim.metadata;
    let mut finalizers = metadata.finalizers.iter().flatten();
    if metadata.deletion_timestamp.is_some() && !finalizers.any(|it| it == PROTECTION) {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|it| it.phase.as_deref());
    if phase != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let spec = claim.spec.as_ref();
    match spec.and_then(|it| it.volume_name.as_deref()) {
        None | Some("") => Err("PVC has empty pvc.Spec.VolumeName".to_owned()),
        Some(volume) => Ok((volume, metadata.uid.as_deref().unwrap_or_default())),
    }
}

/// Whether a PersistentVolume can be had on certain nodes alone.
pub fn is_tied(volume: &PersistentVolume) -> bool {
    required(volume).is_some()
}

fn required(volume: &PersistentVolume) -> Option<&[NodeSelectorTerm]> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    Some(&affinity.required.as_ref()?.node_selector_terms)
}

/// Makes sure that a PersistentVolume can be had on the node of that name and labels.
///
/// # Errors
/// The kubelet's words where it cannot.
pub fn on_this_node(
    volume: &PersistentVolume,
    node: &str,
    labels: &BTreeMap<String, String>,
) -> Result<(), String> {
    if required(volume).is_none_or(|terms| affinity::any_term(terms, node, labels)) {
        return Ok(());
    }
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    Err(format!(
        "MountVolume.NodeAffinity check failed for volume {name:?} : no matching NodeSelectorTerms"
    ))
}

/// What a PersistentVolume is on this node. `mount` is the pod's name for it.
///
/// # Errors
/// Why it cannot be used.
pub fn backed(mount: &str, volume: &PersistentVolume, claim: &str) -> Result<Claimed, String> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    let Some(reference) = spec.claim_ref else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet \
             bound to the claim"
        ));
    };
    let bound = reference.uid.unwrap_or_default();
    if bound != claim {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {bound} does not point to \
             claim.UID {claim}"
        ));
    }
    if let Some(mode) = spec.volume_mode.filter(|mode| mode != "Filesystem") {
        return Err(format!(
            "volume {mount} has volumeMode {mode}, but is specified in volumeMounts"
        ));
    }
    match (spec.host_path, spec.local) {
        (Some(source), _) => Ok(Claimed {
            volume: name,
            path: source.path.into(),
            kind: Some(source.type_.unwrap_or_default()),
        }),
        (None, Some(source)) => Ok(Claimed {
            volume: name,
            path: source.path.into(),
            kind: None,
        }),
        (None, None) => Err(format!(
            "PersistentVolume {name:?} is neither hostPath nor local: other types need a driver, \
             which is not supported by this node"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(metadata: Value, spec: Value, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": metadata, "spec": spec, "status": {"phase": phase}}))
        .unwrap()
    }

    #[test]
    fn claims_that_cannot_be_used_say_why() {
        let uid = json!({"uid": "u"});
        let deleted = json!({"deletionTimestamp": "2030-01-01T00:00:00Z"});
        let named = json!({"volumeName": "pv"});
        let error = |it: &PersistentVolumeClaim| bound(it).unwrap_err();
        assert_eq!(
            error(&claim(uid.clone(), json!({}), "Pending")),
            "PVC is not bound"
        );
        assert_eq!(
            error(&claim(uid.clone(), json!({}), "Bound")),
            "PVC has empty pvc.Spec.VolumeName"
        );
        assert_eq!(
            error(&claim(deleted, named.clone(), "Bound")),
            "PVC is being deleted"
        );
        let protected = json!({"uid": "u", "deletionTimestamp": "2030-01-01T00:00:00Z",
            "finalizers": ["kubernetes.io/pvc-protection"]});
        assert_eq!(bound(&claim(protected, named, "Bound")), Ok(("pv", "u")));
    }

    #[test]
    fn a_volume_of_another_node_is_refused() {
        let volume = |spec: Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap()
        };
        let labels = BTreeMap::from([("disk".to_owned(), "fast".to_owned())]);
        let tied = |value: &str| {
            volume(
                json!({"local": {"path": "/y"}, "nodeAffinity": {"required": {
                "nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "disk", "operator": "In", "values": [value]}]}]}}}),
            )
        };
        assert!(is_tied(&tied("fast")));
        assert_eq!(on_this_node(&tied("fast"), "n", &labels), Ok(()));
        let refused = on_this_node(&tied("slow"), "n", &labels).unwrap_err();
        assert!(
            refused.contains("no matching NodeSelectorTerms"),
            "{refused}"
        );
        let free = volume(json!({"local": {"path": "/y"}}));
        assert!(!is_tied(&free));
        assert_eq!(on_this_node(&free, "n", &labels), Ok(()));
    }

    #[test]
    fn volumes_of_this_node_have_a_path() {
        let volume = |spec: Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap()
        };
        let of = |spec: Value| backed("data", &volume(spec), "u");
        let host =
            json!({"claimRef": {"uid": "u"}, "hostPath": {"path": "/x", "type": "Directory"}});
        let found = of(host).unwrap();
        assert_eq!(
            (found.path, found.kind.as_deref()),
            ("/x".into(), Some("Directory"))
        );
        let local = of(json!({"claimRef": {"uid": "u"}, "local": {"path": "/y"}})).unwrap();
        assert_eq!((local.path, local.kind), ("/y".into(), None));
        for (spec, words) in [
            (json!({"local": {"path": "/y"}}), "nil pv.Spec.ClaimRef"),
            (
                json!({"claimRef": {"uid": "other"}, "local": {"path": "/y"}}),
                "pv.Spec.ClaimRef.UID other does not point to claim.UID u",
            ),
            (
                json!({"claimRef": {"uid": "u"}, "volumeMode": "Block", "local": {"path": "/y"}}),
                "volume data has volumeMode Block, but is specified in volumeMounts",
            ),
            (
                json!({"claimRef": {"uid": "u"}, "csi": {"driver": "d", "volumeHandle": "h"}}),
                "neither hostPath nor local",
            ),
        ] {
            let error = of(spec).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
