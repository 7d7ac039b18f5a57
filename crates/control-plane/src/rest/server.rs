//! Connections: accept, TLS, HTTP/1.1 and HTTP/2, limits, shutdown.
//!
//! | task | how many | ends |
//! |---|---|---|
//! | accept loop | 1 | on shutdown |
//! | connection | at most [`MAX_CONNECTIONS`] | with the client, by a timeout, or gracefully on shutdown |
//! | stream (`exec`, `attach`) | one a connection that was upgraded | with either end, or on shutdown |
//!
//! A client that opens a connection and stays silent costs a descriptor and a small task for
//! [`HANDSHAKE_TIMEOUT`]; requests on other connections do not wait for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::opening::Opening;
use super::{Api, handler};
use crate::auth::authn::Peer;

/// How many connections are served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 30_000;
/// How many file descriptors are left to everything else.
const OTHER_DESCRIPTORS: u64 = 256;
/// How long a client may take for TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for its first bytes, and for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may take to end after shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before accepting again where no descriptor is free.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No port could be bound.
    #[error("cannot listen on {wanted}")]
    Listen {
        /// The wanted address.
        wanted: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds `wanted`, or any free port of the same address where that one is taken.
    ///
    /// # Errors
    /// [`ServerError::Listen`].
    pub async fn bind(wanted: SocketAddr) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { wanted, source };
        let listener = match TcpListener::bind(wanted).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wanted.port() != 0 => {
                tracing::info!(%wanted, "the port is taken; using a free one");
                TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).await
            }
            other => other,
        }
        .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where clients reach the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets running requests end.
    pub async fn serve(self, api: Arc<Api>, tls: ServerConfig, shutdown: CancellationToken) {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let streams = api.streams.clone();
        let slots = Arc::new(Semaphore::new(connection_limit()));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased; // Shutdown first: under load there is always another connection.
                () = shutdown.cancelled() => break,
                // Cancel-safe: a permit is given back, a connection is not taken yet.
                accepted = accept(&self.listener, &slots) => accepted,
            };
            let (stream, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or memory, or the client is gone again.
                    tracing::debug!(error = &error as &dyn std::error::Error, "accept failed");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                    continue;
                }
            };
            let connection = serve_connection(
                stream,
                slot,
                acceptor.clone(),
                api.clone(),
                shutdown.clone(),
            );
            connections.spawn(connection);
        }
        drop(self.listener);
        connections.close();
        streams.close();
        let all = async { tokio::join!(connections.wait(), streams.wait()) };
        if tokio::time::timeout(DRAIN_TIMEOUT, all).await.is_err() {
            tracing::warn!(open = connections.len(), "connections were cut at shutdown");
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn serve_connection(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    shutdown: CancellationToken,
) {
    let _slot = slot;
    // Small answers must not wait for more of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let tls = tokio::select! {
        () = shutdown.cancelled() => return,
        tls = handshake => match tls {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        },
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let peer: Arc<Peer> = Arc::new(api.authenticator.peer(chain, Timestamp::now()));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1_000)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let stopping = shutdown.clone();
    let service = service_fn(move |request| {
        let (api, peer, stopping) = (api.clone(), peer.clone(), stopping.clone());
        async move {
            Ok::<_, std::convert::Infallible>(handler::handle(api, &peer, request, stopping).await)
        }
    });
    let stream = Opening::new(tls, HEADER_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(error = &*error, "connection ended");
                }
                return;
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Raises the soft limit of descriptors to the hard one, and gives how many connections fit.
fn connection_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    };
    let free = limit.saturating_sub(OTHER_DESCRIPTORS).max(64);
    usize::try_from(free)
        .unwrap_or(MAX_CONNECTIONS)
        .min(MAX_CONNECTIONS)
}
