//! Strategic merge patch: a merge patch that knows the lists whose items have keys.

use serde_json::Value;

use super::PatchError;
use crate::schema::TypeId;

/// Parses the body of a strategic merge patch, which must be an object.
///
/// # Errors
/// [`PatchError::Malformed`] with the message of the real server.
pub fn parse_strategic(body: &[u8]) -> Result<Value, PatchError> {
    super::merge::parse_object(body, "")
}

/// The document, an object of the type, with the patch applied.
///
/// # Errors
/// [`PatchError::Malformed`] and [`PatchError::Rejected`] where directives are wrong or an item
/// has no merge key.
pub fn strategic(
    _document: &Value,
    _patch: &Value,
    _kind: TypeId,
) -> Result<Value, PatchError> {
    todo!()
}
