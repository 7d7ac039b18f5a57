//! ssh tunnels to the control plane, supervised.
//!
//! The system's own ssh does the work, in the foreground, as a child that ends with us; so its configuration, keys,
//! jump hosts and agents are those that the user has already.
//!
//! | module | idea |
//! |---|---|
//! | [`spec`] | what is forwarded, and the command line that does it; pure |
//! | [`report`] | what ssh says, and what it means for people; pure |
//! | [`machine`] | when to start, to give up on and to try again; pure |
//! | [`certificate`] | when the user's certificate ends |
//! | [`mux`] | whether our ssh still answers |
//! | [`proof`] | whether the far side listens where it should |
//! | [`supervise`] | the task that owns the child |

pub mod certificate;
pub mod machine;
pub mod mux;
pub mod proof;
pub mod report;
pub mod spec;
pub mod supervise;

pub use spec::{Forward, Place, TunnelSpec};
pub use supervise::{State, Tunnel, tunnel};
