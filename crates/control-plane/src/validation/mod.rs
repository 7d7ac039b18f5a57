//! What an object must be to be stored. Each problem is a [`FieldError`] worded as the real
//! server words it; an empty list means the object is good.
//!
//! Objects come here decoded, pruned, defaulted and admitted, so their JSON types are right.

mod batch;
mod certificates;
mod cluster;
mod config;
mod diff;
mod meta;
pub mod names;
mod pod;
mod report;
mod service;
mod storage;
mod workloads;

use serde_json::Value;

use self::report::Report;
use crate::schema::Gvk;
use crate::status::FieldError;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Problems of an object that is to be created. `namespaced` tells the scope of its resource.
pub fn create(gvk: &Gvk, namespaced: bool, object: &Value) -> Vec<FieldError> {
    let mut report = Report::default();
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::create(&mut report, object),
        // An event of the core group may say nothing of itself but its name.
        ("" | "events.k8s.io", "Event") => cluster::event(&mut report, object),
        _ => {
            meta::create(&mut report, object, namespaced, meta::name_rule(gvk));
            if gvk.group == "batch" && gvk.kind == "Job" {
                batch::generated_selector(&mut report, object);
            }
            // A request never changes after it was made.
            if gvk.kind == "CertificateSigningRequest" {
                certificates::request(&mut report, object);
            }
            body(&mut report, gvk, namespaced, object);
        }
    }
    report.into_errors()
}

/// Problems of all but the metadata, on create and after each update.
fn body(report: &mut Report, gvk: &Gvk, namespaced: bool, object: &Value) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "ConfigMap") => config::config_map(report, object),
        ("", "Secret") => config::secret(report, object),
        ("", "PersistentVolumeClaim") => storage::claim(report, object),
        ("", "PersistentVolume") => storage::volume(report, object),
        ("", "Namespace") => cluster::namespace(report, object),
        ("", "Node") => cluster::node(report, object),
        ("", "Service") => service::service(report, object),
        ("", "Endpoints") => service::endpoints(report, object),
        ("", "ReplicationController") => workloads::replication_controller(report, object),
        ("", "PodTemplate") => {
            if let Some(template) = object.get("template") {
                pod::template(report, template, &report::Path::root("template"));
            }
        }
        ("apps", kind @ ("Deployment" | "ReplicaSet")) => {
            workloads::replicated(report, object, kind);
        }
        ("apps", "DaemonSet") => workloads::daemon_set(report, object),
        ("apps", "StatefulSet") => workloads::stateful_set(report, object),
        ("batch", "Job") => batch::job(report, object),
        ("batch", "CronJob") => batch::cron_job(report, object),
        ("autoscaling", "HorizontalPodAutoscaler") => workloads::autoscaler(report, object),
        ("policy", "PodDisruptionBudget") => workloads::disruption_budget(report, object),
        ("coordination.k8s.io", "Lease") => cluster::lease(report, object),
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class(report, object),
        (RBAC, "Role" | "ClusterRole") => cluster::role(report, object, namespaced),
        (RBAC, "RoleBinding" | "ClusterRoleBinding") => {
            cluster::role_binding(report, object, namespaced);
        }
        ("networking.k8s.io", "NetworkPolicy") => service::network_policy(report, object),
        _ => {}
    }
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
    let group = gvk.group.as_str();
    match (group, gvk.kind.as_str(), subresource) {
        ("", "Pod", "") => pod::update(&mut report, object, old),
        ("", "Pod", "status") => pod::update_status(&mut report, object, old),
        ("", "Pod", "ephemeralcontainers") => {
            pod::ephemeral_containers(&mut report, object, old);
        }
        ("" | "events.k8s.io", "Event", _) => cluster::event(&mut report, object),
        ("", "Namespace", "status") => {
            meta::update(&mut report, object, old);
            cluster::namespace_status(&mut report, object);
        }
        ("apps", "Deployment" | "ReplicaSet", "status") => {
            meta::update(&mut report, object, old);
            workloads::replicated_status(&mut report, object);
        }
        (_, kind, "") => {
            meta::update(&mut report, object, old);
            change(&mut report, group, kind, object, old);
            body(&mut report, gvk, namespaced, object);
        }
        _ => meta::update(&mut report, object, old),
    }
    report.into_errors()
}

/// Problems of the step from `old` to `object`.
fn change(report: &mut Report, group: &str, kind: &str, object: &Value, old: &Value) {
    match (group, kind) {
        ("", "ConfigMap") => config::config_map_update(report, object, old),
        ("", "Secret") => config::secret_update(report, object, old),
        ("", "PersistentVolumeClaim") => storage::claim_update(report, object, old),
        ("", "Node") => cluster::node_update(report, object, old),
        ("", "Service") => service::service_update(report, object, old),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => {
            workloads::replicated_update(report, object, old);
        }
        ("apps", "StatefulSet") => workloads::stateful_set_update(report, object, old),
        ("batch", "Job") => batch::job_update(report, object, old),
        ("scheduling.k8s.io", "PriorityClass") => {
            cluster::priority_class_update(report, object, old);
        }
        (RBAC, "RoleBinding" | "ClusterRoleBinding") => {
            cluster::role_binding_update(report, object, old);
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            service::endpoint_slice_update(report, object, old);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
