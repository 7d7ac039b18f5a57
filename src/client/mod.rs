//! A small Kubernetes client for machines without kubectl. It works against any cluster: kinds come
//! from discovery, tables from the server.

mod discovery;
mod manifest;
mod requests;
mod table;
mod watch;

pub use discovery::{Kind, Kinds};
pub use manifest::{Manifest, ManifestError, read_manifests};
pub use requests::{Applied, Connection, LogOptions};
pub use table::render;
pub use watch::{Outcome, until_gone, until_settled, until_started};
