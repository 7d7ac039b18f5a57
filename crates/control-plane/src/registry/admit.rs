//! The place of admission in a write.

use serde_json::Value;

use super::write::Target;
use super::{Context, Registry};
use crate::status::ApiError;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
}

pub(super) async fn mutate(
    registry: &Registry,
    context: &Context,
    target: &Target<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let _ = (
        registry,
        context,
        target.subresource,
        operation,
        object,
        old,
    );
    Ok(())
}
