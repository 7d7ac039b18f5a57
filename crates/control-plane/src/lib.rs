//! An embedded Kubernetes control plane: store, API server, scheduler, and the controllers that a
//! small cluster cannot do without. It knows nothing of vk-cmd.

pub mod admission;
pub mod auth;
pub mod bootstrap;
pub mod codec;
pub mod controllers;
pub mod defaults;
pub mod openapi;
pub mod patch;
mod plane;
pub mod quantity;
pub mod registry;
pub mod resource;
pub mod rest;
pub mod scheduler;
pub mod schema;
pub mod status;
pub mod store;
pub mod validation;

pub use plane::{Config, ControlPlane, StartError};
