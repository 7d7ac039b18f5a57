//! The schemas of types, in the shape that kube-openapi gives them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::schema::{Field, Kind, ListType, Omit, Special, TypeId, schema};

/// The schemas of these types and of all that they refer to, by OpenAPI name.
pub(super) fn components(used: BTreeSet<TypeId>) -> Map<String, Value> {
    let mut done = BTreeMap::new();
    let mut waiting: Vec<TypeId> = used.into_iter().collect();
    while let Some(id) = waiting.pop() {
        if done.contains_key(&id) {
            continue;
        }
        let mut references = Vec::new();
        done.insert(id, component(id, &mut references));
        waiting.extend(references);
    }
    let named = |(id, schema_of): (TypeId, Value)| (schema().get(id).full_name(), schema_of);
    let mut components: Map<String, Value> = done.into_iter().map(named).collect();
    components.insert(PATCH.to_owned(), json!({"type": "object"}));
    components
}

/// The type of every patch; it has no fields, and the table does not know it.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// A reference to a component.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn component(id: TypeId, references: &mut Vec<TypeId>) -> Value {
    let entry = schema().get(id);
    if let Some(special) = entry.special() {
        return special_form(special);
    }
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in entry.fields() {
        properties.insert(field.json.to_owned(), property(field, references));
        if field.required {
            required.push(field.json);
        }
    }
    let mut out = Map::new();
    out.insert("type".to_owned(), json!("object"));
    if !properties.is_empty() {
        out.insert("properties".to_owned(), properties.into());
    }
    if !required.is_empty() {
        out.insert("required".to_owned(), json!(required));
    }
    if entry.atomic() {
        out.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    if let Some(kinds) = kinds_of(id) {
        out.insert("x-kubernetes-group-version-kind".to_owned(), kinds.clone());
    }
    Value::Object(out)
}

fn special_form(special: Special) -> Value {
    match special {
        Special::Time | Special::MicroTime => json!({"type": "string", "format": "date-time"}),
        Special::Duration => json!({"type": "string"}),
        Special::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Special::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Special::RawExtension | Special::FieldsV1 => json!({"type": "object"}),
        Special::Json
        | Special::SchemaOrArray
        | Special::SchemaOrBool
        | Special::SchemaOrStrings => json!({}),
    }
}

/// The kinds of each type, as the extension lists them.
fn kinds_of(id: TypeId) -> Option<&'static Value> {
    static KINDS: OnceLock<HashMap<TypeId, Value>> = OnceLock::new();
    let kinds = KINDS.get_or_init(|| {
        let mut kinds: HashMap<TypeId, Vec<_>> = HashMap::new();
        for (gvk, id) in schema().kinds() {
            kinds.entry(id).or_default().push(gvk);
        }
        kinds
            .into_iter()
            .map(|(id, mut list)| {
                list.sort();
                let list = list.into_iter().map(
                    |gvk| json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version}),
                );
                (id, list.collect())
            })
            .collect()
    });
    kinds.get(&id)
}

fn property(field: &Field, references: &mut Vec<TypeId>) -> Value {
    let mut out = of_kind(field.kind, references);
    let default = match field.default {
        Some(text) => serde_json::from_str(text).ok(),
        None if field.pointer => None,
        None => zero(field.kind, field.omit),
    };
    out.extend(default.map(|default| ("default".to_owned(), default)));
    let mut extend = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    match field.list {
        Some(ListType::Atomic) => extend("x-kubernetes-list-type", json!("atomic")),
        Some(ListType::Set) => extend("x-kubernetes-list-type", json!("set")),
        Some(ListType::Map(keys)) => {
            extend("x-kubernetes-list-map-keys", json!(keys));
            extend("x-kubernetes-list-type", json!("map"));
        }
        None => {}
    }
    if field.atomic {
        extend("x-kubernetes-map-type", json!("atomic"));
    } else if field.granular {
        extend("x-kubernetes-map-type", json!("granular"));
    }
    if let Some(key) = field.patch_merge_key {
        extend("x-kubernetes-patch-merge-key", json!(key));
    }
    if !field.patch_strategy.is_empty() {
        extend(
            "x-kubernetes-patch-strategy",
            json!(field.patch_strategy.join(",")),
        );
    }
    Value::Object(wrapped(out))
}

/// A reference that something stands beside has to be wrapped.
fn wrapped(mut out: Map<String, Value>) -> Map<String, Value> {
    if out.len() > 1
        && let Some(reference) = out.remove("$ref")
    {
        out.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
    out
}

/// The default that follows from the Go type: structs are never missing, and other values are not
/// where they have no `omitempty`.
fn zero(kind: Kind, omit: Omit) -> Option<Value> {
    let kept = omit == Omit::Never;
    match schema().resolve(kind) {
        Kind::String if kept => Some(json!("")),
        Kind::Bool if kept => Some(json!(false)),
        Kind::Int32 | Kind::Int64 | Kind::Float64 if kept => Some(json!(0)),
        Kind::Named(id) if schema().get(id).special().is_none() => Some(json!({})),
        _ => None,
    }
}

fn of_kind(kind: Kind, references: &mut Vec<TypeId>) -> Map<String, Value> {
    let simple = |name: &str, format: &str| {
        let mut out = Map::new();
        out.insert("type".to_owned(), json!(name));
        if !format.is_empty() {
            out.insert("format".to_owned(), json!(format));
        }
        out
    };
    match kind {
        Kind::String => simple("string", ""),
        Kind::Bool => simple("boolean", ""),
        Kind::Int32 => simple("integer", "int32"),
        Kind::Int64 => simple("integer", "int64"),
        Kind::Float64 => simple("number", "double"),
        Kind::Bytes => simple("string", "byte"),
        Kind::List(element) => {
            let mut out = simple("array", "");
            out.insert("items".to_owned(), element_of(*element, references));
            out
        }
        Kind::Map(element) => {
            let mut out = simple("object", "");
            let values = element_of(*element, references);
            out.insert("additionalProperties".to_owned(), values);
            out
        }
        Kind::Named(id) => {
            let entry = schema().get(id);
            match entry.alias() {
                Some(alias) => {
                    let mut out = of_kind(alias, references);
                    if !entry.enumeration().is_empty() {
                        out.insert("enum".to_owned(), json!(entry.enumeration()));
                    }
                    out
                }
                None => {
                    references.push(id);
                    let reference = reference(&entry.full_name());
                    reference.as_object().cloned().unwrap_or_default()
                }
            }
        }
    }
}

/// The items of a list, the values of a map: never missing.
fn element_of(kind: Kind, references: &mut Vec<TypeId>) -> Value {
    let mut out = of_kind(kind, references);
    out.extend(zero(kind, Omit::Never).map(|default| ("default".to_owned(), default)));
    Value::Object(wrapped(out))
}
