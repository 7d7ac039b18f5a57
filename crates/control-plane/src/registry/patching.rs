//! Patches, over the version that the client speaks.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::meta::{self, text};
use super::write::{Target, to_storage};
use super::{Context, FieldValidation, Patch, PatchKind, Registry};
use crate::resource::ResourceDef;
use crate::schema::{Gvk, TypeId, schema};
use crate::status::ApiError;
use crate::store::Object;
use crate::{codec, defaults, patch};

/// A patch whose body is parsed.
enum Parsed {
    Json(bytes::Bytes),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Registry {
    pub(super) async fn patch_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        patch: &Patch,
    ) -> Result<Arc<Object>, ApiError> {
        let def = target.def;
        let kind = schema()
            .type_of_gvk(&def.gvk())
            .ok_or_else(|| ApiError::internal(format!("{} has no schema", def.gvk())))?;
        let parsed = parse(def, patch)?;
        if let Parsed::Apply(applied) = &parsed {
            return self
                .apply(context, target, kind, applied, patch.force)
                .await;
        }
        self.modify_object(context, target, |_, stored| {
            let live = to_served(def, stored);
            let mut object = match &parsed {
                Parsed::Json(body) => patch::json(&live, body)?,
                Parsed::Merge(body) => patch::merge(&live, body),
                Parsed::Strategic(body) => patch::strategic(&live, body, kind)?,
                Parsed::Apply(_) => unreachable!("handled above"),
            };
            normalize(context, def, kind, &mut object, &parsed, patch)?;
            check_identity(target, &live, &object)?;
            defaults::apply(&def.gvk(), &mut object);
            to_storage(def, &mut object);
            Ok(object)
        })
        .await
    }

    async fn apply(
        &self,
        context: &Context,
        target: &Target<'_>,
        kind: TypeId,
        applied: &Value,
        force: bool,
    ) -> Result<Arc<Object>, ApiError> {
        let def = target.def;
        if context.field_manager.is_empty() {
            return Err(ApiError::invalid(
                "meta.k8s.io",
                "PatchOptions",
                "",
                &[crate::status::FieldError::required(
                    "fieldManager",
                    "is required for apply patch",
                )],
            ));
        }
        check_name(target, applied)?;
        let own = text(applied, "namespace");
        if target.def.namespaced && !own.is_empty() && own != target.namespace {
            return Err(meta::other_namespace());
        }
        let run = |live: Option<&Value>| -> Result<Value, ApiError> {
            let writer = patch::apply::Writer {
                manager: &context.field_manager,
                subresource: target.subresource,
                kind: Some(kind),
                now: Timestamp::now(),
            };
            let mut object = patch::apply::apply(live, applied, force, &writer)?;
            codec::coerce(&mut object, kind)?;
            defaults::apply(&def.gvk(), &mut object);
            if let Some(live) = live {
                patch::apply::keep_times_if_unchanged(live, &mut object);
            }
            Ok(object)
        };
        let context = &context.for_apply();
        loop {
            let result = self
                .modify_object(context, target, |_, stored| {
                    let mut object = run(Some(&to_served(def, stored)))?;
                    to_storage(def, &mut object);
                    Ok(object)
                })
                .await;
            match result {
                Err(error) if error.is_not_found() && target.subresource.is_empty() => {}
                other => return other,
            }
            if !text(applied, "uid").is_empty() {
                return Err(ApiError::conflict(
                    def.group,
                    def.plural,
                    target.name,
                    format!(
                        "uid mismatch: the provided object specified uid {}, and no existing object was found",
                        text(applied, "uid")
                    ),
                ));
            }
            let mut object = run(None)?;
            object["metadata"]["name"] = target.name.into();
            // A version of what is not there is no precondition.
            meta::metadata_mut(&mut object).remove("resourceVersion");
            let created = self
                .create_object(context, def, target.namespace, object)
                .await;
            match created {
                // Somebody else created it in between: apply to that.
                Err(error) if error.reason == "AlreadyExists" => {}
                other => return other,
            }
        }
    }
}

fn parse(def: &ResourceDef, patch: &Patch) -> Result<Parsed, ApiError> {
    Ok(match patch.kind {
        PatchKind::Json => Parsed::Json(patch.body.clone()),
        PatchKind::Merge => Parsed::Merge(patch::parse_merge(&patch.body)?),
        PatchKind::Strategic => Parsed::Strategic(patch::parse_strategic(&patch.body)?),
        PatchKind::Apply => {
            let applied = codec::yaml_to_json(&patch.body)
                .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
            let gvk = Gvk::from_api_version(
                applied["apiVersion"].as_str().unwrap_or_default(),
                applied["kind"].as_str().unwrap_or_default(),
            );
            if gvk != def.gvk() {
                return Err(ApiError::bad_request(format!("invalid object type: {gvk}")));
            }
            // Unknown fields are refused by the apply itself, whatever validation was asked for.
            Parsed::Apply(applied)
        }
    })
}

/// Makes the result of a patch an object of its kind again.
fn normalize(
    context: &Context,
    def: &ResourceDef,
    kind: TypeId,
    object: &mut Value,
    parsed: &Parsed,
    patch: &Patch,
) -> Result<(), ApiError> {
    let before = match parsed {
        Parsed::Strategic(body) => patch::go_value(body),
        _ => object.to_string(),
    };
    let refuse = |why: String| patch::undecodable(before.clone(), why);

    // What a patch takes away is what the path says.
    for (field, own) in [("apiVersion", def.api_version()), ("kind", def.kind.into())] {
        if object.is_object() && object[field].as_str().is_none_or(str::is_empty) {
            object[field] = own.into();
        }
    }
    let found = Gvk::from_api_version(
        object["apiVersion"].as_str().unwrap_or_default(),
        object["kind"].as_str().unwrap_or_default(),
    );
    if found != def.gvk() {
        return Err(refuse(wrong_kind(def, &found)));
    }

    let of_what = match parsed {
        Parsed::Json(_) => "json patch ",
        _ => "",
    };
    let mut problems: Vec<String> = codec::find_duplicates(&patch.body)
        .iter()
        .map(|problem| format!("{of_what}{problem}"))
        .collect();
    let unknown = codec::check_strict(object, kind);
    problems.extend(unknown.iter().map(ToString::to_string));
    match context.field_validation {
        FieldValidation::Strict if !problems.is_empty() => {
            let list = problems.join(", ");
            return Err(refuse(format!("strict decoding error: {list}")));
        }
        FieldValidation::Warn => {
            for problem in problems {
                context.warn(problem);
            }
        }
        _ => {}
    }
    patch::apply::keep_reset(object);
    codec::coerce(object, kind).map_err(|error| refuse(error.to_string()))?;
    Ok(())
}

/// Why the result of a patch is not of the kind that was patched.
fn wrong_kind(def: &ResourceDef, found: &Gvk) -> String {
    match schema().type_of_gvk(found) {
        Some(id) => format!(
            "converting ({}) to ({}.{}): unknown conversion",
            schema().get(id).go_name(),
            codec::internal_package(def.group),
            def.kind
        ),
        None => codec::DecodeError::UnknownKind(found.clone()).to_string(),
    }
}

/// The name must be there, and that of the path.
fn check_name(target: &Target<'_>, object: &Value) -> Result<(), ApiError> {
    match text(object, "name") {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        ))),
        name if name != target.name => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        ))),
        _ => Ok(()),
    }
}

/// A patch may not move an object.
fn check_identity(target: &Target<'_>, live: &Value, object: &Value) -> Result<(), ApiError> {
    check_name(target, object)?;
    if text(object, "namespace") != text(live, "namespace") {
        return Err(meta::other_namespace());
    }
    let version = text(object, "resourceVersion");
    if !version.is_empty() && version != text(live, "resourceVersion") {
        return Err(ApiError::stale(
            target.def.group,
            target.def.plural,
            target.name,
        ));
    }
    Ok(())
}

/// Converts from the stored version.
fn to_served(def: &ResourceDef, mut object: Value) -> Value {
    if let Some(conversion) = &def.conversion {
        (conversion.from_storage)(&mut object);
    }
    object
}
