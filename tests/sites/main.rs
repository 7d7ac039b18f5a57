//! Sites with their real parts: container engines that run what pods ask for.
//!
//! `make test-sites` runs `setup.sh` first, which installs the parts; a test whose part is missing says so and passes.

mod behind;
mod documents;
mod engines;
mod image;
mod names;
mod parts;
mod pulls;
mod site;
mod slurm;
mod tables;
mod verbs;
mod world;

/// The binary under test.
const VK_CMD: &str = env!("CARGO_BIN_EXE_vk-cmd");
