//! SPDY/3.1 over one connection, from the side that is called.
//!
//! Kubernetes carries the streams of `exec`, `attach` and `port-forward` in it, from an API server to a kubelet. Only
//! what its client library (moby/spdystream) sends is understood; that one knows no flow control, sends no
//! credentials and pushes nothing. This crate knows nothing of Kubernetes.
//!
//! | module | idea |
//! |---|---|
//! | [`frame`] | frames and bytes |
//! | [`headers`] | blocks of headers, compressed with the dictionary of the protocol |
//! | [`session`] | the streams of a connection |

mod dictionary;
pub mod frame;
pub mod headers;
pub mod session;

pub use frame::Malformed;
pub use headers::Headers;
pub use session::{Incoming, Opened, Outgoing, Reset, Session};
