//! Create and update.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::admit::{self, Operation};
use super::meta::{self, metadata_mut, text};
use super::{Context, Registry, services};
use crate::patch::apply;
use crate::resource::{ResourceDef, attributes_of};
use crate::schema::schema;
use crate::status::{ApiError, FieldError};
use crate::store::{Attributes, CommitError, Draft, Expected, Object};
use crate::{defaults, validation};

/// How often a write that meets others is tried again.
pub(super) const UPDATE_ATTEMPTS: usize = 5;
/// How many generated names are tried.
const NAME_ATTEMPTS: usize = 8;

/// The store's refusals that are nobody's fault.
pub(super) fn unavailable(error: &CommitError) -> ApiError {
    match error {
        // As wished: nothing is wrong.
        CommitError::Closed => ApiError::unavailable("the server is shutting down"),
        other => {
            tracing::error!(error = other as &dyn std::error::Error, "a write failed");
            ApiError::internal(other)
        }
    }
}

/// An object that was not stored: what a dry run answers with.
pub(super) fn unstored(key: &str, revision: u64, value: &Value) -> Arc<Object> {
    Arc::new(Object {
        key: key.into(),
        revision,
        json: value.to_string().into(),
        attributes: Attributes::default(),
    })
}

/// An object on its way into the store: what the steps of a write need to know.
pub(super) struct Target<'a> {
    pub(super) def: &'static ResourceDef,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) subresource: &'a str,
}

impl Registry {
    pub(super) async fn create_object(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Object>, ApiError> {
        let now = Timestamp::now();
        if !text(&object, "resourceVersion").is_empty() {
            // The real server answers so, without a reason.
            return Err(ApiError::new(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        meta::settle_namespace(def, namespace, &mut object)?;
        defaults::apply(&def.gvk(), &mut object);
        let def = to_storage(def, &mut object);
        let base = text(&object, "generateName").to_owned();
        let generated = text(&object, "name").is_empty() && !base.is_empty();
        let mut attempt = 1;
        loop {
            let mut draft = object.clone();
            if generated {
                let name = meta::generated_name(&base, uuid::Uuid::new_v4().as_bytes());
                metadata_mut(&mut draft).insert("name".to_owned(), name.into());
            }
            let result = self.create_named(context, def, namespace, draft, now).await;
            match result {
                Err(error)
                    if generated && error.reason == "AlreadyExists" && attempt < NAME_ATTEMPTS =>
                {
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn create_named(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        mut object: Value,
        now: Timestamp,
    ) -> Result<Arc<Object>, ApiError> {
        let gvk = def.gvk();
        meta::fill_system_fields(&mut object, now);
        let name = text(&object, "name").to_owned();
        let target = Target {
            def,
            namespace,
            name: &name,
            subresource: "",
        };
        // What admission and the strategy write belongs to nobody, so fields are tracked before.
        if context.tracks_fields() {
            let writer = apply::Writer {
                manager: &context.field_manager,
                subresource: "",
                kind: schema().type_of_gvk(&gvk),
                now,
            };
            apply::update_managed_fields(None, &mut object, &writer);
        }
        admit::mutate(self, context, &target, Operation::Create, &mut object, None).await?;
        defaults::strategy::prepare_for_create(&gvk, &mut object);
        if services::is_service(def) {
            services::prepare(&mut object, None);
        }
        let errors = validation::create(&gvk, def.namespaced, &object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(def.group, def.kind, &name, &errors));
        }
        let _held = self
            .reserve(def, &mut object, None)
            .map_err(|errors| ApiError::invalid(def.group, def.kind, &name, &errors))?;
        let key = def.key(namespace, &name);
        if context.dry_run {
            return match self.store.get(&key) {
                Some(existing) => Err(already_exists(def, &name, &existing)),
                None => Ok(unstored(&key, 0, &object)),
            };
        }
        let draft = Draft::new(&object, attributes_of(&key, &object));
        match self.store.put(&key, Expected::Absent, draft).await {
            Ok(object) => Ok(object),
            Err(CommitError::Conflict {
                current: Some(existing),
            }) => Err(already_exists(def, &name, &existing)),
            Err(other) => Err(unavailable(&other)),
        }
    }

    pub(super) async fn update_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        object: Value,
    ) -> Result<Arc<Object>, ApiError> {
        let Target {
            def,
            namespace,
            name,
            subresource,
        } = *target;
        let own = text(&object, "name");
        if own.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if own != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
        let mut object = object;
        let own = text(&object, "namespace");
        if def.namespaced && !own.is_empty() && own != namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the object ({own}) does not match the namespace on the request ({namespace})"
            )));
        }
        meta::settle_namespace(def, namespace, &mut object)?;
        defaults::apply(&def.gvk(), &mut object);
        let stored = to_storage(def, &mut object);
        let version = meta::resource_version(def, &object)?;
        let key = def.key(namespace, name);
        let mut attempt = 1;
        loop {
            let Some(existing) = self.store.get(&key) else {
                if def.create_on_update && subresource.is_empty() && version.is_none() {
                    return self
                        .create_named(context, stored, namespace, object, Timestamp::now())
                        .await;
                }
                return Err(ApiError::not_found(def.group, def.plural, name));
            };
            check_uid(def, &existing, &object)?;
            match version {
                Some(version) if version != existing.revision => {
                    return Err(ApiError::stale(def.group, def.plural, name));
                }
                None if !def.unconditional_update => {
                    return Err(ApiError::invalid(
                        def.group,
                        def.plural,
                        name,
                        &[FieldError::invalid(
                            "metadata.resourceVersion",
                            0,
                            "must be specified for an update",
                        )],
                    ));
                }
                _ => {}
            }
            let target = Target {
                def: stored,
                ..*target
            };
            let written = self
                .replace(context, &target, &existing, object.clone())
                .await?;
            match written {
                Some(object) => return Ok(object),
                None if version.is_none() && attempt < UPDATE_ATTEMPTS => attempt += 1,
                None => return Err(ApiError::stale(def.group, def.plural, name)),
            }
        }
    }

    pub(super) async fn modify_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        mut change: impl FnMut(&Arc<Object>, Value) -> Result<Value, ApiError> + Send,
    ) -> Result<Arc<Object>, ApiError> {
        let def = target.def.storage();
        let key = def.key(target.namespace, target.name);
        for _ in 0..UPDATE_ATTEMPTS {
            let Some(existing) = self.store.get(&key) else {
                return Err(ApiError::not_found(
                    target.def.group,
                    target.def.plural,
                    target.name,
                ));
            };
            let object = change(&existing, existing.value())?;
            let target = Target { def, ..*target };
            if let Some(object) = self.replace(context, &target, &existing, object).await? {
                return Ok(object);
            }
        }
        Err(ApiError::stale(
            target.def.group,
            target.def.plural,
            target.name,
        ))
    }

    /// Takes a new form of `existing`, in the stored version, through strategy, admission and
    /// validation into the store. `None` where somebody else was faster.
    pub(super) async fn replace(
        &self,
        context: &Context,
        target: &Target<'_>,
        existing: &Arc<Object>,
        mut object: Value,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let (def, name, subresource) = (target.def, target.name, target.subresource);
        let gvk = def.gvk();
        let now = Timestamp::now();
        let old = existing.value();
        meta::keep_system_fields(&mut object, &old);
        if context.tracks_fields() {
            let writer = apply::Writer {
                manager: &context.field_manager,
                subresource,
                kind: schema().type_of_gvk(&gvk),
                now,
            };
            apply::update_managed_fields(Some(&old), &mut object, &writer);
        }
        admit::mutate(
            self,
            context,
            target,
            Operation::Update,
            &mut object,
            Some(&old),
        )
        .await?;
        defaults::strategy::prepare_for_update(&gvk, &mut object, &old, subresource);
        if services::is_service(def) {
            services::prepare(&mut object, Some(&old));
        }
        let errors = validation::update(&gvk, def.namespaced, &object, &old, subresource);
        if !errors.is_empty() {
            return Err(ApiError::invalid(def.group, def.kind, name, &errors));
        }
        let _held = self
            .reserve(def, &mut object, Some(&old))
            .map_err(|errors| ApiError::invalid(def.group, def.kind, name, &errors))?;
        if object == old {
            return Ok(Some(existing.clone()));
        }
        if context.dry_run {
            return Ok(Some(unstored(&existing.key, existing.revision, &object)));
        }
        let draft = Draft::new(&object, attributes_of(&existing.key, &object));
        let committed = if ends_with_this_update(def, &old, &object) {
            self.store
                .delete(&existing.key, existing.revision, draft)
                .await
        } else {
            self.store
                .put(&existing.key, Expected::Revision(existing.revision), draft)
                .await
        };
        match committed {
            Ok(object) => Ok(Some(object)),
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(other) => Err(unavailable(&other)),
        }
    }
}

/// An update that names another UID means another object.
fn check_uid(def: &ResourceDef, existing: &Object, object: &Value) -> Result<(), ApiError> {
    let (uid, old) = (text(object, "uid"), existing.value());
    let current = text(&old, "uid");
    if uid.is_empty() || uid == current {
        return Ok(());
    }
    Err(ApiError::conflict(
        def.group,
        def.plural,
        existing.name(),
        format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {current}",
            existing.key,
        ),
    ))
}

/// Whether an update takes away the last thing that held a deleted object.
fn ends_with_this_update(def: &ResourceDef, old: &Value, new: &Value) -> bool {
    let held = !meta::finalizers(new).is_empty()
        || new["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .is_some_and(|seconds| seconds != 0)
        || (def.kind == "Namespace"
            && new["spec"]["finalizers"]
                .as_array()
                .is_some_and(|list| !list.is_empty()));
    meta::is_terminating(old) && !held
}

/// Converts to the stored version.
pub(super) fn to_storage(def: &'static ResourceDef, object: &mut Value) -> &'static ResourceDef {
    if def.kind == "Secret" {
        encode_string_data(object);
    }
    if let Some(conversion) = &def.conversion {
        (conversion.to_storage)(object);
    }
    def.storage()
}

/// `stringData` of a Secret is a convenience of writers: it becomes `data`.
fn encode_string_data(secret: &mut Value) {
    use base64::Engine as _;
    let Some(object) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(texts)) = object.remove("stringData") else {
        return;
    };
    for (key, text) in texts {
        let text = text.as_str().unwrap_or_default();
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        secret["data"][key] = encoded.into();
    }
}

fn already_exists(def: &ResourceDef, name: &str, existing: &Object) -> ApiError {
    let mut error = ApiError::already_exists(def.group, def.plural, name);
    if meta::is_terminating(&existing.value()) {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}
