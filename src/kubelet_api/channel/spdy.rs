//! A container's streams over SPDY/3.1, protocol `v4.channel.k8s.io` (Kubernetes
//! `cri-streaming/pkg/streaming/remotecommand`): the client opens one stream for each channel and names it in the header
//! `streamtype`; nothing begins before all are there.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use spdy::{Incoming, Opened, Outgoing, Session};
use tokio::{task::JoinSet, time::timeout};

use super::{Gone, STDERR, STDOUT, Said, Size};
use crate::kubelet_api::stream::Options;

/// For the client to open its streams (the kubelet's `streamCreationTimeout`).
const PATIENCE: Duration = Duration::from_secs(30);
/// For the last word to be written.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes of sizes of a terminal that are not whole yet.
const MAX_SIZES: usize = 4096;

pub(in crate::kubelet_api) struct ToClient {
    status: Outgoing,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
}

pub(in crate::kubelet_api) struct FromClient {
    stdin: Option<Incoming>,
    resize: Option<Incoming>,
    /// Sizes as they come, one after the other.
    sizes: BytesMut,
    session: Session,
    /// Ends with the connection, or when this goes.
    driver: JoinSet<io::Result<()>>,
}

#[derive(Default)]
struct Streams {
    error: Option<Opened>,
    stdin: Option<Opened>,
    stdout: Option<Opened>,
    stderr: Option<Opened>,
    resize: Option<Opened>,
}

impl Streams {
    fn place(&mut self, name: &str) -> Option<&mut Option<Opened>> {
        Some(match name {
            "error" => &mut self.error,
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return None,
        })
    }

    fn complete(&self, options: &Options) -> bool {
        let there = |wanted: bool, stream: &Option<Opened>| !wanted || stream.is_some();
        self.error.is_some()
            && there(options.input, &self.stdin)
            && there(options.output, &self.stdout)
            && there(options.error && !options.tty, &self.stderr)
            && there(options.tty, &self.resize)
    }
}

/// Waits for the client's streams; none where it does not open them.
pub(super) async fn client(
    io: TokioIo<Upgraded>,
    options: &Options,
) -> Option<(ToClient, FromClient)> {
    let (mut session, driver) = spdy::session::session(io);
    let mut task = JoinSet::new();
    task.spawn(driver.run());
    let mut streams = Streams::default();
    let all = async {
        while !streams.complete(options) {
            let opened = session.accept().await?;
            let name = opened.header("streamtype").unwrap_or_default().to_owned();
            if let Some(place) = streams.place(&name) {
                *place = Some(opened);
            }
        }
        Some(())
    };
    if timeout(PATIENCE, all).await.ok().flatten().is_none() {
        tracing::debug!("a client did not open the streams that it asked for");
        return None;
    }
    let to = ToClient {
        status: streams.error?.outgoing,
        stdout: streams.stdout.map(|it| it.outgoing),
        stderr: streams.stderr.map(|it| it.outgoing),
    };
    let from = FromClient {
        stdin: streams.stdin.map(|it| it.incoming),
        resize: streams.resize.map(|it| it.incoming),
        sizes: BytesMut::new(),
        session,
        driver: task,
    };
    Some((to, from))
}

impl ToClient {
    pub(super) async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        let stream = match channel {
            STDOUT => &self.stdout,
            STDERR => &self.stderr,
            _ => &None,
        };
        match stream {
            Some(stream) => stream
                .send(Bytes::copy_from_slice(data))
                .await
                .map_err(|_| Gone),
            None => Ok(()),
        }
    }

    pub(super) async fn end(self, mut from: FromClient, status: &Value) {
        let farewell = async {
            // A client that is gone needs none.
            let _ = self.status.send(status.to_string().into()).await;
            for stream in [self.stdout, self.stderr, Some(self.status)]
                .into_iter()
                .flatten()
            {
                let _ = stream.finish().await;
            }
            // With the last user of the connection gone the driver writes what is left.
            drop((from.session, from.stdin, from.resize));
            let _ = from.driver.join_next().await;
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

impl FromClient {
    pub(super) async fn next(&mut self) -> Option<Said> {
        loop {
            if let Some(size) = take_size(&mut self.sizes) {
                return Some(size.into());
            }
            tokio::select! {
                // Cancel-safe per docs on `next` and `accept`.
                piece = of(&mut self.stdin), if self.stdin.is_some() => match piece {
                    Some(data) => return Some(Said::Input(data)),
                    None => {
                        self.stdin = None;
                        return Some(Said::InputEnd);
                    }
                },
                piece = of(&mut self.resize), if self.resize.is_some() => match piece {
                    Some(data) if self.sizes.len() + data.len() <= MAX_SIZES => self.sizes.extend_from_slice(&data),
                    // It ends, or is no list of sizes.
                    _ => self.resize = None,
                },
                // Streams beyond those that were asked for are of no use.
                more = self.session.accept() => drop(more?),
            }
        }
    }
}

/// The next piece; none where the stream ends or breaks off.
async fn of(stream: &mut Option<Incoming>) -> Option<Bytes> {
    stream.as_mut()?.next().await.ok().flatten()
}

/// Takes the first whole size.
fn take_size(sizes: &mut BytesMut) -> Option<Size> {
    let mut values = serde_json::Deserializer::from_slice(sizes).into_iter::<Size>();
    let size = values.next()?.ok();
    let taken = values.byte_offset();
    if size.is_some() {
        let _ = sizes.split_to(taken);
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_one_after_the_other_and_in_pieces() {
        let mut sizes = BytesMut::from("{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Hei");
        let size = take_size(&mut sizes).expect("a size");
        assert_eq!((size.width, size.height), (80, 24));
        assert!(take_size(&mut sizes).is_none());
        sizes.extend_from_slice(b"ght\":50}");
        let size = take_size(&mut sizes).expect("a size");
        assert_eq!((size.width, size.height), (100, 50));
        assert!(take_size(&mut sizes).is_none());
    }
}
