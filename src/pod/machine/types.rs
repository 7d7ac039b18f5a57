//! The words of the pod machine: states, events, effects.

use std::{borrow::Cow, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{backoff::Backoff, plan::ContainerPlan};

/// The two clocks, read once per step: wall time to report, monotonic time
/// (since the agent's start) to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For timestamps in statuses.
    pub wall: Timestamp,
    /// For deadlines.
    pub mono: Duration,
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
    /// Its process runs; see [`Container::hooking`] for whether it counts as running
    /// already.
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
        /// Monotonic time from which the pause before the next attempt counts: its
        /// end; none where it starts again at once.
        since: Option<Duration>,
        /// It was ended by its probes to be started again, whatever its exit code.
        forced: bool,
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
    /// Its postStart hook has not answered yet.
    pub hooking: bool,
    /// What the postStart hook of the latest attempt said when it failed; until the next one has succeeded, or waits.
    pub hook_failure: Option<Box<str>>,
    /// Its preStop hook was run by this or an earlier agent.
    pub pre_stopped: bool,
    /// It runs and its startup probe, if it has one, has succeeded.
    pub started: bool,
    /// It is started and its readiness probe, if it has one, says so.
    pub ready: bool,
    /// Which probes were ordered for it.
    pub probing: Probing,
    /// Its probes want it ended and started again.
    pub unwell: bool,
    /// Monotonic time of the end of `last`.
    pub ended_at: Option<Duration>,
    /// How often its configuration was found wanting since its last attempt.
    pub config_tries: u32,
}

/// How far the end of a running attempt has been asked for. Times are monotonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stopping {
    /// It may run.
    #[default]
    No,
    /// Its preStop hook runs, until the grace is over at the latest.
    Hook {
        /// The end of the grace.
        until: Duration,
    },
    /// A sidecar that waits for those that end before it, until the grace is over.
    Turn {
        /// The end of the grace.
        until: Duration,
    },
    /// SIGTERM was ordered.
    Terminated {
        /// When SIGKILL follows.
        kill_at: Duration,
    },
    /// SIGKILL of the whole tree was ordered.
    Killed,
}

/// Which of a container's probes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Probing {
    /// None.
    #[default]
    Off,
    /// All that it has; the others wait for the startup probe.
    All,
    /// The readiness probe: the container is being ended.
    ReadinessOnly,
}

/// A container's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Once the process has started; it counts as running when the hook is done.
    PostStart,
    /// Before SIGTERM, within the grace.
    PreStop,
}

/// A container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The other two wait for it; a container that fails it is ended.
    Startup,
    /// Whether it may get requests.
    Readiness,
    /// A container that fails it is ended.
    Liveness,
}

/// Why a pod fails whatever its containers do; shown as the status's reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `DeadlineExceeded`, `Evicted`, `OutOfcpu`, …
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// The reason of the condition `DisruptionTarget`, where the pod is disrupted and
    /// did not fail by itself.
    pub disruption: Option<&'static str>,
    /// Whether the event about it is a warning.
    pub warning: bool,
}

/// What the condition `DisruptionTarget` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disruption {
    /// In CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
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

/// Why nothing starts any more. A later one is more final than those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The main containers have done their work, or never will: what else runs ends.
    Completed,
    /// The node goes down.
    NodeShutdown,
    /// The pod has failed as a whole, for the reason in [`super::State::failure`].
    Failed,
    /// The object has a deletion timestamp.
    Deleted,
    /// The object is gone: nobody is left to report to.
    Removed,
}

/// An ending in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Why.
    pub why: Ending,
    /// Monotonic time of the end of the grace; later requests may bring it nearer only.
    pub until: Duration,
    /// No moment longer than that: the allocation ends.
    pub hard: bool,
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
        /// Index into [`super::Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// What the status shows.
        problem: Waiting,
    },
    /// An ordered start succeeded.
    Started {
        /// Index into [`super::Plan::containers`].
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
        /// Index into [`super::Plan::containers`].
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
    /// A hook came to its end.
    HookDone {
        /// Index into [`super::Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// Which hook.
        hook: Hook,
        /// What went wrong, for the log: a kubelet tells no more than that it did.
        failure: Option<String>,
    },
    /// A probe changed its mind: it succeeded or failed as often in a row as it has to.
    Probed {
        /// Index into [`super::Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// Which probe.
        probe: Probe,
        /// What it thinks now.
        healthy: bool,
    },
    /// The moment, on the monotonic clock, at which `activeDeadlineSeconds` are over.
    Deadline {
        /// None where the pod has no deadline.
        at: Option<Duration>,
    },
    /// Ephemeral containers were added.
    Ephemeral {
        /// The new ones, in the order of the spec.
        containers: Vec<ContainerPlan>,
    },
    /// The pod fails as a whole; the first failure is the one that is told.
    Fail {
        /// Why.
        failure: Box<Failure>,
        /// How long what runs may take; the pod's own grace where none. Nothing at all
        /// kills at once.
        grace: Option<Duration>,
    },
    /// The pod is about to be ended, through no fault of its own; nothing ends yet.
    Disrupt(Box<Disruption>),
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
        /// Index into [`super::Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
    },
    /// SIGTERM to the container's group.
    Terminate {
        /// Index into [`super::Plan::containers`].
        container: usize,
    },
    /// Run a hook; answered by `HookDone` unless it is dropped.
    RunHook {
        /// Index into [`super::Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// Which hook.
        hook: Hook,
    },
    /// Nobody waits for the hook that runs any more.
    DropHook {
        /// Index into [`super::Plan::containers`].
        container: usize,
    },
    /// These probes, and no others, run from now on; answered by `Probed`.
    Probe {
        /// Index into [`super::Plan::containers`].
        container: usize,
        /// Which attempt.
        attempt: u32,
        /// Which of its probes.
        which: Probing,
    },
    /// SIGKILL to everything that the container started.
    Kill {
        /// Index into [`super::Plan::containers`].
        container: usize,
    },
    /// Tell the user.
    Notify {
        /// The container it is about.
        container: Option<usize>,
        /// Whether something is wrong.
        warning: bool,
        /// The event's reason.
        reason: Cow<'static, str>,
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
    pub running: Option<RecoveredRun>,
    /// Ends of the latest attempts, oldest first; two are enough.
    pub ended: Vec<Ended>,
}

/// An attempt that an earlier agent started and that still runs. Its postStart hook is
/// not run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredRun {
    /// Which attempt.
    pub attempt: u32,
    /// `vk-cmd://…`.
    pub id: Arc<str>,
    /// When its process started.
    pub started_at: Timestamp,
    /// Whether the API was told that it has started.
    pub started: bool,
    /// Whether the API was told that it is ready.
    pub ready: bool,
    /// Whether its preStop hook was run.
    pub pre_stopped: bool,
}
