//! Objects and lists in the form that a client wants: whole, as a Table, or metadata alone.

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::accept::Shape;
use crate::registry::Listed;
use crate::resource::ResourceDef;
use crate::store::Object;

/// How much of an object a row of a Table carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// What a client wants to see of objects of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) def: &'static ResourceDef,
    pub(super) shape: Shape,
    pub(super) include: IncludeObject,
}

/// The part of an object that is shown as its metadata.
#[derive(Deserialize)]
struct WithMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

fn metadata_text(json: &[u8]) -> &str {
    serde_json::from_slice::<WithMetadata<'_>>(json).map_or("{}", |object| object.metadata.get())
}

impl View {
    /// The JSON text of an object in its served version.
    pub(super) fn served(&self, object: &Object) -> Bytes {
        match &self.def.conversion {
            None => object.json.clone(),
            Some(_) => self.served_value(object).to_string().into(),
        }
    }

    /// An object in its served version.
    pub(super) fn served_value(&self, object: &Object) -> Value {
        let mut value = object.value();
        if let Some(conversion) = &self.def.conversion {
            (conversion.from_storage)(&mut value);
        }
        value
    }

    /// One object. A Table has its heading where `heading` is set.
    pub(super) fn object(&self, object: &Object, heading: bool, now: Timestamp) -> Bytes {
        match self.shape {
            Shape::Full => self.served(object),
            Shape::Metadata => partial(&object.json).into(),
            Shape::Table => {
                let metadata = json!({"resourceVersion": object.revision.to_string()});
                let rows = vec![self.row(object, now)];
                self.table(metadata, rows, heading).to_string().into()
            }
        }
    }

    /// The last words of a watch, or its progress: an object of which only the revision is known.
    pub(super) fn bookmark(&self, revision: u64, initial_end: bool, heading: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"]["k8s.io/initial-events-end"] = "true".into();
        }
        let object = match self.shape {
            Shape::Full => json!({"kind": self.def.kind, "apiVersion": self.def.api_version(),
                                  "metadata": metadata}),
            Shape::Metadata => json!({"kind": "PartialObjectMetadata",
                                      "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            Shape::Table => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1", "metadata": metadata}});
                let metadata = json!({"resourceVersion": revision.to_string()});
                self.table(metadata, vec![row], heading)
            }
        };
        object.to_string().into()
    }

    /// A list, newline at the end.
    pub(super) fn list(&self, listed: &Listed, now: Timestamp) -> Bytes {
        let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
        if !listed.continue_.is_empty() {
            metadata["continue"] = listed.continue_.as_str().into();
        }
        if let Some(remaining) = listed.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let (kind, api_version) = match self.shape {
            Shape::Table => {
                let rows = listed
                    .objects
                    .iter()
                    .map(|object| self.row(object, now))
                    .collect();
                let mut text = self.table(metadata, rows, true).to_string();
                text.push('\n');
                return text.into();
            }
            Shape::Full => (self.def.list_kind(), self.def.api_version()),
            Shape::Metadata => (
                "PartialObjectMetadataList".to_owned(),
                "meta.k8s.io/v1".to_owned(),
            ),
        };
        let size: usize = listed
            .objects
            .iter()
            .map(|object| object.json.len() + 1)
            .sum();
        let mut text = BytesMut::with_capacity(size + 256);
        let head = format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
        );
        text.put(head.as_bytes());
        for (index, object) in listed.objects.iter().enumerate() {
            if index > 0 {
                text.put_u8(b',');
            }
            match (self.shape, &self.def.conversion) {
                (Shape::Metadata, _) => text.put(partial(&object.json).as_bytes()),
                (_, None) => text.put(object.json.as_ref()),
                (_, Some(_)) => text.put(self.served(object)),
            }
        }
        text.put(&b"]}\n"[..]);
        text.freeze()
    }

    fn row(&self, object: &Object, now: Timestamp) -> Value {
        let stored = object.value();
        let cells = (self.def.columns.cells)(&stored, now);
        let shown = match self.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => json!({"kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1", "metadata": stored["metadata"]}),
            IncludeObject::Object => self.served_value(object),
        };
        json!({"cells": cells, "object": shown})
    }

    fn table(&self, metadata: Value, rows: Vec<Value>, heading: bool) -> Value {
        let definitions: Vec<Value> = if heading {
            self.def
                .columns
                .definitions
                .iter()
                .map(|column| {
                    json!({"name": column.name, "type": column.kind, "format": column.format,
                           "description": column.description, "priority": column.priority})
                })
                .collect()
        } else {
            Vec::new()
        };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
               "columnDefinitions": definitions, "rows": rows})
    }
}

fn partial(json: &[u8]) -> String {
    format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{}}}",
        metadata_text(json)
    )
}
