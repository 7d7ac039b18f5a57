//! The resource table: one row for each resource that the server serves.
//!
//! Everything generic (routes, discovery, selectors, Tables, the registry) reads this table; a new
//! kind is a row in [`rows`], not code. Rows are served group-versions: a resource that is served in
//! several (`autoscaling/v1` and `v2`, core events and `events.k8s.io`) has a row for each, and all
//! of them name one storage (see [`ResourceDef::storage`] and [`convert`]).

mod convert;
pub mod print;
mod rows;
mod select;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use convert::Conversion;
pub use select::{attributes_of, attributes_of_bytes};
use serde_json::Value;

pub use crate::schema::Gvk;

/// The verbs of an ordinary stored resource, in the order of discovery.
pub const STORED_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// A row of the table: a resource in one served group-version.
#[derive(Debug)]
pub struct ResourceDef {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The served version.
    pub version: &'static str,
    /// The kind of one object.
    pub kind: &'static str,
    /// The plural name, as it stands in paths.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Short names that kubectl expands, for example `po`.
    pub short_names: &'static [&'static str],
    /// Categories that kubectl expands, for example `all`.
    pub categories: &'static [&'static str],
    /// The verbs of the resource itself, as discovery lists them.
    pub verbs: &'static [&'static str],
    /// Sub-resources.
    pub subresources: &'static [SubResource],
    /// Labels of the field selectors beyond `metadata.name` and `metadata.namespace`.
    pub fields: &'static [SelectableField],
    /// The kind as Tables show it.
    pub columns: &'static print::Columns,
    /// Whether anything in this control plane acts on objects of the kind. A create of one that
    /// nothing acts on is answered with a warning that says so.
    pub acted_on: bool,
    /// Whether an update may omit `metadata.resourceVersion`.
    pub unconditional_update: bool,
    /// Whether an update of an object that does not exist creates it.
    pub create_on_update: bool,
    /// What every request about the resource is warned of.
    pub deprecation: Option<&'static str>,
    /// How objects are kept, where this row is not how they are kept.
    pub conversion: Option<Conversion>,
}

/// A sub-resource of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubResource {
    /// The last segment of the path, for example `status`.
    pub name: &'static str,
    /// Group and version of the body, where they are not the resource's own.
    pub group_version: Option<(&'static str, &'static str)>,
    /// The kind of the body.
    pub kind: &'static str,
    /// The verbs.
    pub verbs: &'static [&'static str],
}

/// A label that field selectors of a resource know.
#[derive(Debug, Clone, Copy)]
pub struct SelectableField {
    /// The label as clients write it, for example `spec.nodeName`.
    pub label: &'static str,
    /// The label in the stored version.
    pub stored: &'static str,
    /// Reads the value; an absent field reads as its zero value, as in the real server.
    pub read: fn(&Value) -> String,
}

impl ResourceDef {
    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(self.group, self.version, self.kind)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The kind of a list.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The row in whose group-version objects are kept: itself unless it converts.
    pub fn storage(&'static self) -> &'static ResourceDef {
        match &self.conversion {
            None => self,
            Some(conversion) => table()
                .by_plural(conversion.group, conversion.version, self.plural)
                .unwrap_or(self),
        }
    }

    /// The sub-resource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static SubResource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether status is written through a sub-resource alone.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether the resource keeps objects (reviews and bindings do not).
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"list") && self.verbs.contains(&"create")
    }

    /// The prefix of the store's keys: `pods/`, `deployments.apps/`, with the namespace
    /// (`pods/default/`) where one is given. Only the storage row has keys.
    pub fn key_prefix(&'static self, namespace: &str) -> String {
        let stored = self.storage();
        let resource = crate::status::group_resource(stored.group, stored.plural);
        if self.namespaced && !namespace.is_empty() {
            format!("{resource}/{namespace}/")
        } else {
            format!("{resource}/")
        }
    }

    /// The store's key of an object: `pods/default/p1`, `nodes//n1`.
    pub fn key(&'static self, namespace: &str, name: &str) -> String {
        let stored = self.storage();
        let resource = crate::status::group_resource(stored.group, stored.plural);
        let namespace = if self.namespaced { namespace } else { "" };
        format!("{resource}/{namespace}/{name}")
    }
}

/// The table, indexed.
#[derive(Debug)]
pub struct Table {
    by_plural: HashMap<(&'static str, &'static str, &'static str), &'static ResourceDef>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), &'static ResourceDef>,
    by_storage: HashMap<String, &'static ResourceDef>,
}

/// The table of everything that is served.
pub fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table {
        by_plural: rows::ROWS
            .iter()
            .map(|row| ((row.group, row.version, row.plural), row))
            .collect(),
        by_kind: rows::ROWS
            .iter()
            .map(|row| ((row.group, row.version, row.kind), row))
            .collect(),
        by_storage: rows::ROWS
            .iter()
            .filter(|row| row.conversion.is_none() && row.is_stored())
            .map(|row| (crate::status::group_resource(row.group, row.plural), row))
            .collect(),
    });
    &TABLE
}

impl Table {
    /// All rows, in the order of discovery.
    pub fn rows(&self) -> &'static [ResourceDef] {
        rows::ROWS
    }

    /// The row of a path.
    pub fn by_plural(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<&'static ResourceDef> {
        self.by_plural
            .get(&(group, version, plural) as &(&str, &str, &str))
            .copied()
    }

    /// The row of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&'static ResourceDef> {
        self.by_kind
            .get(&(group, version, kind) as &(&str, &str, &str))
            .copied()
    }

    /// The storage row of a resource in whatever version: what RBAC and the store's keys name.
    pub fn by_group_resource(&self, group: &str, plural: &str) -> Option<&'static ResourceDef> {
        self.by_storage
            .get(&crate::status::group_resource(group, plural))
            .copied()
    }

    /// The storage row that a key of the store belongs to.
    pub fn by_key(&self, key: &str) -> Option<&'static ResourceDef> {
        self.by_storage.get(key.split('/').next()?).copied()
    }

    /// The storage rows: each stored resource once.
    pub fn stored(&self) -> impl Iterator<Item = &'static ResourceDef> {
        rows::ROWS
            .iter()
            .filter(|row| row.conversion.is_none() && row.is_stored())
    }
}

/// `apps/v1` as `("apps", "v1")`, `v1` as `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The row of a core-group or named resource in its storage version.
///
/// # Panics
/// When the table has no such row: a mistake in the program, not in its input.
pub fn stored(group: &str, plural: &str) -> &'static ResourceDef {
    match table().by_group_resource(group, plural) {
        Some(row) => row,
        None => panic!("the resource table has no row {plural:?} in group {group:?}"),
    }
}
