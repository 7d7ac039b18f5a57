use std::sync::Arc;

use bytes::Bytes;

use crate::store::Object;

/// How `resourceVersion` of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceVersionMatch {
    /// At that revision or a later one.
    NotOlderThan,
    /// At that very revision.
    Exact,
}

/// Options of a list, as they stand in the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// For example `app=web,tier in (a,b)`; empty for all.
    pub label_selector: String,
    /// For example `spec.nodeName=n1,status.phase!=Failed`; empty for all.
    pub field_selector: String,
    /// How many objects at most; 0 for all.
    pub limit: u64,
    /// Where the last page ended.
    pub continue_: String,
    /// Empty for the newest.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub resource_version_match: Option<ResourceVersionMatch>,
}

impl ListOptions {
    /// All objects that a field selector chooses.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self {
            field_selector: selector.into(),
            ..Self::default()
        }
    }

    /// All objects that a label selector chooses.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self {
            label_selector: selector.into(),
            ..Self::default()
        }
    }
}

/// A page of a list. Objects are in their stored form.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The revision of the list.
    pub revision: u64,
    /// The objects, in the order of namespace and name.
    pub objects: Vec<Arc<Object>>,
    /// The token for the next page; empty on the last one.
    pub continue_: String,
    /// How many are left, where no selector hides it.
    pub remaining: Option<u64>,
}

/// Options of a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// As in [`ListOptions`].
    pub label_selector: String,
    /// As in [`ListOptions`].
    pub field_selector: String,
    /// Events after this revision; empty or `0` starts with the current objects as `ADDED`.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub resource_version_match: Option<ResourceVersionMatch>,
    /// Send bookmarks now and then.
    pub bookmarks: bool,
    /// Start with the current objects and mark their end with a bookmark.
    pub send_initial_events: Option<bool>,
}

/// What must hold of the object that a delete meets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// Options of a delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds for a graceful end; `None` for the object's own.
    pub grace_period_seconds: Option<i64>,
    /// What must hold.
    pub preconditions: Preconditions,
    /// What happens to dependents; `None` for the finalizers that are there, else background.
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    /// At once, and only the object with that UID.
    pub fn now(uid: &str) -> Self {
        Self {
            grace_period_seconds: Some(0),
            preconditions: Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            },
            propagation: None,
        }
    }
}

/// What a delete did.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Object>),
    /// The object is marked and waits for its grace period or its finalizers.
    Marked(Arc<Object>),
}

impl Deleted {
    /// The last or the marked state.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Gone(object) | Self::Marked(object) => object,
        }
    }
}

/// The kinds of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, with merge keys.
    Strategic,
    /// Server-side apply; the body may be YAML.
    Apply,
}

/// A patch.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Its kind.
    pub kind: PatchKind,
    /// The body.
    pub body: Bytes,
    /// Apply only: take fields over from other managers.
    pub force: bool,
}
