//! The Node object of this agent: registered, kept alive, and taken down.
//!
//! | module | idea |
//! |---|---|
//! | [`board`] | what other parts of the agent have to say in the status |
//! | [`capacity`] | what the allocation has: CPUs and memory, from the kernel's own limits |
//! | [`devices`] | the GPUs of the allocation |
//! | [`object`] | the Node as JSON, pure |
//! | [`pressure`] | memory, disk and pids running out, pure thresholds |
//! | [`keeper`] | the task that registers, renews the lease and reports the status |

pub mod board;
pub mod capacity;
pub mod devices;
pub mod keeper;
pub mod object;
pub mod pressure;

pub use board::{Board, Condition};
pub use capacity::Capacity;
pub use keeper::{End, NodeError, keep};
pub use object::NodeSpec;
