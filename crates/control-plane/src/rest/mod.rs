//! HTTP: from a request to the registry and back.
//!
//! A connection is a task ([`server`]); a request runs on it from authentication to the answer
//! ([`handler`]). Nothing here keeps state of its own but counters.

mod accept;
mod body;
pub mod discovery;
mod eviction;
mod handler;
mod kubelet;
mod log;
mod metrics;
mod opening;
pub mod path;
mod paths;
mod query;
mod render;
mod resources;
mod reviews;
mod scale;
mod server;
mod stream;
mod subresources;
mod usage;
mod watch;

use std::sync::Arc;

pub use server::{Server, ServerError};

use crate::auth::authn::Authenticator;
use crate::auth::authz::Authorizer;
use crate::auth::pki::Pki;
use crate::openapi::{OpenApi, ServedResource, ServedSubresource};
use crate::registry::Registry;
use crate::resource::{ResourceDef, table};
use kubelet::KubeletClient;
use metrics::Metrics;
use tokio_util::task::TaskTracker;
use usage::Usage;

/// What requests are answered with: one for the server, shared by all its connections.
#[derive(Debug)]
pub struct Api {
    registry: Registry,
    authenticator: Authenticator,
    authorizer: Authorizer,
    openapi: Arc<OpenApi>,
    kubelet: KubeletClient,
    metrics: Metrics,
    usage: Usage,
    /// Streams that go on after their request.
    streams: TaskTracker,
    /// `HOST:PORT` under which clients reach the server.
    address: String,
    /// The version that is reported, for example `v1.34.4+vk-cmd.0.1.0`.
    version: String,
    /// Whether nobody acts on objects but the controllers of this control plane.
    alone: bool,
}

impl Api {
    /// An API over a registry. `address` is `HOST:PORT` of the server, `version` what `/version`
    /// reports, `alone` whether nobody acts on objects but the controllers of this control plane: then clients
    /// are told of those that nobody acts on.
    ///
    /// # Errors
    /// Where the client certificate for kubelets cannot be used.
    pub fn new(
        registry: Registry,
        authenticator: Authenticator,
        authorizer: Authorizer,
        pki: &Pki,
        address: String,
        version: String,
        alone: bool,
    ) -> Result<Arc<Self>, rustls::Error> {
        let served = table().rows().iter().map(served_resource).collect();
        let kubelet = KubeletClient::new(pki, registry.clone())?;
        let usage = Usage::new(registry.clone(), kubelet.clone());
        Ok(Arc::new(Self {
            registry,
            authenticator,
            authorizer,
            openapi: OpenApi::new(served),
            kubelet,
            metrics: Metrics::default(),
            usage,
            streams: TaskTracker::new(),
            address,
            version,
            alone,
        }))
    }
}

fn served_resource(row: &ResourceDef) -> ServedResource {
    ServedResource {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        kind: row.kind.to_owned(),
        plural: row.plural.to_owned(),
        namespaced: row.namespaced,
        verbs: row.verbs.to_vec(),
        subresources: row
            .subresources
            .iter()
            .map(|sub| {
                let (group, version) = sub.group_version.unwrap_or((row.group, row.version));
                ServedSubresource {
                    name: sub.name.to_owned(),
                    group: group.to_owned(),
                    version: version.to_owned(),
                    kind: sub.kind.to_owned(),
                    verbs: sub.verbs.to_vec(),
                }
            })
            .collect(),
    }
}
