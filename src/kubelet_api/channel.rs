//! The way between a client and the streams of a container: a WebSocket, or SPDY/3.1.
//!
//! WebSocket, sub-protocols `v5.channel.k8s.io` and `v4.channel.k8s.io` (Kubernetes `apiserver/pkg/util/proxy` and
//! `kubelet/pkg/cri/streaming/remotecommand`): a binary message is the number of a channel and data.
//!
//! | channel | SPDY's `streamtype` | from | what |
//! |---|---|---|---|
//! | 0 | `stdin` | client | standard input |
//! | 1, 2 | `stdout`, `stderr` | node | standard output, standard error |
//! | 3 | `error` | node | a `Status`, the last word |
//! | 4 | `resize` | client | size of the terminal, `{"Width":80,"Height":24}` |
//! | 255 | the end of `stdin` | client, v5 | the channel that ends |
//!
//! API servers before 1.36 speak SPDY to a kubelet, whatever a client speaks to them.

mod spdy;
mod websocket;

use std::io;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use warp::{Reply, reply::Response};

use super::stream::Options;
use crate::container::protocol::TerminalSize;

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The sub-protocols of containers' streams, the best first.
pub(super) const CHANNELS: Protocols = Protocols {
    websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    spdy: "v4.channel.k8s.io",
};

/// Bytes on the way between a WebSocket and the SPDY inside of it.
const TUNNEL: usize = 64 * 1024;
const SPDY: &str = "SPDY/3.1";
/// Kubernetes' header for what SPDY carries (`apimachinery/pkg/util/httpstream`).
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What may be spoken at a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protocols {
    pub(super) websocket: &'static [&'static str],
    pub(super) spdy: &'static str,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Input(Bytes),
    InputEnd,
    Size(TerminalSize),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

impl From<Size> for Said {
    fn from(size: Size) -> Self {
        Self::Size(TerminalSize {
            columns: size.width,
            rows: size.height,
        })
    }
}

#[derive(Debug)]
enum Kind {
    WebSocket { accept: String },
    Spdy,
}

/// A change of protocol that was asked for.
#[derive(Debug)]
pub(super) struct Upgrade {
    connection: OnUpgrade,
    protocol: &'static str,
    kind: Kind,
}

impl Upgrade {
    /// Reads the headers (RFC 6455 section 4.2.1); an error is the answer.
    pub(super) fn new(
        headers: &HeaderMap,
        connection: Option<OnUpgrade>,
        protocols: Protocols,
    ) -> Result<Self, Response> {
        let words = |name: &HeaderName| -> Vec<&str> {
            let values = headers.get_all(name).iter();
            let values = values.map(|value| value.to_str().unwrap_or_default());
            values.flat_map(|it| it.split(',').map(str::trim)).collect()
        };
        let has = |name, word: &str| words(name).iter().any(|it| it.eq_ignore_ascii_case(word));
        let refuse = |why: String| refused(StatusCode::BAD_REQUEST, why);
        let upgrades = has(&CONNECTION, "upgrade");
        if upgrades && has(&UPGRADE, SPDY) {
            let offered = words(&STREAM_PROTOCOL);
            if offered.is_empty() {
                let why = format!("unable to upgrade: {STREAM_PROTOCOL} header is required");
                return Err(refuse(why));
            }
            if !offered.contains(&protocols.spdy) {
                let why = format!(
                    "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {}",
                    protocols.spdy
                );
                let mut answer = refused(StatusCode::FORBIDDEN, why);
                let accepted = HeaderValue::from_static(protocols.spdy);
                answer.headers_mut().insert(ACCEPTED_PROTOCOLS, accepted);
                return Err(answer);
            }
            return Ok(Self {
                connection: connection
                    .ok_or_else(|| refuse("Upgrade request required".to_owned()))?,
                protocol: protocols.spdy,
                kind: Kind::Spdy,
            });
        }
        let websocket = upgrades && has(&UPGRADE, "websocket") && has(&SEC_WEBSOCKET_VERSION, "13");
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| websocket);
        let (Some(key), Some(connection)) = (key, connection) else {
            return Err(refuse("Upgrade request required".to_owned()));
        };
        let offered = words(&SEC_WEBSOCKET_PROTOCOL);
        let known = protocols.websocket;
        let Some(protocol) = known.iter().find(|it| offered.contains(it)) else {
            let why = format!("none of the sub-protocols {} was offered", known.join(", "));
            return Err(refuse(why));
        };
        let accept = derive_accept_key(key.as_bytes());
        Ok(Self {
            connection,
            protocol,
            kind: Kind::WebSocket { accept },
        })
    }

    /// The answer that begins it.
    pub(super) fn answer(&self) -> Response {
        let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = answer.headers_mut();
        let protocol = HeaderValue::from_static(self.protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        match &self.kind {
            Kind::Spdy => {
                headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
                headers.insert(STREAM_PROTOCOL, protocol);
            }
            Kind::WebSocket { accept } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
                if let Ok(accept) = HeaderValue::from_str(accept) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
        }
        answer
    }

    /// The streams of a container; none where the client went before they were there.
    pub(super) async fn client(self, options: &Options) -> Option<(ToClient, FromClient)> {
        let io = connected(self.connection).await?;
        match self.kind {
            Kind::WebSocket { .. } => {
                let (to, from) = websocket::client(io, options).await;
                Some((ToClient::WebSocket(to), FromClient::WebSocket(from)))
            }
            Kind::Spdy => {
                let (to, from) = spdy::client(io, options).await?;
                Some((ToClient::Spdy(to), FromClient::Spdy(from)))
            }
        }
    }
}

impl Upgrade {
    /// A session of SPDY, and what moves its bytes; none where the client went before it began.
    pub(super) async fn session(self) -> Option<(::spdy::Session, JoinSet<io::Result<()>>)> {
        let io = connected(self.connection).await?;
        let mut tasks = JoinSet::new();
        let session = match self.kind {
            Kind::Spdy => {
                let (session, driver) = ::spdy::session::session(io);
                tasks.spawn(driver.run());
                session
            }
            Kind::WebSocket { .. } => {
                let (near, far) = tokio::io::duplex(TUNNEL);
                let (session, driver) = ::spdy::session::session(near);
                tasks.spawn(driver.run());
                tasks.spawn(websocket::tunnel(websocket::socket(io).await, far));
                session
            }
        };
        Some((session, tasks))
    }
}

async fn connected(connection: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    let upgraded = connection.await;
    upgraded
        .inspect_err(|error| tracing::debug!(%error, "a stream did not begin"))
        .ok()
        .map(TokioIo::new)
}

fn refused(code: StatusCode, why: String) -> Response {
    warp::reply::with_status(why, code).into_response()
}

/// Towards a client.
pub(super) enum ToClient {
    WebSocket(websocket::ToClient),
    Spdy(spdy::ToClient),
}

impl ToClient {
    /// Sends what a container has written.
    pub(super) async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        match self {
            Self::WebSocket(it) => it.send(channel, data).await,
            Self::Spdy(it) => it.send(channel, data).await,
        }
    }

    /// Says the last word, and waits until the client has it.
    pub(super) async fn end(self, from: FromClient, status: &Value) {
        match (self, from) {
            (Self::WebSocket(to), FromClient::WebSocket(from)) => to.end(from, status).await,
            (Self::Spdy(to), FromClient::Spdy(from)) => to.end(from, status).await,
            _ => {}
        }
    }
}

/// From a client.
pub(super) enum FromClient {
    WebSocket(websocket::FromClient),
    Spdy(spdy::FromClient),
}

impl FromClient {
    /// What the client says next; none when it is gone. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Said> {
        match self {
            Self::WebSocket(it) => it.next().await,
            Self::Spdy(it) => it.next().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pairs: &[(&'static str, &'static str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let answer = Upgrade::new(&headers, None, CHANNELS).expect_err("there is no connection");
        answer.status().as_u16()
    }

    #[test]
    fn what_is_no_upgrade_is_told_so() {
        assert_eq!(refusal(&[]), 400);
        let websocket = [("upgrade", "websocket"), ("connection", "Upgrade")];
        assert_eq!(refusal(&websocket), 400);
        let spdy = [("upgrade", "SPDY/3.1"), ("connection", "Upgrade")];
        assert_eq!(refusal(&spdy), 400, "a version has to be named");
        let other = ("x-stream-protocol-version", "v9.channel.k8s.io");
        assert_eq!(refusal(&[spdy[0], spdy[1], other]), 403);
    }
}
