//! GETs for probes and hooks: one connection each, no certificate verified, redirects as the kubelet follows them.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    HttpGet, LOOPBACK, MAX_OUTPUT,
    check::{dial_failure, join},
};

/// Redirects that are followed; the eleventh request is not made.
const MAX_REDIRECTS: usize = 10;

/// What may not stand in a path or query as it is.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    https: bool,
    host: String,
    port: u16,
    /// With query; begins with a slash.
    path: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The first bytes.
    pub(crate) body: Vec<u8>,
}

/// Why nothing did.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No answer, or none that makes sense.
    Request(String),
    /// The answer broke off.
    Body(String),
}

/// How far a request came, for the words about its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dial,
    Headers,
    Body,
}

impl Url {
    /// Of a GET that a pod asks for.
    pub(crate) fn new(get: &HttpGet) -> Result<Self, String> {
        let path = get.path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            https: get.https,
            host: get.host.clone().unwrap_or_else(|| LOOPBACK.to_owned()),
            port: get.port.clone()?,
            path: format!("{slash}{}", utf8_percent_encode(path, ESCAPED)),
        })
    }

    /// The same over plain HTTP.
    pub(crate) fn plain(self) -> Self {
        Self {
            https: false,
            ..self
        }
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        join(&self.host, self.port)
    }

    /// Where a `Location` leads, and whether it named a host.
    fn follow(&self, location: &str) -> Result<(Self, bool), String> {
        let location = utf8_percent_encode(location.split('#').next().unwrap_or_default(), ESCAPED)
            .to_string();
        let wrong = || {
            format!("failed to parse Location header {location:?}: not a URL that can be followed")
        };
        let absolute = if location.starts_with("//") {
            format!("{}:{location}", if self.https { "https" } else { "http" })
        } else {
            location.clone()
        };
        if let Some((scheme, rest)) = absolute.split_once("://")
            && !scheme.contains(['/', '?'])
        {
            let https = match scheme.to_ascii_lowercase().as_str() {
                "http" => false,
                "https" => true,
                other => return Err(format!("unsupported protocol scheme {other:?}")),
            };
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let authority: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
            let host = authority.host().trim_matches(['[', ']']).to_owned();
            let default = if https { 443 } else { 80 };
            let slash = if path.starts_with('/') { "" } else { "/" };
            let url = Self {
                https,
                host,
                port: authority.port_u16().unwrap_or(default),
                path: format!("{slash}{path}"),
            };
            return Ok((url, true));
        }
        let own = self.path.split('?').next().unwrap_or_default();
        let path = if location.starts_with('/') {
            location
        } else if location.starts_with('?') {
            format!("{own}{location}")
        } else {
            let directory = own.rfind('/').map_or("/", |slash| &own[..=slash]);
            format!("{directory}{location}")
        };
        Ok((
            Self {
                path,
                ..self.clone()
            },
            false,
        ))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Client {
    /// One for a whole node: what TLS sessions can be resumed is kept in it.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: TlsConnector::from(Arc::new(crate::tls::unverified()?)),
        })
    }

    /// Sends a GET and follows redirects within its host, for at most as long as is given.
    pub(crate) async fn get(
        &self,
        url: Url,
        headers: &[(String, String)],
        agent: &str,
        limit: Option<Duration>,
    ) -> Result<Response, Fault> {
        let mut stage = Stage::Dial;
        let first = url.clone();
        let follow = self.follow(url, headers, agent, &mut stage);
        let Some(limit) = limit else {
            return follow.await;
        };
        let outcome = timeout(limit, follow).await;
        outcome.unwrap_or_else(|_| {
            let awaiting = "(Client.Timeout exceeded while awaiting headers)";
            Err(match stage {
                Stage::Dial => {
                    let at = first.authority();
                    Fault::Request(format!(
                        "Get \"{first}\": dial tcp {at}: i/o timeout {awaiting}"
                    ))
                }
                Stage::Headers => Fault::Request(format!(
                    "Get \"{first}\": context deadline exceeded {awaiting}"
                )),
                Stage::Body => Fault::Body(
                    "context deadline exceeded (Client.Timeout or context cancellation while \
                     reading body)"
                        .to_owned(),
                ),
            })
        })
    }

    async fn follow(
        &self,
        first: Url,
        headers: &[(String, String)],
        agent: &str,
        stage: &mut Stage,
    ) -> Result<Response, Fault> {
        let mut headers = header_map(headers, agent).map_err(Fault::Request)?;
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            *stage = Stage::Dial;
            let failed = |text: String| Fault::Request(format!("Get \"{url}\": {text}"));
            let (status, location, body) =
                self.once(&url, &headers, stage)
                    .await
                    .map_err(|fault| match fault {
                        Fault::Request(text) => failed(text),
                        body @ Fault::Body(_) => body,
                    })?;
            let redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
            let Some(location) = location.filter(|_| redirect) else {
                return Ok(Response { status, body });
            };
            let (next, absolute) = url.follow(&location).map_err(failed)?;
            if !next.host.eq_ignore_ascii_case(&first.host) {
                return Ok(Response { status, body });
            }
            if absolute {
                // The name that was asked for belongs to the first address.
                headers.remove(HOST);
            }
            url = next;
        }
        Err(Fault::Request(format!(
            "Get \"{url}\": stopped after {MAX_REDIRECTS} redirects"
        )))
    }

    async fn once(
        &self,
        url: &Url,
        headers: &HeaderMap,
        stage: &mut Stage,
    ) -> Result<(u16, Option<String>, Vec<u8>), Fault> {
        let stream = TcpStream::connect((url.host.as_str(), url.port))
            .await
            .map_err(|error| Fault::Request(dial_failure(&url.host, url.port, &error)))?;
        *stage = Stage::Headers;
        if !url.https {
            return exchange(stream, url, headers, stage).await;
        }
        let name = ServerName::try_from(url.host.clone())
            .map_err(|error| Fault::Request(error.to_string()))?;
        let stream = self.tls.connect(name, stream).await;
        let stream = stream.map_err(|error| Fault::Request(tls_failure(&error)))?;
        exchange(stream, url, headers, stage).await
    }
}

/// The words that tell a server without TLS from others; hooks go on without TLS then.
pub(crate) const PLAIN_SERVER: &str = "http: server gave HTTP response to HTTPS client";

fn tls_failure(error: &io::Error) -> String {
    let cause = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => PLAIN_SERVER.to_owned(),
        _ => format!("remote error: tls: {error}"),
    }
}

async fn exchange<S>(
    stream: S,
    url: &Url,
    headers: &HeaderMap,
    stage: &mut Stage,
) -> Result<(u16, Option<String>, Vec<u8>), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |error: &dyn std::error::Error| Fault::Request(crate::pod::api::chain(error));
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = url.path.parse::<Uri>().map_err(|error| failed(&error))?;
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(HOST) {
        let host = HeaderValue::from_str(&url.authority()).map_err(|error| failed(&error))?;
        request.headers_mut().insert(HOST, host);
    }
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| {
            if error.is_incomplete_message() {
                Fault::Request("EOF".to_owned())
            } else {
                failed(&error)
            }
        })?;
        *stage = Stage::Body;
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION);
        let location = location.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        let body = read(response.into_body()).await?;
        Ok((status, location.filter(|it| !it.is_empty()), body))
    };
    tokio::pin!(connection, talk);
    tokio::select! {
        // The connection ends before the answer does where the answer needs nothing more of it.
        biased;
        outcome = &mut talk => outcome,
        _ = &mut connection => talk.await,
    }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, Fault> {
    let mut read = Vec::new();
    while read.len() < MAX_OUTPUT {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    let room = MAX_OUTPUT - read.len();
                    read.extend_from_slice(&piece[..piece.len().min(room)]);
                }
            }
            Some(Err(error)) => return Err(Fault::Body(crate::pod::api::chain(&error))),
        }
    }
    Ok(read)
}

fn header_map(given: &[(String, String)], agent: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let name: HeaderName = name
            .parse()
            .map_err(|_| format!("net/http: invalid header field name {name:?}"))?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            format!(
                "net/http: invalid header field value for {:?}",
                name.as_str()
            )
        })?;
        headers.append(name, value);
    }
    if !headers.contains_key(USER_AGENT) {
        let agent = HeaderValue::from_str(agent).map_err(|error| error.to_string())?;
        headers.insert(USER_AGENT, agent);
    }
    match headers.get(ACCEPT) {
        None => {
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        // A way to send none.
        Some(value) if value.is_empty() => {
            headers.remove(ACCEPT);
        }
        Some(_) => {}
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}
