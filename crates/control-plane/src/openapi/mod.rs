//! OpenAPI v3 documents, made from the type table and the served resources.
//!
//! They hold what clients decide by (types, required fields, defaults, list and merge keys, the
//! query parameters of each verb) and no descriptions.

mod paths;
mod schemas;
#[cfg(test)]
mod tests;
pub mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value, json};

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

impl ServedResource {
    /// The path of the document that describes the resource: `api/v1`, `apis/apps/v1`.
    fn document(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }
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
    /// By the path of the document.
    resources: BTreeMap<String, Vec<ServedResource>>,
    /// What the documents depend on, as hexadecimal digits.
    hash: OnceLock<String>,
    made: Mutex<BTreeMap<String, Bytes>>,
}

impl OpenApi {
    /// Documents for these resources.
    pub fn new(resources: Vec<ServedResource>) -> Arc<Self> {
        let mut documents: BTreeMap<String, Vec<ServedResource>> = BTreeMap::new();
        for resource in resources {
            documents
                .entry(resource.document())
                .or_default()
                .push(resource);
        }
        Arc::new(Self {
            resources: documents,
            hash: OnceLock::new(),
            made: Mutex::default(),
        })
    }

    /// The body of `/openapi/v3`: each document with its address, which changes with its content.
    pub fn index(&self) -> Value {
        let paths: Map<String, Value> = self
            .resources
            .keys()
            .map(|path| {
                let address = format!("/openapi/v3/{path}?hash={}", self.hash());
                (path.clone(), json!({ "serverRelativeURL": address }))
            })
            .collect();
        json!({ "paths": paths })
    }

    /// The body of `/openapi/v3/<path>`; `path` is `api/v1`, `apis/apps/v1`, … `None` where
    /// nothing is served there. With it comes the hash that the index names, which is good for an
    /// `ETag` too.
    pub fn document(&self, path: &str) -> Option<(Bytes, String)> {
        let resources = self.resources.get(path)?;
        let hash = self.hash().to_owned();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(path) {
            return Some((known.clone(), hash));
        }
        let body = Bytes::from(render(resources).to_string());
        made.insert(path.to_owned(), body.clone());
        Some((body, hash))
    }

    fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let mut context = ring::digest::Context::new(&ring::digest::SHA256);
            context.update(include_bytes!("../../data/schema.txt"));
            context.update(env!("CARGO_PKG_VERSION").as_bytes());
            context.update(format!("{:?}", self.resources).as_bytes());
            let mut digits = String::with_capacity(64);
            for byte in context.finish().as_ref() {
                // Writing to a string cannot fail.
                let _ = write!(digits, "{byte:02X}");
            }
            digits
        })
    }
}

/// The document of the resources of one group version.
fn render(resources: &[ServedResource]) -> Value {
    let mut used = BTreeSet::new();
    let mut all = Map::new();
    for resource in resources {
        paths::add(&mut all, resource, &mut used);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.34"},
        "paths": all,
        "components": {"schemas": schemas::components(used)},
    })
}
