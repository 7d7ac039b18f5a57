//! The place of admission in a write.

use serde_json::Value;

use super::write::Target;
use super::{Context, Registry};
use crate::admission::{self, Request};
use crate::status::ApiError;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
}

/// Lets admission refuse a write or add to it. A registry without admission takes all.
pub(super) async fn mutate(
    registry: &Registry,
    context: &Context,
    target: &Target<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let Some(admission) = registry.admission() else {
        return Ok(());
    };
    let Target {
        def,
        namespace,
        name,
        subresource,
    } = *target;
    let operation = match operation {
        Operation::Create => admission::Operation::Create,
        Operation::Update => admission::Operation::Update,
        Operation::Delete => {
            let old = old.unwrap_or(object);
            return admission.admit_delete(
                &context.user,
                def.group,
                def.plural,
                namespace,
                name,
                old,
            );
        }
    };
    let request = Request {
        user: &context.user,
        operation,
        group: def.group,
        resource: def.plural,
        subresource,
        namespace,
        name,
    };
    admission.admit(&request, object, old)
}
