//! The controllers that a cluster cannot do without.
//!
//! | task | follows | does |
//! |---|---|---|
//! | [`accounts`] | namespaces, serviceaccounts, configmaps | the default service account and the root certificate |
//! | [`namespaces`] | everything | deletes the content of namespaces that go, then lets them go |
//! | [`garbage`] | everything | deletes dependents by owner references |
//! | [`nodes`] | nodes, leases, pods | taints, `Unknown` nodes, evictions, pods on nodes that are gone |
//! | [`events`] | events | deletes them after an hour |
//! | [`certificates`] | certificatesigningrequests | approves and signs those of nodes |
//! | [`roles`] | clusterroles | writes the rules of aggregated ClusterRoles |
//!
//! All of them are level-triggered: they act on what is there, whatever they missed, so that a
//! start after a crash finishes what was begun. None of them polls; each waits for events and for
//! the times it knows. They end when the store is closed.

pub mod accounts;
pub mod certificates;
pub mod events;
pub mod feed;
pub mod garbage;
mod meta;
pub mod namespaces;
pub mod queue;
pub mod roles;

use std::sync::Arc;

use serde_json::Value;

use crate::auth::pki::Pki;
use crate::registry::Registry;

/// Runs all controllers until the store is closed.
pub async fn run(registry: Registry, pki: Arc<Pki>) {
    accounts::run(registry, pki.ca_pem.as_str().into()).await;
}

/// The text at `pointer`; empty where there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod testing;
