//! JSON to Kubernetes protobuf, as Go writes its types: fields in ascending order, what is no
//! pointer even when it is zero, maps sorted by key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::protobuf::{MAGIC, schema_of};
use super::time::{self, Precision};
use super::wire::{put_bytes, put_fixed64, put_number};
use super::zero::Scope;
use crate::schema::{Declared, Field, Gvk, Kind, Special, TypeId, schema};

/// A whole body, envelope and all. The object must have been through [`super::coerce()`]: values of
/// a wrong type are left out.
pub(super) fn encode(value: &Value, type_id: TypeId, gvk: &Gvk, scope: Scope) -> Vec<u8> {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, gvk.api_version().as_bytes());
    put_bytes(&mut meta, 2, gvk.kind.as_bytes());
    let mut raw = Vec::new();
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    message(&mut raw, object, type_id, scope);
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 16);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, &raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

fn message(out: &mut Vec<u8>, object: &Map<String, Value>, type_id: TypeId, scope: Scope) {
    let layout = schema().get(type_id).layout();
    for (number, declared) in &layout.declared {
        match declared {
            Declared::Embedded(embedded) => {
                let mut inner = Vec::new();
                message(&mut inner, object, *embedded, scope);
                put_bytes(out, *number, &inner);
            }
            Declared::Field(at) => {
                let at = usize::from(*at);
                if scope == Scope::All || at < layout.served {
                    let field = &layout.fields[at];
                    member(out, field, object.get(field.json), scope);
                }
            }
        }
    }
}

fn member(out: &mut Vec<u8>, field: &Field, value: Option<&Value>, scope: Scope) {
    let value = value.unwrap_or(&Value::Null);
    match field.resolved {
        Kind::List(element) if !wrapped(field.kind) => {
            for item in value.as_array().into_iter().flatten() {
                put(out, field.number, *element, item, scope);
            }
        }
        Kind::Map(element) => {
            for (key, member) in value.as_object().into_iter().flatten() {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put(&mut entry, 2, *element, member, scope);
                put_bytes(out, field.number, &entry);
            }
        }
        // A nil slice is not written, nor is a nil pointer.
        Kind::Bytes | Kind::List(_) if value.is_null() => {}
        _ if field.pointer && value.is_null() => {}
        _ => put(out, field.number, field.kind, value, scope),
    }
}

fn wrapped(kind: Kind) -> bool {
    matches!(kind, Kind::Named(id) if schema().get(id).wrapped())
}

fn put(out: &mut Vec<u8>, number: u32, kind: Kind, value: &Value, scope: Scope) {
    match schema().resolve(kind) {
        Kind::String => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Kind::Bool => put_number(out, number, value.as_bool().unwrap_or_default().into()),
        Kind::Int32 | Kind::Int64 => {
            put_number(out, number, value.as_i64().unwrap_or_default() as u64);
        }
        Kind::Float64 => {
            put_fixed64(out, number, value.as_f64().unwrap_or_default().to_bits());
        }
        Kind::Bytes => {
            let bytes = STANDARD.decode(value.as_str().unwrap_or_default());
            put_bytes(out, number, &bytes.unwrap_or_default());
        }
        Kind::List(element) => {
            let mut inner = Vec::new();
            for item in value.as_array().into_iter().flatten() {
                put(&mut inner, 1, *element, item, scope);
            }
            put_bytes(out, number, &inner);
        }
        Kind::Map(_) => {}
        Kind::Named(id) => {
            let mut inner = Vec::new();
            match schema().get(id).special() {
                Some(form) => special(&mut inner, form, id, value, scope),
                None => {
                    let empty = Map::new();
                    message(&mut inner, value.as_object().unwrap_or(&empty), id, scope);
                }
            }
            put_bytes(out, number, &inner);
        }
    }
}

fn special(out: &mut Vec<u8>, form: Special, id: TypeId, value: &Value, scope: Scope) {
    let text = value.as_str();
    match form {
        Special::Time | Special::MicroTime => {
            let precision = if form == Special::Time {
                Precision::Seconds
            } else {
                Precision::Micros
            };
            if let Some((seconds, nanos)) = text.and_then(|text| time::parse(text, precision).ok())
            {
                put_number(out, 1, seconds as u64);
                put_number(out, 2, nanos as u64);
            }
        }
        Special::Duration => {
            let nanos = text.and_then(|text| time::parse_duration(text).ok());
            put_number(out, 1, nanos.unwrap_or_default() as u64);
        }
        Special::Quantity => put_bytes(out, 1, text.unwrap_or("0").as_bytes()),
        Special::IntOrString => {
            put_number(out, 1, text.is_some().into());
            put_number(out, 2, value.as_i64().unwrap_or_default() as u64);
            put_bytes(out, 3, text.unwrap_or_default().as_bytes());
        }
        Special::RawExtension | Special::FieldsV1 | Special::Json => {
            if !value.is_null() {
                put_bytes(out, 1, value.to_string().as_bytes());
            }
        }
        Special::SchemaOrBool => {
            let allows = value.as_bool().unwrap_or(value.is_object());
            put_number(out, 1, allows.into());
            if value.is_object() {
                put(out, 2, schema_of(id), value, scope);
            }
        }
        Special::SchemaOrArray | Special::SchemaOrStrings => {
            if value.is_object() {
                put(out, 1, schema_of(id), value, scope);
            }
            for item in value.as_array().into_iter().flatten() {
                let element = if form == Special::SchemaOrArray {
                    schema_of(id)
                } else {
                    Kind::String
                };
                put(out, 2, element, item, scope);
            }
        }
    }
}
