//! A client for the kubelet endpoint of nodes.

mod known;

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
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use self::known::{Known, OfNode, Run};
use crate::auth::pki::Pki;
use crate::registry::Registry;
use crate::resource::stored;
use crate::status::ApiError;

/// How long a node may take to answer the connection and the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until its answer begins; the body may take as long as it likes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_PORT: u64 = 10250;

/// Speaks to kubelets with the cluster's own client certificate.
#[derive(Clone)]
pub(super) struct KubeletClient {
    registry: Registry,
    tls: ClientConfig,
    verifier: Arc<WebPkiServerVerifier>,
    known: Arc<Known>,
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
    pub(super) fn new(pki: &Pki, registry: Registry) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(pki.kubelet_ca_der.clone())?;
        // What signs for a real controller manager is the other one.
        roots.add(pki.ca_der.clone())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        let (chain, key) = pki
            .kubelet_client
            .to_rustls()
            .map_err(|error| Error::General(error.to_string()))?;
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier.clone())
            .with_client_auth_cert(chain, key)?;
        // A session that is resumed shows no certificate, and nodes may share an address.
        tls.resumption = Resumption::disabled();
        Ok(Self {
            registry,
            tls,
            verifier,
            known: Arc::default(),
        })
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

    /// Which run of the agent of a node is to be reached.
    fn run(&self, name: &str, node: &Value, endpoint: &str) -> Run {
        let leases = stored("coordination.k8s.io", "leases");
        let lease = self.registry.get(leases, "kube-node-lease", name);
        Run::of(
            node,
            lease.ok().map(|lease| lease.value()).as_ref(),
            endpoint,
        )
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
        let run = self.run(name, node, &authority);
        let verifier = Arc::new(OfNode::new(
            self.verifier.clone(),
            name,
            self.known.expected(name, &run),
        ));
        let mut tls = self.tls.clone();
        tls.dangerous().set_certificate_verifier(verifier.clone());
        let connect = async {
            let stream = TcpStream::connect((host.as_str(), port))
                .await
                .map_err(|error| failed("dial", &error))?;
            let server =
                ServerName::try_from(host.clone()).map_err(|error| failed("address", &error))?;
            let tls = TlsConnector::from(Arc::new(tls))
                .connect(server, stream)
                .await
                .map_err(|error| failed("tls", &error))?;
            if let Some(shown) = verifier.shown() {
                let lives = |name: &str| self.registry.get(stored("", "nodes"), "", name).is_ok();
                self.known.record(name, run, shown, lives);
            }
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::auth::pki::Pair;
    use crate::controllers::testing::registry;
    use crate::registry;

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

    struct World {
        _dirs: [tempfile::TempDir; 2],
        registry: Registry,
        pki: Pki,
        client: KubeletClient,
        listener: TcpListener,
    }

    impl World {
        async fn new() -> Self {
            let (dir, registry) = registry();
            let pki_dir = tempfile::tempdir().unwrap();
            let pki = Pki::load_or_create(pki_dir.path(), &[], Timestamp::now()).unwrap();
            let world = Self {
                _dirs: [dir, pki_dir],
                client: KubeletClient::new(&pki, registry.clone()).unwrap(),
                registry,
                pki,
                listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            };
            let context = registry::Context::system("test");
            let namespace = json!({"metadata": {"name": "kube-node-lease"}});
            let namespaces = stored("", "namespaces");
            let made = world
                .registry
                .create(&context, namespaces, "", namespace)
                .await;
            made.unwrap();
            world.register().await;
            world.lease("first").await;
            world
        }

        async fn register(&self) {
            let node = json!({
                "metadata": {"name": "n"},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": self.listener.local_addr().unwrap().port()}},
                },
            });
            let context = registry::Context::system("test");
            let nodes = stored("", "nodes");
            self.registry
                .create(&context, nodes, "", node)
                .await
                .unwrap();
        }

        async fn lease(&self, holder: &str) {
            let leases = stored("coordination.k8s.io", "leases");
            let context = registry::Context::system("test");
            let space = "kube-node-lease";
            let lease = json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": holder}});
            if self.registry.get(leases, space, "n").is_err() {
                let made = self.registry.create(&context, leases, space, lease).await;
                made.unwrap();
                return;
            }
            let change = |lease: &mut Value| {
                lease["spec"]["holderIdentity"] = holder.into();
                Ok(())
            };
            let changed = self
                .registry
                .modify(&context, leases, space, "n", "", change);
            changed.await.unwrap();
        }

        /// Asks the node while its kubelet serves with `pair`.
        async fn ask(&self, pair: &Pair) -> Result<u16, String> {
            let node = self.registry.get(stored("", "nodes"), "", "n").unwrap();
            let node = node.value();
            let (chain, key) = pair.to_rustls().unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let serve = async {
                let (stream, _) = self.listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
            };
            let (answer, ()) = tokio::join!(self.client.get(&node, "/x"), serve);
            match answer {
                Ok(response) => Ok(response.status().as_u16()),
                Err(error) => {
                    assert_eq!(error.code.as_u16(), 500);
                    Err(error.message)
                }
            }
        }

        fn signed(&self, node: &str) -> Pair {
            let names = ["127.0.0.1".to_owned()];
            self.pki
                .issue_serving(node, &names, Timestamp::now())
                .unwrap()
        }
    }

    fn own() -> Pair {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        Pair {
            cert_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        }
    }

    #[tokio::test]
    async fn a_certificate_of_its_own_is_taken_until_another_one_is_shown() {
        let world = World::new().await;
        let (first, second) = (own(), own());
        assert_eq!(world.ask(&first).await, Ok(200));
        assert_eq!(world.ask(&first).await, Ok(200));
        // Somebody else listens there.
        let why = world.ask(&second).await.unwrap_err();
        assert!(
            why.contains("shows another certificate than before")
                && why.contains("delete the Node n"),
            "{why}"
        );
        assert_eq!(world.ask(&first).await, Ok(200));
        // The agent was started anew.
        world.lease("second").await;
        assert_eq!(world.ask(&second).await, Ok(200));
        assert!(world.ask(&first).await.is_err());
    }

    #[tokio::test]
    async fn after_a_signed_certificate_nothing_less_is_taken() {
        let world = World::new().await;
        let own = own();
        assert_eq!(world.ask(&own).await, Ok(200));
        let signed = world.signed("n");
        assert_eq!(world.ask(&signed).await, Ok(200));
        world.lease("second").await;
        let why = world.ask(&own).await.unwrap_err();
        assert!(why.contains("that the cluster did not sign"), "{why}");
        assert_eq!(world.ask(&signed).await, Ok(200));
        // It registers anew.
        let nodes = stored("", "nodes");
        let context = registry::Context::system("test");
        let options = registry::DeleteOptions::default();
        let deleted = world.registry.delete(&context, nodes, "", "n", &options);
        deleted.await.unwrap();
        world.register().await;
        assert_eq!(world.ask(&own).await, Ok(200));
    }

    #[tokio::test]
    async fn a_signed_certificate_holds_for_its_node_alone() {
        let world = World::new().await;
        let why = world.ask(&world.signed("m")).await.unwrap_err();
        assert!(why.contains("the certificate of node m"), "{why}");
        assert_eq!(world.ask(&world.signed("n")).await, Ok(200));
    }
}
