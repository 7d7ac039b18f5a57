//! `pods/NAME/exec`, `attach` and `portforward`: streams between a client and the node.
//!
//! The client's WebSocket, or its SPDY, is passed through to the kubelet byte by byte: both ends speak the same
//! protocols, so nothing is gained by looking inside.
//!
//! A stream outlives the request that asked for it. Its task belongs to the server, which ends it on shutdown.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, UPGRADE};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::body::{self, Body};
use super::handler::{Call, permit_stream};
use super::kubelet::Upgrading;
use super::log::container;
use super::query::Query;
use crate::resource::stored;
use crate::status::ApiError;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
/// What SPDY carries, and what else it could.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// How much of an error text of a node is read.
const ERROR_LIMIT: usize = 64 << 10;

pub(super) async fn answer(call: &Call) -> Result<Response<Body>, ApiError> {
    let (path, registry) = (&call.path, &call.api.registry);
    // Whoever runs a command creates something, whatever the method of the request is.
    permit_stream(call)?;
    let kind = Kind::of(&path.subresource);
    let options = Options::parse(&call.query);
    let pod = registry.get(call.def, &path.namespace, &path.name)?.value();
    let container = match kind {
        Kind::PortForward => None,
        Kind::Exec | Kind::Attach => Some(container(&pod, &path.name, &options.container)?),
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            path.name
        )));
    }
    // It is the pod's stream that is not to be found, says the real server.
    let node = registry
        .get(stored("", "nodes"), "", node)
        .map_err(|_| ApiError::not_found("", "pods", node))?
        .value();
    if !is_upgrade(&call.headers) {
        options.check(kind, &path.name)?;
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let (namespace, name) = (&path.namespace, &path.name);
    let target = match container {
        None => format!("/portForward/{namespace}/{name}"),
        Some(container) => {
            options.check(kind, name)?;
            let query = options.kubelet_query(kind);
            format!(
                "/{}/{namespace}/{name}/{container}?{query}",
                path.subresource
            )
        }
    };
    let headers = [KEY, VERSION, PROTOCOL, STREAM_PROTOCOL, UPGRADE, CONNECTION]
        .into_iter()
        .flat_map(|name| {
            let values = call.headers.get_all(&name).iter().cloned();
            values
                .map(move |value| (name.clone(), value))
                .collect::<Vec<_>>()
        })
        .collect();
    let response = call.api.kubelet.upgrade(&node, &target, headers).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let mut answer = body::text(StatusCode::SWITCHING_PROTOCOLS, "");
    answer.headers_mut().clear();
    for name in [CONNECTION, UPGRADE, ACCEPT, PROTOCOL, STREAM_PROTOCOL] {
        if let Some(value) = response.headers().get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    let upgrading = response.into_body();
    let (client, shutdown) = (call.upgrade.clone(), call.shutdown.clone());
    call.api.streams.spawn(async move {
        tokio::select! {
            () = pass(client, upgrading) => {}
            () = shutdown.cancelled() => {}
        }
    });
    Ok(answer)
}

/// Passes bytes both ways until one end has said all.
async fn pass(client: hyper::upgrade::OnUpgrade, node: Upgrading) {
    let (client, node) = match tokio::try_join!(client, node.upgraded()) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a stream did not begin"),
    };
    let (connection, node): (_, Upgraded) = node;
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
        tracing::debug!(%error, "a stream ended early");
    }
    drop(connection);
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &str| {
        headers.get_all(name).iter().any(|value| {
            let value = value.to_str().unwrap_or_default();
            value
                .split(',')
                .any(|it| it.trim().eq_ignore_ascii_case(word))
        })
    };
    has(CONNECTION, "upgrade") && (has(UPGRADE, "websocket") || has(UPGRADE, "SPDY/3.1"))
}

/// What a node says instead of streaming.
async fn refusal(response: Response<Upgrading>) -> ApiError {
    let code = response.status();
    let mut text = Vec::new();
    let mut body = http_body_util::Limited::new(response.into_body().refused(), ERROR_LIMIT);
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_end_matches('\n');
    match code {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::NOT_FOUND => ApiError::new(code, "NotFound", text),
        StatusCode::NOT_IMPLEMENTED => ApiError::not_implemented(text),
        _ => ApiError::internal(text),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exec,
    Attach,
    PortForward,
}

impl Kind {
    fn of(subresource: &str) -> Self {
        match subresource {
            "exec" => Self::Exec,
            "attach" => Self::Attach,
            _ => Self::PortForward,
        }
    }
}

/// `PodExecOptions` and `PodAttachOptions`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    container: String,
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Options {
    fn parse(query: &Query) -> Self {
        Self {
            container: query.get("container").unwrap_or_default().to_owned(),
            command: query.all("command").map(str::to_owned).collect(),
            stdin: query.flag("stdin").unwrap_or(false),
            // The defaults of PodExecOptions.
            stdout: query.flag("stdout").unwrap_or(true),
            stderr: query.flag("stderr").unwrap_or(true),
            tty: query.flag("tty").unwrap_or(false),
        }
    }

    fn check(&self, kind: Kind, pod: &str) -> Result<(), ApiError> {
        if kind == Kind::PortForward {
            return Ok(());
        }
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(ApiError::bad_request(format!(
                "you must specify at least 1 of stdin, stdout, stderr for pod {pod}"
            )));
        }
        if kind == Kind::Exec && self.command.is_empty() {
            return Err(ApiError::bad_request(format!(
                "you must specify at least one command for the container of pod {pod}"
            )));
        }
        Ok(())
    }

    /// The query that a kubelet understands: its names of the streams are others.
    fn kubelet_query(&self, kind: Kind) -> String {
        let mut pairs: Vec<String> = Vec::new();
        let streams = [
            ("input", self.stdin),
            ("output", self.stdout),
            // A terminal has one output.
            ("error", self.stderr && !self.tty),
            ("tty", self.tty),
        ];
        for (key, wanted) in streams {
            if wanted {
                pairs.push(format!("{key}=1"));
            }
        }
        if kind == Kind::Exec {
            pairs.extend(self.command.iter().map(|word| {
                let word =
                    percent_encoding::utf8_percent_encode(word, percent_encoding::NON_ALPHANUMERIC);
                format!("command={word}")
            }));
        }
        pairs.join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn options(query: &str) -> Options {
        Options::parse(&Query::parse(Some(query)))
    }

    #[test]
    fn the_query_becomes_that_of_a_kubelet() {
        let exec = options(
            "container=c&command=sh&command=-c&command=echo+%22a%26b%22&stdin=true&stdout=true&stderr=true&tty=true",
        );
        assert!(exec.check(Kind::Exec, "p").is_ok());
        assert_eq!(
            exec.kubelet_query(Kind::Exec),
            "input=1&output=1&tty=1&command=sh&command=%2Dc&command=echo%20%22a%26b%22"
        );
        assert_eq!(options("").kubelet_query(Kind::Attach), "output=1&error=1");
        let none = options("stdout=false&stderr=false&command=a");
        assert!(none.check(Kind::Exec, "p").is_err());
        assert!(options("stdout=true").check(Kind::Exec, "p").is_err());
        assert!(options("stdout=true").check(Kind::Attach, "p").is_ok());
    }

    #[test]
    fn an_upgrade_is_told_by_both_headers() {
        let headers = |connection: &str, upgrade: &str| {
            HeaderMap::from_iter([
                (
                    CONNECTION,
                    HeaderValue::from_str(connection).expect("a value"),
                ),
                (UPGRADE, HeaderValue::from_str(upgrade).expect("a value")),
            ])
        };
        assert!(is_upgrade(&headers("keep-alive, Upgrade", "WebSocket")));
        assert!(is_upgrade(&headers("Upgrade", "SPDY/3.1")));
        assert!(!is_upgrade(&headers("Upgrade", "h2c")));
        assert!(!is_upgrade(&headers("close", "websocket")));
    }
}
