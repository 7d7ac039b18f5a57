//! End-to-end tests: the real binary, the real kubectl, real processes.

mod architecture;
mod everyday;
mod examples;
mod small_client;

/// The binary under test.
const VK_CMD: &str = env!("CARGO_BIN_EXE_vk-cmd");
