//! Requests about resources: the ordinary verbs.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::Shape;
use super::body::{self, Body};
use super::handler::{Call, permit_creation};
use super::query::propagation;
use super::render::{IncludeObject, View};
use super::{reviews, subresources, watch};
use crate::codec::{self, DecodeError};
use crate::registry::{Context, DeleteOptions, Deleted, FieldValidation, Patch, PatchKind};
use crate::resource::ResourceDef;
use crate::schema::Gvk;
use crate::status::{ApiError, FieldError};
use crate::store::Object;

pub(super) async fn answer(call: Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let subresource = call.path.subresource.as_str();
    let verbs = match call.def.subresource(subresource) {
        Some(sub) => sub.verbs,
        None => call.def.verbs,
    };
    let named = !call.path.name.is_empty();
    let placed = !call.def.namespaced || !call.path.namespace.is_empty();
    // Collections cannot be replaced, and objects are not created under their own path.
    let fits = match call.verb {
        "update" | "patch" => named,
        "create" => placed && named != subresource.is_empty(),
        _ => true,
    };
    if !fits || !verbs.contains(&call.verb) {
        return Err(ApiError::method_not_allowed());
    }
    if let Some(warning) = call.def.deprecation {
        call.warnings.add(warning.to_owned());
    }
    if !subresource.is_empty() {
        subresources::answer(call, body).await
    } else if call.def.is_stored() {
        stored(call, body).await
    } else {
        reviews::answer(call, body).await
    }
}

async fn stored(call: Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    match call.verb {
        "get" => get(&call),
        "list" => list(&call),
        "watch" => watch::answer(&call),
        "create" => create(&call, body).await,
        "update" => update(&call, body).await,
        "patch" => patch(&call, body).await,
        "delete" => delete(&call, body).await,
        "deletecollection" => delete_collection(&call, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

impl Call {
    /// What the client wants to see.
    pub(super) fn view(&self) -> View {
        View {
            def: self.def,
            shape: self.form.shape,
            include: IncludeObject::parse(self.query.get("includeObject")),
        }
    }

    /// An answer that shows one stored object.
    pub(super) fn show(&self, status: StatusCode, object: &Object) -> Response<Body> {
        let mut text = Vec::from(self.view().object(object, true, Timestamp::now()));
        text.push(b'\n');
        body::json_text(status, self.form.encoding, text.into())
    }

    /// The object in a request's body, decoded and checked against `expected`.
    pub(super) async fn object(
        &self,
        context: &Context,
        expected: &Gvk,
        body: Incoming,
    ) -> Result<Value, ApiError> {
        let encoding = body::encoding_of(&self.headers)?;
        let bytes = body::read(body).await?;
        decode(context, expected, encoding, &bytes)
    }
}

fn decode(
    context: &Context,
    expected: &Gvk,
    encoding: codec::Encoding,
    bytes: &Bytes,
) -> Result<Value, ApiError> {
    let decoded = codec::decode(bytes, encoding, Some(expected))?;
    match context.field_validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => {
            for problem in &decoded.problems {
                context.warn(problem.to_string());
            }
        }
        FieldValidation::Strict => decoded.refuse_problems(&expected.kind)?,
    }
    Ok(decoded.value)
}

fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let version = call.query.get("resourceVersion").unwrap_or_default();
    if !version.is_empty() {
        let asked: u64 = version.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: invalid syntax"
            ))
        })?;
        let current = call.api.registry.store().revision();
        if asked > current {
            return Err(ApiError::revision_in_future(asked, current));
        }
    }
    let object = call
        .api
        .registry
        .get(call.def, &call.path.namespace, &call.path.name)?;
    Ok(call.show(StatusCode::OK, &object))
}

fn list(call: &Call) -> Result<Response<Body>, ApiError> {
    let options = call.query.list_options()?;
    let listed = call
        .api
        .registry
        .list(call.def, &call.path.namespace, &options)?;
    let text = call.view().list(&listed, Timestamp::now());
    Ok(body::json_text(StatusCode::OK, call.form.encoding, text))
}

async fn create(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let def = call.def;
    let context = call.context("CreateOptions")?;
    let object = call.object(&context, &def.gvk(), body).await?;
    let object = call
        .api
        .registry
        .create(&context, def, &call.path.namespace, object)
        .await?;
    if call.api.alone && !def.acted_on {
        context.warn(unattended(def));
    }
    Ok(call.show(StatusCode::CREATED, &object))
}

/// What a client is told that creates an object which nothing will act on.
fn unattended(def: &ResourceDef) -> String {
    format!(
        "{} is stored, but no controller of this control plane acts on it",
        crate::status::group_resource(def.group, def.plural)
    )
}

async fn update(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let context = call.context("UpdateOptions")?;
    let object = call.object(&context, &call.def.gvk(), body).await?;
    write(call, &context, object).await
}

/// Replaces the object of the path, or the part of it that its sub-resource writes.
pub(super) async fn write(
    call: &Call,
    context: &Context,
    object: Value,
) -> Result<Response<Body>, ApiError> {
    let path = &call.path;
    let existed = call
        .api
        .registry
        .store()
        .get(&call.def.key(&path.namespace, &path.name))
        .is_some();
    if !existed && call.def.create_on_update && path.subresource.is_empty() {
        permit_creation(call)?;
    }
    let object = call
        .api
        .registry
        .update(
            context,
            call.def,
            &path.namespace,
            &path.name,
            &path.subresource,
            object,
        )
        .await?;
    let status = if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(call.show(status, &object))
}

pub(super) fn patch_kind(call: &Call) -> Result<PatchKind, ApiError> {
    Ok(match body::media_type(&call.headers).as_str() {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" => PatchKind::Apply,
        other => {
            return Err(ApiError::unsupported_media_type(
                other,
                &[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                ],
            ));
        }
    })
}

/// Patches the object of the path, or the part of it that its sub-resource writes.
pub(super) async fn patch(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let kind = patch_kind(call)?;
    let mut context = call.context("PatchOptions")?;
    if kind == PatchKind::Apply && call.query.get("fieldManager").is_none_or(str::is_empty) {
        // The manager of an apply is never guessed.
        context.field_manager.clear();
    }
    let force = call.query.flag("force");
    if force.is_some() && kind != PatchKind::Apply {
        return Err(ApiError::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            &[FieldError::forbidden(
                "force",
                "may not be specified for non-apply patch",
            )],
        ));
    }
    let patch = Patch {
        kind,
        body: body::read(body).await?,
        force: force.unwrap_or(false),
    };
    let path = &call.path;
    let existed = call
        .api
        .registry
        .store()
        .get(&call.def.key(&path.namespace, &path.name))
        .is_some();
    if !existed && kind == PatchKind::Apply && path.subresource.is_empty() {
        permit_creation(call)?;
    }
    let object = call
        .api
        .registry
        .patch(
            &context,
            call.def,
            &path.namespace,
            &path.name,
            &path.subresource,
            patch,
        )
        .await?;
    let status = if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok(call.show(status, &object))
}

const DELETE_OPTIONS: &str = "DeleteOptions";

/// The options of a delete: from the body where there is one, else from the query.
pub(super) async fn delete_options(
    call: &Call,
    context: &mut Context,
    body: Incoming,
) -> Result<DeleteOptions, ApiError> {
    let encoding = body::encoding_of(&call.headers);
    let bytes = body::read(body).await?;
    if bytes.is_empty() {
        return call.query.delete_options();
    }
    let expected = Gvk::new("", "v1", DELETE_OPTIONS);
    let encoding = encoding?;
    let decoded = match codec::decode(&bytes, encoding, Some(&expected)) {
        // Every group has these options.
        Err(DecodeError::WrongVersion { found, .. }) => {
            let other = Gvk::from_api_version(&found, DELETE_OPTIONS);
            codec::decode(&bytes, encoding, Some(&other))
        }
        other => other,
    }?;
    read_delete_options(&decoded.value, context)
}

/// The fields of a `DeleteOptions` object.
pub(super) fn read_delete_options(
    options: &Value,
    context: &mut Context,
) -> Result<DeleteOptions, ApiError> {
    if let Some(asked) = options["dryRun"].as_array().filter(|list| !list.is_empty()) {
        if asked.iter().any(|value| value != "All") {
            return Err(ApiError::invalid(
                "meta.k8s.io",
                DELETE_OPTIONS,
                "",
                &[FieldError::not_supported(
                    "dryRun",
                    options["dryRun"].clone(),
                    &["All"],
                )],
            ));
        }
        context.dry_run = true;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace_period_seconds: options["gracePeriodSeconds"].as_i64(),
        preconditions: crate::registry::Preconditions {
            uid: text(&options["preconditions"]["uid"]),
            resource_version: text(&options["preconditions"]["resourceVersion"]),
        },
        propagation: propagation(
            options["propagationPolicy"].as_str().unwrap_or_default(),
            options["orphanDependents"].as_bool(),
        )?,
    })
}

async fn delete(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let mut context = call.context(DELETE_OPTIONS)?;
    let options = delete_options(call, &mut context, body).await?;
    if options.propagation.is_none() && call.def.group == "batch" && call.def.kind == "Job" {
        context.warn("child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning");
    }
    let deleted = call
        .api
        .registry
        .delete(
            &context,
            call.def,
            &call.path.namespace,
            &call.path.name,
            &options,
        )
        .await?;
    Ok(show_deleted(call, &deleted))
}

/// Kinds of which a delete answers with the object that is gone; for others it is a `Status`.
const RETURNED: [&str; 7] = [
    "Pod",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ServiceAccount",
    "PodTemplate",
    "ResourceQuota",
    "Service",
];

fn show_deleted(call: &Call, deleted: &Deleted) -> Response<Body> {
    match deleted {
        Deleted::Gone(object) if !RETURNED.contains(&call.def.kind) => {
            let uid = object.value()["metadata"]["uid"].clone();
            let mut details = json!({"name": object.name(), "kind": call.def.plural, "uid": uid});
            if !call.def.group.is_empty() {
                details["group"] = call.def.group.into();
            }
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                                "status": "Success", "details": details});
            body::object(StatusCode::OK, call.form.encoding, &status)
        }
        Deleted::Gone(object) | Deleted::Marked(object) => call.show(StatusCode::OK, object),
    }
}

async fn delete_collection(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let mut context = call.context(DELETE_OPTIONS)?;
    let list = call.query.list_options()?;
    let options = delete_options(call, &mut context, body).await?;
    let revision = call.api.registry.store().revision();
    let objects: Vec<Arc<Object>> = call
        .api
        .registry
        .delete_collection(&context, call.def, &call.path.namespace, &list, &options)
        .await?;
    let listed = crate::registry::Listed {
        revision,
        objects,
        continue_: String::new(),
        remaining: None,
    };
    let view = View {
        shape: match call.form.shape {
            Shape::Table => Shape::Full,
            other => other,
        },
        ..call.view()
    };
    let text = view.list(&listed, Timestamp::now());
    Ok(body::json_text(StatusCode::OK, call.form.encoding, text))
}
