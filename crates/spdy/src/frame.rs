//! Frames (SPDY/3 section 2.2, 2.6): a word of control or data, flags, 24 bits of length.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::headers::{Headers, Packer, Unpacker};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;
/// Bytes before the body.
const HEAD: usize = 8;
/// Bytes of a control frame's body; data may be longer, and comes in pieces.
const MAX_CONTROL: usize = 64 * 1024;
/// 24 bits.
const MAX_DATA: usize = (1 << 24) - 1;

/// What a peer sent that is no SPDY/3.1; nothing of the connection can be understood after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Of another version.
    #[error("a frame of SPDY version {0}, where 3 is understood")]
    Version(u16),
    /// A control frame that is too long or too short.
    #[error("a frame of type {kind} with {length} bytes")]
    Length {
        /// Its type.
        kind: u16,
        /// Bytes of its body.
        length: usize,
    },
    /// A block of headers that zlib does not know.
    #[error("headers that are not compressed as the protocol says")]
    Compression,
    /// A block of headers with other contents.
    #[error("a block of headers that is cut off, too long, or has a name twice or in upper case")]
    Headers,
}

/// Why a stream ends at once (section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Against the protocol.
    ProtocolError,
    /// There is no such stream.
    InvalidStream,
    /// It was not taken.
    RefusedStream,
    /// Nobody wants it any more.
    Cancel,
    /// Any other number.
    Other(u32),
}

impl Code {
    fn number(self) -> u32 {
        match self {
            Self::ProtocolError => 1,
            Self::InvalidStream => 2,
            Self::RefusedStream => 3,
            Self::Cancel => 5,
            Self::Other(number) => number,
        }
    }

    fn of(number: u32) -> Self {
        let known = [
            Self::ProtocolError,
            Self::InvalidStream,
            Self::RefusedStream,
            Self::Cancel,
        ];
        let found = known.into_iter().find(|it| it.number() == number);
        found.unwrap_or(Self::Other(number))
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Begins a stream.
    SynStream {
        /// Odd, and greater than any before it, from the side that called.
        id: u32,
        /// What it is for.
        headers: Headers,
        /// Nothing comes from this side.
        fin: bool,
    },
    /// Takes it.
    SynReply {
        /// Of the stream.
        id: u32,
        /// What there is to say.
        headers: Headers,
    },
    /// Ends a stream in both directions.
    Reset {
        /// Of the stream.
        id: u32,
        /// Why.
        code: Code,
    },
    /// To be sent back.
    Ping(u32),
    /// No stream is taken any more.
    GoAway {
        /// The last one that was.
        last: u32,
    },
    /// Bytes of a stream.
    Data {
        /// Of the stream.
        id: u32,
        /// The bytes.
        data: Bytes,
        /// The last from this side.
        fin: bool,
    },
    /// Understood to be of no meaning here: SETTINGS, WINDOW_UPDATE and their like.
    Other(u16),
}

/// Writes frames; blocks of headers depend on all before them.
pub struct Encoder(Packer);

impl Encoder {
    /// For a new connection.
    ///
    /// # Errors
    /// Where zlib takes no dictionary.
    pub fn new() -> Result<Self, Malformed> {
        Packer::new().map(Self)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// Headers of 4 GiB.
    pub fn put(&mut self, frame: &Frame, to: &mut BytesMut) -> Result<(), Malformed> {
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let block = self.0.pack(headers)?;
                head(to, SYN_STREAM, *fin, 10 + block.len());
                to.put_u32(*id);
                // No stream that it belongs to, no priority, no slot.
                to.put_bytes(0, 6);
                to.put_slice(&block);
            }
            Frame::SynReply { id, headers } => {
                let block = self.0.pack(headers)?;
                head(to, SYN_REPLY, false, 4 + block.len());
                to.put_u32(*id);
                to.put_slice(&block);
            }
            Frame::Reset { id, code } => {
                head(to, RST_STREAM, false, 8);
                to.put_u32(*id);
                to.put_u32(code.number());
            }
            Frame::Ping(number) => {
                head(to, PING, false, 4);
                to.put_u32(*number);
            }
            Frame::GoAway { last } => {
                head(to, GOAWAY, false, 8);
                to.put_u32(*last);
                to.put_u32(0);
            }
            Frame::Data { id, data, fin } => {
                let mut left = data.clone();
                loop {
                    let piece = left.split_to(left.len().min(MAX_DATA));
                    let last = left.is_empty();
                    to.put_u32(*id);
                    to.put_u8(if *fin && last { FIN } else { 0 });
                    put_length(to, piece.len());
                    to.put_slice(&piece);
                    if last {
                        break;
                    }
                }
            }
            Frame::Other(kind) => head(to, *kind, false, 0),
        }
        Ok(())
    }
}

fn head(to: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    to.put_u16(0x8000 | VERSION);
    to.put_u16(kind);
    to.put_u8(if fin { FIN } else { 0 });
    put_length(to, length);
}

fn put_length(to: &mut BytesMut, length: usize) {
    to.put_uint(u64::try_from(length).unwrap_or_default(), 3);
}

/// Reads frames.
pub struct Decoder {
    headers: Unpacker,
    /// What is left of a data frame that has begun.
    body: Option<Body>,
}

struct Body {
    id: u32,
    left: usize,
    fin: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            headers: Unpacker::new(),
            body: None,
        }
    }
}

impl Decoder {
    /// Takes the next frame, or the piece of a data frame that is there; none where more bytes are needed.
    ///
    /// # Errors
    /// After which nothing can be read any more.
    pub fn next(&mut self, from: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if let Some(body) = &mut self.body {
            if from.is_empty() {
                return Ok(None);
            }
            let data = from.split_to(from.len().min(body.left)).freeze();
            body.left -= data.len();
            let (id, last) = (body.id, body.left == 0);
            let fin = body.fin && last;
            if last {
                self.body = None;
            }
            return Ok(Some(Frame::Data { id, data, fin }));
        }
        let Some(head) = from.get(..HEAD) else {
            return Ok(None);
        };
        let mut head = head;
        let word = head.get_u32();
        let flags = head.get_u8();
        let length = usize::try_from(head.get_uint(3)).unwrap_or(usize::MAX);
        let fin = flags & FIN != 0;
        if word >> 31 == 0 {
            from.advance(HEAD);
            if length == 0 {
                let data = Bytes::new();
                return Ok(Some(Frame::Data {
                    id: word,
                    data,
                    fin,
                }));
            }
            self.body = Some(Body {
                id: word,
                left: length,
                fin,
            });
            return self.next(from);
        }
        let version = u16::try_from(word >> 16 & 0x7fff).unwrap_or_default();
        let kind = u16::try_from(word & 0xffff).unwrap_or_default();
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(Malformed::Length { kind, length });
        }
        if from.len() < HEAD + length {
            return Ok(None);
        }
        from.advance(HEAD);
        let body = from.split_to(length);
        self.control(kind, fin, &body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Result<Frame, Malformed> {
        let length = body.len();
        let short = Malformed::Length { kind, length };
        let word = |at: usize| -> Result<u32, Malformed> {
            let bytes = body.get(at..).and_then(|it| it.first_chunk::<4>());
            bytes.map(|it| u32::from_be_bytes(*it)).ok_or(short)
        };
        let id = |at| word(at).map(|it| it & 0x7fff_ffff);
        let mut block = |at: usize| self.headers.unpack(body.get(at..).ok_or(short)?);
        Ok(match kind {
            SYN_STREAM => Frame::SynStream {
                id: id(0)?,
                headers: block(10)?,
                fin,
            },
            SYN_REPLY => Frame::SynReply {
                id: id(0)?,
                headers: block(4)?,
            },
            RST_STREAM => Frame::Reset {
                id: id(0)?,
                code: Code::of(word(4)?),
            },
            PING => Frame::Ping(word(0)?),
            GOAWAY => Frame::GoAway { last: id(0)? },
            HEADERS => {
                block(4)?;
                Frame::Other(kind)
            }
            _ => Frame::Other(kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let headers = prop::collection::btree_map("[a-z]{1,9}", "[ -~]{0,40}", 0..5);
        let headers = headers.prop_map(|it| it.into_iter().collect::<Headers>());
        let id = 0..0x8000_0000_u32;
        let data = prop::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (id.clone(), headers.clone(), any::<bool>())
                .prop_map(|(id, headers, fin)| Frame::SynStream { id, headers, fin }),
            (id.clone(), headers).prop_map(|(id, headers)| Frame::SynReply { id, headers }),
            (id.clone(), 1..12_u32).prop_map(|(id, code)| Frame::Reset {
                id,
                code: Code::of(code)
            }),
            any::<u32>().prop_map(Frame::Ping),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id, data, any::<bool>()).prop_map(|(id, data, fin)| Frame::Data {
                id,
                data: data.into(),
                fin
            }),
            Just(Frame::Other(4)),
        ]
    }

    /// Pieces of one data frame put together again.
    fn whole(frames: Vec<Frame>) -> Vec<Frame> {
        let mut joined: Vec<Frame> = Vec::new();
        for frame in frames {
            if let Frame::Data { id, data, fin } = &frame
                && let Some(Frame::Data {
                    id: before,
                    data: begun,
                    fin: open @ false,
                }) = joined.last_mut()
                && before == id
            {
                *begun = [begun.as_ref(), data].concat().into();
                *open = *fin;
                continue;
            }
            joined.push(frame);
        }
        joined
    }

    proptest! {
        /// However the bytes are cut, the same frames come out.
        #[test]
        fn frames_come_back(frames in prop::collection::vec(any_frame(), 0..12), cut in 1..64_usize) {
            let mut encoder = Encoder::new().expect("a dictionary");
            let mut bytes = BytesMut::new();
            for frame in &frames {
                encoder.put(frame, &mut bytes).expect("put");
            }
            let mut decoder = Decoder::default();
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.next(&mut buffer).expect("well-formed") {
                    found.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(whole(found), whole(frames));
        }

        #[test]
        fn any_bytes_end_in_a_word(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        }
    }

    #[test]
    fn what_is_of_another_protocol_is_refused() {
        let next = |bytes: &[u8]| Decoder::default().next(&mut BytesMut::from(bytes));
        assert_eq!(
            next(&[0x80, 2, 0, 1, 0, 0, 0, 0]),
            Err(Malformed::Version(2))
        );
        let long = Malformed::Length {
            kind: 1,
            length: 0xff_ffff,
        };
        assert_eq!(next(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]), Err(long));
        let short = Malformed::Length { kind: 6, length: 0 };
        assert_eq!(next(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(short));
    }
}
