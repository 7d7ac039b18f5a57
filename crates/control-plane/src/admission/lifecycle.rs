//! Nothing comes into a namespace that is not there or is about to go.

use serde_json::Value;

use super::{Lookup, Operation, Request, text};
use crate::status::ApiError;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Admits a create or an update.
pub(super) fn admit(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    object: &Value,
) -> Result<(), ApiError> {
    let namespace = request.namespace;
    if namespace.is_empty()
        || request.is("", "namespaces")
        || request.is("authorization.k8s.io", "localsubjectaccessreviews")
    {
        return Ok(());
    }
    let Some(stored) = lookup.object(&format!("namespaces//{namespace}")) else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if request.operation == Operation::Create && text(&stored, "/status/phase") == "Terminating" {
        return Err(request
            .refuse(
                object,
                format!(
                    "unable to create new content in namespace {namespace} because it is being \
                     terminated"
                ),
            )
            .cause(
                "NamespaceTerminating",
                format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
    }
    Ok(())
}

/// Admits a delete.
pub(super) fn admit_delete(group: &str, resource: &str, name: &str) -> Result<(), ApiError> {
    if group.is_empty() && resource == "namespaces" && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden(
            group,
            resource,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, create};
    use super::*;
    use crate::auth::User;

    #[test]
    fn nothing_comes_into_a_namespace_that_is_missing_or_goes() {
        let user = User::default();
        let mut objects = Objects::default();
        let ask = |objects: &Objects, operation| {
            let request = Request {
                operation,
                ..create(&user, "pods", "p")
            };
            admit(objects, &request, &json!({}))
        };
        let missing = ask(&objects, Operation::Create).unwrap_err();
        assert_eq!(missing.message, "namespaces \"default\" not found");
        let key = "namespaces//default".to_owned();
        objects
            .0
            .insert(key.clone(), json!({"status": {"phase": "Active"}}));
        ask(&objects, Operation::Create).unwrap();
        objects
            .0
            .insert(key, json!({"status": {"phase": "Terminating"}}));
        ask(&objects, Operation::Update).unwrap();
        let going = ask(&objects, Operation::Create).unwrap_err();
        assert_eq!(
            going.message,
            "pods \"p\" is forbidden: unable to create new content in namespace default because \
             it is being terminated"
        );
        assert_eq!(going.causes[0].reason, "NamespaceTerminating");
    }

    #[test]
    fn the_namespaces_of_the_system_stay() {
        assert!(admit_delete("", "namespaces", "kube-system").is_err());
        admit_delete("", "namespaces", "team").unwrap();
        admit_delete("", "pods", "default").unwrap();
    }
}
