//! Volumes: what is in them (pure, [`mod@payload`]) and how that reaches the disk ([`mod@place`]).
//!
//! A volume lies at `<root>/pods/<uid>/volumes/<name>`, beside the containers'
//! directories, so that the containers of a pod share it.

mod payload;
mod place;

pub use payload::{File, Payload, Problem, TokenRequest, Tokens, needs, payload, tokens};
pub use place::{PlaceError, files, first_line, link, place};
