//! OpenAPI v3 documents, made from the type table and the served resources.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

/// A served resource, as the documents need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedResource {
    /// API group, empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind of the objects.
    pub kind: String,
    /// Plural name in paths.
    pub plural: String,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: Vec<&'static str>,
    /// Sub-resources.
    pub subresources: Vec<ServedSubresource>,
}

/// A sub-resource of a [`ServedResource`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedSubresource {
    /// Its name in paths, for example `status`.
    pub name: String,
    /// Group of the kind it takes, for example `policy` of `Eviction`.
    pub group: String,
    /// Version of that kind.
    pub version: String,
    /// Its kind, for example `Pod` or `Eviction`.
    pub kind: String,
    /// `create`, `get`, `patch`, `update`.
    pub verbs: Vec<&'static str>,
}

/// The documents of one set of resources; each is made when it is first asked for, and kept.
#[derive(Debug)]
pub struct OpenApi {
    resources: Vec<ServedResource>,
}

impl OpenApi {
    /// Documents for these resources.
    pub fn new(resources: Vec<ServedResource>) -> Arc<Self> {
        Arc::new(Self { resources })
    }

    /// The body of `/openapi/v3`.
    pub fn index(&self) -> Value {
        let _ = &self.resources;
        todo!()
    }

    /// The body of `/openapi/v3/<path>`; `path` is `api/v1`, `apis/apps/v1`, `version`, …
    /// `None` where nothing is served there. With it comes the hash that the index names, which
    /// is its ETag too.
    pub fn document(&self, _path: &str) -> Option<(Bytes, String)> {
        todo!()
    }
}
