//! vk-cmd turns a batch allocation into a Kubernetes node, without root.

pub mod agent;
pub mod pod;
