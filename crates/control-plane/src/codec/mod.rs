//! Request and response bodies: JSON, YAML and Kubernetes protobuf to `serde_json::Value`, with
//! the type checks, pruning and zero values of the Go round trip.

use serde_json::Value;

use crate::schema::{Gvk, TypeId};
use crate::status::ApiError;

/// A body that is no object of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, YAML or protobuf at all; the message is what the real server says.
    #[error("{0}")]
    Malformed(String),
    /// A value has the wrong JSON type.
    #[error("{0}")]
    Type(String),
    /// `kind` is missing.
    #[error("Object 'Kind' is missing in '{0}'")]
    MissingKind(String),
    /// `apiVersion` is missing.
    #[error("Object 'apiVersion' is missing in '{0}'")]
    MissingVersion(String),
    /// No such type.
    #[error("no kind \"{}\" is registered for version \"{}\"", .0.kind, .0.api_version())]
    UnknownKind(Gvk),
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        ApiError::bad_request(error.to_string())
    }
}

/// Something that strict field validation refuses: `unknown field "spec.foo"` or
/// `duplicate field "metadata.name"`; `Display` gives these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrictProblem {
    /// A field that the type does not have.
    #[error("unknown field \"{0}\"")]
    Unknown(String),
    /// A field that stands twice.
    #[error("duplicate field \"{0}\"")]
    Duplicate(String),
    /// A YAML key that stands twice.
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
    /// The object; of a known type it is normalised as [`coerce`] does it. It has `apiVersion`
    /// and `kind`.
    pub value: Value,
    /// What strict validation refuses and `Warn` warns of, in the order of the real server.
    pub problems: Vec<StrictProblem>,
}

/// The whole way from bytes to an object. `expect` fills in `apiVersion` and `kind` where the
/// body has none; the caller compares [`Decoded::gvk`] with what its path takes.
/// Types that the table does not know (custom resources) are passed on as they are.
pub fn decode(
    _body: &[u8],
    _encoding: Encoding,
    _expect: Option<&Gvk>,
) -> Result<Decoded, DecodeError> {
    todo!()
}

/// A body in the Kubernetes protobuf envelope.
pub fn decode_protobuf(_body: &[u8], _expect: Option<&Gvk>) -> Result<(Gvk, Value), DecodeError> {
    todo!()
}

/// An object of a known type in the Kubernetes protobuf envelope.
pub fn encode_protobuf(_value: &Value, _gvk: &Gvk) -> Result<Vec<u8>, DecodeError> {
    todo!()
}

/// JSON text; what is not JSON is refused in the words of the real server.
pub fn json(_body: &[u8]) -> Result<Value, DecodeError> {
    todo!()
}

/// The first document of a YAML text (JSON is YAML too).
pub fn yaml_to_json(_body: &[u8]) -> Result<Value, DecodeError> {
    todo!()
}

/// All documents of a YAML text or of a stream of JSON values; empty ones are left out.
pub fn documents(_text: &[u8]) -> Result<Vec<Value>, DecodeError> {
    todo!()
}

/// The fields that stand twice in a JSON text.
pub fn find_duplicates(_body: &[u8]) -> Vec<StrictProblem> {
    todo!()
}

/// The fields that the type does not have.
pub fn check_strict(_value: &Value, _type: TypeId) -> Vec<StrictProblem> {
    todo!()
}

/// Makes `value` what Go makes of it by decoding it into the type and encoding it again:
/// wrong types are refused (`json: cannot unmarshal string into Go struct field …`), unknown
/// fields and nulls go, empty `omitempty` fields go, other zero values stay or appear,
/// quantities and times get their canonical form. Use it on every object before it is stored
/// (after patches too).
pub fn coerce(_value: &mut Value, _type: TypeId) -> Result<(), DecodeError> {
    todo!()
}
