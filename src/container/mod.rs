//! Containers as Linux process groups.
//!
//! Each attempt to run a container is owned by one small process, its shim, which starts the command, copies its
//! output, reaps its descendants and writes down how it ended.
//! The truth about an attempt is on disk ([`dir`]), so that the agent can die at any instant and the next one adopts
//! what runs ([`launch::Launcher::adopt`]).
//! This module knows nothing of Kubernetes.
//!
//! | module | idea |
//! |---|---|
//! | [`spec`] | what to run |
//! | [`status`] | how it went, and the file that says so |
//! | [`dir`] | where things are, and safe access to them |
//! | [`files`] | file operations that no planted symlink can redirect |
//! | [`claim`] | at most one start per attempt |
//! | [`held`] | processes that no later one can be mistaken for |
//! | [`process`] | processes that are known by more than a number |
//! | [`protocol`] | frames between agent and shim |
//! | [`shim`] | the supervisor process |
//! | [`log`] | the combined log: format, segments, reader |
//! | [`cgroup`] | control groups, where one was delegated |
//! | [`engine`] | container engines, for what runs in an image |
//! | [`stats`] | what containers use |
//! | [`launch`] | starting, adopting and steering from the agent's side |

pub mod cgroup;
pub mod claim;
pub mod dir;
pub mod engine;
pub mod files;
pub mod held;
pub mod launch;
pub mod log;
pub mod process;
pub mod protocol;
pub mod shim;
pub mod spec;
pub mod stats;
pub mod status;
pub mod terminal;

pub use dir::{AttemptDir, ContainerDir, Root};
pub use launch::{Adopted, ExecError, ExecOutcome, ExecRequest, Handle, Launcher, StartError};
pub use process::ProcessId;
pub use spec::{ContainerSpec, LogPolicy, Mount};
pub use status::{Exit, StartFailure, Status};
