//! HTTP: from a request to the registry and back.

pub mod discovery;
pub mod path;
