//! What a worker is told, what it shows, and what its own tasks bring about.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::{refresh, start, volumes, write};
use crate::{
    container::Handle,
    node::walltime::Closing,
    pod::{
        kept::Kept,
        machine::{Ended, Event},
        monitor::Verdict,
    },
};

/// What the API wants of a pod.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Desired {
    /// The object as last seen.
    pub(in crate::pod) pod: Kept,
    /// The object is gone.
    pub(in crate::pod) removed: bool,
    /// The node goes down.
    pub(in crate::pod) shutdown: Option<Shutdown>,
    /// The end of the walltime, where one is known.
    pub(in crate::pod) closing: Option<Closing>,
    /// The node does not take it, or has to be rid of it.
    pub(in crate::pod) verdict: Option<Arc<Verdict>>,
}

/// How a pod ends with its node.
#[derive(Clone, Copy, Debug)]
pub(in crate::pod) struct Shutdown {
    /// The longest grace.
    pub(in crate::pod) grace: Duration,
    /// Another agent speaks for this node now: nothing is written any more.
    pub(in crate::pod) silent: bool,
}

/// What a worker shows of its pod.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Snapshot {
    pub(in crate::pod) pod: Kept,
    pub(in crate::pod) status: Kept<PodStatus>,
    /// When its last container ended, where its phase is terminal.
    pub(in crate::pod) over: Option<Timestamp>,
    /// Current and previous attempt, in the order of the plan.
    pub(in crate::pod) attempts: Vec<(Option<u32>, Option<u32>)>,
    /// Nothing of it runs, starts or is being written to the disk.
    pub(in crate::pod) idle: bool,
}

/// What one of the worker's tasks brought about.
pub(in crate::pod) enum Done {
    Machine(Event),
    /// Volumes are in place.
    Volumes(Box<volumes::Filled>),
    Refreshed {
        tokens: refresh::Tokenwise,
        /// When the first of the tokens wants to be renewed.
        outcome: Result<Option<Duration>, String>,
    },
    Weighed {
        /// What is said of a volume beyond its limit.
        over: Option<String>,
        next: Duration,
    },
    Started {
        container: usize,
        attempt: u32,
        /// What the engine knows the image's content by; empty for what is no image.
        image_id: String,
        outcome: start::Outcome,
    },
    Ended {
        container: usize,
        end: Ended,
    },
    Adopted {
        container: usize,
        attempt: u32,
        handle: Handle,
    },
    Written {
        status: Kept<PodStatus>,
        /// Whether it tells of a terminal phase.
        terminal: bool,
        outcome: write::Written,
    },
    Deleted(write::Outcome),
    Nothing,
}
