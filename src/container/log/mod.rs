//! The combined log of an attempt, in the CRI's line format, in numbered segments.
//!
//! | module | idea |
//! |---|---|
//! | [`mod@line`] | one entry: `<time> stdout F text` |
//! | [`segments`] | the shim's end: append, rotate, survive a full disk |
//! | [`reader`] | the agent's end: follow, tail, since |
//! | [`notify`] | wakes readers when a directory changes |

pub mod line;
pub mod notify;
pub mod reader;
pub mod segments;

pub use line::Stream;
pub use reader::{ReadOptions, Reader};
