//! Sites: what is known of a computing centre, and how an agent runs containers there.
//!
//! | module | idea |
//! |---|---|
//! | [`profile`] | the schema: what is written in YAML |
//! | [`decode`] | YAML into types, with errors that name the nearest known key |
//! | [`catalog`] | built-in profiles, the user's files, and which one holds here |
//! | [`surroundings`] | where this process sits: on a host, or in whose container |
//! | [`settle`] | profile and surroundings into one [`Site`] that never changes |
//! | [`probe`] | what the machine can do, what that means, how to mend it |
//! | [`label`] | what a node says of its site |
//!
//! Sites know nothing of pods.

pub mod catalog;
pub mod decode;
pub mod label;
pub mod probe;
pub mod profile;
pub mod settle;
pub mod surroundings;

pub use catalog::{Catalog, Chosen, Origin, SiteError};
pub use label::labels;
pub use profile::{KubeletPort, Profile, Tunnels};
pub use settle::{EngineAccess, LaunchMode, Site};
pub use surroundings::{Seat, Surroundings};
