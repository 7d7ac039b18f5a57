//! The node agent: one node, its lease, its pods.
//!
//! `run` wires the parts and owns their tasks; what each part does lives in
//! [`crate::node`] and [`crate::pod`]. The kubelet API is handed in as a
//! [`Service`], so that the agent knows no HTTP server.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::pod::Pods;

/// All that the agent is told; resolved once, never changed.
pub struct AgentSettings {
    /// How the API server is reached and who we are there.
    pub config: kube::Config,
    /// Name of the Node object.
    pub node_name: String,
    /// The private base directory: pod data lies in `<base>/<cluster>/<node>/pods`.
    pub base: PathBuf,
    /// Where the documented `<home>/<pod name>` links are made; none: no links.
    pub home: Option<PathBuf>,
    /// Where the control plane reaches this node: InternalIP, `hostIP` and `podIP`.
    pub address: IpAddr,
    /// The node's Hostname address and `kubernetes.io/hostname` label.
    pub hostname: String,
    /// The port of the kubelet API, for `status.daemonEndpoints`.
    pub kubelet_port: u16,
    /// Labels of the node beside those that the agent knows itself.
    pub labels: BTreeMap<String, String>,
    /// The taint that the node registers with, if any.
    pub taint: Option<Taint>,
    /// The program that is started as `<program> shim …`; usually this very binary.
    pub shim: PathBuf,
    /// The environment that pods start from, before the deny list is applied:
    /// the batch job's.
    pub environment: Vec<(String, String)>,
    /// Names (or prefixes that end in `*`) which no pod gets from that environment,
    /// beside the built-in ones.
    pub environment_deny: Vec<String>,
    /// The kubelet API, started once the pods are known.
    pub service: Option<Service>,
    /// Told once the node is registered and Ready.
    pub on_ready: Option<oneshot::Sender<()>>,
}

/// A server that runs beside the agent until its token is cancelled.
pub type Service = Box<dyn FnOnce(ServiceContext) -> BoxFuture<'static, Result<(), String>> + Send>;

/// What a [`Service`] may use.
pub struct ServiceContext {
    /// The pods of this node.
    pub pods: Pods,
    /// A client with the agent's identity (token and access reviews).
    pub client: kube::Client,
    /// Ends the service.
    pub stop: CancellationToken,
}

/// How the agent is told to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// End the containers within their grace, say so to the API, then return.
    pub drain: CancellationToken,
    /// Return at once and leave the containers running, to be adopted.
    pub abort: CancellationToken,
}

/// How a run of the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every container ended and every status was written.
    Drained,
    /// Told to leave at once; containers go on.
    Aborted,
    /// A newer agent holds this node's name.
    SteppedDown,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The API client could not be made from the configuration.
    #[error("cannot make a client for the API server")]
    Client(#[source] Box<kube::Error>),
}

/// Runs the agent until it is told to end.
pub async fn run(settings: AgentSettings, shutdown: Shutdown) -> Result<Outcome, AgentError> {
    let _ = (settings, shutdown);
    todo!()
}
