//! vk-cmd
fn main() {}
