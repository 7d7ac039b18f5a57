//! What is stored: an object is its JSON text, plus what selectors can see of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

/// What label and field selectors can see of an object.
///
/// Never written to disk: it is computed again from the JSON text when a store is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `metadata.labels`, in the order of their keys.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The selectable fields of the kind (`spec.nodeName`, …) with their values.
    pub fields: Box<[(&'static str, Box<str>)]>,
}

impl Attributes {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| &**value)
    }

    /// The value of a selectable field.
    pub fn field(&self, path: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(name, _)| *name == path)
            .map(|(_, value)| &**value)
    }
}

/// One version of one object. It never changes; a new version is a new `Object`.
pub struct Object {
    /// `<resource>.<group>/<namespace>/<name>`, for example `pods/default/p1` or `nodes//n1`.
    pub key: Arc<str>,
    /// The store's revision at which this version was written: its `metadata.resourceVersion`.
    pub revision: u64,
    /// The JSON text, `metadata.resourceVersion` included.
    pub json: Bytes,
    /// What selectors can see.
    pub attributes: Attributes,
}

impl Object {
    /// Parses the JSON text.
    ///
    /// # Panics
    /// If the text is not JSON. A [`Draft`] can only be made from a [`Value`] and the log is
    /// checked against its checksums, so it always is.
    pub fn value(&self) -> Value {
        match serde_json::from_slice(&self.json) {
            Ok(value) => value,
            Err(error) => panic!("stored object {} is not JSON: {error}", self.key),
        }
    }

    /// The namespace of the key; empty for an object without one.
    pub fn namespace(&self) -> &str {
        self.key.split('/').nth(1).unwrap_or_default()
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        self.key.splitn(3, '/').nth(2).unwrap_or_default()
    }
}

impl fmt::Debug for Object {
    /// Leaves the body out: it may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

/// An object that has everything but its revision, which only the writer knows.
#[derive(Clone)]
pub struct Draft {
    /// The JSON text without the digits of `metadata.resourceVersion`.
    text: Vec<u8>,
    /// Where those digits go; `None` in a value that is not an object.
    splice: Option<usize>,
    attributes: Attributes,
}

const RESOURCE_VERSION: &str = "resourceVersion";

impl Draft {
    /// Serialises `value`. A `metadata.resourceVersion` in it is ignored: the writer gives the
    /// revision of the commit. `metadata` is added where it is missing.
    pub fn new(value: &Value, attributes: Attributes) -> Self {
        let mut draft = Self {
            text: Vec::with_capacity(1024),
            splice: None,
            attributes,
        };
        match value {
            Value::Object(fields) => draft.write_object(fields),
            other => write_json(&mut draft.text, other),
        }
        draft
    }

    fn write_object(&mut self, fields: &Map<String, Value>) {
        self.text.push(b'{');
        let mut first = true;
        for (key, value) in fields {
            separate(&mut self.text, &mut first);
            write_key(&mut self.text, key);
            match value {
                Value::Object(metadata) if key == "metadata" => self.write_metadata(metadata),
                other => write_json(&mut self.text, other),
            }
        }
        if self.splice.is_none() && !fields.contains_key("metadata") {
            separate(&mut self.text, &mut first);
            write_key(&mut self.text, "metadata");
            self.write_metadata(&Map::new());
        }
        self.text.push(b'}');
    }

    fn write_metadata(&mut self, fields: &Map<String, Value>) {
        self.text.push(b'{');
        let mut first = true;
        for (key, value) in fields {
            // In its alphabetical place, as the real server prints it.
            if self.splice.is_none() && key.as_str() >= RESOURCE_VERSION {
                self.write_revision(&mut first);
            }
            if key != RESOURCE_VERSION {
                separate(&mut self.text, &mut first);
                write_key(&mut self.text, key);
                write_json(&mut self.text, value);
            }
        }
        if self.splice.is_none() {
            self.write_revision(&mut first);
        }
        self.text.push(b'}');
    }

    fn write_revision(&mut self, first: &mut bool) {
        separate(&mut self.text, first);
        self.text.extend_from_slice(b"\"resourceVersion\":\"");
        self.splice = Some(self.text.len());
        self.text.push(b'"');
    }

    /// The size of the JSON text in bytes, less the digits of the revision.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether the text is empty, which it never is.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The final object.
    pub(super) fn finish(self, key: Arc<str>, revision: u64) -> Object {
        let json = match self.splice {
            None => Bytes::from(self.text),
            Some(at) => {
                let digits = revision.to_string();
                // Exact, so that the stored text carries no spare capacity.
                let mut json = Vec::with_capacity(self.text.len() + digits.len());
                json.extend_from_slice(&self.text[..at]);
                json.extend_from_slice(digits.as_bytes());
                json.extend_from_slice(&self.text[at..]);
                Bytes::from(json)
            }
        };
        Object {
            key,
            revision,
            json,
            attributes: self.attributes,
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

fn separate(text: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        text.push(b',');
    }
}

fn write_key(text: &mut Vec<u8>, key: &str) {
    if let Err(error) = serde_json::to_writer(&mut *text, key) {
        unreachable!("a string always serialises into memory: {error}");
    }
    text.push(b':');
}

fn write_json(text: &mut Vec<u8>, value: &Value) {
    if let Err(error) = serde_json::to_writer(text, value) {
        unreachable!("a JSON value always serialises into memory: {error}");
    }
}
