//! A client for the kubelet endpoint of nodes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::pki::Pki;
use crate::status::ApiError;

/// How long a node may take to answer the connection and the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until its answer begins; the body may take as long as it likes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_PORT: u64 = 10250;

/// Speaks to kubelets with the cluster's own client certificate.
#[derive(Clone)]
pub(super) struct KubeletClient {
    tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for KubeletClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeletClient").finish_non_exhaustive()
    }
}

/// The body of a node's answer. The connection ends with it.
#[derive(Debug)]
pub(super) struct NodeBody {
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Body for NodeBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body)
            .poll_frame(context)
            .map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl KubeletClient {
    pub(super) fn new(pki: &Pki) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der.clone())?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let (chain, key) = pki
            .kubelet_client
            .to_rustls()
            .map_err(|error| Error::General(error.to_string()))?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OwnAuthorityOrNone { inner }))
            .with_client_auth_cert(chain, key)?;
        Ok(Self { tls: Arc::new(tls) })
    }

    /// Sends a GET for `target` (path and query) to the kubelet of a node.
    ///
    /// # Errors
    /// 500 and 503 as the real server answers where a node cannot be reached.
    pub(super) async fn get(
        &self,
        node: &Value,
        target: &str,
    ) -> Result<Response<NodeBody>, ApiError> {
        let (response, connection) = self.send(node, target, HeaderMap::new()).await?;
        Ok(response.map(|body| NodeBody {
            body,
            _connection: connection,
        }))
    }

    /// [`KubeletClient::get`] with headers that ask for another protocol.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn upgrade(
        &self,
        node: &Value,
        target: &str,
        headers: HeaderMap,
    ) -> Result<Response<Upgrading>, ApiError> {
        let (mut response, connection) = self.send(node, target, headers).await?;
        let upgrade = hyper::upgrade::on(&mut response);
        Ok(response.map(|body| Upgrading {
            upgrade,
            body,
            connection,
        }))
    }

    async fn send(
        &self,
        node: &Value,
        target: &str,
        headers: HeaderMap,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ApiError> {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let (host, port) = endpoint(node).ok_or_else(|| {
            ApiError::internal(format!(
                "node {name} has no address to reach its kubelet at"
            ))
        })?;
        let authority = authority(&host, port);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            ApiError::internal(format!(
                "Get \"https://{authority}{target}\": {what}: {error}"
            ))
        };
        let connect = async {
            let stream = TcpStream::connect((host.as_str(), port))
                .await
                .map_err(|error| failed("dial", &error))?;
            let server =
                ServerName::try_from(host.clone()).map_err(|error| failed("address", &error))?;
            let tls = TlsConnector::from(self.tls.clone())
                .connect(server, stream)
                .await
                .map_err(|error| failed("tls", &error))?;
            http1::handshake(TokioIo::new(tls))
                .await
                .map_err(|error| failed("http", &error))
        };
        let (mut sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| failed("dial", &"i/o timeout"))??;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a kubelet ended");
            }
        }));
        let mut request = Request::get(target)
            .header(http::header::HOST, &authority)
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed("request", &error))?;
        request.headers_mut().extend(headers);
        let response = tokio::time::timeout(HEADER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| failed("http", &"timeout awaiting response headers"))?
            .map_err(|error| failed("http", &error))?;
        Ok((response, connection))
    }
}

/// An answer that may be a change of protocols.
#[derive(Debug)]
pub(super) struct Upgrading {
    upgrade: OnUpgrade,
    body: Incoming,
    connection: AbortOnDropHandle<()>,
}

impl Upgrading {
    /// What keeps the connection, and the connection itself, where the answer was 101.
    pub(super) async fn upgraded(self) -> Result<(AbortOnDropHandle<()>, Upgraded), hyper::Error> {
        Ok((self.connection, self.upgrade.await?))
    }

    /// The body of any other answer.
    pub(super) fn refused(self) -> NodeBody {
        NodeBody {
            body: self.body,
            _connection: self.connection,
        }
    }
}

/// Host and port as a URL writes them.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Where the kubelet of a node listens: the first usable address, and the port it tells.
fn endpoint(node: &Value) -> Option<(String, u16)> {
    let addresses = node["status"]["addresses"].as_array()?;
    let host = [
        "InternalIP",
        "Hostname",
        "InternalDNS",
        "ExternalIP",
        "ExternalDNS",
    ]
    .iter()
    .find_map(|kind| {
        addresses
            .iter()
            .find(|address| address["type"] == *kind)
            .and_then(|address| address["address"].as_str())
            .filter(|address| !address.is_empty())
    })?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .filter(|port| *port > 0)
        .unwrap_or(DEFAULT_PORT);
    Some((host.to_owned(), u16::try_from(port).ok()?))
}

/// Checks a kubelet's certificate where our authority signed it. One of another origin (kubelets
/// often sign their own) is taken as it is, which is what the real server does when it is not
/// given a kubelet authority.
#[derive(Debug)]
struct OwnAuthorityOrNone {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OwnAuthorityOrNone {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_internal_address_comes_first_and_the_port_is_the_nodes() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 20250}}}});
        assert_eq!(endpoint(&node), Some(("10.0.0.1".to_owned(), 20250)));
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n1"}]}});
        assert_eq!(endpoint(&node), Some(("n1".to_owned(), 10250)));
        assert_eq!(endpoint(&json!({"status": {}})), None);
        assert_eq!(authority("10.0.0.1", 10250), "10.0.0.1:10250");
        assert_eq!(authority("fd00::1", 10250), "[fd00::1]:10250");
    }
}
