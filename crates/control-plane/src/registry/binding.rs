//! Binding: the one write that gives a pod its node.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::meta::{self, metadata_mut, text};
use super::write::{UPDATE_ATTEMPTS, unavailable, unstored};
use super::{Context, Registry};
use crate::resource::attributes_of;
use crate::status::ApiError;
use crate::store::{CommitError, Draft, Expected, Object};

impl Registry {
    /// Binds a pod to the node that `binding`, a `v1` Binding, names; its annotations are added to
    /// the pod's. The binding's UID and resourceVersion, where given, are preconditions.
    ///
    /// As in the real server this is no update of the pod: it raises no generation and leaves no
    /// trace in the managed fields. That the node exists is not asked.
    ///
    /// # Errors
    /// 400 where the binding has another name, 404, 409 for a pod that is bound, gated or being
    /// deleted, or does not meet the preconditions.
    pub async fn bind(
        &self,
        context: &Context,
        namespace: &str,
        name: &str,
        binding: &Value,
    ) -> Result<Arc<Object>, ApiError> {
        if text(binding, "name") != name {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Binding object",
            ));
        }
        check_target(&binding["target"])?;
        let key = format!("pods/{namespace}/{name}");
        for _ in 0..UPDATE_ATTEMPTS {
            let Some(existing) = self.store.get(&key) else {
                return Err(ApiError::not_found("", "pods", name));
            };
            let mut pod = existing.value();
            check_preconditions(binding, &pod, &key, name)?;
            assign(&mut pod, binding, Timestamp::now())
                .map_err(|why| ApiError::conflict("", "pods/binding", name, why))?;
            if context.dry_run {
                return Ok(unstored(&key, existing.revision, &pod));
            }
            let draft = Draft::new(&pod, attributes_of(&key, &pod));
            let expected = Expected::Revision(existing.revision);
            match self.store.put(&key, expected, draft).await {
                Ok(pod) => return Ok(pod),
                Err(CommitError::Conflict { .. }) => {}
                Err(other) => return Err(unavailable(&other)),
            }
        }
        Err(ApiError::stale("", "pods", name))
    }
}

/// The real server answers a wrong target with a plain error, which is code 500.
fn check_target(target: &Value) -> Result<(), ApiError> {
    let mut problems = Vec::new();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        problems.push(format!(
            "target.kind: Unsupported value: \"{kind}\": supported values: \"Node\", \"<empty>\""
        ));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        problems.push("target.name: Required value".into());
    }
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(plain(one.clone())),
        several => Err(plain(format!("[{}]", several.join(", ")))),
    }
}

fn plain(message: String) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
}

fn check_preconditions(
    binding: &Value,
    pod: &Value,
    key: &str,
    name: &str,
) -> Result<(), ApiError> {
    for (field, label) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let (wanted, found) = (text(binding, field), text(pod, field));
        if !wanted.is_empty() && wanted != found {
            return Err(ApiError::conflict(
                "",
                "pods",
                name,
                format!(
                    "StorageError: invalid object, Code: 4, Key: /registry/{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
                ),
            ));
        }
    }
    Ok(())
}

/// Puts the pod on the node, or says why it may not be.
fn assign(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), String> {
    let name = text(pod, "name").to_owned();
    if meta::is_terminating(pod) {
        return Err(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    let gates = pod["spec"]["schedulingGates"].as_array();
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    if let Some(annotations) = binding["metadata"]["annotations"].as_object()
        && !annotations.is_empty()
    {
        let own = metadata_mut(pod).entry("annotations").or_insert(json!({}));
        for (key, value) in annotations {
            own[key] = value.clone();
        }
    }
    set_scheduled(pod, now);
    Ok(())
}

/// Sets the condition `PodScheduled` to true.
fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::rfc3339(now),
    });
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    match conditions
        .iter_mut()
        .find(|found| found["type"] == "PodScheduled")
    {
        Some(found) => {
            if found["status"] == "True" {
                condition["lastTransitionTime"] = found["lastTransitionTime"].clone();
            }
            *found = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, Store};

    const NODE: &str = "n1";

    async fn with_pod(pod: Value) -> (tempfile::TempDir, Registry) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path(), Options::default()).expect("a store");
        let key = "pods/a/p";
        store
            .put(
                key,
                Expected::Absent,
                Draft::new(&pod, attributes_of(key, &pod)),
            )
            .await
            .expect("a pod");
        (directory, Registry::new(store))
    }

    fn pod() -> Value {
        json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": "p", "namespace": "a", "uid": "u", "generation": 1},
            "spec": {},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
        })
    }

    fn binding() -> Value {
        json!({
            "metadata": {"name": "p", "uid": "u", "annotations": {"k": "v"}},
            "target": {"kind": "Node", "name": NODE},
        })
    }

    fn context() -> Context {
        Context::system("system:kube-scheduler")
    }

    #[tokio::test]
    async fn a_pod_gets_its_node_once() {
        let (_directory, registry) = with_pod(pod()).await;
        let bound = registry
            .bind(&context(), "a", "p", &binding())
            .await
            .expect("a binding")
            .value();
        assert_eq!(bound["spec"]["nodeName"], NODE);
        assert_eq!(bound["metadata"]["generation"], 1);
        assert_eq!(bound["metadata"]["annotations"], json!({"k": "v"}));
        assert_eq!(bound["metadata"].get("managedFields"), None);
        let conditions = bound["status"]["conditions"]
            .as_array()
            .expect("conditions");
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0]["status"], "True");
        assert_eq!(conditions[0].get("reason"), None);
        let again = registry
            .bind(&context(), "a", "p", &binding())
            .await
            .expect_err("a conflict");
        assert_eq!(
            again.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
        assert!(again.is_conflict());
    }

    #[tokio::test]
    async fn what_cannot_be_bound_is_refused() {
        let mut gated = pod();
        gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
        let mut terminating = pod();
        terminating["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
        for (pod, words) in [
            (gated, "has non-empty .spec.schedulingGates"),
            (
                terminating,
                "is being deleted, cannot be assigned to a host",
            ),
        ] {
            let (_directory, registry) = with_pod(pod).await;
            let error = registry
                .bind(&context(), "a", "p", &binding())
                .await
                .expect_err("a conflict");
            assert!(
                error.is_conflict() && error.message.contains(words),
                "{}",
                error.message
            );
        }
    }

    #[tokio::test]
    async fn a_wrong_binding_is_refused() {
        let (_directory, registry) = with_pod(pod()).await;
        let change = |change: fn(&mut Value)| {
            let mut binding = binding();
            change(&mut binding);
            binding
        };
        let cases = [
            (
                change(|b| b["metadata"]["name"] = json!("q")),
                400,
                "name in URL does not match name in Binding object",
            ),
            (
                change(|b| b["target"] = json!({"kind": "Nodx"})),
                500,
                "[target.kind: Unsupported value: \"Nodx\": supported values: \"Node\", \"<empty>\", target.name: Required value]",
            ),
            (
                change(|b| b["metadata"]["uid"] = json!("w")),
                409,
                "UID in precondition: w, UID in object meta: u",
            ),
            (
                change(|b| b["metadata"]["resourceVersion"] = json!("1")),
                409,
                "ResourceVersion in precondition: 1",
            ),
        ];
        for (binding, code, words) in cases {
            let error = registry
                .bind(&context(), "a", "p", &binding)
                .await
                .expect_err("a refusal");
            assert_eq!(error.code.as_u16(), code);
            assert!(error.message.contains(words), "{}", error.message);
        }
        let error = registry
            .bind(&context(), "b", "p", &binding())
            .await
            .expect_err("a refusal");
        assert_eq!(error.message, "pods \"p\" not found");
    }

    #[tokio::test]
    async fn a_dry_run_binds_nothing() {
        let (_directory, registry) = with_pod(pod()).await;
        let mut context = context();
        context.dry_run = true;
        let bound = registry
            .bind(&context, "a", "p", &binding())
            .await
            .expect("a binding");
        assert_eq!(bound.value()["spec"]["nodeName"], NODE);
        let stored = registry.store().get("pods/a/p").expect("a pod");
        assert_eq!(stored.value()["spec"].get("nodeName"), None);
    }
}
