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
//! - once an ending began nothing starts, and its SIGKILL only comes nearer.

mod backoff;
#[cfg(test)]
mod tests;
mod types;

use std::{sync::Arc, time::Duration};

pub use backoff::Backoff;
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
        for (container, found) in state.containers.iter_mut().zip(recovered) {
            container.recover(found, now);
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
    pub fn ending(&self) -> Option<&Ending> {
        self.ends.as_ref().map(|ends| &ends.why)
    }

    /// When, on the monotonic clock, what still runs gets SIGKILL.
    pub fn kill_at(&self) -> Option<Duration> {
        self.ends.as_ref().map(|ends| ends.kill_at)
    }

    /// Whether every init container has done its work.
    pub fn initialized(&self) -> bool {
        let begun = |container: &Container| {
            container.next_attempt > 0 || matches!(container.slot, Slot::Starting { .. })
        };
        self.each(false).any(|(_, container)| begun(container))
            || self.each(true).all(|(_, container)| container.done())
    }

    /// Whether any process may exist.
    pub fn active(&self) -> bool {
        self.containers.iter().any(Container::active)
    }

    /// Whether nothing is left to be done for this pod: its object is gone and so
    /// are its processes.
    pub fn finished(&self) -> bool {
        self.ending() == Some(&Ending::Removed) && !self.active()
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
        if let Some(ends) = &self.ends {
            let waits = |container: &Container| {
                matches!(container.slot, Slot::Running { .. })
                    && container.stopping != Stopping::Killed
            };
            return self.containers.iter().any(waits).then_some(ends.kill_at);
        }
        if self.terminal.is_some() {
            return None;
        }
        let volumes = match self.volumes {
            Volumes::Failed { retry_at, .. } => Some(retry_at),
            _ => None,
        };
        // The answer to a start in progress looks at the others too.
        if self
            .containers
            .iter()
            .any(|it| matches!(it.slot, Slot::Starting { .. }))
        {
            return volumes;
        }
        let containers = self
            .containers
            .iter()
            .filter_map(|container| match container.slot {
                Slot::Waiting { retry_at, .. } => retry_at,
                Slot::Ended { pause, .. } => pause.map(|(until, _)| until),
                _ => None,
            });
        containers.chain(volumes).min()
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
            } => {
                let Some(it) = self.containers.get_mut(container) else {
                    return;
                };
                if it.slot == (Slot::Starting { attempt }) {
                    it.begin(attempt);
                    it.slot = Slot::Running {
                        attempt,
                        id,
                        started_at,
                    };
                    let message =
                        format!("Started container {}", self.plan.containers[container].name);
                    effects.push(notify(Some(container), false, "Started", message));
                }
            }
            Event::Ended { container, end } => self.ended(container, end, now, effects),
            Event::Delete { grace } => self.end(Ending::Deleted, grace, now),
            Event::Removed { grace } => self.end(Ending::Removed, grace, now),
            Event::Shutdown { grace } => {
                self.end(Ending::NodeShutdown, grace.min(self.plan.grace), now);
            }
            Event::StatusStored => self.terminal_stored = self.terminal.is_some(),
            Event::Tick => {}
        }
    }

    fn config_failed(
        &mut self,
        container: usize,
        attempt: u32,
        problem: Waiting,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(it) = self.containers.get_mut(container) else {
            return;
        };
        if it.slot != (Slot::Starting { attempt }) {
            return;
        }
        let message = format!("Error: {}", problem.message);
        let tries = it.config_tries;
        it.config_tries += 1;
        it.slot = Slot::Waiting {
            problem: Some(problem),
            retry_at: Some(now.mono + retry_pause(tries)),
        };
        effects.push(notify(Some(container), true, "Failed", message));
    }

    fn ended(&mut self, container: usize, mut end: Ended, now: Now, effects: &mut Vec<Effect>) {
        let Some(it) = self.containers.get_mut(container) else {
            return;
        };
        match &it.slot {
            &Slot::Starting { attempt } if attempt == end.attempt => {
                it.begin(attempt);
                let message = format!("Error: {}", end.message);
                effects.push(notify(Some(container), true, "Failed", message));
            }
            Slot::Running {
                attempt,
                id,
                started_at,
            } if *attempt == end.attempt => {
                end.id = end.id.or_else(|| Some(id.clone()));
                end.started_at = end.started_at.or(Some(*started_at));
            }
            _ => return,
        }
        it.before = it.last.replace(end);
        it.stopping = Stopping::No;
        it.slot = Slot::Ended {
            at: now.mono,
            pause: None,
        };
    }

    /// An ending only becomes more final, and its deadline only comes nearer.
    fn end(&mut self, why: Ending, grace: Duration, now: Now) {
        let kill_at = now.mono.saturating_add(grace);
        self.ends = Some(match self.ends.take() {
            None => Ends { why, kill_at },
            Some(earlier) => {
                let kill_at = earlier.kill_at.min(kill_at);
                let why = match (earlier.why, why) {
                    (Ending::Removed, _) | (_, Ending::Removed) => Ending::Removed,
                    (Ending::Deleted, _) | (_, Ending::Deleted) => Ending::Deleted,
                    (Ending::NodeShutdown, Ending::NodeShutdown) => Ending::NodeShutdown,
                };
                Ends { why, kill_at }
            }
        });
    }

    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.latch();
        if self.ends.is_some() || self.terminal.is_some() {
            self.stop(now, effects);
        } else if !self.refused(effects) {
            self.advance(now, effects);
        }
        let deleted = self.ending() == Some(&Ending::Deleted);
        if deleted && self.terminal_stored && !self.active() && !self.delete_ordered {
            self.delete_ordered = true;
            effects.push(Effect::DeleteObject);
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

    /// Fixes the phase as soon as it can never change again.
    fn latch(&mut self) {
        if self.terminal.is_some() || self.active() {
            return;
        }
        let succeeded = self.each(false).all(|(_, container)| container.done());
        let over = match self.ending() {
            // What never ran may still run where its node comes back.
            Some(Ending::NodeShutdown) => self.containers.iter().any(|it| it.last.is_some()),
            Some(_) => true,
            None => {
                let failed_init = self.each(true).any(|(index, container)| {
                    container.failed() && !self.restarts(index) && !self.initialized()
                });
                failed_init
                    || self.each(false).all(|(index, container)| {
                        matches!(container.slot, Slot::Ended { .. }) && !self.restarts(index)
                    })
            }
        };
        if over {
            self.terminal = Some(if succeeded {
                Terminal::Succeeded
            } else {
                Terminal::Failed
            });
        }
    }

    fn stop(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // A terminal pod that still has processes was declared over by the API.
        let kill = self
            .ends
            .as_ref()
            .is_none_or(|ends| ends.kill_at <= now.mono);
        for (index, container) in self.containers.iter_mut().enumerate() {
            if !matches!(container.slot, Slot::Running { .. }) {
                continue;
            }
            if container.stopping == Stopping::No {
                let message = format!("Stopping container {}", self.plan.containers[index].name);
                effects.push(notify(Some(index), false, "Killing", message));
                if !kill {
                    container.stopping = Stopping::Terminated;
                    effects.push(Effect::Terminate { container: index });
                }
            }
            if kill && container.stopping != Stopping::Killed {
                container.stopping = Stopping::Killed;
                effects.push(Effect::Kill { container: index });
            }
        }
    }

    fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        match self.volumes {
            Volumes::Ready => {}
            Volumes::Preparing { .. } => return,
            Volumes::Failed { retry_at, .. } if now.mono < retry_at => return,
            Volumes::Absent | Volumes::Failed { .. } => {
                let tries = match self.volumes {
                    Volumes::Failed { tries, .. } => tries,
                    _ => 0,
                };
                self.volumes = Volumes::Preparing { tries };
                effects.push(Effect::PrepareVolumes);
                return;
            }
        }
        let init = !self.initialized();
        for index in 0..self.containers.len() {
            if self.plan.containers[index].init != init || (init && self.containers[index].done()) {
                continue;
            }
            self.drive(index, now, effects);
            // One start at a time, in the order of the spec; init containers also
            // wait for the end of the one before.
            if init || matches!(self.containers[index].slot, Slot::Starting { .. }) {
                return;
            }
        }
    }

    fn drive(&mut self, index: usize, now: Now, effects: &mut Vec<Effect>) {
        let restarts = self.restarts(index);
        let plan = &self.plan.containers[index];
        let container = &mut self.containers[index];
        match &mut container.slot {
            Slot::Starting { .. } | Slot::Running { .. } => return,
            Slot::Waiting { problem, retry_at } => {
                if let Some(refusal) = &plan.refusal {
                    if problem.is_none() {
                        let Refusal {
                            reason,
                            event,
                            message,
                        } = refusal.clone();
                        *problem = Some(Waiting {
                            reason,
                            message: message.clone(),
                        });
                        effects.push(notify(Some(index), true, event, message));
                    }
                    return;
                }
                if retry_at.is_some_and(|at| now.mono < at) {
                    return;
                }
            }
            Slot::Ended { .. } if !restarts => return,
            Slot::Ended {
                pause: Some((until, _)),
                ..
            } if now.mono < *until => return,
            Slot::Ended { pause: Some(_), at } => container.backoff.restart(*at, now.mono),
            Slot::Ended { at, pause } => {
                match container.backoff.wait(*at) {
                    Some(wait) if now.mono < wait.0 => {
                        *pause = Some(wait);
                        let message = format!(
                            "Back-off restarting failed container {} in pod {}",
                            plan.name, self.plan.label
                        );
                        effects.push(notify(Some(index), true, "BackOff", message));
                        return;
                    }
                    _ => container.backoff.restart(*at, now.mono),
                };
            }
        }
        let attempt = container.next_attempt;
        container.slot = Slot::Starting { attempt };
        effects.push(Effect::Start {
            container: index,
            attempt,
        });
    }

    /// Whether the policy has this container start again after its last end.
    fn restarts(&self, index: usize) -> bool {
        let failed = self.containers[index].failed();
        match self.plan.restart {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => failed,
            RestartPolicy::Always => failed || !self.plan.containers[index].init,
        }
    }

    fn each(&self, init: bool) -> impl Iterator<Item = (usize, &Container)> {
        let plans = self.plan.containers.iter();
        let of_kind = move |(_, (plan, _)): &(usize, (&ContainerPlan, _))| plan.init == init;
        plans
            .zip(&self.containers)
            .enumerate()
            .filter(of_kind)
            .map(|(index, (_, container))| (index, container))
    }
}

impl Container {
    fn new() -> Self {
        Self {
            slot: Slot::Waiting {
                problem: None,
                retry_at: None,
            },
            last: None,
            before: None,
            next_attempt: 0,
            restarts: 0,
            backoff: Backoff::default(),
            stopping: Stopping::No,
            config_tries: 0,
        }
    }

    fn recover(&mut self, found: Recovered, now: Now) {
        let mut ended = found.ended.into_iter().rev();
        self.last = ended.next();
        self.before = ended.next();
        self.next_attempt = found.next_attempt;
        self.restarts = found.restarts;
        let ago = |then: jiff::Timestamp| {
            let elapsed = now.wall.duration_since(then);
            now.mono
                .saturating_sub(Duration::try_from(elapsed).unwrap_or_default())
        };
        let latest = self.last.as_ref();
        let last_start = match &found.running {
            Some((_, _, at)) => Some(*at),
            None => latest.map(|end| end.started_at.unwrap_or(end.finished_at)),
        };
        if let Some(start) = last_start {
            self.backoff = Backoff::recovered(found.restarts, ago(start));
        }
        if let Some((attempt, id, started_at)) = found.running {
            self.slot = Slot::Running {
                attempt,
                id,
                started_at,
            };
        } else if let Some(last) = latest {
            self.slot = Slot::Ended {
                at: ago(last.finished_at),
                pause: None,
            };
        }
    }

    /// An ordered attempt was used up.
    fn begin(&mut self, attempt: u32) {
        self.next_attempt = attempt + 1;
        self.config_tries = 0;
        if self.last.is_some() {
            self.restarts += 1;
        }
    }

    /// Whether a process may exist.
    pub fn active(&self) -> bool {
        matches!(self.slot, Slot::Starting { .. } | Slot::Running { .. })
    }

    /// Whether it ended well and is not running again.
    pub fn done(&self) -> bool {
        matches!(self.slot, Slot::Ended { .. }) && self.last.as_ref().is_some_and(Ended::succeeded)
    }

    fn failed(&self) -> bool {
        matches!(self.slot, Slot::Ended { .. }) && !self.done()
    }
}

fn retry_pause(tries: u32) -> Duration {
    (FIRST_RETRY * (1 << tries.min(8))).min(LONGEST_RETRY)
}

fn notify(
    container: Option<usize>,
    warning: bool,
    reason: &'static str,
    message: String,
) -> Effect {
    Effect::Notify {
        container,
        warning,
        reason,
        message,
    }
}
