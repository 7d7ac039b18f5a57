//! What the API does, without HTTP: create, read, update, patch, delete, list and watch over the
//! store, with defaults, admission, validation and the rules of each resource between.
//!
//! REST handlers, controllers and the scheduler all work through a [`Registry`]; only it writes.

mod admit;
mod binding;
mod context;
mod delete;
mod list;
mod meta;
mod options;
mod patching;
pub mod selector;
mod services;
mod watch;
mod write;

use std::sync::Arc;

use serde_json::Value;

pub use context::{Context, FieldValidation, Warnings};
pub use delete::{FOREGROUND, ORPHAN};
pub use meta::rfc3339;
pub use options::{
    DeleteOptions, Deleted, ListOptions, Listed, Patch, PatchKind, Preconditions, Propagation,
    ResourceVersionMatch, WatchOptions,
};
pub use services::CLUSTER_RANGE;
pub use watch::{WatchItem, WatchKind, WatchStream};

use crate::admission::Admission;
use crate::resource::ResourceDef;
use crate::status::ApiError;
use crate::store::{Object, Store};
use write::Target;

/// The registry; clones share it.
///
/// Objects go in in the version of the row (`def`) that a call names, and come out in the version
/// that is stored; what serves another version converts (see [`ResourceDef::conversion`]).
#[derive(Debug, Clone)]
pub struct Registry {
    store: Store,
    admission: Option<Admission>,
    numbers: services::Numbers,
}

impl Registry {
    /// A registry over a store that admits everything, as tests of single parts need it.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            admission: None,
            numbers: services::Numbers::default(),
        }
    }

    /// A registry over a store whose writes must pass `admission`.
    pub fn with_admission(store: Store, admission: Admission) -> Self {
        Self {
            store,
            admission: Some(admission),
            numbers: services::Numbers::default(),
        }
    }

    /// What writes must pass; also for creates on sub-resources (`pods/eviction`,
    /// `serviceaccounts/token`), which do not go through the registry's own writes.
    pub fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    /// The store, for reads and watches that need no selectors.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Creates an object. `namespace` is empty for cluster-scoped resources.
    ///
    /// # Errors
    /// 409 `AlreadyExists`, 422 `Invalid`, 403 from admission, 400 for a wrong namespace or name.
    pub async fn create(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<Object>, ApiError> {
        self.create_object(context, def, namespace, object).await
    }

    /// The newest version of an object.
    ///
    /// # Errors
    /// 404.
    pub fn get(
        &self,
        def: &'static ResourceDef,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        self.store
            .get(&def.key(namespace, name))
            .ok_or_else(|| ApiError::not_found(def.group, def.plural, name))
    }

    /// The objects of a namespace (or of all, where it is empty) that the selectors choose.
    ///
    /// # Errors
    /// 400 for selectors, 410 for a compacted and 504 for a future resourceVersion.
    pub fn list(
        &self,
        def: &'static ResourceDef,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed, ApiError> {
        self.list_objects(def, namespace, options)
    }

    /// Watches what a list with the same selectors holds.
    ///
    /// # Errors
    /// 400 for selectors, 422 for options that contradict each other, 410 `Expired` where the
    /// history does not reach back to the resourceVersion.
    pub fn watch(
        &self,
        def: &'static ResourceDef,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        self.watch_objects(def, namespace, options)
    }

    /// Replaces an object, or its part that `subresource` (empty, `status`, …) writes.
    /// `metadata.resourceVersion` in it is the precondition.
    ///
    /// # Errors
    /// 404, 409 for a stale resourceVersion, 422, 403 from admission.
    pub async fn update(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: Value,
    ) -> Result<Arc<Object>, ApiError> {
        let target = Target {
            def,
            namespace,
            name,
            subresource,
        };
        self.update_object(context, &target, object).await
    }

    /// Changes the current version of an object, again and again while others are faster.
    /// Works on the stored form. Where `change` changes nothing, nothing is written.
    ///
    /// # Errors
    /// Those of `change`, and those of [`Registry::update`] but for stale versions.
    pub async fn modify(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        name: &str,
        subresource: &str,
        mut change: impl FnMut(&mut Value) -> Result<(), ApiError> + Send,
    ) -> Result<Arc<Object>, ApiError> {
        let target = Target {
            def,
            namespace,
            name,
            subresource,
        };
        self.modify_object(context, &target, |_, mut object| {
            change(&mut object)?;
            Ok(object)
        })
        .await
    }

    /// Applies a patch.
    ///
    /// # Errors
    /// Those of [`Registry::update`], 400 and 422 for patches, 409 for apply conflicts, 415.
    pub async fn patch(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: Patch,
    ) -> Result<Arc<Object>, ApiError> {
        let target = Target {
            def,
            namespace,
            name,
            subresource,
        };
        self.patch_object(context, &target, &patch).await
    }

    /// Deletes an object, or marks it for deletion where finalizers or a grace period hold it.
    ///
    /// # Errors
    /// 404, 409 where a precondition does not hold.
    pub async fn delete(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.delete_object(context, def, namespace, name, options)
            .await
    }

    /// Deletes what a list with `list` holds; gives the objects as they were.
    ///
    /// # Errors
    /// Those of [`Registry::list`] and [`Registry::delete`], but for 404.
    pub async fn delete_collection(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Object>>, ApiError> {
        self.delete_objects(context, def, namespace, list, options)
            .await
    }
}
