//! What pods ask of the node, what it has left, and what each container is given for itself.
//!
//! | module | idea |
//! |---|---|
//! | [`amounts`] | requests and limits of pods and containers, pure |
//! | [`ledger`] | admission against what is left; GPUs and exclusive cores, pure |
//! | [`placement`] | what containers were given, published to those who start and watch them |
//! | [`affinity`] | whether the node's labels are what a pod asks for, pure |

pub mod affinity;
pub mod amounts;
pub mod ledger;
pub mod placement;

pub use amounts::{Amounts, Facts, not_enforced};
pub use ledger::{Ledger, NodeShare, Rejection};
pub use placement::{Assigned, Placement};
