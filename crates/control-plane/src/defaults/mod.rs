//! Default values of fields, and what the server itself writes into an object before it is stored.
//!
//! Both are pure. Defaults run on each decoded object, before admission; the strategies run
//! after admission, just before validation.

mod core;
pub(crate) mod edit;
mod extensions;
mod pod;
mod resources;
pub mod strategy;
mod workloads;

use serde_json::Value;

pub use resources::qos_class;

use crate::schema::Gvk;

/// Fills in the defaults of the kind. Unknown kinds stay as they are. Idempotent.
pub fn apply(gvk: &Gvk, object: &mut Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", kind) => core::apply(kind, object),
        ("apps" | "batch" | "autoscaling", kind) => workloads::apply(&gvk.version, kind, object),
        (group, kind) => extensions::apply(group, kind, object),
    }
}

#[cfg(test)]
mod tests;
