//! Pods: from the API object to processes and back to a status.

pub mod machine;
mod manager;

pub use manager::{ContainerView, PodView, Pods};
