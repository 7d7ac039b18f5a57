//! Fixtures for the tests of vk-cmd.
//!
//! [`Up`] runs the real binary's `up` in a home and a state directory of its own, and hands out the
//! real kubectl for it. [`RealCluster`] runs Kubernetes' own control plane. Everything that they started
//! ends with them, also when the test panics.
//!
//! [`Client`] sends requests that no well-behaved client would send.

mod agent;
mod before;
mod between;
mod client;
mod cluster;
mod counts;
mod keeper;
mod kubectl;
mod link;
mod place;
mod proxy;
mod real;
mod up;
mod wait;

pub use agent::{Agent, AgentBuilder};
pub use between::{Between, Fate, Stopped};
pub use client::{Client, Request, Response};
pub use cluster::{Cluster, Plane};
pub use counts::within_bound;
pub use kubectl::{Kubectl, Output, find_program};
pub use link::Link;
pub use place::{Place, end_processes_of};
pub use proxy::{Line, Proxy};
pub use real::{Killed, RealCluster, RealClusterBuilder};
pub use up::{Up, UpBuilder};
pub use wait::{eventually, eventually_within};

/// Says loudly that a test does not run, and why. Use it as `return skip!("…")`.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {
        $crate::skipped(&format!($($why)*), module_path!(), line!())
    };
}

/// What [`skip!`] prints.
pub fn skipped(why: &str, module: &str, line: u32) {
    note(&format!("SKIPPED {module}:{line}: {why}"));
}

/// Writes a line to stderr past the test harness's capture, for what must be seen.
pub fn note(line: &str) {
    use std::io::Write;
    if let Ok(mut terminal) = std::fs::OpenOptions::new().append(true).open("/dev/stderr") {
        let _ = writeln!(terminal, "{line}");
    }
}
