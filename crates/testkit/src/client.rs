//! A bare HTTPS client: any method, path, header and body.

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A client for the server of one kubeconfig; clones share its idle connections.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    /// The same, for connections that speak HTTP/2.
    pub(crate) http2: TlsConnector,
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) host: ServerName<'static>,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

/// A request; what the path and the headers hold is sent as it stands.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values, as they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The values of a header.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.address).finish()
    }
}

impl Client {
    /// A client for the first cluster and user of a kubeconfig.
    ///
    /// # Errors
    /// Where the file lacks a server, its authority, or a whole key pair.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        Self::build(kubeconfig, true).with_context(|| kubeconfig.display().to_string())
    }

    /// The same server, without the client certificate.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn anonymous(kubeconfig: &Path) -> Result<Self> {
        Self::build(kubeconfig, false).with_context(|| kubeconfig.display().to_string())
    }

    fn build(kubeconfig: &Path, identified: bool) -> Result<Self> {
        let file: Value = serde_norway::from_slice(&std::fs::read(kubeconfig)?)?;
        let cluster = &file["clusters"][0]["cluster"];
        let user = &file["users"][0]["user"];
        let server = cluster["server"].as_str().context("no server")?;
        let address = server
            .strip_prefix("https://")
            .context("the server is no https:// one")?
            .trim_end_matches('/');
        let host = address.rsplit_once(':').context("no port")?.0;

        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&pem(cluster, "certificate-authority")?) {
            roots.add(authority?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = if identified {
            let chain = CertificateDer::pem_slice_iter(&pem(user, "client-certificate")?)
                .collect::<Result<Vec<_>, _>>()?;
            let key = PrivateKeyDer::from_pem_slice(&pem(user, "client-key")?)?;
            config.with_client_auth_cert(chain, key)?
        } else {
            config.with_no_client_auth()
        };
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            http2: TlsConnector::from(Arc::new(http2)),
            address: address.to_owned(),
            host: ServerName::try_from(host.to_owned())?,
            idle: Arc::default(),
        })
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        let (response, connection) = self.start(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.lock().expect("no panic inside").push(connection);
        Ok(Response {
            status: parts.status.as_u16(),
            headers: texts(&parts.headers),
            body,
        })
    }

    /// Sends a request and reads the lines of the answer until `enough` of them came, the server ends
    /// it, or `patience` is over.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn lines(
        &self,
        request: &Request,
        enough: usize,
        patience: std::time::Duration,
    ) -> Result<Response> {
        let (response, _connection) = self.start(request).await?;
        let (parts, mut body) = response.into_parts();
        let mut read = Vec::new();
        let reading = async {
            while read.iter().filter(|byte| **byte == b'\n').count() < enough {
                match body.frame().await {
                    Some(frame) => read.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                    None => break,
                }
            }
            Ok::<_, hyper::Error>(())
        };
        // Out of patience: what came is the answer.
        if let Ok(done) = tokio::time::timeout(patience, reading).await {
            done?;
        }
        Ok(Response {
            status: parts.status.as_u16(),
            headers: texts(&parts.headers),
            body: read.into(),
        })
    }

    /// Sends a request; the connection must live until the answer was read.
    pub(crate) async fn start(
        &self,
        request: &Request,
    ) -> Result<(hyper::Response<Incoming>, SendRequest<Full<Bytes>>)> {
        loop {
            let idle = self.idle.lock().expect("no panic inside").pop();
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            // The server may close an idle connection at any moment: then a new one is as good.
            let sent = match connection.ready().await {
                Ok(()) => connection.send_request(self.message(request)?).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(response) => return Ok((response, connection)),
                Err(_) if reused => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} {}", request.method, request.path));
                }
            }
        }
    }

    fn message(&self, request: &Request) -> Result<hyper::Request<Full<Bytes>>> {
        let mut builder = hyper::Request::builder()
            .method(request.method.as_str())
            .uri(&request.path)
            .header("host", &self.address);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        Ok(builder.body(Full::new(request.body.clone()))?)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let tls = self.tls.connect(self.host.clone(), tcp).await?;
        let (connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        // Its errors come out of the request too.
        tokio::spawn(driver);
        Ok(connection)
    }
}

/// A file that a kubeconfig names (`KEY`) or holds (`KEY-data`).
fn pem(entry: &Value, key: &str) -> Result<Vec<u8>> {
    if let Some(data) = entry[format!("{key}-data")].as_str() {
        return Ok(base64::engine::general_purpose::STANDARD.decode(data)?);
    }
    let path = entry[key].as_str().ok_or_else(|| anyhow!("no {key}"))?;
    std::fs::read(path).with_context(|| path.to_owned())
}

pub(crate) fn texts(headers: &hyper::HeaderMap) -> Vec<(String, String)> {
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}
