//! The four ways to change an object by a document: JSON patch, merge patch, strategic merge
//! patch, and server-side apply.
//!
//! Everything here is a pure function of its arguments over [`serde_json::Value`]. Bodies of
//! patches are parsed here too, since the answer to a body that does not parse depends on the
//! kind of patch.

pub mod apply;
mod gofmt;
mod json;
mod merge;
mod strategic;
#[cfg(test)]
pub(crate) mod testing;

pub use gofmt::go_value;
pub use json::json;
pub use merge::{merge, parse_merge};
pub use strategic::{parse_strategic, strategic};

use http::StatusCode;
use serde_json::Value;

use crate::status::{ApiError, FieldError};

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not well-formed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well-formed and does not fit the object (a failed `test`, a missing path):
    /// 422. Clients never see the reason, only that there is one, as with the real server.
    #[error("the patch does not fit the object: {0}")]
    Unfit(String),
    /// There are more operations than [`MAX_OPERATIONS`]: 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The patch contradicts the schema in a way that the real server reports as a failure of its
    /// own (500), with the message for the user.
    #[error("{0}")]
    Rejected(String),
}

/// How many operations a JSON patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// How many bytes of JSON the `copy` operations of one patch may add
/// (the real server's `JSONPatchMaxCopyBytes`); more is 422.
pub const MAX_COPIED: usize = 3 << 20;

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => ApiError::bad_request(message),
            PatchError::Unfit(reason) => {
                tracing::debug!(reason, "patch refused");
                ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid",
                    "the server rejected our request due to an error in our request",
                )
            }
            PatchError::TooManyOperations(_) => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                message,
            ),
            PatchError::Rejected(_) => {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
            }
        }
    }
}

/// The 422 for a patch whose result is not an object of its kind. `shown` is what the message
/// quotes: the JSON text of the result for JSON and merge patches, and [`go_value`] of the patch
/// for strategic ones. `why` is the decoder's message.
pub fn undecodable(shown: String, why: impl Into<String>) -> ApiError {
    ApiError::invalid(
        "",
        "",
        "",
        &[FieldError::invalid("patch", Value::String(shown), why)],
    )
}
