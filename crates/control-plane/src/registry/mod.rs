//! What the API does, without HTTP: create, read, update, patch, delete, list and watch over the
//! store, with defaults, admission, validation and the rules of each resource between.
//!
//! REST handlers, controllers and the scheduler all work through a [`Registry`]; only it writes.

mod context;
mod options;

use std::sync::Arc;

use serde_json::Value;

pub use context::{Context, FieldValidation};
pub use options::{
    DeleteOptions, Deleted, ListOptions, Listed, Patch, PatchKind, Preconditions, Propagation,
    ResourceVersionMatch, WatchOptions,
};

use crate::resource::ResourceDef;
use crate::status::ApiError;
use crate::store::{Object, Store};

/// The registry; clones share it.
///
/// Objects go in and come out in the served form of the row (`def`) that a call names; for rows that
/// are not stored as they are served, reads convert.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Store,
}

impl Registry {
    /// A registry over a store.
    pub fn new(store: Store) -> Self {
        Self { store }
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
        let _ = (context, def, namespace, object);
        todo!()
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
        let _ = (def, namespace, name);
        todo!()
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
        let _ = (def, namespace, options);
        todo!()
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
        let _ = (context, def, namespace, name, subresource, object);
        todo!()
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
        change: impl FnMut(&mut Value) -> Result<(), ApiError> + Send,
    ) -> Result<Arc<Object>, ApiError> {
        let _ = (context, def, namespace, name, subresource, change);
        todo!()
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
        let _ = (context, def, namespace, name, subresource, patch);
        todo!()
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
        let _ = (context, def, namespace, name, options);
        todo!()
    }

    /// Deletes what a list with `list` holds; gives what was deleted or marked.
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
        let _ = (context, def, namespace, list, options);
        todo!()
    }
}
