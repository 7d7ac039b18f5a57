//! An embedded Kubernetes control plane: store, API server, scheduler, and the controllers that a
//! small cluster cannot do without. It knows nothing of vk-cmd.

pub mod codec;
pub mod openapi;
pub mod schema;
pub mod auth;
pub mod status;
pub mod store;
