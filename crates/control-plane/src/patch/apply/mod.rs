//! Server-side apply and field ownership.

use jiff::Timestamp;
use serde_json::Value;

use crate::schema::TypeId;
use crate::status::ApiError;

/// How an entry of `metadata.managedFields` came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else that writes.
    Update,
}

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager as messages name it: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that would change, and the client does not force it: 409.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration cannot be applied as it is: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the schema: 500 with the words of the real server.
    #[error("{0}")]
    Schema(String),
}

fn conflict_message(_conflicts: &[Conflict]) -> String {
    String::new()
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        ApiError::bad_request(error.to_string())
    }
}

/// The object that results from `manager` applying `applied` to `live` (`None`: it does not exist
/// yet), with its managed fields. The result is neither defaulted nor validated.
///
/// `subresource` is empty for the object itself.
///
/// # Errors
/// [`ApplyError`].
#[expect(clippy::too_many_arguments, reason = "all of them name one request")]
pub fn apply(
    _live: Option<&Value>,
    _applied: &Value,
    _manager: &str,
    _force: bool,
    _subresource: &str,
    _kind: TypeId,
    _now: Timestamp,
) -> Result<Value, ApplyError> {
    todo!()
}

/// Writes into `object`, which is about to replace `live` (`None`: to be created), who owns which
/// field after a write that is not an apply: an entry `manager`/`Update` for all that the write
/// set or changed. Call it after defaulting and admission, before the object is stored.
///
/// A body with `managedFields: [{}]` drops all entries; one without any keeps those of `live`.
#[expect(clippy::too_many_arguments, reason = "all of them name one request")]
pub fn update_managed_fields(
    _live: Option<&Value>,
    _object: &mut Value,
    _manager: &str,
    _operation: Operation,
    _subresource: &str,
    _kind: TypeId,
    _now: Timestamp,
) {
}
