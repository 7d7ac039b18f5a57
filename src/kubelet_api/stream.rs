//! `/exec` and `/attach`: a container's streams over a WebSocket.
//!
//! Sub-protocols `v5.channel.k8s.io` and `v4.channel.k8s.io` (Kubernetes `apiserver/pkg/util/proxy` and
//! `kubelet/pkg/cri/streaming/remotecommand`): a binary message is the number of a channel and data.
//!
//! | channel | from | what |
//! |---|---|---|
//! | 0 | client | standard input |
//! | 1, 2 | node | standard output, standard error |
//! | 3 | node | a `Status`, the last word |
//! | 4 | client | size of the terminal, `{"Width":80,"Height":24}` |
//! | 255 | client, v5 | the channel that ends |
//!
//! A client that goes away ends what it runs.

use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use warp::{Reply, reply::Response};

use crate::container::{
    AttemptDir, Exit, Handle,
    launch::{ExecError, ExecEvent, ExecInput, ExecOutput, ExecStream},
    log::{ReadOptions, Reader, Stream},
    protocol::{AttachCall, ExecCall, TerminalSize},
};

/// The best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Largest message of a client; kubectl sends 32 KiB at once.
const MAX_MESSAGE: usize = 1024 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What the query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    command: Vec<String>,
    input: bool,
    output: bool,
    error: bool,
    tty: bool,
}

impl Options {
    /// Whether the client has something to say: input, or sizes of its terminal.
    pub(super) fn speaks(&self) -> bool {
        self.input || self.tty
    }

    /// What a shim is asked for.
    pub(super) fn attach_call(&self) -> AttachCall {
        AttachCall { stdin: self.input }
    }

    /// Reads the query; none where it asks for no stream at all.
    pub(super) fn parse(query: &str) -> Option<Self> {
        let mut options = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let set = matches!(value.as_ref(), "1" | "true");
            match key.as_ref() {
                "command" => options.command.push(value.into_owned()),
                "input" => options.input = set,
                "output" => options.output = set,
                "error" => options.error = set,
                "tty" => options.tty = set,
                _ => {}
            }
        }
        (options.input || options.output || options.error).then_some(options)
    }
}

/// A WebSocket that was asked for.
pub(super) struct Upgrade {
    connection: OnUpgrade,
    accept: String,
    protocol: &'static str,
}

impl Upgrade {
    /// Reads the headers (RFC 6455 section 4.2.1); an error is status and text of the answer.
    pub(super) fn new(
        headers: &HeaderMap,
        connection: Option<OnUpgrade>,
    ) -> Result<Self, (StatusCode, &'static str)> {
        let words = |name| {
            let values = headers.get_all(name).iter();
            values.flat_map(|value| value.to_str().unwrap_or_default().split(',').map(str::trim))
        };
        if words(UPGRADE).any(|it| it.eq_ignore_ascii_case("SPDY/3.1")) {
            let text = "not implemented: this node streams over WebSocket, not over SPDY";
            return Err((StatusCode::NOT_IMPLEMENTED, text));
        }
        let websocket = words(UPGRADE).any(|it| it.eq_ignore_ascii_case("websocket"))
            && words(CONNECTION).any(|it| it.eq_ignore_ascii_case("upgrade"))
            && words(SEC_WEBSOCKET_VERSION).any(|it| it == "13");
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| websocket);
        let (Some(key), Some(connection)) = (key, connection) else {
            return Err((StatusCode::BAD_REQUEST, "Upgrade request required"));
        };
        let offered: Vec<&str> = words(SEC_WEBSOCKET_PROTOCOL).collect();
        let protocol = PROTOCOLS.into_iter().find(|it| offered.contains(it));
        let Some(protocol) = protocol else {
            let text =
                "none of the sub-protocols v5.channel.k8s.io and v4.channel.k8s.io was offered";
            return Err((StatusCode::BAD_REQUEST, text));
        };
        Ok(Self {
            connection,
            accept: derive_accept_key(key.as_bytes()),
            protocol,
        })
    }

    /// The answer that begins it.
    pub(super) fn answer(&self) -> Response {
        let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(self.protocol),
        );
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        answer
    }

    async fn socket(self) -> Option<Socket> {
        match self.connection.await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default()
                    .max_message_size(Some(MAX_MESSAGE))
                    .max_frame_size(Some(MAX_MESSAGE));
                let io = TokioIo::new(upgraded);
                Some(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
            }
            Err(error) => {
                tracing::debug!(%error, "a stream did not begin");
                None
            }
        }
    }
}

/// Runs a command for a client.
pub(super) async fn exec(upgrade: Upgrade, handle: Handle, options: Options) {
    let Some(mut socket) = upgrade.socket().await else {
        return;
    };
    let terminal = options.tty.then_some(TerminalSize {
        columns: 80,
        rows: 24,
    });
    let call = ExecCall {
        argv: options.command.clone(),
        stdin: options.input,
        terminal,
        timeout_ms: None,
    };
    hello(&mut socket, &options).await;
    let stream = match handle.exec_stream(call).await {
        Ok(stream) => stream,
        Err(error) => return end(&mut socket, &not_run(&error)).await,
    };
    let (mut to_client, mut from_client) = socket.split();
    let mut output = stream.output;
    // What is lost where one of the two ends first is nobody's any more.
    let status = tokio::select! {
        status = forward(&mut output, &mut to_client, &options) => status,
        () = feed(&mut from_client, stream.input) => None,
    };
    if let (Some(status), Ok(mut socket)) = (status, to_client.reunite(from_client)) {
        end(&mut socket, &status).await;
    }
}

/// What a container writes from now on.
pub(super) struct Output {
    stdout: Reader,
    stderr: Reader,
}

impl Output {
    /// Begins at the end of what there is.
    pub(super) async fn open(attempt: &AttemptDir) -> std::io::Result<Self> {
        let read = |stream| ReadOptions {
            follow: true,
            tail: Some(0),
            stream: Some(stream),
            ..ReadOptions::default()
        };
        Ok(Self {
            stdout: Reader::open(attempt, read(Stream::Stdout)).await?,
            stderr: Reader::open(attempt, read(Stream::Stderr)).await?,
        })
    }

    /// Sends it until the container ends; none where the client went before.
    async fn forward(
        mut self,
        to_client: &mut SplitSink<Socket, Message>,
        options: &Options,
    ) -> Option<Value> {
        let (mut out, mut err) = (options.output, options.error);
        while out || err {
            let (channel, piece) = tokio::select! {
                // Cancel-safe per docs on `next`.
                piece = self.stdout.next(), if out => (STDOUT, piece),
                piece = self.stderr.next(), if err => (STDERR, piece),
            };
            match piece {
                Ok(Some(piece)) => send(to_client, channel, &piece).await.ok()?,
                Ok(None) | Err(_) if channel == STDOUT => out = false,
                Ok(None) | Err(_) => err = false,
            }
        }
        Some(json!({"metadata": {}, "status": "Success"}))
    }
}

/// Shows a client what a container writes, and gives the container what the client sends.
pub(super) async fn attach(
    upgrade: Upgrade,
    output: Output,
    input: Option<ExecStream>,
    options: Options,
) {
    let Some(mut socket) = upgrade.socket().await else {
        return;
    };
    hello(&mut socket, &options).await;
    let (mut to_client, mut from_client) = socket.split();
    // The other half is held as long as the client is there: with it goes the connection.
    let (input, _held) = input.map(|it| (it.input, it.output)).unzip();
    let client = async {
        match input {
            Some(input) => feed(&mut from_client, input).await,
            None => while let Some(Ok(_)) = from_client.next().await {},
        }
    };
    let status = tokio::select! {
        status = output.forward(&mut to_client, &options) => status,
        () = client => None,
    };
    if let (Some(status), Ok(mut socket)) = (status, to_client.reunite(from_client)) {
        end(&mut socket, &status).await;
    }
}

/// An empty message on the first channel: clients wait for it.
async fn hello(socket: &mut Socket, options: &Options) {
    let channel = match options {
        Options { output: true, .. } => STDOUT,
        Options { error: true, .. } => STDERR,
        _ => STATUS,
    };
    // One that is gone is found out soon.
    let _ = socket.send(Message::binary(vec![channel])).await;
}

async fn send(
    to: &mut SplitSink<Socket, Message>,
    channel: u8,
    data: &[u8],
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    to.send(Message::binary(message)).await
}

/// Output to the client; the last word where there is one.
async fn forward(
    output: &mut ExecOutput,
    to_client: &mut SplitSink<Socket, Message>,
    options: &Options,
) -> Option<Value> {
    loop {
        let (channel, piece) = match output.next().await {
            Ok(ExecEvent::Stdout(piece)) if options.output => (STDOUT, piece),
            Ok(ExecEvent::Stderr(piece)) if options.error => (STDERR, piece),
            Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_)) => continue,
            Ok(ExecEvent::Ended { exit, .. }) => return Some(ended(exit)),
            Err(error) => return Some(not_run(&error)),
        };
        send(to_client, channel, &piece).await.ok()?;
    }
}

/// What a client sends about the size of its terminal.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// The client's messages to the command; returns when the client is gone.
async fn feed(from_client: &mut SplitStream<Socket>, mut input: ExecInput) {
    while let Some(Ok(message)) = from_client.next().await {
        let Message::Binary(message) = message else {
            // Pings are answered by the library.
            continue;
        };
        let Some((channel, data)) = message.split_first() else {
            continue;
        };
        let taken = match *channel {
            // The hello of the client; no data is no end.
            STDIN if data.is_empty() => Ok(()),
            STDIN => input.write(data).await,
            CLOSE if data.first() == Some(&STDIN) => input.finish().await,
            RESIZE => match serde_json::from_slice(data) {
                Ok(Size { width, height }) => {
                    let (columns, rows) = (width, height);
                    input.resize(TerminalSize { columns, rows }).await
                }
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        };
        if taken.is_err() {
            // The command has ended, and its last word is on the way.
            return std::future::pending().await;
        }
    }
}

async fn end(socket: &mut Socket, status: &Value) {
    let mut message = vec![STATUS];
    message.extend(status.to_string().into_bytes());
    // A client that is gone needs no good-bye.
    let _ = socket.send(Message::binary(message)).await;
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _ = socket.close(Some(normal)).await;
    // Until it has said good-bye as well: what we have sent must not be cut off.
    let rest = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), rest).await;
}

fn ended(exit: Exit) -> Value {
    let code = exit.code;
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn not_run(error: &ExecError) -> Value {
    let why = crate::pod::api::chain(error);
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "message": format!("Internal error occurred: error executing command in container: {why}"),
        "details": {"causes": [{"message": format!("error executing command in container: {why}")}]},
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_streams_and_words() {
        let query = "command=sh&command=-c&command=echo+a%26b&input=1&output=1&tty=1";
        let options = Options::parse(query).expect("streams");
        assert_eq!(options.command, ["sh", "-c", "echo a&b"]);
        assert!(options.input && options.output && options.tty && !options.error);
        assert_eq!(Options::parse("command=sh&output=0"), None);
    }

    #[test]
    fn what_is_no_websocket_is_told_so() {
        let refused = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            match Upgrade::new(&headers, None) {
                Err((code, _)) => code.as_u16(),
                Ok(_) => panic!("there is no connection"),
            }
        };
        assert_eq!(refused(&[]), 400);
        assert_eq!(
            refused(&[("upgrade", "SPDY/3.1"), ("connection", "Upgrade")]),
            501
        );
        assert_eq!(
            refused(&[("upgrade", "websocket"), ("connection", "Upgrade")]),
            400
        );
    }

    #[test]
    fn the_last_word_is_a_status_that_kubectl_reads() {
        let exit = |code| Exit { code, signal: None };
        assert_eq!(ended(exit(0))["status"], "Success");
        let failed = ended(exit(7));
        assert_eq!(failed["details"]["causes"][0]["message"], "7");
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(not_run(&ExecError::Ended)["reason"], "InternalError");
    }
}
