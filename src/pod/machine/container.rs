//! One container's share of the machine.

use std::time::Duration;

use super::{
    Backoff, Container, ContainerPlan, Ended, Now, Probing, Recovered, Role, Slot, Stopping,
};

impl Container {
    pub(super) fn new() -> Self {
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
            hooking: false,
            hook_failure: None,
            pre_stopped: false,
            started: false,
            ready: false,
            probing: Probing::Off,
            unwell: false,
            ended_at: None,
            config_tries: 0,
        }
    }

    pub(super) fn recover(&mut self, plan: &ContainerPlan, found: Recovered, now: Now) {
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
            Some(run) => Some(run.started_at),
            None => latest.map(|end| end.started_at.unwrap_or(end.finished_at)),
        };
        if let Some(start) = last_start {
            self.backoff = Backoff::recovered(found.restarts, ago(start));
        }
        self.ended_at = latest.map(|last| ago(last.finished_at));
        if let Some(run) = found.running {
            self.slot = Slot::Running {
                attempt: run.attempt,
                id: run.id,
                started_at: run.started_at,
            };
            self.started = run.started;
            self.ready = run.ready;
            self.pre_stopped = run.pre_stopped;
            self.runs(plan);
        } else if self.ended_at.is_some() {
            self.slot = Slot::Ended {
                since: self.ended_at,
                forced: false,
                pause: None,
            };
        }
    }

    /// An ordered attempt was used up.
    pub(super) fn begin(&mut self, attempt: u32) {
        self.next_attempt = attempt + 1;
        self.config_tries = 0;
        if self.last.is_some() {
            self.restarts += 1;
        }
    }

    /// It counts as running from now on.
    pub(super) fn runs(&mut self, plan: &ContainerPlan) {
        if !plan.has(|it| it.startup) {
            self.runs_after_startup(plan);
        }
    }

    /// Its startup probe has succeeded, or it has none.
    pub(super) fn runs_after_startup(&mut self, plan: &ContainerPlan) {
        if !self.started {
            self.started = true;
            self.ready = !plan.has(|it| it.readiness);
        }
    }

    /// Whether a process may exist.
    pub fn active(&self) -> bool {
        matches!(self.slot, Slot::Starting { .. } | Slot::Running { .. })
    }

    /// Whether it counts as running: its process does and its postStart hook is done.
    pub fn running(&self) -> bool {
        matches!(self.slot, Slot::Running { .. }) && !self.hooking
    }

    /// Whether it ended well and is not running again.
    pub fn done(&self) -> bool {
        matches!(self.slot, Slot::Ended { forced: false, .. })
            && self.last.as_ref().is_some_and(Ended::succeeded)
    }

    pub(super) fn failed(&self) -> bool {
        matches!(self.slot, Slot::Ended { .. }) && !self.done()
    }

    /// Whether an attempt of it was ever ordered.
    pub(super) fn begun(&self) -> bool {
        self.next_attempt > 0 || matches!(self.slot, Slot::Starting { .. })
    }

    /// Whether what follows an init container may start.
    pub(super) fn passed(&self, plan: &ContainerPlan) -> bool {
        match plan.role {
            Role::Sidecar => self.started,
            _ => self.done(),
        }
    }

    pub(super) fn runs_attempt(&self, number: u32) -> bool {
        matches!(self.slot, Slot::Running { attempt, .. } if attempt == number)
    }

    /// Which of its probes should run now.
    pub(super) fn probes(&self, plan: &ContainerPlan) -> (u32, Probing) {
        let Slot::Running { attempt, .. } = self.slot else {
            return (self.next_attempt.saturating_sub(1), Probing::Off);
        };
        let readiness = plan.has(|it| it.readiness);
        let which = match self.stopping {
            _ if self.hooking || plan.extras.is_none() => Probing::Off,
            Stopping::No if readiness || plan.has(|it| it.startup || it.liveness) => Probing::All,
            Stopping::No => Probing::Off,
            _ if readiness => Probing::ReadinessOnly,
            _ => Probing::Off,
        };
        (attempt, which)
    }
}
