//! Every pod runs as a service account: its name, its token volume, its pull secrets.

use serde_json::{Value, json};

use super::{Lookup, Request, list_at, text};
use crate::auth::graph::{MIRROR_POD_ANNOTATION, RefKind, references};
use crate::status::ApiError;

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The volume's name, before a random suffix.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds: by this very number the real server knows tokens of this volume.
const TOKEN_SECONDS: u64 = 3607;

/// Admits a new pod. `suffix` makes the volume's name unique.
pub(super) fn admit(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    pod: &mut Value,
    suffix: &str,
) -> Result<(), ApiError> {
    if is_mirror(pod) {
        return check_mirror(request, pod);
    }
    let mut name = text(pod, "/spec/serviceAccountName").to_owned();
    if name.is_empty() {
        name = match text(pod, "/spec/serviceAccount") {
            "" => "default".to_owned(),
            old => old.to_owned(),
        };
    }
    let namespace = request.namespace;
    let Some(account) = lookup.object(&format!("serviceaccounts/{namespace}/{name}")) else {
        return Err(request.refuse(
            pod,
            format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" \
                 not found"
            ),
        ));
    };
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    spec.insert("serviceAccountName".to_owned(), json!(name));
    spec.insert("serviceAccount".to_owned(), json!(name));
    let automount = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or_else(|| account.get("automountServiceAccountToken")?.as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(pod, suffix);
    }
    let pulls = account
        .get("imagePullSecrets")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if let Some(list) = list_at(pod, "/spec", "imagePullSecrets") {
        if list.is_empty() {
            *list = pulls;
        }
        if list.is_empty()
            && let Some(spec) = pod["spec"].as_object_mut()
        {
            spec.remove("imagePullSecrets");
        }
    }
    Ok(())
}

/// Whether a pod is the copy of a static pod.
pub(super) fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(MIRROR_POD_ANNOTATION))
        .is_some()
}

fn check_mirror(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(request.refuse(pod, "a mirror pod may not reference service accounts"));
    }
    let mut has_secrets = false;
    references(pod, "", &mut |kind, _| {
        has_secrets |= kind == RefKind::Secret;
    });
    if has_secrets {
        return Err(request.refuse(pod, "a mirror pod may not reference secrets"));
    }
    let has_token = pod
        .pointer("/spec/volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.pointer("/projected/sources")?.as_array())
        .flatten()
        .any(|source| source.get("serviceAccountToken").is_some());
    if has_token {
        return Err(request.refuse(
            pod,
            "a mirror pod may not use ServiceAccountToken volume projections",
        ));
    }
    Ok(())
}

fn mount_token(pod: &mut Value, suffix: &str) {
    let volumes = pod
        .pointer("/spec/volumes")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let existing = volumes
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing
        .clone()
        .unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = pod
            .pointer_mut("/spec")
            .and_then(|spec| spec.get_mut(list))
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for container in containers {
            let Some(mounts) = list_at(container, "", "volumeMounts") else {
                continue;
            };
            if mounts
                .iter()
                .any(|mount| text(mount, "/mountPath") == MOUNT_PATH)
            {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if needed
        && existing.is_none()
        && let Some(volumes) = list_at(pod, "/spec", "volumes")
    {
        volumes.push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, create};
    use super::*;
    use crate::auth::User;

    fn admitted(account: Value, mut pod: Value) -> Result<Value, String> {
        let user = User::default();
        let objects = Objects::of(&[("serviceaccounts/default/default", account)]);
        admit(&objects, &create(&user, "pods", "p"), &mut pod, "abcde")
            .map(|()| pod)
            .map_err(|error| error.message)
    }

    fn pod() -> Value {
        json!({"spec": {
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
            "containers": [{"name": "c"}],
        }})
    }

    #[test]
    fn a_pod_gets_the_default_account_its_token_and_its_pull_secrets() {
        let pod = admitted(json!({"imagePullSecrets": [{"name": "pull"}]}), pod()).unwrap();
        let spec = &pod["spec"];
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["serviceAccount"], "default");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        assert_eq!(
            spec["containers"][0]["volumeMounts"],
            json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(
            spec["initContainers"][0]["volumeMounts"][0]["name"], "own",
            "a container's own mount stays"
        );
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(spec["volumes"][0]["projected"]["defaultMode"], 420);
    }

    #[test]
    fn the_token_stays_away_where_pod_or_account_say_so_and_the_pod_has_the_last_word() {
        let no = json!({"automountServiceAccountToken": false});
        let plain = admitted(no.clone(), pod()).unwrap();
        assert!(plain["spec"].get("volumes").is_none());
        let mut wanting = pod();
        wanting["spec"]["automountServiceAccountToken"] = json!(true);
        assert!(admitted(no, wanting).unwrap()["spec"]["volumes"].is_array());
        let mut refusing = pod();
        refusing["spec"]["automountServiceAccountToken"] = json!(false);
        let refused = admitted(json!({}), refusing).unwrap();
        assert!(refused["spec"].get("volumes").is_none());
        assert!(refused["spec"].get("imagePullSecrets").is_none());
    }

    #[test]
    fn an_account_that_is_missing_is_named() {
        let mut pod = pod();
        pod["spec"]["serviceAccountName"] = json!("nope");
        assert_eq!(
            admitted(json!({}), pod).unwrap_err(),
            "pods \"p\" is forbidden: error looking up service account default/nope: \
             serviceaccount \"nope\" not found"
        );
    }

    #[test]
    fn a_mirror_pod_has_no_account_and_no_secrets() {
        let mut mirror = pod();
        mirror["metadata"] = json!({"annotations": {MIRROR_POD_ANNOTATION: "x"}});
        assert!(
            admitted(json!({}), mirror.clone()).unwrap()["spec"]
                .get("volumes")
                .is_none()
        );
        mirror["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]);
        assert_eq!(
            admitted(json!({}), mirror).unwrap_err(),
            "pods \"p\" is forbidden: a mirror pod may not reference secrets"
        );
    }
}
