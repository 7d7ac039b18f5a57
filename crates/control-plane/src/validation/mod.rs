//! What an object must be to be stored. Each problem is a [`FieldError`] worded as the real
//! server words it; an empty list means the object is good.
//!
//! Objects come here decoded, pruned, defaulted and admitted, so their JSON types are right.

pub mod names;

use serde_json::Value;

use crate::schema::Gvk;
use crate::status::FieldError;

/// Problems of an object that is to be created. `namespaced` tells the scope of its resource.
pub fn create(_gvk: &Gvk, _namespaced: bool, _object: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// Problems of an object that is to replace `old`, through the sub-resource `subresource`
/// (empty for the object itself).
pub fn update(
    _gvk: &Gvk,
    _namespaced: bool,
    _object: &Value,
    _old: &Value,
    _subresource: &str,
) -> Vec<FieldError> {
    Vec::new()
}
