//! Kubernetes protobuf to JSON: what Go gives when it reads the bytes into its type and writes
//! the type as JSON.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` message: `typeMeta` (1: `apiVersion` 1, `kind`
//! 2), `raw` (2), `contentEncoding` (3), `contentType` (4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::time::{self, Precision};
use super::wire::{Reader, Wire};
use super::zero::{self, Scope};
use super::{DecodeError, MAX_DEPTH, quantity};
use crate::schema::{Declared, Field, Gvk, Kind, Omit, Special, TypeId, schema};

/// What every body starts with.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// A body without its envelope.
pub(super) struct Envelope<'a> {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) raw: &'a [u8],
}

/// Opens the envelope.
pub(super) fn open(body: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Malformed("empty data".to_owned()));
    }
    let Some(message) = body.strip_prefix(MAGIC) else {
        return Err(DecodeError::Malformed(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
                .to_owned(),
        ));
    };
    if message.is_empty() {
        return Err(DecodeError::Malformed("empty body".to_owned()));
    }
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                let mut reader = Reader::new(meta);
                while let Some((number, value)) = reader.next()? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => envelope.api_version = string(text),
                        (2, Wire::Bytes(text)) => envelope.kind = string(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads a message of a known type; `apiVersion` and `kind` come from `gvk`.
pub(super) fn decode(
    raw: &[u8],
    type_id: TypeId,
    gvk: &Gvk,
    scope: Scope,
) -> Result<Value, DecodeError> {
    let decoder = Decoder { scope };
    let mut object = Map::new();
    if !gvk.kind.is_empty() {
        object.insert("apiVersion".to_owned(), Value::from(gvk.api_version()));
        object.insert("kind".to_owned(), Value::from(gvk.kind.as_str()));
    }
    decoder.message(raw, type_id, &mut object, 0)?;
    zero::fill(&mut object, type_id, scope);
    Ok(Value::Object(object))
}

fn string(bytes: &[u8]) -> String {
    // Go's JSON encoder writes U+FFFD for what is no UTF-8.
    String::from_utf8_lossy(bytes).into_owned()
}

fn wrong_wire(field: &str) -> DecodeError {
    DecodeError::Malformed(format!("proto: wrong wireType for field {field}"))
}

struct Decoder {
    scope: Scope,
}

impl Decoder {
    /// Reads the fields of a message into `object`; embedded messages land in it too.
    fn message(
        &self,
        bytes: &[u8],
        type_id: TypeId,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::Malformed("exceeded max depth".to_owned()));
        }
        let layout = schema().get(type_id).layout();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            let Ok(at) = layout
                .declared
                .binary_search_by_key(&number, |(number, _)| *number)
            else {
                continue;
            };
            match layout.declared[at].1 {
                Declared::Embedded(embedded) => {
                    let Wire::Bytes(bytes) = value else {
                        return Err(wrong_wire(schema().get(embedded).name()));
                    };
                    self.message(bytes, embedded, object, depth + 1)?;
                }
                Declared::Field(at) => {
                    let at = usize::from(at);
                    if self.scope == Scope::All || at < layout.served {
                        self.field(&layout.fields[at], value, object, depth)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        value: Wire<'_>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        match field.resolved {
            Kind::List(_) if self.wrapped(field.kind) => {}
            Kind::List(element) => {
                if !object.contains_key(field.json) {
                    object.insert(field.json.to_owned(), Value::Array(Vec::new()));
                }
                return match object.get_mut(field.json) {
                    Some(Value::Array(items)) => {
                        self.items(*element, value, items, field.json, depth)
                    }
                    _ => Ok(()),
                };
            }
            Kind::Map(element) => {
                let Wire::Bytes(entry) = value else {
                    return Err(wrong_wire(field.json));
                };
                let (key, value) = self.entry(entry, *element, field.json, depth)?;
                if !object.contains_key(field.json) {
                    object.insert(field.json.to_owned(), Value::Object(Map::new()));
                }
                if let Some(Value::Object(members)) = object.get_mut(field.json) {
                    members.insert(key, value);
                }
                return Ok(());
            }
            _ => {}
        }
        let value = self.value(field.kind, value, field.json, depth)?;
        let is_struct = matches!(field.resolved, Kind::Named(_));
        let left_out = !field.pointer
            && match field.omit {
                Omit::Never => false,
                Omit::Empty => !is_struct && zero::is_empty(&value),
                Omit::Zero => value.is_null() || !is_struct && zero::is_empty(&value),
            };
        if left_out {
            object.remove(field.json);
        } else {
            object.insert(field.json.to_owned(), value);
        }
        Ok(())
    }

    fn wrapped(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Named(id) if schema().get(id).wrapped())
    }

    /// One element of a list, or all of them where numbers are packed.
    fn items(
        &self,
        element: Kind,
        value: Wire<'_>,
        items: &mut Vec<Value>,
        name: &str,
        depth: usize,
    ) -> Result<(), DecodeError> {
        let number = matches!(
            schema().resolve(element),
            Kind::Int32 | Kind::Int64 | Kind::Bool
        );
        match value {
            Wire::Bytes(packed) if number => {
                let mut reader = Packed(packed);
                while let Some(value) = reader.next()? {
                    items.push(self.value(element, Wire::Varint(value), name, depth)?);
                }
            }
            value => items.push(self.value(element, value, name, depth)?),
        }
        Ok(())
    }

    fn entry(
        &self,
        bytes: &[u8],
        element: Kind,
        name: &str,
        depth: usize,
    ) -> Result<(String, Value), DecodeError> {
        let mut key = String::new();
        let mut member = None;
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (1, Wire::Bytes(text)) => key = string(text),
                (2, value) => member = Some(self.value(element, value, name, depth)?),
                _ => {}
            }
        }
        let member = member.unwrap_or_else(|| zero::of_element(element, self.scope));
        Ok((key, member))
    }

    fn value(
        &self,
        kind: Kind,
        value: Wire<'_>,
        name: &str,
        depth: usize,
    ) -> Result<Value, DecodeError> {
        if self.wrapped(kind) {
            let (Kind::List(element), Wire::Bytes(bytes)) = (schema().resolve(kind), value) else {
                return Err(wrong_wire(name));
            };
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, value)) = reader.next()? {
                if number == 1 {
                    self.items(*element, value, &mut items, name, depth)?;
                }
            }
            return Ok(Value::Array(items));
        }
        Ok(match (schema().resolve(kind), value) {
            (Kind::String, Wire::Bytes(bytes)) => Value::String(string(bytes)),
            (Kind::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
            (Kind::Int32, Wire::Varint(number)) => Value::from(number as i32),
            (Kind::Int64, Wire::Varint(number)) => Value::from(number as i64),
            (Kind::Float64, Wire::Fixed64(bits)) => float(f64::from_bits(bits)),
            (Kind::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
            (Kind::Named(id), Wire::Bytes(bytes)) => match schema().get(id).special() {
                Some(special) => self.special(special, bytes, id, depth)?,
                None => {
                    let mut object = Map::new();
                    self.message(bytes, id, &mut object, depth + 1)?;
                    zero::fill(&mut object, id, self.scope);
                    Value::Object(object)
                }
            },
            _ => return Err(wrong_wire(name)),
        })
    }

    fn special(
        &self,
        special: Special,
        bytes: &[u8],
        id: TypeId,
        depth: usize,
    ) -> Result<Value, DecodeError> {
        let mut numbers = [None::<u64>; 4];
        let mut texts: [Option<&[u8]>; 4] = [None; 4];
        let mut repeated = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (1..=3, Wire::Varint(varint)) => numbers[number as usize] = Some(varint),
                (1..=3, Wire::Bytes(bytes)) => {
                    texts[number as usize] = Some(bytes);
                    if number == 2 {
                        repeated.push(bytes);
                    }
                }
                _ => {}
            }
        }
        let time = |precision| {
            if bytes.is_empty() {
                return Value::Null;
            }
            let seconds = numbers[1].unwrap_or(0) as i64;
            let nanos = numbers[2].unwrap_or(0) as i32;
            time::format(seconds, nanos, precision).map_or(Value::Null, Value::from)
        };
        Ok(match special {
            Special::Time => time(Precision::Seconds),
            Special::MicroTime => time(Precision::Micros),
            Special::Duration => Value::from(time::format_duration(numbers[1].unwrap_or(0) as i64)),
            Special::Quantity => {
                let text = string(texts[1].unwrap_or_default());
                let form = quantity::canonical(&text)
                    .map_err(|error| DecodeError::Malformed(error.to_string()))?;
                Value::from(form.into_owned())
            }
            Special::IntOrString if numbers[1] == Some(1) => {
                Value::from(string(texts[3].unwrap_or_default()))
            }
            Special::IntOrString => Value::from(numbers[2].unwrap_or(0) as i32),
            Special::RawExtension | Special::FieldsV1 | Special::Json => match texts[1] {
                None => Value::Null,
                Some([]) if special == Special::Json => Value::Null,
                Some(raw) => super::json(raw)?,
            },
            Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStrings => {
                let schemas = schema_of(id);
                let read = |bytes| self.value(schemas, Wire::Bytes(bytes), "schema", depth + 1);
                match (special, texts[1], texts[2]) {
                    (Special::SchemaOrArray, _, Some(_)) => {
                        Value::Array(repeated.into_iter().map(read).collect::<Result<_, _>>()?)
                    }
                    (Special::SchemaOrStrings, _, Some(_)) => {
                        repeated.into_iter().map(string).collect()
                    }
                    (Special::SchemaOrBool, _, Some(bytes)) => read(bytes)?,
                    (Special::SchemaOrBool, ..) => Value::Bool(numbers[1] == Some(1)),
                    (_, Some(bytes), _) => read(bytes)?,
                    _ => Value::Null,
                }
            }
        })
    }
}

/// The schema type beside `JSONSchemaPropsOrArray` and its kin.
pub(super) fn schema_of(beside: TypeId) -> Kind {
    let name = format!("{}.JSONSchemaProps", schema().get(beside).package());
    let id = schema().type_by_name(&name);
    Kind::Named(id.unwrap_or(beside))
}

/// A number as Go's JSON encoder writes it: without a fraction where it is whole.
pub(super) fn float(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

/// Packed varints.
struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    fn next(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut value = 0_u64;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(Some(value));
            }
        }
        Err(DecodeError::Malformed("unexpected EOF".to_owned()))
    }
}
