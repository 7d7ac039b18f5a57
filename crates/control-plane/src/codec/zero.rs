//! What the Go encoder writes for a value that is not there.

use serde_json::{Map, Value};

use crate::schema::{Field, Kind, Layout, Special, TypeId, schema};

/// Which fields count: those of the served version, or all that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Served,
    All,
}

impl Scope {
    pub(super) fn fields(self, layout: &Layout) -> &[Field] {
        match self {
            Self::Served => &layout.fields[..layout.served],
            Self::All => &layout.fields,
        }
    }
}

/// Adds the fields that are written even when they are zero.
pub(super) fn fill(object: &mut Map<String, Value>, type_id: TypeId, scope: Scope) {
    let layout = schema().get(type_id).layout();
    let fields = scope.fields(layout);
    for at in &layout.kept {
        let Some(field) = fields.get(usize::from(*at)) else {
            return;
        };
        if !object.contains_key(field.json) {
            object.insert(field.json.to_owned(), of_field(field, scope));
        }
    }
}

fn of_field(field: &Field, scope: Scope) -> Value {
    if field.pointer {
        Value::Null
    } else {
        of_kind(field.kind, scope)
    }
}

/// The zero value of a kind, as JSON.
pub(super) fn of_kind(kind: Kind, scope: Scope) -> Value {
    match schema().resolve(kind) {
        Kind::String => Value::String(String::new()),
        Kind::Bool => Value::Bool(false),
        Kind::Int32 | Kind::Int64 | Kind::Float64 => Value::from(0),
        Kind::Bytes | Kind::List(_) | Kind::Map(_) => Value::Null,
        Kind::Named(id) => match schema().get(id).special() {
            None => {
                let mut object = Map::new();
                fill(&mut object, id, scope);
                Value::Object(object)
            }
            Some(Special::Quantity) => Value::from("0"),
            Some(Special::Duration) => Value::from("0s"),
            Some(Special::IntOrString) => Value::from(0),
            Some(Special::SchemaOrBool) => Value::Bool(false),
            Some(
                Special::Time
                | Special::MicroTime
                | Special::RawExtension
                | Special::FieldsV1
                | Special::Json
                | Special::SchemaOrArray
                | Special::SchemaOrStrings,
            ) => Value::Null,
        },
    }
}

/// What a missing element of a list or a map becomes in the store: as [`of_kind`], but bytes and
/// lists with a message of their own are empty and not missing.
pub(super) fn of_element(kind: Kind, scope: Scope) -> Value {
    match schema().resolve(kind) {
        Kind::Bytes => Value::from(""),
        Kind::List(_) => Value::Array(Vec::new()),
        _ => of_kind(kind, scope),
    }
}

/// `omitempty` leaves this value out of a field that is no pointer.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}
