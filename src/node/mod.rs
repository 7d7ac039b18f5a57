//! The Node object of this agent: registered, kept alive, and taken down.
//!
//! | module | idea |
//! |---|---|
//! | [`board`] | what other parts of the agent have to say in the status |
//! | [`allocation`] | the job of a batch system, and when it ends |
//! | [`walltime`], [`drain`] | the end of the allocation: the pure contract, and the task that keeps it |
//! | [`capacity`] | what the allocation has: CPUs and memory, from the kernel's own limits |
//! | [`devices`] | the GPUs of the allocation |
//! | [`object`] | the Node as JSON, pure |
//! | [`pressure`] | memory, disk and pids running out, pure thresholds |
//! | [`usage`] | what the node as a whole uses |
//! | [`eviction`] | pods go where the node is short of something |
//! | `rights` | what an identity may do, and what follows where it may not |
//! | `holder` | whose a node's name is |
//! | [`keeper`] | the task that registers, renews the lease and reports the status |

pub mod allocation;
pub mod board;
pub mod capacity;
pub mod devices;
mod drain;
pub mod eviction;
mod holder;
pub mod keeper;
pub mod object;
pub mod pressure;
mod rights;
pub mod usage;
pub mod walltime;

pub use board::{Board, Condition};
pub use capacity::Capacity;
pub use drain::Limits;
pub(crate) use drain::keep_time;
pub use keeper::{End, NodeError};
pub(crate) use keeper::{Keeping, keep};
pub use object::NodeSpec;
pub(crate) use rights::lacking;
