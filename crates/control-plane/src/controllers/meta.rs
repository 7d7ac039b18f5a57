//! What controllers read of an object's metadata.

use serde::Deserialize;

use crate::store::Object;

/// The finalizer of an owner that waits for its dependents to go.
pub(super) const FOREGROUND: &str = crate::registry::FOREGROUND;
/// The finalizer of an owner whose dependents are to stay.
pub(super) const ORPHAN: &str = crate::registry::ORPHAN;

/// A part of `metadata`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) uid: String,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) finalizers: Option<Vec<String>>,
    pub(super) owner_references: Option<Vec<OwnerReference>>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OwnerReference {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) block_owner_deletion: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Shell {
    #[serde(default)]
    metadata: Meta,
}

impl Meta {
    /// Reads the metadata of an object, and nothing else of it.
    pub(super) fn of(object: &Object) -> Self {
        match serde_json::from_slice::<Shell>(&object.json) {
            Ok(shell) => shell.metadata,
            Err(error) => {
                tracing::warn!(key = %object.key, %error, "the object has unreadable metadata");
                Self::default()
            }
        }
    }

    pub(super) fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    pub(super) fn has_finalizer(&self, wanted: &str) -> bool {
        self.finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == wanted)
    }

    pub(super) fn owners(&self) -> &[OwnerReference] {
        self.owner_references.as_deref().unwrap_or_default()
    }

    /// Whether the object goes once its dependents are gone.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.is_terminating() && self.has_finalizer(FOREGROUND)
    }
}

/// Whether the JSON text of an object holds `field` (with its quotes) anywhere: a quick test
/// before it is parsed.
pub(super) fn mentions(object: &Object, field: &str) -> bool {
    let needle = field.as_bytes();
    let first = needle[0];
    let text = &object.json[..];
    text.len() >= needle.len()
        && text[..=text.len() - needle.len()]
            .iter()
            .enumerate()
            .any(|(at, byte)| *byte == first && &text[at..at + needle.len()] == needle)
}
