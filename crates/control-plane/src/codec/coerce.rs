//! The Go round trip on a JSON value: type checks, pruning, canonical forms, zero values.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::time::{self, Precision};
use super::zero::{self, Scope};
use super::{DecodeError, MAX_DEPTH, quantity};
use crate::schema::{Field, Kind, Omit, Special, TypeId, schema};

/// Go's standard encoding: padded, but the last bits are not checked.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Brings an object of a known type into the form that Go gives it.
pub(super) fn coerce(value: &mut Value, type_id: TypeId, scope: Scope) -> Result<(), DecodeError> {
    let mut walk = Walk {
        scope,
        path: Vec::new(),
        structs: Vec::new(),
        first: None,
    };
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    walk.value(value, Kind::Named(type_id), 0)?;
    match walk.first {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Walk {
    scope: Scope,
    /// The names of the fields on the way; lists and maps leave no trace in it.
    path: Vec<&'static str>,
    /// The structs on the way.
    structs: Vec<TypeId>,
    /// Go goes on after a wrong type and reports the first one at the end.
    first: Option<DecodeError>,
}

/// A value of this shape cannot be read by Go's own unmarshalers; reading stops at once.
type Read = Result<(), DecodeError>;

impl Walk {
    fn wrong_type(&self, found: &str, wanted: &str) -> DecodeError {
        DecodeError::wrong_type(match self.structs.last() {
            Some(owner) if !self.path.is_empty() => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
                schema().get(*owner).name(),
                self.path.join("."),
            ),
            _ => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        })
    }

    /// Remembers a wrong type and leaves the zero value.
    fn mismatch(&mut self, value: &mut Value, found: &str, kind: Kind) {
        if self.first.is_none() {
            self.first = Some(self.wrong_type(found, &go_type(kind)));
        }
        *value = Value::Null;
    }

    fn value(&mut self, value: &mut Value, kind: Kind, depth: usize) -> Read {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Malformed("exceeded max depth".to_owned()));
        }
        let resolved = schema().resolve(kind);
        if let Kind::Named(id) = resolved {
            return match schema().get(id).special() {
                Some(special) => self.special(value, special, id, depth),
                None => self.structure(value, id, depth),
            };
        }
        match (resolved, &mut *value) {
            (_, Value::Null) | (Kind::String, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => {}
            (Kind::Int32, Value::Number(number)) => {
                let fits = number
                    .as_i64()
                    .is_some_and(|number| i32::try_from(number).is_ok());
                if !fits {
                    let found = format!("number {number}");
                    self.mismatch(value, &found, kind);
                }
            }
            (Kind::Int64, Value::Number(number)) => {
                if !number.is_i64() {
                    let found = format!("number {number}");
                    self.mismatch(value, &found, kind);
                }
            }
            (Kind::Float64, Value::Number(number)) => {
                *value = super::protobuf::float(number.as_f64().unwrap_or_default());
            }
            (Kind::Bytes, Value::String(text)) => match bytes(text) {
                Ok(canonical) => *text = canonical,
                Err(message) => {
                    self.first.get_or_insert(DecodeError::wrong_type(message));
                    *value = Value::Null;
                }
            },
            (Kind::Bytes, Value::Array(items)) => {
                let items = std::mem::take(items);
                *value = self.numbers(items);
            }
            (Kind::List(element), Value::Array(items)) => {
                for item in items {
                    self.value(item, *element, depth + 1)?;
                    if item.is_null() {
                        *item = zero::of_element(*element, self.scope);
                    }
                }
            }
            (Kind::Map(element), Value::Object(members)) => {
                for member in members.values_mut() {
                    self.value(member, *element, depth + 1)?;
                    if member.is_null() {
                        *member = zero::of_element(*element, self.scope);
                    }
                }
            }
            (_, other) => {
                let found = json_type(other);
                self.mismatch(value, found, kind);
            }
        }
        Ok(())
    }

    /// Go reads a list of numbers into bytes too.
    fn numbers(&mut self, items: Vec<Value>) -> Value {
        let mut bytes = Vec::with_capacity(items.len());
        for item in items {
            let byte = item.as_u64().and_then(|number| u8::try_from(number).ok());
            if byte.is_none() && !item.is_null() && self.first.is_none() {
                let found = match &item {
                    Value::Number(number) => format!("number {number}"),
                    other => json_type(other).to_owned(),
                };
                self.first = Some(self.wrong_type(&found, "uint8"));
            }
            bytes.push(byte.unwrap_or_default());
        }
        Value::from(BASE64.encode(bytes))
    }

    fn structure(&mut self, value: &mut Value, id: TypeId, depth: usize) -> Read {
        let Value::Object(object) = value else {
            if !value.is_null() {
                let found = json_type(value);
                self.mismatch(value, found, Kind::Named(id));
            }
            return Ok(());
        };
        self.structs.push(id);
        let result = self.members(object, id, depth);
        self.structs.pop();
        result?;
        zero::fill(object, id, self.scope);
        Ok(())
    }

    fn members(&mut self, object: &mut Map<String, Value>, id: TypeId, depth: usize) -> Read {
        let layout = schema().get(id).layout();
        let (mut served, newer) = layout.fields.split_at(layout.served);
        let newer = if self.scope == Scope::All { newer } else { &[] };
        let mut failed = Ok(());
        object.retain(|name, value| {
            // Members and fields are both sorted by name, so one walk over both will do.
            while let [first, rest @ ..] = served
                && first.json < name.as_str()
            {
                served = rest;
            }
            let field = match served.first() {
                Some(field) if field.json == name => field,
                _ => match newer.iter().find(|field| field.json == name) {
                    Some(field) => field,
                    None => return false,
                },
            };
            if value.is_null() || failed.is_err() {
                return false;
            }
            let trail = self.path.len();
            self.path.push(field.json);
            failed = self.value(value, field.kind, depth + 1);
            self.path.truncate(trail);
            // The store keeps no empty list or map apart from a missing one.
            if matches!(value, Value::Array(items) if items.is_empty()) && !is_named(field)
                || matches!(value, Value::Object(members) if members.is_empty()) && !is_named(field)
            {
                *value = Value::Null;
            }
            keep(field, value)
        });
        failed
    }

    fn special(&mut self, value: &mut Value, special: Special, id: TypeId, depth: usize) -> Read {
        match special {
            Special::Time => return self.time(value, Precision::Seconds),
            Special::MicroTime => return self.time(value, Precision::Micros),
            Special::Duration => {
                if let Some(text) = self.text(value)? {
                    let nanos = time::parse_duration(text).map_err(DecodeError::wrong_type)?;
                    *value = Value::from(time::format_duration(nanos));
                }
            }
            Special::Quantity => {
                let text = match &*value {
                    Value::Null => "0".to_owned(),
                    Value::String(text) => text.trim().to_owned(),
                    Value::Number(number) => plain(number),
                    other => other.to_string(),
                };
                let form = quantity::canonical(&text)
                    .map_err(|error| DecodeError::wrong_type(error.to_string()))?;
                *value = Value::from(form.into_owned());
            }
            Special::IntOrString => match &*value {
                Value::Null | Value::String(_) => {}
                Value::Number(number) => {
                    let fits = number
                        .as_i64()
                        .is_some_and(|number| i32::try_from(number).is_ok());
                    if !fits {
                        return Err(self.wrong_type(&format!("number {number}"), "int32"));
                    }
                }
                other => return Err(self.wrong_type(json_type(other), "int32")),
            },
            Special::RawExtension | Special::FieldsV1 | Special::Json => {}
            Special::SchemaOrArray => match value {
                Value::Array(items) => {
                    for item in items {
                        self.value(item, super::protobuf::schema_of(id), depth + 1)?;
                    }
                }
                Value::Object(_) => {
                    self.value(value, super::protobuf::schema_of(id), depth + 1)?;
                }
                _ => *value = Value::Null,
            },
            Special::SchemaOrBool => match value {
                Value::Bool(_) | Value::Null => {}
                Value::Object(_) => {
                    self.value(value, super::protobuf::schema_of(id), depth + 1)?;
                }
                _ => {
                    return Err(DecodeError::wrong_type(
                        "boolean or JSON schema expected".to_owned(),
                    ));
                }
            },
            Special::SchemaOrStrings => match value {
                Value::Array(_) => self.value(value, Kind::List(&Kind::String), depth + 1)?,
                Value::Object(_) => {
                    self.value(value, super::protobuf::schema_of(id), depth + 1)?;
                }
                _ => *value = Value::Null,
            },
        }
        Ok(())
    }

    fn time(&mut self, value: &mut Value, precision: Precision) -> Read {
        if let Some(text) = self.text(value)? {
            let (seconds, nanos) = time::parse(text, precision).map_err(DecodeError::wrong_type)?;
            *value = time::format(seconds, nanos, precision).map_or(Value::Null, Value::from);
        }
        Ok(())
    }

    fn text<'a>(&self, value: &'a Value) -> Result<Option<&'a str>, DecodeError> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            other => Err(self.wrong_type(json_type(other), "string")),
        }
    }
}

/// Go writes this value, which is there, back.
fn keep(field: &Field, value: &Value) -> bool {
    if field.pointer || field.kept() {
        return !value.is_null() || field.pointer && is_special(field);
    }
    match field.omit {
        Omit::Zero if matches!(field.resolved, Kind::Named(_)) => {
            !value.is_null() && !zero_struct(field, value)
        }
        _ => !zero::is_empty(value),
    }
}

/// A struct or a special type, for which empty is a value.
fn is_named(field: &Field) -> bool {
    matches!(field.resolved, Kind::Named(_))
}

fn is_special(field: &Field) -> bool {
    schema()
        .struct_of(field.kind)
        .is_some_and(|id| schema().get(id).special().is_some())
}

fn zero_struct(field: &Field, value: &Value) -> bool {
    *value == zero::of_kind(field.kind, Scope::Served)
}

/// The canonical form of base64 text, or Go's words about it.
fn bytes(text: &str) -> Result<String, String> {
    let lines: String;
    let text = if text.contains(['\r', '\n']) {
        lines = text.replace(['\r', '\n'], "");
        &lines
    } else {
        text
    };
    match BASE64.decode(text) {
        Ok(bytes) => Ok(BASE64.encode(bytes)),
        Err(error) => {
            let offset = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    // Go names the start of the group that lacks something.
                    text.len() / 4 * 4
                }
            };
            Err(format!("illegal base64 data at input byte {offset}"))
        }
    }
}

/// A number as its text would stand in a quantity.
fn plain(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
            format!("{float:.0}")
        }
        _ => number.to_string(),
    }
}

/// What Go calls the JSON type of a value.
pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What Go calls a type.
fn go_type(kind: Kind) -> String {
    match kind {
        Kind::String => "string".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::Int32 => "int32".to_owned(),
        Kind::Int64 => "int64".to_owned(),
        Kind::Float64 => "float64".to_owned(),
        Kind::Bytes => "[]uint8".to_owned(),
        Kind::Named(id) => schema().get(id).go_name(),
        Kind::List(element) => format!("[]{}", go_type(*element)),
        Kind::Map(element) => format!("map[string]{}", go_type(*element)),
    }
}
