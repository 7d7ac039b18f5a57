//! What containers use: one pass over `/proc` for all of them.
//!
//! | module | idea |
//! |---|---|
//! | [`pass`] | one look at every process, and what a tree of them uses |
//! | [`meter`] | a CPU counter that never goes back |
//! | [`disk`] | bytes below a directory |
//! | [`memory`] | exact memory of a few processes, where a limit is near |

pub mod disk;
pub mod memory;
pub mod meter;
pub mod pass;

pub use meter::Meter;
pub use pass::{Pass, Usage};
