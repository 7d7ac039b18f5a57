//! Volumes: what is in them (pure: [`mod@payload`], [`mod@claim`], [`mod@limit`]) and how that
//! reaches the disk ([`mod@place`], [`mod@sub_path`], [`mod@host_path`], [`mod@memory`]).
//!
//! A volume lies at `<root>/pods/<uid>/volumes/<name>`, beside the containers'
//! directories, so that the containers of a pod share it.

mod claim;
mod host_path;
mod limit;
mod memory;
mod payload;
mod place;
mod sub_path;

pub use claim::{Claimed, backed, bound, is_tied, on_this_node};
pub use limit::{Limit, limits, usage};
pub use memory::remove as remove_memory;
pub use payload::{
    Content, File, Found, Payload, Problem, TokenRequest, Tokens, claim, content, needs,
    shows_metadata, token_files, tokens,
};
pub use place::{PlaceError, Placed, files, first_line, lead_to, link, place, read};
pub use sub_path::{MountOf, behind, source};
