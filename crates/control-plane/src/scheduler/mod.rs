//! The scheduler: finds a node for each pod that has none.
//!
//! [`decide()`] is pure; everything it looks at is in a [`Cluster`], which the loop keeps by watches.

mod cluster;
mod decide;
mod filter;
mod pod;
mod queue;
mod report;
mod resources;
mod run;
mod score;
mod selector;
mod taint;
#[cfg(test)]
mod tests;
mod topology;

pub use cluster::Cluster;
pub use decide::{Decision, decide};
pub use pod::{Pod, SCHEDULER_NAME};
pub use run::run;
