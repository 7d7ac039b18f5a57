//! How what runs is brought to its end: preStop hook, its turn, SIGTERM, SIGKILL.
//!
//! The order and the numbers are the kubelet's: all hooks begin at once, a sidecar
//! waits for its turn after its hook, and what is left of the grace is never less than
//! two seconds.

use std::time::Duration;

use super::{
    Container, Effect, Ending, Ends, Hook, Now, Probe, RestartPolicy, Role, Slot, State, Stopping,
    notify,
};

/// The least time between SIGTERM and SIGKILL.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl State {
    /// An ending only becomes more final, and its deadline only comes nearer.
    pub(super) fn end(&mut self, why: Ending, grace: Duration, now: Now) {
        let until = now.mono.saturating_add(grace);
        let hard = why == Ending::NodeShutdown;
        self.ends = Some(match self.ends.take() {
            None => Ends { why, until, hard },
            Some(earlier) => Ends {
                why: earlier.why.max(why),
                until: earlier.until.min(until),
                hard: earlier.hard || hard,
            },
        });
    }

    /// Has everything end that runs.
    pub(super) fn stop_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // A terminal pod that still has processes was declared over by the API.
        let Ends { until, hard, .. } = self.ends.clone().unwrap_or(Ends {
            why: Ending::Completed,
            until: now.mono,
            hard: true,
        });
        for index in 0..self.containers.len() {
            if !matches!(self.containers[index].slot, Slot::Running { .. }) {
                continue;
            }
            if self.containers[index].stopping == Stopping::No {
                let message = format!("Stopping container {}", self.plan.containers[index].name);
                self.stop(index, until, message, now, effects);
            } else {
                let least = if hard {
                    now.mono
                } else {
                    now.mono + LEAST_GRACE
                };
                self.containers[index].hurry(until, least);
            }
        }
    }

    /// Has one container end by then.
    fn stop(
        &mut self,
        index: usize,
        until: Duration,
        message: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let plan = &self.plan.containers[index];
        let container = &mut self.containers[index];
        let Slot::Running { attempt, .. } = container.slot else {
            return;
        };
        effects.push(notify(Some(index), false, "Killing", message));
        if std::mem::take(&mut container.hooking) {
            effects.push(Effect::DropHook { container: index });
        }
        if plan.has(|it| it.pre_stop) && !container.pre_stopped && now.mono < until {
            container.pre_stopped = true;
            container.stopping = Stopping::Hook { until };
            effects.push(Effect::RunHook {
                container: index,
                attempt,
                hook: Hook::PreStop,
            });
        } else {
            container.stopping = Stopping::Turn { until };
        }
    }

    /// Takes each ending container as far as it may go now.
    pub(super) fn go_on_stopping(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let hard = self
            .ends
            .as_ref()
            .map_or(self.terminal.is_some(), |it| it.hard);
        for index in 0..self.containers.len() {
            if let Stopping::Hook { until } = self.containers[index].stopping
                && until <= now.mono
            {
                effects.push(Effect::DropHook { container: index });
                self.containers[index].stopping = Stopping::Turn { until };
            }
            if let Stopping::Turn { until } = self.containers[index].stopping
                && (until <= now.mono || self.has_turn(index))
            {
                let kill_at = if hard {
                    until
                } else {
                    until.max(now.mono + LEAST_GRACE)
                };
                self.containers[index].stopping = Stopping::Terminated { kill_at };
                if now.mono < kill_at {
                    effects.push(Effect::Terminate { container: index });
                }
            }
            if let Stopping::Terminated { kill_at } = self.containers[index].stopping
                && kill_at <= now.mono
            {
                self.containers[index].stopping = Stopping::Killed;
                effects.push(Effect::Kill { container: index });
            }
        }
    }

    /// Whether all have ended that end before this container. Only where the whole pod
    /// ends is there an order.
    fn has_turn(&self, index: usize) -> bool {
        if self.ends.is_none() || self.plan.containers[index].role != Role::Sidecar {
            return true;
        }
        !self.all().any(|(other, plan, it)| {
            let earlier = match plan.role {
                Role::Main => true,
                Role::Sidecar => other > index,
                Role::Init | Role::Ephemeral => false,
            };
            earlier && it.active()
        })
    }

    pub(super) fn hook_done(
        &mut self,
        container: usize,
        attempt: u32,
        hook: Hook,
        failure: Option<String>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(it) = self.containers.get_mut(container) else {
            return;
        };
        if !it.runs_attempt(attempt) {
            return;
        }
        match hook {
            Hook::PostStart if it.hooking => {
                it.hooking = false;
                let Some(failure) = failure else {
                    it.hook_failure = None;
                    it.runs(&self.plan.containers[container]);
                    return;
                };
                it.hook_failure = Some(failure.into());
                let message = "PostStartHook failed".to_owned();
                effects.push(notify(
                    Some(container),
                    true,
                    "FailedPostStartHook",
                    message,
                ));
                let until = now.mono.saturating_add(self.plan.grace);
                self.stop(
                    container,
                    until,
                    "FailedPostStartHook".to_owned(),
                    now,
                    effects,
                );
            }
            Hook::PreStop => {
                let Stopping::Hook { until } = it.stopping else {
                    return;
                };
                it.stopping = Stopping::Turn { until };
                if failure.is_some() {
                    let message = "PreStopHook failed".to_owned();
                    effects.push(notify(Some(container), true, "FailedPreStopHook", message));
                }
            }
            Hook::PostStart => {}
        }
    }

    pub(super) fn probed(
        &mut self,
        container: usize,
        attempt: u32,
        probe: Probe,
        healthy: bool,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(it) = self.containers.get_mut(container) else {
            return;
        };
        if !it.runs_attempt(attempt) || it.hooking {
            return;
        }
        let plan = &self.plan.containers[container];
        match (probe, healthy) {
            (Probe::Readiness, ready) => it.ready = ready && it.started,
            (Probe::Startup, true) => it.runs_after_startup(plan),
            (Probe::Liveness, true) => {}
            (Probe::Startup | Probe::Liveness, false) => {
                if it.stopping != Stopping::No {
                    return;
                }
                let extras = plan.extras.as_deref();
                let (word, grace) = match probe {
                    Probe::Startup => ("startup", extras.and_then(|it| it.startup_grace)),
                    _ => ("liveness", extras.and_then(|it| it.liveness_grace)),
                };
                let message = match (plan.role, plan.restart) {
                    (Role::Sidecar, _) => {
                        format!("Init container {} failed {word} probe", plan.name)
                    }
                    (_, RestartPolicy::Never) => {
                        format!("Container {} failed {word} probe", plan.name)
                    }
                    _ => format!(
                        "Container {} failed {word} probe, will be restarted",
                        plan.name
                    ),
                };
                it.unwell = true;
                let until = now.mono.saturating_add(grace.unwrap_or(self.plan.grace));
                self.stop(container, until, message, now, effects);
            }
        }
    }
}

impl Container {
    /// Brings the end of a container that is being stopped nearer.
    fn hurry(&mut self, by: Duration, least: Duration) {
        match &mut self.stopping {
            Stopping::Hook { until } | Stopping::Turn { until } => *until = by.min(*until),
            Stopping::Terminated { kill_at } => *kill_at = by.max(least).min(*kill_at),
            Stopping::No | Stopping::Killed => {}
        }
    }

    /// When the stop of this container has to be looked at again.
    pub(super) fn stop_due(&self) -> Option<Duration> {
        match self.stopping {
            Stopping::Hook { until } | Stopping::Turn { until } => Some(until),
            Stopping::Terminated { kill_at } => Some(kill_at),
            Stopping::No | Stopping::Killed => None,
        }
    }
}
