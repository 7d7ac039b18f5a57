//! A client whose requests share one HTTP/2 connection, where the server speaks it.
//!
//! A watch lasts for minutes and says little; over HTTP/1.1 each would hold a connection with
//! its TLS state, here and at the server.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::client::{Body, ConfigExt};
use tokio::sync::watch;
use tower::{Service, ServiceBuilder};

/// A connection that is silent for this long is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

type Https = Client<HttpsConnector<HttpConnector>, Body>;

/// Makes a client; it connects with its first request. A proxy is reached by an ordinary one.
///
/// # Errors
/// Where the configuration's credentials cannot be used.
pub(crate) fn client(config: &kube::Config) -> Result<kube::Client, kube::Error> {
    if config.proxy_url.is_some() || config.tls_server_name.is_some() {
        return kube::Client::try_from(config.clone());
    }
    let client = https(tls(config)?, config.connect_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// How TLS is spoken with the credentials of a configuration.
///
/// # Errors
/// Where they cannot be used.
pub(crate) fn tls(config: &kube::Config) -> Result<rustls::ClientConfig, kube::Error> {
    config.rustls_client_config()
}

/// Makes a client whose certificate may change: requests that begin after a change go over new connections,
/// since a server knows a client by the connection.
///
/// # Errors
/// Where the configuration cannot be used.
pub(crate) fn following(
    config: &kube::Config,
    mut tls: watch::Receiver<Arc<rustls::ClientConfig>>,
) -> Result<kube::Client, kube::Error> {
    let now = tls.borrow_and_update().as_ref().clone();
    let client = Following {
        http: https(now, config.connect_timeout),
        connect_timeout: config.connect_timeout,
        tls,
    };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

struct Following {
    tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    connect_timeout: Option<Duration>,
    http: Https,
}

impl Service<Request<Body>> for Following {
    type Response = <Https as Service<Request<Body>>>::Response;
    type Error = <Https as Service<Request<Body>>>::Error;
    type Future = <Https as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Nobody who could change it any more: it stays.
        if self.tls.has_changed().unwrap_or(false) {
            let now = self.tls.borrow_and_update().as_ref().clone();
            self.http = https(now, self.connect_timeout);
        }
        self.http.call(request)
    }
}

fn https(tls: rustls::ClientConfig, connect_timeout: Option<Duration>) -> Https {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(connect_timeout);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_while_idle(true)
        .build(connector)
}
