//! The words of the pod machine: plans, states, events, effects.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::backoff::Backoff;

/// The two clocks, read once per step: wall time to report, monotonic time
/// (since the agent's start) to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For timestamps in statuses.
    pub wall: Timestamp,
    /// For deadlines.
    pub mono: Duration,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Restart whatever the exit code was.
    #[default]
    Always,
    /// Restart after a failure.
    OnFailure,
    /// Run once.
    Never,
}

/// What the machine needs to know of a pod; fixed for the pod's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `<name>_<namespace>(<uid>)`, as the kubelet's messages name a pod.
    pub label: String,
    /// Init containers first, then the others, each in the order of the spec.
    pub containers: Vec<ContainerPlan>,
    /// What follows an exit.
    pub restart: RestartPolicy,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Why this pod as a whole cannot run here, if it cannot.
    pub refusal: Option<Refusal>,
}

/// One container of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Its name, unique in the pod.
    pub name: Arc<str>,
    /// Whether it has to succeed before the others start.
    pub init: bool,
    /// Why this container cannot run here, if it cannot (its image, most often).
    pub refusal: Option<Refusal>,
}

/// Why something is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The waiting reason (`CreateContainerConfigError`, `InvalidImageName`, …).
    pub reason: &'static str,
    /// The reason of the event.
    pub event: &'static str,
    /// Names the field, its value and the mend.
    pub message: String,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`, …
    pub reason: &'static str,
    /// For people; empty where the reason says all.
    pub message: String,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which attempt.
    pub attempt: u32,
    /// 128 + signal where a signal ended it.
    pub code: i32,
    /// `Completed`, `Error`, `StartError`, `ContainerStatusUnknown`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When its process started, where it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// `vk-cmd://…`, where a process existed.
    pub id: Option<Arc<str>>,
}

impl Ended {
    /// Whether the container did what it was asked to.
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }
}

/// What the current attempt of a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing started yet: it waits for its turn, for volumes, or for its
    /// configuration, which is looked at again at `retry_at`.
    Waiting {
        /// What the status shows in place of the usual reason.
        problem: Option<Waiting>,
        /// Monotonic time of the next try.
        retry_at: Option<Duration>,
    },
    /// A start was ordered; exactly one answer will come.
    Starting {
        /// Which attempt.
        attempt: u32,
    },
    /// Its process runs.
    Running {
        /// Which attempt.
        attempt: u32,
        /// `vk-cmd://…`.
        id: Arc<str>,
        /// When the process started.
        started_at: Timestamp,
    },
    /// It ended and is not running now; whether it starts again is for the
    /// policy, the end itself is in [`Container::last`].
    Ended {
        /// When, on the monotonic clock.
        at: Duration,
        /// Until when it pauses before the next attempt, with the length of the
        /// whole pause.
        pause: Option<(Duration, Duration)>,
    },
}

/// One container's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What the current attempt does.
    pub slot: Slot,
    /// How the latest ended attempt ended.
    pub last: Option<Ended>,
    /// How the attempt before `last` ended; shown as `lastState` while `last`
    /// is the current state.
    pub before: Option<Ended>,
    /// The number the next attempt gets.
    pub next_attempt: u32,
    /// Starts after the first; never decreases.
    pub restarts: u32,
    /// Restart history.
    pub backoff: Backoff,
    /// How far the end of the running attempt has been asked for.
    pub stopping: Stopping,
    /// How often its configuration was found wanting since its last attempt.
    pub config_tries: u32,
}

/// How far the end of a running attempt has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stopping {
    /// It may run.
    #[default]
    No,
    /// SIGTERM was ordered.
    Terminated,
    /// SIGKILL of the whole tree was ordered.
    Killed,
}

/// Where the pod's volumes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volumes {
    /// Not asked for.
    Absent,
    /// Being written.
    Preparing {
        /// Failures so far.
        tries: u32,
    },
    /// In place.
    Ready,
    /// The last try failed.
    Failed {
        /// Failures so far.
        tries: u32,
        /// Monotonic time of the next try.
        retry_at: Duration,
    },
}

/// Why nothing starts any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The object has a deletion timestamp.
    Deleted,
    /// The object is gone: nobody is left to report to.
    Removed,
    /// The node goes down.
    NodeShutdown,
}

/// An ending in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Why.
    pub why: Ending,
    /// Monotonic time of the SIGKILL; later requests may bring it nearer only.
    pub kill_at: Duration,
}

/// A phase that never changes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// Every container exited with 0.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The volumes are in place.
    VolumesReady,
    /// They are not, and why; tried again after a pause.
    VolumesFailed {
        /// The event's message.
        message: String,
    },
    /// An ordered start could not even be tried; the attempt is not used up.
    ConfigFailed {
        /// Index into [`Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// What the status shows.
        problem: Waiting,
    },
    /// An ordered start succeeded.
    Started {
        /// Index into [`Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// `vk-cmd://…`.
        id: Arc<str>,
        /// When the process started.
        started_at: Timestamp,
    },
    /// An attempt ended: by exit, by a failed start, or by a lost shim.
    Ended {
        /// Index into [`Plan::containers`].
        container: usize,
        /// How.
        end: Ended,
    },
    /// The object is to be deleted, with this grace from now.
    Delete {
        /// `deletionGracePeriodSeconds`.
        grace: Duration,
    },
    /// The object is gone.
    Removed {
        /// How long its processes may take.
        grace: Duration,
    },
    /// The node goes down; no container may take longer than this.
    Shutdown {
        /// The longest grace.
        grace: Duration,
    },
    /// The status that was derived from the current state is stored.
    StatusStored,
    /// Time passed.
    Tick,
}

/// What is to be done; each is carried out by the pod's worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the volumes; answered by `VolumesReady` or `VolumesFailed`.
    PrepareVolumes,
    /// Start an attempt; answered once, by `Started`, `Ended` or `ConfigFailed`.
    Start {
        /// Index into [`Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
    },
    /// SIGTERM to the container's group.
    Terminate {
        /// Index into [`Plan::containers`].
        container: usize,
    },
    /// SIGKILL to everything that the container started.
    Kill {
        /// Index into [`Plan::containers`].
        container: usize,
    },
    /// Tell the user.
    Notify {
        /// The container it is about.
        container: Option<usize>,
        /// Whether something is wrong.
        warning: bool,
        /// The event's reason.
        reason: &'static str,
        /// The event's message.
        message: String,
    },
    /// Delete the object for good (grace 0, UID as precondition).
    DeleteObject,
}

/// What the disk says of one container when an agent starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The number the next attempt gets.
    pub next_attempt: u32,
    /// Starts after the first.
    pub restarts: u32,
    /// The attempt that runs.
    pub running: Option<(u32, Arc<str>, Timestamp)>,
    /// Ends of the latest attempts, oldest first; two are enough.
    pub ended: Vec<Ended>,
}
