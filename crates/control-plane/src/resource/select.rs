//! What selectors can see of an object.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::table;
use crate::store::Attributes;

/// Labels and selectable fields of an object of the storage row that `key` belongs to.
pub fn attributes_of(key: &str, object: &Value) -> Attributes {
    let metadata = &object["metadata"];
    let labels = metadata["labels"]
        .as_object()
        .map(|labels| {
            labels
                .iter()
                .filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.into())))
                .collect()
        })
        .unwrap_or_default();
    let fields = table().by_key(key).map_or(&[] as &[_], |row| row.fields);
    Attributes {
        labels,
        fields: fields
            .iter()
            .map(|field| (field.label, (field.read)(object).into()))
            .collect(),
    }
}

/// As [`attributes_of`], for stored bytes. Bytes that are no JSON have nothing to select by.
pub fn attributes_of_bytes(key: &str, object: &[u8]) -> Attributes {
    // This runs once for each object when a store is opened.
    let object: WithoutLists = serde_json::from_slice(object).unwrap_or_default();
    attributes_of(key, &object.0)
}

/// A JSON value whose lists read as `null`: nothing selectable lies in a list, and most of an
/// object does.
#[derive(Default)]
struct WithoutLists(Value);

impl<'de> Deserialize<'de> for WithoutLists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value: WithoutLists = fields.next_value()?;
            object.insert(name, value.0);
        }
        Ok(Value::Object(object))
    }
}

/// The labels of field selectors, kind by kind.
pub(super) mod fields {
    use serde_json::Value;

    use crate::resource::SelectableField;

    fn text(object: &Value, path: &str) -> String {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    fn truth(object: &Value, path: &str) -> String {
        object
            .pointer(path)
            .and_then(Value::as_bool)
            .unwrap_or_default()
            .to_string()
    }

    fn number(object: &Value, path: &str) -> String {
        object
            .pointer(path)
            .and_then(Value::as_i64)
            .unwrap_or_default()
            .to_string()
    }

    const fn field(label: &'static str, read: fn(&Value) -> String) -> SelectableField {
        SelectableField {
            label,
            stored: label,
            read,
        }
    }

    /// A field that the stored version has under another label.
    const fn renamed(label: &'static str, stored: &SelectableField) -> SelectableField {
        SelectableField {
            label,
            stored: stored.label,
            read: stored.read,
        }
    }

    pub(in crate::resource) const PODS: &[SelectableField] = &[
        field("spec.nodeName", |o| text(o, "/spec/nodeName")),
        field("spec.restartPolicy", |o| text(o, "/spec/restartPolicy")),
        field("spec.schedulerName", |o| text(o, "/spec/schedulerName")),
        field("spec.serviceAccountName", |o| {
            text(o, "/spec/serviceAccountName")
        }),
        field("spec.hostNetwork", |o| truth(o, "/spec/hostNetwork")),
        field("status.phase", |o| text(o, "/status/phase")),
        field("status.podIP", |o| text(o, "/status/podIP")),
        field("status.nominatedNodeName", |o| {
            text(o, "/status/nominatedNodeName")
        }),
    ];

    fn event_source(event: &Value) -> String {
        let source = text(event, "/source/component");
        if source.is_empty() {
            text(event, "/reportingComponent")
        } else {
            source
        }
    }

    pub(in crate::resource) const EVENTS: &[SelectableField] = &[
        field("involvedObject.kind", |o| text(o, "/involvedObject/kind")),
        field("involvedObject.namespace", |o| {
            text(o, "/involvedObject/namespace")
        }),
        field("involvedObject.name", |o| text(o, "/involvedObject/name")),
        field("involvedObject.uid", |o| text(o, "/involvedObject/uid")),
        field("involvedObject.apiVersion", |o| {
            text(o, "/involvedObject/apiVersion")
        }),
        field("involvedObject.resourceVersion", |o| {
            text(o, "/involvedObject/resourceVersion")
        }),
        field("involvedObject.fieldPath", |o| {
            text(o, "/involvedObject/fieldPath")
        }),
        field("reason", |o| text(o, "/reason")),
        field("reportingComponent", |o| text(o, "/reportingComponent")),
        field("source", event_source),
        field("type", |o| text(o, "/type")),
    ];

    /// Fields of the stored (core) event under the names of events.k8s.io.
    pub(in crate::resource) const NEW_EVENTS: &[SelectableField] = &[
        renamed("regarding.kind", &EVENTS[0]),
        renamed("regarding.namespace", &EVENTS[1]),
        renamed("regarding.name", &EVENTS[2]),
        renamed("regarding.uid", &EVENTS[3]),
        renamed("regarding.apiVersion", &EVENTS[4]),
        renamed("regarding.resourceVersion", &EVENTS[5]),
        renamed("regarding.fieldPath", &EVENTS[6]),
        renamed("reason", &EVENTS[7]),
        renamed("reportingController", &EVENTS[8]),
        renamed("type", &EVENTS[10]),
    ];

    pub(in crate::resource) const NODES: &[SelectableField] = &[field("spec.unschedulable", |o| {
        truth(o, "/spec/unschedulable")
    })];

    pub(in crate::resource) const SECRETS: &[SelectableField] =
        &[field("type", |o| text(o, "/type"))];

    pub(in crate::resource) const NAMESPACES: &[SelectableField] = &[
        field("status.phase", |o| text(o, "/status/phase")),
        field("name", |o| text(o, "/metadata/name")),
    ];

    pub(in crate::resource) const REPLICAS: &[SelectableField] =
        &[field("status.replicas", |o| number(o, "/status/replicas"))];

    pub(in crate::resource) const SERVICES: &[SelectableField] = &[
        field("spec.clusterIP", |o| text(o, "/spec/clusterIP")),
        field("spec.type", |o| text(o, "/spec/type")),
    ];

    pub(in crate::resource) const JOBS: &[SelectableField] = &[field("status.successful", |o| {
        number(o, "/status/succeeded")
    })];

    pub(in crate::resource) const SIGNING_REQUESTS: &[SelectableField] =
        &[field("spec.signerName", |o| text(o, "/spec/signerName"))];

    pub(in crate::resource) const ADDRESSES: &[SelectableField] = &[
        field("spec.parentRef.group", |o| text(o, "/spec/parentRef/group")),
        field("spec.parentRef.resource", |o| {
            text(o, "/spec/parentRef/resource")
        }),
        field("spec.parentRef.namespace", |o| {
            text(o, "/spec/parentRef/namespace")
        }),
        field("spec.parentRef.name", |o| text(o, "/spec/parentRef/name")),
    ];

    pub(in crate::resource) const RESOURCE_SLICES: &[SelectableField] = &[
        field("spec.nodeName", |o| text(o, "/spec/nodeName")),
        field("spec.driver", |o| text(o, "/spec/driver")),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_and_values_have_the_same_attributes() {
        let pod = json!({
            "metadata": {"name": "p", "labels": {"b": "2", "a": "\u{e9}"}, "managedFields": [{}]},
            "spec": {"nodeName": "n", "hostNetwork": true, "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "conditions": null, "load": 0.5, "count": -1},
        });
        let attributes = attributes_of("pods/d/p", &pod);
        assert_eq!(attributes.field("spec.nodeName"), Some("n"));
        assert_eq!(attributes.field("spec.hostNetwork"), Some("true"));
        assert_eq!(attributes.label("a"), Some("\u{e9}"));
        let bytes = pod.to_string().into_bytes();
        assert_eq!(attributes_of_bytes("pods/d/p", &bytes), attributes);
        assert_eq!(attributes_of_bytes("pods/d/p", b"{").labels.len(), 0);
    }
}
