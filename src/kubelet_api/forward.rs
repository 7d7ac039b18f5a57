//! `/portForward`: connections to ports of a pod, over SPDY/3.1 (Kubernetes
//! `cri-streaming/pkg/streaming/portforward`), or over SPDY inside of a WebSocket.
//!
//! A connection is two streams of the same `requestid`: `error`, which carries words if anything fails, and `data`.
//! A pod here has the network of its node, so its ports are those of the node's loopback.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use spdy::{Incoming, Opened, Outgoing, frame::Code};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::channel::{Protocols, Upgrade};

/// What may be spoken here.
pub(super) const FORWARDS: Protocols = Protocols {
    websocket: &["SPDY/3.1+portforward.k8s.io"],
    spdy: "portforward.k8s.io",
};

/// For the second stream of a connection to come (the kubelet's).
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const PIECE: usize = 32 * 1024;

/// Serves a client until it goes; `pod` is what errors call it.
pub(super) async fn serve(upgrade: Upgrade, pod: &str) {
    let Some((mut session, _driver)) = upgrade.session().await else {
        return;
    };
    let mut halves: BTreeMap<String, (Instant, Opened)> = BTreeMap::new();
    let mut connections = JoinSet::new();
    loop {
        let due = halves.values().map(|(since, _)| *since + PATIENCE).min();
        let opened = tokio::select! {
            // Cancel-safe per docs on `accept` and `join_next`.
            opened = session.accept() => opened,
            Some(_) = connections.join_next() => continue,
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                let now = Instant::now();
                let late = |(since, _): &(Instant, Opened)| *since + PATIENCE <= now;
                for (_, stream) in halves.extract_if(.., |_, it| late(it)).map(|it| it.1) {
                    let _ = stream.outgoing.reset(Code::Cancel).await;
                }
                continue;
            }
        };
        let Some(opened) = opened else {
            return;
        };
        let Some(id) = request_of(&opened) else {
            let _ = opened.outgoing.reset(Code::RefusedStream).await;
            continue;
        };
        let Some((_, other)) = halves.remove(&id) else {
            halves.insert(id, (Instant::now(), opened));
            continue;
        };
        let (error, data) = match opened.header("streamtype") {
            Some("data") => (other, opened),
            _ => (opened, other),
        };
        connections.spawn(connection(error, data, pod.to_owned()));
    }
}

/// Which connection a stream is of; none where it says neither what it is nor a port. Clients without a `requestid`
/// open the data stream right after the error stream.
fn request_of(stream: &Opened) -> Option<String> {
    port_of(stream)?;
    let before = match stream.header("streamtype")? {
        "error" => 0,
        "data" => 2,
        _ => return None,
    };
    let by_number = || stream.id.checked_sub(before).map(|it| it.to_string());
    let named = stream.header("requestid").map(str::to_owned);
    named.or_else(by_number)
}

fn port_of(stream: &Opened) -> Option<u16> {
    let port = stream.header("port")?.parse().ok();
    port.filter(|port| *port != 0)
}

async fn connection(error: Opened, data: Opened, pod: String) {
    let port = port_of(&data).unwrap_or_default();
    let is = |stream: &Opened, kind| stream.header("streamtype") == Some(kind);
    let matched = is(&error, "error") && is(&data, "data");
    let (words, lines) = (error.outgoing, data.outgoing);
    let done = match matched {
        true => forward(port, data.incoming, &lines).await,
        false => Err(io::Error::other("two streams of one kind")),
    };
    // A client that is gone hears nothing of it.
    match done {
        Ok(()) => {
            let _ = lines.finish().await;
        }
        Err(why) => {
            let text = format!("error forwarding port {port} to pod {pod}: {why}");
            let _ = words.send(text.into()).await;
            let _ = lines.reset(Code::Cancel).await;
        }
    }
    let _ = words.finish().await;
}

/// Moves bytes both ways until both have ended.
async fn forward(port: u16, from_client: Incoming, to_client: &Outgoing) -> io::Result<()> {
    let stream = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(stream) => stream,
        // Who listens on IPv6 alone.
        Err(error) => match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
            Ok(stream) => stream,
            Err(_) => return Err(error),
        },
    };
    let _ = stream.set_nodelay(true);
    let (from_pod, to_pod) = stream.into_split();
    // A failure on one side ends the other: both are of one connection.
    tokio::try_join!(send(from_client, to_pod), receive(from_pod, to_client)).map(drop)
}

async fn send(mut from: Incoming, mut to: OwnedWriteHalf) -> io::Result<()> {
    loop {
        match from.next().await {
            Ok(Some(data)) => to.write_all(&data).await?,
            Ok(None) => return to.shutdown().await,
            Err(reset) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reset)),
        }
    }
}

async fn receive(mut from: OwnedReadHalf, to: &Outgoing) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    while from.read_buf(&mut buffer).await? > 0 {
        let data: Bytes = buffer.split().freeze();
        let sent = to.send(data).await;
        sent.map_err(|gone| io::Error::new(io::ErrorKind::ConnectionAborted, gone))?;
        buffer.reserve(PIECE);
    }
    Ok(())
}
