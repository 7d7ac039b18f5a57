//! Frames between agent and shim.
//!
//! A frame is a length (`u32`, big-endian, of all that follows it), a kind (`u8`) and a payload. Kind 0 is a JSON
//! message; the others carry the streams of an exec.
//! A client sends [`Call`]s, the shim sends [`Message`]s: one reply per call, and status events to subscribers.
//! A call of an unknown name gets the reply `not-implemented`, so old shims and new agents get on.
//!
//! The call `exec` takes its connection over: after the reply the connection carries that one exec's streams and,
//! last, [`Message::ExecEnded`].
//! A caller that closes it cancels the exec, so nothing runs for nobody.
//! So does the call `attach`, whose connection carries what the container's own command reads; what it writes is in
//! its log.
//!
//! | kind | from | payload |
//! |---|---|---|
//! | 0 | both | a JSON message |
//! | 1 | client | standard input; none is its end |
//! | 2 | shim | standard output, or that of the terminal |
//! | 3 | shim | standard error |
//! | 4 | client | size of the terminal: columns, rows (`u16` each, big-endian) |

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    spec::ContainerSpec,
    stats::Usage,
    status::{Exit, Status},
};

/// Version of the protocol, told in the reply to `subscribe`.
pub const PROTOCOL: u32 = 1;
/// Kind of a frame that holds a JSON message.
pub const KIND_MESSAGE: u8 = 0;
/// Kind of a frame with standard input; an empty one is its end.
pub const KIND_STDIN: u8 = 1;
/// Kind of a frame with standard output.
pub const KIND_STDOUT: u8 = 2;
/// Kind of a frame with standard error.
pub const KIND_STDERR: u8 = 3;
/// Kind of a frame with a [`TerminalSize`].
pub const KIND_RESIZE: u8 = 4;
/// Largest frame with a spec: the kernel takes no larger environment either.
pub const MAX_SPEC_FRAME: usize = 32 * 1024 * 1024;
/// Largest other frame.
pub const MAX_FRAME: usize = 64 * 1024;

/// A call as it goes over the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call<'a> {
    /// Chosen by the caller, repeated in the reply.
    pub id: u64,
    /// Name of the request.
    pub request: &'a str,
    /// Its arguments.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a RawValue>,
}

/// What a shim can be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `start`: take the claim and run this; only once, on the connection the shim was started with.
    Start(Box<ContainerSpec>),
    /// `status`: replies with the state.
    Status,
    /// `subscribe`: replies with a [`Greeting`], then every change of state follows as an event. The end of the
    /// connection is the end of the shim.
    Subscribe,
    /// `signal`: to the main process's group.
    Signal(i32),
    /// `terminate`: SIGTERM now, SIGKILL to the tree after so many milliseconds.
    Terminate {
        /// Milliseconds.
        grace_ms: u64,
        /// Another signal than SIGTERM.
        signal: Option<i32>,
    },
    /// `kill-tree`: SIGKILL to the tree.
    KillTree,
    /// `kill-tree-for-memory`: the same, and the end is recorded as one for want of memory.
    KillForMemory,
    /// `usage`: replies with what the container uses, looked at where it runs: its processes may be in another PID
    /// namespace than the agent's, or no descendants of the shim.
    Usage {
        /// Bytes of resident memory above which the exact memory is asked for too.
        exact_above: Option<u64>,
    },
    /// `exec`: run a further command among the container's processes; the connection is its streams from then on.
    /// Replied to with `done` when the command runs, with the state `start-failed` when it could not be started.
    Exec(Box<ExecCall>),
    /// `attach`: the connection is input for the container's command from then on, and sizes of its terminal.
    Attach(AttachCall),
}

/// What `attach` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachCall {
    /// Whether the caller sends standard input; else only sizes of the terminal.
    #[serde(default)]
    pub stdin: bool,
}

/// What `exec` is asked to run: with the environment, directory and limits of the container.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCall {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Whether the caller sends standard input; else it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// A terminal for all three streams, of this size.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Milliseconds after which SIGKILL ends the command and all that it has started.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Leaves the arguments out: they may hold secrets.
impl std::fmt::Debug for ExecCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecCall")
            .field("program", &self.argv.first())
            .field("terminal", &self.terminal)
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl TerminalSize {
    /// As the payload of a frame of kind [`KIND_RESIZE`].
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_be_bytes(), self.rows.to_be_bytes());
        [a, b, c, d]
    }

    /// Reads such a payload.
    pub fn from_bytes(payload: &[u8]) -> Option<Self> {
        let &[a, b, c, d] = <&[u8; 4]>::try_from(payload).ok()?;
        Some(Self {
            columns: u16::from_be_bytes([a, b]),
            rows: u16::from_be_bytes([c, d]),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct SignalArguments {
    signal: i32,
}

#[derive(Serialize, Deserialize)]
struct TerminateArguments {
    grace_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
}

#[derive(Serialize, Deserialize)]
struct UsageArguments {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact_above: Option<u64>,
}

impl Request {
    /// Name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Status => "status",
            Self::Subscribe => "subscribe",
            Self::Signal(_) => "signal",
            Self::Terminate { .. } => "terminate",
            Self::KillTree => "kill-tree",
            Self::KillForMemory => "kill-tree-for-memory",
            Self::Usage { .. } => "usage",
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
        }
    }

    /// The frame of this request.
    pub fn encode(&self, id: u64) -> serde_json::Result<Vec<u8>> {
        let arguments = match self {
            Self::Start(spec) => Some(serde_json::value::to_raw_value(spec)?),
            Self::Signal(signal) => Some(serde_json::value::to_raw_value(&SignalArguments {
                signal: *signal,
            })?),
            Self::Terminate { grace_ms, signal } => {
                Some(serde_json::value::to_raw_value(&TerminateArguments {
                    grace_ms: *grace_ms,
                    signal: *signal,
                })?)
            }
            Self::Usage { exact_above } => {
                Some(serde_json::value::to_raw_value(&UsageArguments {
                    exact_above: *exact_above,
                })?)
            }
            Self::Exec(call) => Some(serde_json::value::to_raw_value(call)?),
            Self::Attach(call) => Some(serde_json::value::to_raw_value(call)?),
            Self::Status | Self::Subscribe | Self::KillTree | Self::KillForMemory => None,
        };
        message_frame(&Call {
            id,
            request: self.name(),
            arguments: arguments.as_deref(),
        })
    }

    /// Reads a call's payload: its id, and the request or the error to reply with.
    pub fn decode(payload: &[u8]) -> serde_json::Result<(u64, Result<Self, Refusal>)> {
        let call: Call<'_> = serde_json::from_slice(payload)?;
        fn arguments<'de, T: Deserialize<'de>>(call: &Call<'de>) -> Result<T, Refusal> {
            let raw = call.arguments.map_or("null", RawValue::get);
            serde_json::from_str(raw)
                .map_err(|error| Refusal::new(RefusalCode::Invalid, error.to_string()))
        }
        let request = match call.request {
            "start" => arguments(&call).map(|spec| Self::Start(Box::new(spec))),
            "status" => Ok(Self::Status),
            "subscribe" => Ok(Self::Subscribe),
            "signal" => arguments(&call).map(|SignalArguments { signal }| Self::Signal(signal)),
            "terminate" => arguments(&call).map(|TerminateArguments { grace_ms, signal }| {
                Self::Terminate { grace_ms, signal }
            }),
            "kill-tree" => Ok(Self::KillTree),
            "kill-tree-for-memory" => Ok(Self::KillForMemory),
            "usage" => {
                arguments(&call).map(|UsageArguments { exact_above }| Self::Usage { exact_above })
            }
            "exec" => arguments(&call).map(|call| Self::Exec(Box::new(call))),
            "attach" => arguments(&call).map(Self::Attach),
            other => Err(Refusal::new(
                RefusalCode::NotImplemented,
                format!("no such request: {other:?}"),
            )),
        };
        Ok((call.id, request))
    }
}

/// What a shim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The answer to a call.
    Reply {
        /// Id of the call.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// A change of state.
    Status(Status),
    /// The last word on an exec; all of its output has been sent.
    ExecEnded {
        /// How its command ended.
        exit: Exit,
        /// Whether it was killed because its time was over.
        timed_out: bool,
    },
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done,
    /// To `status`, to `start` when the command runs or could not be started, and to `exec` when it could not.
    Status(Status),
    /// To `subscribe`.
    Greeting(Greeting),
    /// To `usage`.
    Usage(Told),
    /// Not done.
    Refused(Refusal),
}

/// What a container uses, as its shim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// As a pass over `/proc` shows it.
    pub usage: Usage,
    /// Exact bytes of memory, where they were asked for.
    pub exact: Option<u64>,
}

/// Who answers on this socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`PROTOCOL`] of the shim.
    pub protocol: u32,
    /// Identity from the intent.
    pub container: String,
    /// The attempt.
    pub attempt: u32,
    /// The state.
    pub status: Status,
}

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The shim does not know the request.
    NotImplemented,
    /// The arguments do not fit.
    Invalid,
    /// Somebody else has the claim.
    Claimed,
    /// The intent is missing or of another attempt, epoch or start.
    Superseded,
    /// The main process has ended.
    Ended,
    /// The system refused.
    System,
}

/// The frame of a message.
pub fn message_frame<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut frame = vec![0, 0, 0, 0, KIND_MESSAGE];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Appends the frame of a piece of a stream.
pub fn stream_frame(to: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.push(kind);
    to.extend_from_slice(payload);
}

/// Bytes that have come, cut into frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Adds bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the first whole frame: its kind and payload. A frame longer than `limit` is an error.
    pub fn next(&mut self, limit: usize) -> io::Result<Option<(u8, Vec<u8>)>> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes"),
            ));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let kind = self.buffer[4];
        let payload = self.buffer[5..4 + length].to_vec();
        self.buffer.drain(..4 + length);
        if self.buffer.is_empty() {
            // A spec can be large; its room is not needed again.
            self.buffer = Vec::new();
        }
        Ok(Some((kind, payload)))
    }
}

/// Reads one frame, waiting for it. `UnexpectedEof` when the other end is gone.
pub fn read_frame(from: &mut impl Read, limit: usize) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [a, b, c, d, kind] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length == 0 || length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut payload = vec![0; length - 1];
    from.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// Sends a message.
pub fn send(to: &mut impl Write, message: &Message) -> io::Result<()> {
    to.write_all(&message_frame(message)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (any::<Vec<String>>(), any::<Vec<(String, String)>>()).prop_map(|(argv, env)| {
                Request::Start(Box::new(ContainerSpec::new(argv, env, "/")))
            }),
            Just(Request::Status),
            Just(Request::Subscribe),
            any::<i32>().prop_map(Request::Signal),
            any::<(u64, Option<i32>)>()
                .prop_map(|(grace_ms, signal)| Request::Terminate { grace_ms, signal }),
            Just(Request::KillTree),
            Just(Request::KillForMemory),
            any::<bool>().prop_map(|stdin| Request::Attach(AttachCall { stdin })),
            any::<Option<u64>>().prop_map(|exact_above| Request::Usage { exact_above }),
            (
                any::<Vec<String>>(),
                any::<bool>(),
                any::<Option<(u16, u16)>>(),
                any::<Option<u64>>()
            )
                .prop_map(|(argv, stdin, size, timeout_ms)| {
                    let terminal = size.map(|(columns, rows)| TerminalSize { columns, rows });
                    Request::Exec(Box::new(ExecCall {
                        argv,
                        stdin,
                        terminal,
                        timeout_ms,
                    }))
                }),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_out_as_they_went_in_however_the_bytes_are_cut(
            requests in prop::collection::vec(request(), 0..6),
            cut in 1_usize..50,
        ) {
            let mut wire = Vec::new();
            for (id, request) in requests.iter().enumerate() {
                wire.extend(request.encode(id as u64).expect("encodes"));
            }
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for bytes in wire.chunks(cut) {
                frames.extend(bytes);
                while let Some((kind, payload)) = frames.next(MAX_SPEC_FRAME).expect("valid") {
                    prop_assert_eq!(kind, KIND_MESSAGE);
                    let (id, request) = Request::decode(&payload).expect("valid");
                    prop_assert_eq!(id as usize, got.len());
                    got.push(request.expect("known"));
                }
            }
            prop_assert_eq!(got, requests);
        }

        #[test]
        fn streams_and_sizes_come_out_as_they_went_in(
            pieces in prop::collection::vec((1_u8..4, any::<Vec<u8>>()), 0..6),
            size: (u16, u16),
        ) {
            let mut wire = Vec::new();
            for (kind, piece) in &pieces {
                stream_frame(&mut wire, *kind, piece);
            }
            let size = TerminalSize { columns: size.0, rows: size.1 };
            stream_frame(&mut wire, KIND_RESIZE, &size.to_bytes());
            let mut frames = Frames::default();
            frames.extend(&wire);
            for piece in pieces {
                prop_assert_eq!(frames.next(MAX_FRAME).expect("valid"), Some(piece));
            }
            let (kind, payload) = frames.next(MAX_FRAME).expect("valid").expect("a frame");
            prop_assert_eq!((kind, TerminalSize::from_bytes(&payload)), (KIND_RESIZE, Some(size)));
        }

        #[test]
        fn strange_bytes_are_an_error_or_a_wait_and_no_panic(bytes: Vec<u8>) {
            let mut frames = Frames::default();
            frames.extend(&bytes);
            while let Ok(Some((_, payload))) = frames.next(MAX_FRAME) {
                let _ = Request::decode(&payload);
            }
        }
    }

    #[test]
    fn an_unknown_request_is_named_in_the_refusal() {
        let (id, request) =
            Request::decode(br#"{"id":7,"request":"dance","arguments":{"fast":true}}"#)
                .expect("valid");
        assert_eq!(id, 7);
        let refusal = request.expect_err("unknown");
        assert_eq!(refusal.code, RefusalCode::NotImplemented);
        assert!(refusal.message.contains("dance"));
    }
}
