use std::time::Duration;

use tokio::io::DuplexStream;

use super::*;

/// A peer that writes frames and reads what comes.
struct Peer {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    async fn put(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.put(&frame, &mut bytes).expect("put");
        self.io.write_all(&bytes).await.expect("written");
    }

    async fn open(&mut self, id: u32, fin: bool) {
        let headers = vec![("streamtype".to_owned(), "stdin".to_owned())];
        self.put(Frame::SynStream { id, headers, fin }).await;
    }

    async fn data(&mut self, id: u32, data: &'static [u8], fin: bool) {
        let data = Bytes::from_static(data);
        self.put(Frame::Data { id, data, fin }).await;
    }

    /// None at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).expect("well-formed") {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.buffer).await.expect("read") == 0 {
                return None;
            }
        }
    }
}

fn reply(id: u32) -> Option<Frame> {
    let headers = Headers::new();
    Some(Frame::SynReply { id, headers })
}

fn reset(id: u32, code: Code) -> Option<Frame> {
    Some(Frame::Reset { id, code })
}

async fn with<F: Future<Output = ()>>(test: impl FnOnce(Session, Peer) -> F) -> io::Result<()> {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (session, driver) = session(ours);
    let peer = Peer {
        io: theirs,
        encoder: Encoder::new().expect("a dictionary"),
        decoder: Decoder::default(),
        buffer: BytesMut::new(),
    };
    let both = async { tokio::join!(driver.run(), test(session, peer)) };
    let (driven, ()) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("nobody waits for ever");
    // A peer that goes first may miss the good-bye.
    driven.or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways_and_ends_in_each_alone() {
    let done = with(|mut session, mut peer| async move {
        peer.open(1, false).await;
        let mut stream = session.accept().await.expect("a stream");
        assert_eq!(stream.header("streamtype"), Some("stdin"));
        assert_eq!(peer.next().await, reply(1));
        peer.data(1, b"to", false).await;
        peer.data(1, b"", true).await;
        assert_eq!(stream.incoming.next().await, Ok(Some("to".into())));
        assert_eq!(stream.incoming.next().await, Ok(None));
        assert_eq!(stream.incoming.next().await, Ok(None), "and stays so");
        stream.outgoing.send("from".into()).await.expect("sent");
        stream.outgoing.finish().await.expect("sent");
        let data = |data, fin| Some(Frame::Data { id: 1, data, fin });
        assert_eq!(peer.next().await, data("from".into(), false));
        assert_eq!(peer.next().await, data(Bytes::new(), true));
        // It has ended in both directions.
        peer.data(1, b"late", false).await;
        assert_eq!(peer.next().await, reset(1, Code::InvalidStream));
        drop((session, stream.incoming));
        assert_eq!(peer.next().await, Some(Frame::GoAway { last: 1 }));
        assert_eq!(peer.next().await, None);
    });
    done.await.expect("a good end");
}

#[tokio::test]
async fn pings_come_back_and_unknown_frames_are_passed_over() {
    let done = with(|session, mut peer| async move {
        for frame in [
            Frame::Other(4),
            Frame::Ping(7),
            Frame::Other(9),
            Frame::Ping(9),
        ] {
            peer.put(frame).await;
        }
        assert_eq!(peer.next().await, Some(Frame::Ping(7)));
        assert_eq!(peer.next().await, Some(Frame::Ping(9)));
        drop(session);
    });
    done.await.expect("a good end");
}

#[tokio::test]
async fn numbers_are_odd_and_grow() {
    let done = with(|mut session, mut peer| async move {
        for id in [2, 5, 5, 3] {
            peer.open(id, true).await;
        }
        let mut stream = session.accept().await.expect("a stream");
        assert_eq!(stream.id, 5);
        assert_eq!(
            stream.incoming.next().await,
            Ok(None),
            "it came with its end"
        );
        assert_eq!(peer.next().await, reset(2, Code::ProtocolError));
        assert_eq!(peer.next().await, reply(5));
        assert_eq!(peer.next().await, reset(5, Code::ProtocolError));
        assert_eq!(peer.next().await, reset(3, Code::ProtocolError));
    });
    done.await.expect("a good end");
}

#[tokio::test]
async fn a_reset_ends_both_directions() {
    let done = with(|mut session, mut peer| async move {
        peer.open(1, false).await;
        peer.open(3, false).await;
        let mut first = session.accept().await.expect("a stream");
        let second = session.accept().await.expect("a stream");
        peer.put(Frame::Reset {
            id: 1,
            code: Code::Cancel,
        })
        .await;
        assert_eq!(first.incoming.next().await, Err(Reset));
        first.outgoing.send("lost".into()).await.expect("queued");
        second.outgoing.reset(Code::Cancel).await.expect("queued");
        assert_eq!(peer.next().await, reply(1));
        assert_eq!(peer.next().await, reply(3));
        assert_eq!(peer.next().await, reset(3, Code::Cancel));
    });
    done.await.expect("a good end");
}

#[tokio::test]
async fn a_peer_that_goes_ends_every_stream() {
    let done = with(|mut session, mut peer| async move {
        peer.open(1, false).await;
        let mut stream = session.accept().await.expect("a stream");
        drop(peer);
        assert_eq!(stream.incoming.next().await, Err(Reset));
        assert!(session.accept().await.is_none());
    });
    // Either it read the end or could not write its answer.
    let _ = done.await;
}

#[tokio::test]
async fn what_is_no_spdy_ends_the_connection_with_the_reason() {
    let done = with(|mut session, mut peer| async move {
        peer.io
            .write_all(&[0x80, 2, 0, 1, 0, 0, 0, 0])
            .await
            .expect("written");
        assert!(session.accept().await.is_none());
    });
    assert!(done.await.is_err());
}

/// One that nobody reads holds up no other, as long as it stays within the budget.
#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let done = with(|mut session, mut peer| async move {
        peer.open(1, false).await;
        peer.open(3, false).await;
        let mut slow = session.accept().await.expect("a stream");
        let mut other = session.accept().await.expect("a stream");
        let piece = [7; 1024].repeat(64);
        for _ in 0..32 {
            let data = Bytes::from(piece.clone());
            peer.put(Frame::Data {
                id: 1,
                data,
                fin: false,
            })
            .await;
        }
        peer.data(3, b"quick", true).await;
        assert_eq!(other.incoming.next().await, Ok(Some("quick".into())));
        peer.data(1, b"", true).await;
        let mut total = 0;
        while let Some(data) = slow.incoming.next().await.expect("whole") {
            total += data.len();
        }
        assert_eq!(total, 32 * piece.len());
    });
    done.await.expect("a good end");
}
