//! `…/scale`: the number of replicas of a workload as an `autoscaling/v1` Scale.

use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::{self, Body};
use super::handler::Call;
use super::resources::patch_kind;
use crate::patch;
use crate::registry::PatchKind;
use crate::registry::selector::LabelSelector;
use crate::schema::{Gvk, schema};
use crate::status::{ApiError, FieldError};

const GROUP: &str = "autoscaling";

fn kind() -> Gvk {
    Gvk::new(GROUP, "v1", "Scale")
}

/// The Scale of an object.
fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut shown = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if !metadata[field].is_null() {
            shown[field] = metadata[field].clone();
        }
    }
    let selector = &object["spec"]["selector"];
    // Replication controllers select by a plain map of labels.
    let selector = if object["kind"] == "ReplicationController" {
        LabelSelector::text_of(&json!({"matchLabels": selector}))
    } else {
        LabelSelector::text_of(selector)
    };
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|n| *n != 0) {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": shown,
           "spec": spec, "status": status})
}

pub(super) async fn answer(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let (def, path, registry) = (call.def, &call.path, &call.api.registry);
    match call.verb {
        "get" => {
            let object = registry.get(def, &path.namespace, &path.name)?;
            let scale = scale_of(&object.value());
            Ok(body::object(StatusCode::OK, call.form.encoding, &scale))
        }
        "update" | "patch" => {
            let options = if call.verb == "patch" {
                "PatchOptions"
            } else {
                "UpdateOptions"
            };
            let context = call.context(options)?;
            let change = Change::read(call, &context, body).await?;
            let object = registry
                .modify(&context, def, &path.namespace, &path.name, "", |object| {
                    let live = scale_of(object);
                    let wanted = change.apply(&live)?;
                    object["spec"]["replicas"] = check(call, &live, &wanted)?.into();
                    Ok(())
                })
                .await?;
            let scale = scale_of(&object.value());
            Ok(body::object(StatusCode::OK, call.form.encoding, &scale))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

enum Change {
    Whole(Value),
    Patch(PatchKind, bytes::Bytes),
}

impl Change {
    async fn read(
        call: &Call,
        context: &crate::registry::Context,
        body: Incoming,
    ) -> Result<Self, ApiError> {
        if call.verb == "update" {
            return Ok(Self::Whole(call.object(context, &kind(), body).await?));
        }
        let patch = patch_kind(call)?;
        if patch == PatchKind::Apply {
            return Err(ApiError::not_implemented(format!(
                "apply patch of {}/scale",
                call.def.plural
            )));
        }
        Ok(Self::Patch(patch, body::read(body).await?))
    }

    fn apply(&self, live: &Value) -> Result<Value, ApiError> {
        Ok(match self {
            Self::Whole(scale) => scale.clone(),
            Self::Patch(PatchKind::Json, body) => patch::json(live, body)?,
            Self::Patch(PatchKind::Strategic, body) => {
                let scale = schema()
                    .type_of_gvk(&kind())
                    .ok_or_else(|| ApiError::internal("Scale has no schema"))?;
                patch::strategic(live, &patch::parse_strategic(body)?, scale)?
            }
            Self::Patch(_, body) => patch::merge(live, &patch::parse_merge(body)?),
        })
    }
}

/// The replicas that a Scale asks for.
fn check(call: &Call, live: &Value, wanted: &Value) -> Result<i64, ApiError> {
    let name = &call.path.name;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = text(&wanted["metadata"]["name"]);
    if own != *name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    for field in ["uid", "resourceVersion"] {
        let given = text(&wanted["metadata"][field]);
        if !given.is_empty() && given != text(&live["metadata"][field]) {
            return Err(ApiError::stale(call.def.group, call.def.plural, name));
        }
    }
    let replicas = &wanted["spec"]["replicas"];
    match replicas.as_i64() {
        None if replicas.is_null() => Ok(0),
        Some(count) if (0..=i64::from(i32::MAX)).contains(&count) => Ok(count),
        _ => Err(ApiError::invalid(
            GROUP,
            "Scale",
            name,
            &[FieldError::invalid(
                "spec.replicas",
                replicas.clone(),
                "must be greater than or equal to 0",
            )],
        )),
    }
}
