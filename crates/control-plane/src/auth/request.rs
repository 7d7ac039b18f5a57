//! `serviceaccounts/token`: checks a `TokenRequest` and answers it.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::authn::Authenticator;
use super::tokens::{BoundRef, Claims, ISSUER, KubernetesClaim, service_account_name, stored_uid};
use crate::status::{ApiError, FieldError};
use crate::store::Store;

const GROUP: &str = "authentication.k8s.io";
const DEFAULT_SECONDS: i64 = 3600;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Option<Vec<String>>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<ObjectRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    kind: String,
    api_version: String,
    name: String,
    uid: String,
}

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: PodMetadata,
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Debug, Deserialize)]
struct PodMetadata {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    service_account_name: String,
}

/// Issues a token for the service account `name` in `namespace`, as `request` (a `TokenRequest`)
/// asks for it; the answer is the request with its status.
///
/// # Errors
/// 404 for the account or a bound object, 409 where the UID of the bound object differs, 422 for
/// a lifetime out of bounds, 400 for a bound object of another kind or account.
pub fn token_request(
    authenticator: &Authenticator,
    namespace: &str,
    name: &str,
    request: &Value,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let store = authenticator.store();
    let asked_name = request
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !asked_name.is_empty() && asked_name != name {
        let problem = FieldError::invalid(
            "metadata.name",
            asked_name,
            "must match the service account name if specified",
        );
        return Err(ApiError::invalid(GROUP, "TokenRequest", name, &[problem]));
    }
    let account_uid = stored_uid(store, &format!("serviceaccounts/{namespace}/{name}"))
        .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
    let spec: Spec = match request.get("spec") {
        Some(spec) => serde_json::from_value(spec.clone())
            .map_err(|error| ApiError::bad_request(format!("spec: {error}")))?,
        None => Spec::default(),
    };
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    let detail = if seconds < 600 {
        Some("may not specify a duration less than 10 minutes")
    } else if seconds > 1 << 32 {
        Some("may not specify a duration larger than 2^32 seconds")
    } else {
        None
    };
    if let Some(detail) = detail {
        let problem = FieldError::invalid("spec.expirationSeconds", seconds, detail);
        return Err(ApiError::invalid(GROUP, "TokenRequest", "", &[problem]));
    }
    let mut claim = KubernetesClaim {
        namespace: namespace.to_owned(),
        node: None,
        pod: None,
        secret: None,
        serviceaccount: BoundRef {
            name: name.to_owned(),
            uid: account_uid.clone(),
        },
    };
    if let Some(reference) = &spec.bound_object_ref {
        bind(store, reference, &mut claim)?;
    }
    let audiences = spec
        .audiences
        .filter(|audiences| !audiences.is_empty())
        .unwrap_or_else(|| vec![ISSUER.to_owned()]);
    let issued = now.as_second();
    let expires = issued + seconds;
    let claims = Claims {
        audiences: audiences.clone(),
        expires,
        issued,
        issuer: ISSUER.to_owned(),
        id: uuid::Uuid::new_v4().to_string(),
        kubernetes: claim,
        not_before: issued,
        subject: service_account_name(namespace, name),
    };
    let token = authenticator
        .tokens()
        .sign(&claims)
        .map_err(|error| internal(error.to_string()))?;
    let expires = Timestamp::from_second(expires).map_err(|error| internal(error.to_string()))?;
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": account_uid,
            "creationTimestamp": super::rfc3339(now),
        },
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": request.pointer("/spec/boundObjectRef"),
        },
        "status": {"token": token, "expirationTimestamp": super::rfc3339(expires)},
    }))
}

fn internal(why: String) -> ApiError {
    ApiError::new(
        http::StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        format!("Internal error occurred: {why}"),
    )
}

fn bind(store: &Store, reference: &ObjectRef, claim: &mut KubernetesClaim) -> Result<(), ApiError> {
    let ObjectRef {
        kind,
        api_version,
        name,
        uid: wanted,
    } = reference;
    let namespace = claim.namespace.clone();
    let bound = |uid: String| {
        if wanted.is_empty() || *wanted == uid {
            Ok(BoundRef {
                name: name.clone(),
                uid,
            })
        } else {
            Err(ApiError::new(
                http::StatusCode::CONFLICT,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {kind} {name:?}: the UID in the bound object \
                     reference ({wanted}) does not match the UID in record. The object might have \
                     been deleted and then recreated"
                ),
            )
            .about("", kind, name))
        }
    };
    match (api_version.as_str(), kind.as_str()) {
        ("v1", "Pod") => {
            let object = store
                .get(&format!("pods/{namespace}/{name}"))
                .ok_or_else(|| ApiError::not_found("", "pods", name))?;
            let pod: Pod = serde_json::from_slice(&object.json)
                .map_err(|error| internal(error.to_string()))?;
            let account = &claim.serviceaccount.name;
            if pod.spec.service_account_name != *account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with \
                     different serviceaccount name."
                )));
            }
            claim.pod = Some(bound(pod.metadata.uid)?);
            let node = pod.spec.node_name;
            if !node.is_empty()
                && let Some(uid) = stored_uid(store, &format!("nodes//{node}"))
            {
                claim.node = Some(BoundRef { name: node, uid });
            }
        }
        ("v1", "Secret") => {
            let uid = stored_uid(store, &format!("secrets/{namespace}/{name}"))
                .ok_or_else(|| ApiError::not_found("", "secrets", name))?;
            claim.secret = Some(bound(uid)?);
        }
        ("v1", "Node") => {
            let uid = stored_uid(store, &format!("nodes//{name}"))
                .ok_or_else(|| ApiError::not_found("", "nodes", name))?;
            claim.node = Some(bound(uid)?);
        }
        _ => {
            let (group, version) = api_version
                .split_once('/')
                .unwrap_or(("", api_version.as_str()));
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    }
    Ok(())
}
