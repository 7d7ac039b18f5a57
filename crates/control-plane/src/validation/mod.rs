//! What an object must be to be stored. Each problem is a [`FieldError`] worded as the real
//! server words it; an empty list means the object is good.
//!
//! Objects come here decoded, pruned, defaulted and admitted, so their JSON types are right.

mod config;
mod diff;
mod meta;
pub mod names;
mod pod;
mod report;
mod storage;

use serde_json::Value;

use self::report::Report;
use crate::schema::Gvk;
use crate::status::FieldError;

/// Problems of an object that is to be created. `namespaced` tells the scope of its resource.
pub fn create(gvk: &Gvk, namespaced: bool, object: &Value) -> Vec<FieldError> {
    let mut report = Report::default();
    let report_ref = &mut report;
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::create(report_ref, object),
        ("", "ConfigMap") => config::config_map(report_ref, object),
        ("", "Secret") => config::secret(report_ref, object),
        ("", "PersistentVolumeClaim") => storage::claim(report_ref, object),
        ("", "PersistentVolume") => storage::volume(report_ref, object),
        _ => meta::create(report_ref, object, namespaced, meta::name_rule(gvk)),
    }
    report.into_errors()
}

/// Problems of an object that is to replace `old`, through the sub-resource `subresource`
/// (empty for the object itself).
pub fn update(
    gvk: &Gvk,
    namespaced: bool,
    object: &Value,
    old: &Value,
    subresource: &str,
) -> Vec<FieldError> {
    let mut report = Report::default();
    let report_ref = &mut report;
    match (gvk.group.as_str(), gvk.kind.as_str(), subresource) {
        ("", "Pod", "") => pod::update(report_ref, object, old),
        ("", "Pod", "status") => pod::update_status(report_ref, object, old),
        ("", "Pod", "ephemeralcontainers") => pod::ephemeral_containers(report_ref, object, old),
        ("", "ConfigMap", _) => config::config_map_update(report_ref, object, old),
        ("", "Secret", _) => config::secret_update(report_ref, object, old),
        ("", "PersistentVolumeClaim", "") => storage::claim_update(report_ref, object, old),
        _ => {
            meta::update(report_ref, object, old);
            if subresource.is_empty() {
                meta::create(report_ref, object, namespaced, meta::name_rule(gvk));
            }
        }
    }
    report.into_errors()
}
