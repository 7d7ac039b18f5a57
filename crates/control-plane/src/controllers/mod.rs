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
pub mod nodes;
pub mod queue;
pub mod roles;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::auth::authz::Authorizer;
use crate::auth::pki::Pki;
use crate::registry::Registry;

/// How long a controller that panicked stays away.
const RESTART: Duration = Duration::from_secs(1);

/// Runs all controllers until the store is closed. Dropping the future ends them at once, which is
/// as good: they are level-triggered.
pub async fn run(registry: Registry, pki: Arc<Pki>) {
    let authorizer = registry.admission().map_or_else(
        || Authorizer::new(registry.store().clone()),
        |admission| admission.authorizer().clone(),
    );
    let ca_pem: Arc<str> = pki.ca_pem.as_str().into();
    let mut tasks = JoinSet::new();
    let all = || registry.clone();
    tasks.spawn(supervise("accounts", {
        let registry = all();
        move || accounts::run(registry.clone(), ca_pem.clone())
    }));
    tasks.spawn(supervise("namespaces", {
        let registry = all();
        move || namespaces::run(registry.clone())
    }));
    tasks.spawn(supervise("garbage", {
        let registry = all();
        move || garbage::run(registry.clone())
    }));
    tasks.spawn(supervise("nodes", {
        let registry = all();
        move || nodes::run(registry.clone())
    }));
    tasks.spawn(supervise("events", {
        let registry = all();
        move || events::run(registry.clone())
    }));
    tasks.spawn(supervise("certificates", {
        let (registry, authorizer) = (all(), authorizer.clone());
        move || certificates::run(registry.clone(), authorizer.clone(), pki.clone())
    }));
    tasks.spawn(supervise("roles", {
        let registry = all();
        move || roles::run(registry.clone(), authorizer.clone())
    }));
    while tasks.join_next().await.is_some() {}
}

/// Starts a controller again when it panics: a mistake over one object must not end the care for
/// all others.
async fn supervise<F>(name: &'static str, start: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let mut task = JoinSet::new();
        task.spawn(start());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(
                    controller = name,
                    "the controller panicked and starts again"
                );
                tokio::time::sleep(RESTART).await;
            }
            _ => return,
        }
    }
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
