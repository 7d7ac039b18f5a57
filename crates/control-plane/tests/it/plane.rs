//! A control plane in a temporary directory, and a plain client for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use control_plane::auth::pki::Pair;
use control_plane::{Config, ControlPlane};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const JSON: &str = "application/json";

pub(crate) struct Plane {
    pub(crate) plane: ControlPlane,
    pub(crate) dir: TempDir,
}

impl Plane {
    /// Without scheduler and controllers, so that nothing changes but by the test.
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    pub(crate) async fn start_with(workers: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let plane = ControlPlane::start(config(&dir, workers))
            .await
            .expect("the control plane starts");
        Self { plane, dir }
    }

    pub(crate) async fn stop(self) {
        self.plane.shutdown().await;
    }

    /// A client with the administrator's certificate.
    pub(crate) async fn admin(&self) -> Client {
        let pair = self.plane.pki().admin.clone();
        Client::new(&self.plane, Some(&pair)).await
    }

    /// A client without credentials.
    pub(crate) async fn anonymous(&self) -> Client {
        Client::new(&self.plane, None).await
    }

    pub(crate) async fn tls(&self, pair: Option<&Pair>) -> TlsStream<TcpStream> {
        connect(&self.plane, pair).await
    }
}

pub(crate) fn config(dir: &TempDir, workers: bool) -> Config {
    Config {
        state_dir: dir.path().to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        scheduler: workers,
        controllers: workers,
        names: Vec::new(),
    }
}

async fn connect(plane: &ControlPlane, pair: Option<&Pair>) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(plane.pki().ca_der.clone())
        .expect("the authority's certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots);
    let tls = match pair {
        Some(pair) => {
            let (chain, key) = pair.to_rustls().expect("a client certificate");
            builder
                .with_client_auth_cert(chain, key)
                .expect("a client certificate")
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(plane.address())
        .await
        .expect("a connection");
    let name = ServerName::try_from(plane.address().ip().to_string()).expect("an address");
    TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
        .expect("TLS")
}

/// One HTTP/1.1 connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    async fn new(plane: &ControlPlane, pair: Option<&Pair>) -> Self {
        let stream = connect(plane, pair).await;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        // It ends with the sender or the server.
        tokio::spawn(connection);
        Self {
            sender,
            host: plane.address().to_string(),
        }
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        self.sender.ready().await.expect("the connection is alive");
        self.sender.send_request(request).await.expect("an answer")
    }

    /// Sends a request and reads the JSON answer.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        target: &str,
        kind: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let headers = [("content-type", kind)];
        let response = self.send(method, target, &headers, body.to_owned()).await;
        let status = response.status();
        (status, json(response).await)
    }

    pub(crate) async fn get(&mut self, target: &str) -> (StatusCode, Value) {
        self.call("GET", target, JSON, "").await
    }

    pub(crate) async fn post(&mut self, target: &str, body: &Value) -> (StatusCode, Value) {
        self.call("POST", target, JSON, &body.to_string()).await
    }

    pub(crate) async fn put(&mut self, target: &str, body: &Value) -> (StatusCode, Value) {
        self.call("PUT", target, JSON, &body.to_string()).await
    }

    pub(crate) async fn delete(&mut self, target: &str) -> (StatusCode, Value) {
        self.call("DELETE", target, JSON, "").await
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

pub(crate) async fn json(response: Response<Incoming>) -> Value {
    let text = text(response).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

/// A ConfigMap with one entry.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
                       "data": {"key": value}})
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
