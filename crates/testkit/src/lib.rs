//! Fixtures for the tests of vk-cmd.
//!
//! [`Up`] runs the real binary's `up` in a home and a state directory of its own, and hands out the
//! real kubectl for it. Everything that it started ends with it, also when the test panics.

mod kubectl;
mod up;
mod wait;

pub use kubectl::{Kubectl, Output, find_program};
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
    use std::io::Write;
    // Past the test harness's capture: a skip must be seen.
    if let Ok(mut terminal) = std::fs::OpenOptions::new().append(true).open("/dev/stderr") {
        let _ = writeln!(terminal, "SKIPPED {module}:{line}: {why}");
    }
}
