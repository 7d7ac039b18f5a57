//! The life of a pod as a pure state machine.
//!
//! [`State::step`] takes what happened and the time, and tells what to do; it
//! reads no clock, file or socket. After each event [`State::settle`] compares
//! what is with what should be, so that an event that came twice, late or not at
//! all changes nothing but the moment.
//!
//! Invariants, shown by the property tests:
//! - no attempt of a container is ordered while another one starts or runs;
//! - attempts and restart counts only grow;
//! - a terminal phase never changes, and nothing starts after it;
//! - the object is deleted only when no process is left and its terminal status
//!   is stored;
//! - once an ending began nothing starts, and its SIGKILL only comes nearer;
//! - a hook that was ordered is answered or dropped before another one is;
//! - a sidecar gets SIGTERM after the main containers and the sidecars that follow it
//!   have ended, or when the grace is over.
//!
//! | module | idea |
//! |---|---|
//! | `start` | what may start, in which order, after which pause |
//! | `stop` | hooks, turns, SIGTERM and SIGKILL |
//! | `container` | one container's share |

mod backoff;
mod container;
mod plan;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod types;

use std::{borrow::Cow, sync::Arc, time::Duration};

pub use backoff::Backoff;
pub use plan::*;
pub use types::*;

/// The longest pause between two looks at a configuration or volume that lacked
/// something.
const LONGEST_RETRY: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// One pod's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    plan: Arc<Plan>,
    volumes: Volumes,
    containers: Vec<Container>,
    ends: Option<Ends>,
    deadline: Option<Duration>,
    failure: Option<Box<Failure>>,
    disruption: Option<Box<Disruption>>,
    terminal: Option<Terminal>,
    terminal_stored: bool,
    refusal_told: bool,
    delete_ordered: bool,
}

impl State {
    /// A pod that this node has never seen.
    pub fn new(plan: Arc<Plan>) -> Self {
        let containers = plan.containers.iter().map(|_| Container::new()).collect();
        Self {
            plan,
            volumes: Volumes::Absent,
            containers,
            ends: None,
            deadline: None,
            failure: None,
            disruption: None,
            terminal: None,
            terminal_stored: false,
            refusal_told: false,
            delete_ordered: false,
        }
    }

    /// A pod that an earlier agent worked on. `recovered` goes with the plan's
    /// containers; `terminal` is the phase that the API already has.
    pub fn recover(
        plan: Arc<Plan>,
        recovered: Vec<Recovered>,
        terminal: Option<Terminal>,
        now: Now,
    ) -> Self {
        let mut state = Self::new(plan);
        let plans = state.plan.containers.iter().zip(&mut state.containers);
        for ((plan, container), found) in plans.zip(recovered) {
            container.recover(plan, found, now);
        }
        state.terminal = terminal;
        state.terminal_stored = terminal.is_some();
        state
    }

    /// What the machine was told of the pod.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The containers, in the order of the plan.
    pub fn containers(&self) -> &[Container] {
        &self.containers
    }

    /// Where the volumes are.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The phase that never changes again, once there is one.
    pub fn terminal(&self) -> Option<Terminal> {
        self.terminal
    }

    /// The ending in progress.
    pub fn ending(&self) -> Option<Ending> {
        self.ends.as_ref().map(|ends| ends.why)
    }

    /// Why the pod fails whatever its containers do, if it does.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_deref()
    }

    /// What the pod is told of its coming end, if anything; a disruption that failed it says it better.
    pub fn disruption(&self) -> Option<(&'static str, &str)> {
        let failed = self
            .failure()
            .and_then(|it| Some((it.disruption?, it.message.as_str())));
        failed.or_else(|| {
            self.disruption
                .as_deref()
                .map(|it| (it.reason, it.message.as_str()))
        })
    }

    /// Whether every init container has done its work, or has started where it goes on
    /// running.
    pub fn initialized(&self) -> bool {
        self.main_begun() || self.init().all(|(_, plan, it)| it.passed(plan))
    }

    /// Whether any process may exist.
    pub fn active(&self) -> bool {
        self.containers.iter().any(Container::active)
    }

    /// Whether nothing is left to be done for this pod: its object is gone and so
    /// are its processes.
    pub fn finished(&self) -> bool {
        self.ending() == Some(Ending::Removed) && !self.active()
    }

    /// Takes one event and tells what is to be done.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(event, now, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    /// The next moment, on the monotonic clock, at which a [`Event::Tick`] is due.
    pub fn wake_at(&self) -> Option<Duration> {
        let stops = self.containers.iter().filter_map(Container::stop_due);
        if self.ends.is_some() || self.terminal.is_some() {
            return stops.min();
        }
        let volumes = match self.volumes {
            Volumes::Failed { retry_at, .. } => Some(retry_at),
            _ => None,
        };
        let always = stops.chain(volumes).chain(self.deadline);
        // The answer to a start in progress looks at the others too.
        if self.starting() {
            return always.min();
        }
        let containers = self
            .containers
            .iter()
            .filter_map(|container| match container.slot {
                Slot::Waiting { retry_at, .. } => retry_at,
                Slot::Ended { pause, .. } => pause.map(|(until, _)| until),
                _ => None,
            });
        always.chain(containers).min()
    }

    fn take(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        match event {
            Event::VolumesReady => self.volumes = Volumes::Ready,
            Event::VolumesFailed { message } => {
                if let Volumes::Preparing { tries } = self.volumes {
                    self.volumes = Volumes::Failed {
                        tries: tries + 1,
                        retry_at: now.mono + retry_pause(tries),
                    };
                    effects.push(notify(None, true, "FailedMount", message));
                }
            }
            Event::ConfigFailed {
                container,
                attempt,
                problem,
            } => {
                self.config_failed(container, attempt, problem, now, effects);
            }
            Event::Started {
                container,
                attempt,
                id,
                started_at,
            } => self.began(container, attempt, id, started_at, effects),
            Event::Ended { container, end } => self.ended(container, end, now, effects),
            Event::HookDone {
                container,
                attempt,
                hook,
                failure,
            } => self.hook_done(container, attempt, hook, failure, now, effects),
            Event::Probed {
                container,
                attempt,
                probe,
                healthy,
            } => self.probed(container, attempt, probe, healthy, now, effects),
            Event::Deadline { at } => self.deadline = at,
            Event::Ephemeral { containers } => {
                self.containers
                    .extend(containers.iter().map(|_| Container::new()));
                Arc::make_mut(&mut self.plan).containers.extend(containers);
            }
            Event::Fail { failure, grace } => self.fail(*failure, grace, now, effects),
            Event::Disrupt(disruption) => {
                if self.terminal.is_none() && self.disruption.is_none() {
                    self.disruption = Some(disruption);
                }
            }
            Event::Delete { grace } => self.end(Ending::Deleted, grace, now),
            Event::Removed { grace } => self.end(Ending::Removed, grace, now),
            Event::Shutdown { grace } => {
                self.end(Ending::NodeShutdown, grace.min(self.plan.grace), now);
            }
            Event::StatusStored => self.terminal_stored = self.terminal.is_some(),
            Event::Tick => {}
        }
    }

    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.deadline.is_some_and(|at| at <= now.mono)
            && self.ends.is_none()
            && self.terminal.is_none()
        {
            let failure = Failure {
                reason: Cow::Borrowed("DeadlineExceeded"),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
                disruption: None,
                warning: false,
            };
            self.fail(failure, None, now, effects);
        }
        self.latch(now);
        if self.ends.is_some() || self.terminal.is_some() {
            self.stop_all(now, effects);
        } else if !self.refused(effects) {
            self.advance(now, effects);
        }
        self.go_on_stopping(now, effects);
        self.probe(effects);
        let deleted = self.ending() == Some(Ending::Deleted);
        if deleted && self.terminal_stored && !self.active() && !self.delete_ordered {
            self.delete_ordered = true;
            effects.push(Effect::DeleteObject);
        }
    }

    /// A pod that is over already does not fail any more.
    fn fail(
        &mut self,
        failure: Failure,
        grace: Option<Duration>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.terminal.is_some() {
            return;
        }
        self.end(Ending::Failed, grace.unwrap_or(self.plan.grace), now);
        if grace.is_some_and(|grace| grace.is_zero())
            && let Some(ends) = &mut self.ends
        {
            ends.hard = true;
        }
        if self.failure.is_none() {
            effects.push(notify(
                None,
                failure.warning,
                failure.reason.clone(),
                failure.message.clone(),
            ));
            self.failure = Some(Box::new(failure));
        }
    }

    fn refused(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Some(refusal) = &self.plan.refusal else {
            return false;
        };
        if !self.refusal_told {
            self.refusal_told = true;
            effects.push(notify(None, true, refusal.event, refusal.message.clone()));
        }
        true
    }

    /// Fixes the phase as soon as it can never change again. Where only containers are
    /// left that do not keep a pod alive, they are ended first.
    fn latch(&mut self, now: Now) {
        if self.terminal.is_some() {
            return;
        }
        if self.ends.is_none() && self.over() && self.active() {
            self.end(Ending::Completed, self.plan.grace, now);
        }
        if self.active() {
            return;
        }
        let over = match self.ending() {
            // What never ran may still run where its node comes back.
            Some(Ending::NodeShutdown) => self.containers.iter().any(|it| it.last.is_some()),
            Some(_) => true,
            None => self.over(),
        };
        if over {
            let succeeded = self.failure.is_none() && self.main().all(|(_, _, it)| it.done());
            self.terminal = Some(if succeeded {
                Terminal::Succeeded
            } else {
                Terminal::Failed
            });
        }
    }

    /// Whether the main containers have done what they ever will.
    fn over(&self) -> bool {
        let failed_init = || {
            self.init().any(|(index, plan, it)| {
                plan.role == Role::Init && it.failed() && !self.restarts(index)
            })
        };
        let ended = |(index, _, it): (usize, _, &Container)| {
            matches!(it.slot, Slot::Ended { .. }) && !self.restarts(index)
        };
        (!self.main_begun() && failed_init()) || self.main().all(ended)
    }

    /// Has the probes run that fit what each container does.
    fn probe(&mut self, effects: &mut Vec<Effect>) {
        let plans = self.plan.containers.iter().zip(&mut self.containers);
        for (index, (plan, container)) in plans.enumerate() {
            let (attempt, which) = container.probes(plan);
            if which != container.probing {
                container.probing = which;
                effects.push(Effect::Probe {
                    container: index,
                    attempt,
                    which,
                });
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = (usize, &ContainerPlan, &Container)> {
        let all = self.plan.containers.iter().zip(&self.containers);
        all.enumerate()
            .map(|(index, (plan, container))| (index, plan, container))
    }

    fn init(&self) -> impl Iterator<Item = (usize, &ContainerPlan, &Container)> {
        self.all().filter(|(_, plan, _)| plan.role.is_init())
    }

    fn main(&self) -> impl Iterator<Item = (usize, &ContainerPlan, &Container)> {
        self.all().filter(|(_, plan, _)| plan.role == Role::Main)
    }

    fn main_begun(&self) -> bool {
        self.main().any(|(_, _, it)| it.begun())
    }

    /// Whether a start is under way: one at a time, its postStart hook included.
    fn starting(&self) -> bool {
        let busy = |it: &Container| matches!(it.slot, Slot::Starting { .. }) || it.hooking;
        self.containers.iter().any(busy)
    }
}

fn retry_pause(tries: u32) -> Duration {
    (FIRST_RETRY * (1 << tries.min(8))).min(LONGEST_RETRY)
}

fn notify(
    container: Option<usize>,
    warning: bool,
    reason: impl Into<Cow<'static, str>>,
    message: String,
) -> Effect {
    Effect::Notify {
        container,
        warning,
        reason: reason.into(),
        message,
    }
}
