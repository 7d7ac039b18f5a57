//! Pods: from the API object to processes and back to a status.

mod manager;

pub use manager::{ContainerView, PodView, Pods};
