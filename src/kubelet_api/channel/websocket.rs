//! A container's streams over a WebSocket.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{CLOSE, Gone, RESIZE, STATUS, STDERR, STDIN, STDOUT, Said, Size};
use crate::kubelet_api::stream::Options;

/// Largest message of a client; kubectl sends 32 KiB at once.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Bytes that are read at once.
const PIECE: usize = 32 * 1024;

pub(in crate::kubelet_api) type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(in crate::kubelet_api) struct ToClient(SplitSink<Socket, Message>);
pub(in crate::kubelet_api) struct FromClient(SplitStream<Socket>);

pub(super) async fn socket(io: TokioIo<Upgraded>) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Begins with an empty message on the first channel: clients wait for it.
pub(super) async fn client(io: TokioIo<Upgraded>, options: &Options) -> (ToClient, FromClient) {
    let (to, from) = socket(io).await.split();
    let mut to = ToClient(to);
    let channel = match options {
        Options { output: true, .. } => STDOUT,
        Options { error: true, .. } => STDERR,
        _ => STATUS,
    };
    // One that is gone is found out soon.
    let _ = to.send(channel, &[]).await;
    (to, FromClient(from))
}

impl ToClient {
    pub(super) async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        let sent = self.0.send(Message::binary(message)).await;
        sent.map_err(|_| Gone)
    }

    pub(super) async fn end(mut self, from: FromClient, status: &Value) {
        // A client that is gone needs no good-bye.
        let _ = self.send(STATUS, status.to_string().as_bytes()).await;
        let Ok(mut socket) = self.0.reunite(from.0) else {
            return;
        };
        let normal = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = socket.close(Some(normal)).await;
        // Until it has said good-bye as well: what we have sent must not be cut off.
        let rest = async { while let Some(Ok(_)) = socket.next().await {} };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), rest).await;
    }
}

impl FromClient {
    pub(super) async fn next(&mut self) -> Option<Said> {
        loop {
            // Pings are answered by the library.
            let Message::Binary(message) = self.0.next().await?.ok()? else {
                continue;
            };
            if let Some(said) = read(message) {
                return Some(said);
            }
        }
    }
}

fn read(mut message: Bytes) -> Option<Said> {
    if message.is_empty() {
        return None;
    }
    let channel = message.split_to(1);
    match channel[0] {
        // The hello of the client; no data is no end.
        STDIN if message.is_empty() => None,
        STDIN => Some(Said::Input(message)),
        CLOSE if message.first() == Some(&STDIN) => Some(Said::InputEnd),
        RESIZE => serde_json::from_slice::<Size>(&message)
            .ok()
            .map(Said::from),
        _ => None,
    }
}

/// Carries bytes in binary messages, wherever they are cut, until one side ends.
pub(super) async fn tunnel(socket: Socket, inside: DuplexStream) -> io::Result<()> {
    let (mut to_client, mut from_client) = socket.split();
    let (mut read, mut write) = tokio::io::split(inside);
    let inwards = async {
        while let Some(Ok(message)) = from_client.next().await {
            if let Message::Binary(data) = message {
                write.write_all(&data).await?;
            }
        }
        write.shutdown().await
    };
    let outwards = async {
        let mut buffer = BytesMut::with_capacity(PIECE);
        while read.read_buf(&mut buffer).await? > 0 {
            let message = Message::Binary(buffer.split().freeze());
            to_client.send(message).await.map_err(io::Error::other)?;
            buffer.reserve(PIECE);
        }
        to_client.close().await.map_err(io::Error::other)
    };
    // What was on the way to the side that has ended is nobody's any more.
    tokio::select! {
        done = inwards => done,
        done = outwards => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::protocol::TerminalSize;

    #[test]
    fn messages_are_read_by_their_channel() {
        let said = |bytes: &'static [u8]| read(Bytes::from_static(bytes));
        assert_eq!(said(b"\0abc"), Some(Said::Input("abc".into())));
        assert_eq!(said(b"\0"), None);
        assert_eq!(said(b""), None);
        assert_eq!(said(b"\xff\0"), Some(Said::InputEnd));
        assert_eq!(said(b"\xff\x01"), None);
        let (columns, rows) = (80, 24);
        let size = Said::Size(TerminalSize { columns, rows });
        assert_eq!(said(b"\x04{\"Width\":80,\"Height\":24}"), Some(size));
        assert_eq!(said(b"\x04{"), None);
    }
}
