//! The control plane as a whole: what starts in which order, and how it ends.
//!
//! | task | ends |
//! |---|---|
//! | the server and its connections ([`crate::rest`]) | on shutdown, after running requests |
//! | the scheduler ([`crate::scheduler`]) | on shutdown |
//! | the controllers ([`crate::controllers`]) | when the store is closed |
//! | the writer of the store ([`crate::store`]) | last |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::auth::authn::Authenticator;
use crate::auth::authz::Authorizer;
use crate::auth::pki::{Pki, PkiError};
use crate::auth::tls::{self, TlsError};
use crate::auth::tokens::{KeyError, Tokens};
use crate::registry::Registry;
use crate::resource::attributes_of_bytes;
use crate::rest::{Api, Server, ServerError};
use crate::status::ApiError;
use crate::store::{OpenError, Options, Store};
use crate::{bootstrap, controllers, scheduler};

/// How a control plane is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything lives: `store/` and `pki/` are made in there.
    pub state_dir: PathBuf,
    /// The wanted address; another port is taken where that one is in use, or is 0.
    pub listen: SocketAddr,
    /// Whether pods are scheduled.
    pub scheduler: bool,
    /// Whether the controllers run.
    pub controllers: bool,
    /// More host names and addresses that the server's certificate is for.
    pub names: Vec<String>,
}

/// Why a control plane could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The client certificate for kubelets.
    #[error("the client certificate for kubelets is unusable")]
    KubeletClient(#[source] rustls::Error),
    /// The key that signs tokens.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The address.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The default objects.
    #[error("the default objects could not be made")]
    Bootstrap(#[from] ApiError),
}

/// The version that is served and what serves it, as `/version` reports it.
const VERSION: &str = concat!("v1.34.4+vk-cmd.", env!("CARGO_PKG_VERSION"));

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    pki: Arc<Pki>,
    registry: Registry,
    shutdown: CancellationToken,
    server: TaskTracker,
    workers: TaskTracker,
}

impl ControlPlane {
    /// Opens the state directory and starts everything. When this returns, requests are answered.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // The store first: its lock keeps a second control plane away from everything else.
        let store = Store::open(
            &config.state_dir.join("store"),
            Options {
                attributes: attributes_of_bytes,
                ..Options::default()
            },
        )?;
        let pki = Arc::new(Pki::load_or_create(
            &config.state_dir.join("pki"),
            &config.names,
            Timestamp::now(),
        )?);
        let server = Server::bind(config.listen).await?;
        let address = server.address();
        let authorizer = Authorizer::new(store.clone());
        let tokens = Arc::new(Tokens::new(&pki)?);
        let authenticator = Authenticator::new(store.clone(), &pki, tokens)?;
        let admission = Admission::new(store.clone(), authorizer.clone());
        let registry = Registry::with_admission(store, admission);
        let facts = bootstrap::Facts {
            address: address.ip(),
            port: address.port(),
            ca_pem: pki.ca_pem.clone(),
        };
        bootstrap::ensure(&registry, &facts).await?;
        let api = Api::new(
            registry.clone(),
            authenticator,
            authorizer,
            &pki,
            address.to_string(),
            VERSION.to_owned(),
            config.controllers,
        )
        .map_err(StartError::KubeletClient)?;
        let tls = tls::server_config(&pki)?;
        let plane = Self {
            address,
            pki,
            registry,
            shutdown: CancellationToken::new(),
            server: TaskTracker::new(),
            workers: TaskTracker::new(),
        };
        plane
            .server
            .spawn(server.serve(api, tls, plane.shutdown.clone()));
        if config.scheduler {
            plane.workers.spawn(scheduler::run(
                plane.registry.clone(),
                plane.shutdown.clone(),
            ));
        }
        if config.controllers {
            plane
                .workers
                .spawn(controllers::run(plane.registry.clone(), plane.pki.clone()));
        }
        plane.server.close();
        plane.workers.close();
        Ok(plane)
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Keys and certificates, and what issues more of them.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The registry, for parts of the same process that may do everything.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops: requests end, then the scheduler and the controllers, then the store is closed.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        self.server.wait().await;
        self.registry.store().close().await;
        self.workers.wait().await;
    }
}
