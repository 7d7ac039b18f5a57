//! Who the agent is to the API server: a certificate of its own, asked for with a bootstrap kubeconfig and
//! renewed while the agent runs, or what a kubeconfig gives, which nobody here can renew.
//!
//! A node's certificate has the subject `O=system:nodes, CN=system:node:NAME`. It is asked for by a
//! CertificateSigningRequest of the signer `kubernetes.io/kube-apiserver-client-kubelet`; the kubelet API's is
//! of `kubernetes.io/kubelet-serving`. Both lie with their keys in a directory of the node's own.
//!
//! Source of the facts: kubernetes/kubernetes pkg/kubelet/certificate, pkg/apis/certificates.

mod pair;
mod renew;
mod request;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;

pub use self::pair::{Pair, PairError, Validity};
pub use self::request::RequestError;
use self::request::Wanted;
use crate::multiplex;

/// Why an identity cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The bootstrap kubeconfig is no kubeconfig.
    #[error("--bootstrap-kubeconfig {}: {problem}; name a kubeconfig with the cluster and a bootstrap token", path.display())]
    Bootstrap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No client can be made of what was given.
    #[error("cannot make a client for the API server of the bootstrap kubeconfig")]
    Client(#[source] Box<kube::Error>),
    /// The certificate was not given.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It cannot be kept.
    #[error(transparent)]
    Pair(#[from] PairError),
}

/// Takes a new certificate for the kubelet API.
pub type Serve = Box<dyn Fn(&Pair) + Send + Sync>;

/// An identity that this agent asked for.
pub struct Bootstrapped {
    node: String,
    dir: PathBuf,
    /// The cluster, and who asks for the first certificate.
    bootstrap: Kubeconfig,
    /// Names and addresses of the kubelet API.
    names: Vec<String>,
    /// Where a serving certificate goes; none where the kubelet API has one already.
    serve: Option<Serve>,
    validity: Validity,
    config: Config,
    tls: watch::Sender<Arc<rustls::ClientConfig>>,
}

/// Who the agent is, as long as it runs.
pub enum Identity {
    /// It asked for itself.
    Bootstrapped(Box<Bootstrapped>),
    /// Somebody gave it.
    Given {
        /// Where it came from.
        origin: String,
        /// How long its certificate is good for; none where it is no certificate.
        validity: Option<Validity>,
        /// Whether its rights are those of a node or of everybody's master, which need no question.
        known: bool,
    },
}

impl Identity {
    /// Takes up the identity that lies in `dir`, or asks for one until an approver has spoken.
    ///
    /// # Errors
    /// A kubeconfig that cannot be used, a request that is refused or denied, a directory that cannot be written.
    pub async fn bootstrap(
        path: &Path,
        dir: PathBuf,
        node: &str,
        names: Vec<String>,
        serve: Option<Serve>,
    ) -> Result<Self, IdentityError> {
        let wrong = |problem: String| IdentityError::Bootstrap {
            path: path.to_owned(),
            problem,
        };
        let bootstrap = Kubeconfig::read_from(path).map_err(|error| wrong(error.to_string()))?;
        let first =
            Config::from_custom_kubeconfig(bootstrap.clone(), &KubeConfigOptions::default())
                .await
                .map_err(|error| wrong(error.to_string()))?;
        if first.proxy_url.is_some() || first.tls_server_name.is_some() {
            return Err(wrong(
                "proxy-url and tls-server-name are not built for an identity of the agent's own"
                    .to_owned(),
            ));
        }
        let now = Timestamp::now();
        let cluster = first.cluster_url.to_string();
        let stored = match Pair::load(&dir.join(CLIENT)) {
            Ok(Some(pair)) if pair.cluster != cluster => {
                tracing::warn!(dir = %dir.display(), was = pair.cluster, "the stored certificate of this node is of another cluster");
                None
            }
            Ok(Some(pair)) => match pair.usable(&subject(node), now) {
                Ok(validity) => Some((pair, validity)),
                Err(why) => {
                    tracing::warn!(dir = %dir.display(), "the stored certificate of this node is not used: {why}");
                    None
                }
            },
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "the stored certificate of this node is not used");
                None
            }
        };
        let (pair, validity) = match stored {
            Some(stored) => stored,
            None => {
                let client = client(&first)?;
                let wanted = Wanted::client(node);
                let mut pair = loop {
                    match request::obtain(&client, &wanted).await {
                        // Clusters remove what nobody approves for a day.
                        Err(error @ RequestError::Gone { .. }) => {
                            tracing::warn!(%error, "another one follows");
                        }
                        asked => break asked?,
                    }
                };
                pair.cluster = cluster;
                let validity = pair
                    .usable(&subject(node), Timestamp::now())
                    .map_err(|why| RequestError::Unusable {
                        name: String::from("for the node"),
                        why,
                    })?;
                pair.store(&dir.join(CLIENT))?;
                tracing::info!(dir = %dir.display(), until = %validity.until, "this node has a certificate");
                (pair, validity)
            }
        };
        let config = config_of(&bootstrap, &pair).await.map_err(wrong)?;
        let (tls, _) = watch::channel(Arc::new(tls_of(&config)?));
        Ok(Self::Bootstrapped(Box::new(Bootstrapped {
            node: node.to_owned(),
            dir,
            bootstrap,
            names,
            serve,
            validity,
            config,
            tls,
        })))
    }

    /// The identity of a kubeconfig.
    pub fn given(config: &Config, origin: &Path) -> Self {
        let who = &config.auth_info;
        let pem = match (&who.client_certificate_data, &who.client_certificate) {
            (Some(data), _) => BASE64.decode(data).ok(),
            (None, Some(path)) => std::fs::read(path).ok(),
            (None, None) => None,
        };
        let organization = |name: &str| {
            let found = pem.as_deref().map(pair::organizations);
            found.is_some_and(|all| all.iter().any(|it| it == name))
        };
        Self::Given {
            origin: origin.display().to_string(),
            known: organization("system:nodes") || organization("system:masters"),
            validity: pem.as_deref().and_then(|pem| pair::validity(pem).ok()),
        }
    }

    /// Whether it is to be found out what it may do.
    pub(crate) fn is_checked(&self) -> bool {
        matches!(self, Self::Given { known: false, .. })
    }

    /// How the API server is reached with it; none where the kubeconfig says so.
    pub fn config(&self) -> Option<&Config> {
        match self {
            Self::Bootstrapped(it) => Some(&it.config),
            Self::Given { .. } => None,
        }
    }

    /// What makes clients that follow its changes; none where it does not change.
    pub(crate) fn follow(&self) -> Option<watch::Receiver<Arc<rustls::ClientConfig>>> {
        match self {
            Self::Bootstrapped(it) => Some(it.tls.subscribe()),
            Self::Given { .. } => None,
        }
    }

    /// Keeps it valid, or says when it ends. `client` is one that follows it.
    pub(crate) async fn keep(self, client: Client) {
        match self {
            Self::Bootstrapped(it) => it.keep(client).await,
            Self::Given {
                origin, validity, ..
            } => {
                if let Some(validity) = validity {
                    renew::tell_the_end(&origin, validity).await;
                }
            }
        }
    }
}

/// The file of the node's certificate and key.
const CLIENT: &str = "client.pem";
/// The file of the kubelet API's.
const SERVING: &str = "serving.pem";

/// The user that a node is.
fn subject(node: &str) -> String {
    format!("system:node:{node}")
}

fn client(config: &Config) -> Result<Client, IdentityError> {
    multiplex::client(config).map_err(|error| IdentityError::Client(Box::new(error)))
}

fn tls_of(config: &Config) -> Result<rustls::ClientConfig, IdentityError> {
    multiplex::tls(config).map_err(|error| IdentityError::Client(Box::new(error)))
}

/// The cluster of `kubeconfig`, entered with a certificate.
async fn config_of(kubeconfig: &Kubeconfig, pair: &Pair) -> Result<Config, String> {
    let mut file = kubeconfig.clone();
    for user in &mut file.auth_infos {
        let own = serde_json::json!({
            "client-certificate-data": BASE64.encode(&pair.certificate),
            "client-key-data": BASE64.encode(&pair.key),
        });
        user.auth_info = serde_json::from_value(own).map_err(|error| error.to_string())?;
    }
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| error.to_string())
}
