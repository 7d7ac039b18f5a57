//! Pods: from the API object to processes and back to a status.
//!
//! | module | idea |
//! |---|---|
//! | [`admission`] | what of a pod can run here; the machine's plan |
//! | [`machine`] | the life of a pod, pure |
//! | [`status`] | the pod's status from the machine's state, pure |
//! | [`command`], [`mod@env`], [`fields`] | what a container runs, and with which environment |
//! | [`objects`] | config maps and secrets, as containers see them |
//! | [`resources`] | what pods ask of the node, what it has left, who has which core and GPU |
//! | [`images`] | image references: there or pulled, and what the site's engine is asked |
//! | [`volumes`] | what is in a volume, and how it gets to the disk |
//! | [`probe`], [`hook`] | whether containers are well; what is run at their start and before their end |
//! | [`garbage`] | how long data of pods that are over is kept |
//! | [`monitor`] | what containers use, and what happens where that is too much |
//! | [`mounts`] | where a volume appears in a container's directory |

pub mod admission;
pub mod api;
pub mod command;
pub mod compat;
pub mod containers;
pub mod env;
pub mod fields;
pub mod garbage;
pub mod hook;
mod host;
pub mod images;
mod kept;
pub mod machine;
mod manager;
pub mod monitor;
pub mod mounts;
pub mod objects;
mod orphan;
mod place;
pub mod probe;
mod record;
pub mod resources;
pub mod signal;
pub mod status;
pub mod volumes;
pub mod walltime;
mod worker;

pub use host::{Host, OnHost};
pub use manager::{ContainerView, PodView, Pods};
pub(crate) use manager::{Desk, Order, manage};
pub use place::{OpenError, Place};
pub(crate) use worker::{Clock, Context};
