//! Request and response bodies: JSON, YAML and Kubernetes protobuf to `serde_json::Value`, with
//! the type checks, pruning and zero values of the Go round trip.
//!
//! What is refused is refused in the words of the real server, since clients show them and people
//! search for them.

mod coerce;
mod encode;
#[cfg(test)]
mod golden;
mod libyaml;
mod protobuf;
pub mod quantity;
mod strict;
mod syntax;
#[cfg(test)]
mod tests;
mod time;
mod wire;
mod yaml;
mod zero;

use serde_json::Value;

use crate::schema::{Gvk, TypeId, schema};
use crate::status::ApiError;
use zero::Scope;

/// How deep objects and lists may nest; also the limit of the JSON parser.
pub(crate) const MAX_DEPTH: usize = 128;

/// A body that is no object of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, YAML or protobuf at all.
    #[error("{0}")]
    Malformed(String),
    /// A value has the wrong JSON type, or a form that its type cannot read.
    #[error("{0}")]
    WrongType(String),
    /// A body of which not even the kind is known.
    #[error(
        "the object provided is unrecognized (must be of type {expected}): {source} ({summary})"
    )]
    Unrecognized {
        /// The kind that was expected.
        expected: String,
        /// What is wrong.
        source: Box<DecodeError>,
        /// The start of the body.
        summary: String,
    },
    /// A body of a known kind that cannot be read as the expected one.
    #[error("{} in version {:?} cannot be handled as a {expected}: {message}", .gvk.kind, .gvk.version)]
    Unhandled {
        /// What the body says it is.
        gvk: Gvk,
        /// The kind that was expected.
        expected: String,
        /// What is wrong.
        message: String,
    },
    /// The right kind in a version that this path does not take.
    #[error(
        "the API version in the data ({found}) does not match the expected API version ({expected})"
    )]
    WrongVersion {
        /// The `apiVersion` of the body.
        found: String,
        /// The `apiVersion` of the path.
        expected: String,
    },
    /// `kind` is missing.
    #[error("Object 'Kind' is missing in '{0}'")]
    MissingKind(String),
    /// `apiVersion` is missing.
    #[error("Object 'apiVersion' is missing in '{0}'")]
    MissingVersion(String),
    /// No such type.
    #[error("no kind {:?} is registered for version {:?} in scheme \"pkg/runtime/scheme.go:110\"", .0.kind, .0.api_version())]
    UnknownKind(Gvk),
}

impl DecodeError {
    fn wrong_type(message: String) -> Self {
        Self::WrongType(message)
    }
}

impl From<DecodeError> for ApiError {
    /// `400 BadRequest` with the words of the error.
    fn from(error: DecodeError) -> Self {
        ApiError::bad_request(error.to_string())
    }
}

/// Something that strict field validation refuses: `unknown field "spec.foo"` or
/// `duplicate field "metadata.name"`; `Display` gives these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrictProblem {
    /// A field that the type does not have.
    #[error("unknown field {0:?}")]
    Unknown(String),
    /// A field that stands twice.
    #[error("duplicate field {0:?}")]
    Duplicate(String),
    /// YAML keys that stand twice.
    #[error("{0}")]
    Yaml(String),
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// An object out of a request body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Group, version and kind, from the body or, where it has none, from what was expected.
    pub gvk: Gvk,
    /// The object; of a known type it is normalised as [`coerce()`] does it. It has `apiVersion`
    /// and `kind`.
    pub value: Value,
    /// What strict validation refuses and `Warn` warns of, in the order of the real server.
    pub problems: Vec<StrictProblem>,
}

impl Decoded {
    /// What strict field validation answers: a refusal where there is any problem.
    pub fn refuse_problems(&self, expected_kind: &str) -> Result<(), ApiError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Unhandled {
            gvk: self.gvk.clone(),
            expected: expected_kind.to_owned(),
            message: strict_message(&self.problems),
        }
        .into())
    }
}

/// `strict decoding error: unknown field "a", duplicate field "b"`.
pub fn strict_message(problems: &[StrictProblem]) -> String {
    let list: Vec<_> = problems.iter().map(ToString::to_string).collect();
    format!("strict decoding error: {}", list.join(", "))
}

/// The whole way from bytes to an object. `expect` fills in `apiVersion` and `kind` where the
/// body has none; a body of another kind or version is refused. Kinds that the table does not
/// know (custom resources) are passed on as they are.
pub fn decode(
    body: &[u8],
    encoding: Encoding,
    expect: Option<&Gvk>,
) -> Result<Decoded, DecodeError> {
    let unrecognized = |error: DecodeError| match expect {
        None => error,
        Some(expect) => DecodeError::Unrecognized {
            expected: expect.kind.clone(),
            source: Box::new(error),
            summary: summary(body),
        },
    };
    let (gvk, read) = match encoding {
        Encoding::Protobuf => {
            let envelope = protobuf::open(body).map_err(unrecognized)?;
            let gvk = with_defaults(&envelope.api_version, &envelope.kind, expect)
                .map_err(unrecognized)?;
            (gvk, Read::Protobuf(envelope.raw))
        }
        Encoding::Json => {
            let hint = expect.and_then(|gvk| schema().type_of_gvk(gvk));
            let (value, problems) = read_json(body, hint).map_err(unrecognized)?;
            let gvk = interpret(&value, expect).map_err(unrecognized)?;
            let type_id = schema().type_of_gvk(&gvk);
            let problems = match type_id == hint {
                true => problems,
                false => read_json(body, type_id).map_err(unrecognized)?.1,
            };
            (gvk, Read::Value(value, problems))
        }
        Encoding::Yaml => {
            let document = yaml::documents(body, true).map_err(unrecognized)?;
            let document = document.into_iter().next();
            let (value, duplicates) = document.map_or((Value::Null, Vec::new()), |document| {
                (document.value, document.duplicates)
            });
            let gvk = interpret(&value, expect).map_err(unrecognized)?;
            let mut problems = Vec::new();
            if !duplicates.is_empty() {
                let lines = format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  "));
                problems.push(StrictProblem::Yaml(lines));
            }
            if let Some(type_id) = schema().type_of_gvk(&gvk) {
                problems.extend(strict::unknown(&value, type_id));
            }
            (gvk, Read::Value(value, problems))
        }
    };
    finish(gvk, read, expect)
}

/// A body of which the kind is known.
enum Read<'a> {
    Protobuf(&'a [u8]),
    Value(Value, Vec<StrictProblem>),
}

fn finish(gvk: Gvk, read: Read<'_>, expect: Option<&Gvk>) -> Result<Decoded, DecodeError> {
    let unhandled = |error: DecodeError| DecodeError::Unhandled {
        expected: expect.map_or(&gvk.kind, |expect| &expect.kind).clone(),
        gvk: gvk.clone(),
        message: error.to_string(),
    };
    let custom = expect.is_none_or(|expect| schema().type_of_gvk(expect).is_none());
    let type_id = schema().type_of_gvk(&gvk);
    let (value, problems) = match (read, type_id) {
        (Read::Protobuf(raw), Some(type_id)) => {
            let value = protobuf::decode(raw, type_id, &gvk, Scope::Served).map_err(unhandled)?;
            (value, Vec::new())
        }
        (Read::Value(mut value, problems), Some(type_id)) => {
            name(&mut value, &gvk);
            coerce(&mut value, type_id).map_err(unhandled)?;
            (value, problems)
        }
        (Read::Value(mut value, problems), None) if custom => {
            name(&mut value, &gvk);
            (value, problems)
        }
        (_, None) => return Err(unhandled(DecodeError::UnknownKind(gvk.clone()))),
    };
    if let Some(expect) = expect {
        if gvk.kind != expect.kind {
            let message = format!(
                "converting ({}) to ({}.{}): unknown conversion",
                type_id.map_or_else(|| gvk.kind.clone(), |id| schema().get(id).go_name()),
                internal_package(&expect.group),
                expect.kind,
            );
            return Err(unhandled(DecodeError::Malformed(message)));
        }
        // Options are one type in every group version.
        let same_type = type_id.is_some() && type_id == schema().type_of_gvk(expect);
        if gvk != *expect && !same_type {
            return Err(DecodeError::WrongVersion {
                found: gvk.api_version(),
                expected: expect.api_version(),
            });
        }
    }
    Ok(Decoded {
        gvk,
        value,
        problems,
    })
}

/// The Go package of a group's internal types, as error messages show it.
pub(crate) fn internal_package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    }
}

/// Writes `apiVersion` and `kind`; what is `null` becomes an object.
fn name(value: &mut Value, gvk: &Gvk) {
    if value.is_null() {
        *value = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(object) = value {
        let api_version = gvk.api_version();
        for (name, text) in [
            ("apiVersion", api_version.as_str()),
            ("kind", gvk.kind.as_str()),
        ] {
            if object.get(name).and_then(Value::as_str) != Some(text) {
                object.insert(name.to_owned(), Value::from(text));
            }
        }
    }
}

fn read_json(
    body: &[u8],
    type_id: Option<TypeId>,
) -> Result<(Value, Vec<StrictProblem>), DecodeError> {
    strict::read(body, type_id).map_err(|error| {
        let words = complaint(body, &error);
        DecodeError::Malformed(format!(
            "couldn't get version/kind; json parse error: {words}"
        ))
    })
}

/// Go's words for a text that the JSON parser refuses.
fn complaint(body: &[u8], error: &serde_json::Error) -> String {
    syntax::complaint(body).unwrap_or_else(|| {
        let words = error.to_string();
        if words.starts_with("recursion limit exceeded") {
            "exceeded max depth".to_owned()
        } else {
            words
        }
    })
}

/// The group, version and kind of a body.
fn interpret(value: &Value, expect: Option<&Gvk>) -> Result<Gvk, DecodeError> {
    let refused = |words: String| {
        DecodeError::Malformed(format!(
            "couldn't get version/kind; json parse error: {words}"
        ))
    };
    let found = match value {
        Value::Null | Value::Object(_) => None,
        Value::Bool(_) => Some("bool"),
        Value::Number(_) => Some("number"),
        Value::String(_) => Some("string"),
        Value::Array(_) => Some("array"),
    };
    if let Some(found) = found {
        return Err(refused(format!(
            "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        )));
    }
    let text = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(refused(format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            coerce::json_type(other)
        ))),
    };
    with_defaults(text("apiVersion")?, text("kind")?, expect)
}

fn with_defaults(api_version: &str, kind: &str, expect: Option<&Gvk>) -> Result<Gvk, DecodeError> {
    let mut gvk = match api_version.matches('/').count() {
        _ if api_version == "/" => Gvk::new("", "", kind),
        0 | 1 => Gvk::from_api_version(api_version, kind),
        _ => {
            let words = format!("unexpected GroupVersion string: {api_version}");
            return Err(DecodeError::Malformed(words));
        }
    };
    if let Some(expect) = expect {
        if gvk.kind.is_empty() {
            gvk.kind.clone_from(&expect.kind);
        }
        if gvk.version.is_empty() && (gvk.group.is_empty() || gvk.group == expect.group) {
            gvk.group.clone_from(&expect.group);
            gvk.version.clone_from(&expect.version);
        }
    }
    if gvk.kind.is_empty() {
        return Err(DecodeError::MissingKind(format!(
            "{{\"apiVersion\":{api_version:?}}}"
        )));
    }
    if gvk.version.is_empty() {
        return Err(DecodeError::MissingVersion(format!(
            "{{\"kind\":{kind:?}}}"
        )));
    }
    Ok(gvk)
}

/// The start of a body: JSON as it is, all else in hexadecimal digits.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let start = &body[..body.len().min(MOST)];
    let more = if body.len() > MOST { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => {
            let digits: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digits}{more}")
        }
    }
}

/// A body in the Kubernetes protobuf envelope.
pub fn decode_protobuf(body: &[u8], expect: Option<&Gvk>) -> Result<(Gvk, Value), DecodeError> {
    let envelope = protobuf::open(body)?;
    let gvk = with_defaults(&envelope.api_version, &envelope.kind, expect)?;
    let Some(type_id) = schema().type_of_gvk(&gvk) else {
        return Err(DecodeError::UnknownKind(gvk));
    };
    let value = protobuf::decode(envelope.raw, type_id, &gvk, Scope::Served)?;
    Ok((gvk, value))
}

/// An object of a known type in the Kubernetes protobuf envelope. Values that [`coerce()`] would
/// refuse are left out.
pub fn encode_protobuf(value: &Value, gvk: &Gvk) -> Result<Vec<u8>, DecodeError> {
    match schema().type_of_gvk(gvk) {
        Some(type_id) => Ok(encode::encode(value, type_id, gvk, Scope::Served)),
        None => Err(DecodeError::UnknownKind(gvk.clone())),
    }
}

/// JSON text; what is not JSON is refused in Go's words.
pub fn json(body: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(complaint(body, &error)))
}

/// The first document of a YAML text (JSON is YAML too); `null` where there is none. Keys that
/// stand twice are not refused, the last one counts.
pub fn yaml_to_json(body: &[u8]) -> Result<Value, DecodeError> {
    let documents = yaml::documents(body, true)?;
    Ok(documents
        .into_iter()
        .next()
        .map_or(Value::Null, |first| first.value))
}

/// All documents of a YAML text or of a stream of JSON values; empty ones are left out. Keys that
/// stand twice are refused, since people write such texts by hand.
pub fn documents(text: &[u8]) -> Result<Vec<Value>, DecodeError> {
    if text.trim_ascii_start().starts_with(b"{") {
        let stream = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
        if let Ok(values) = stream.collect::<Result<Vec<_>, _>>() {
            return Ok(values);
        }
    }
    let mut values = Vec::new();
    for document in yaml::documents(text, false)? {
        if !document.duplicates.is_empty() {
            let lines = document.duplicates.join("\n  ");
            let words = format!("yaml: unmarshal errors:\n  {lines}");
            return Err(DecodeError::Malformed(words));
        }
        if !document.value.is_null() {
            values.push(document.value);
        }
    }
    Ok(values)
}

/// The fields that stand twice in a JSON text; none where it is not JSON.
pub fn find_duplicates(body: &[u8]) -> Vec<StrictProblem> {
    strict::read(body, None).map_or_else(|_| Vec::new(), |(_, problems)| problems)
}

/// The fields that the type does not have.
pub fn check_strict(value: &Value, type_id: TypeId) -> Vec<StrictProblem> {
    strict::unknown(value, type_id)
}

/// Makes `value` what the real server makes of it by decoding it into the type, storing it and
/// encoding it again: wrong types are refused (`json: cannot unmarshal string into Go struct
/// field …`), unknown fields and nulls go, empty `omitempty` fields go, other zero values stay or
/// appear (`status: {}`), quantities and times get their canonical form. Use it on every object
/// before it is stored, after patches too. It is idempotent.
pub fn coerce(value: &mut Value, type_id: TypeId) -> Result<(), DecodeError> {
    coerce::coerce(value, type_id, Scope::Served)
}
