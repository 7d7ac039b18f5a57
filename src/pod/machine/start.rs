//! What may start, in which order, after which pause; and how attempts begin and end.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Effect, Ended, Event, Hook, Now, Refusal, RestartPolicy, Role, Slot, State, Stopping, Volumes,
    Waiting, notify, retry_pause,
};

impl State {
    pub(super) fn config_failed(
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
        // What is wrong with an image was told in an event of its own.
        let message = match problem.reason {
            reason @ ("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull") => {
                format!("Error: {reason}")
            }
            _ => format!("Error: {}", problem.message),
        };
        let tries = it.config_tries;
        it.config_tries += 1;
        it.slot = Slot::Waiting {
            problem: Some(problem),
            retry_at: Some(now.mono + retry_pause(tries)),
        };
        effects.push(notify(Some(container), true, "Failed", message));
    }

    pub(super) fn began(
        &mut self,
        container: usize,
        attempt: u32,
        id: Arc<str>,
        started_at: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let Some(it) = self.containers.get_mut(container) else {
            return;
        };
        if it.slot != (Slot::Starting { attempt }) {
            return;
        }
        let plan = &self.plan.containers[container];
        it.begin(attempt);
        it.slot = Slot::Running {
            attempt,
            id,
            started_at,
        };
        let message = format!("Started container {}", plan.name);
        effects.push(notify(Some(container), false, "Started", message));
        // A pod that ends meanwhile has no use for it.
        if self.ends.is_none() && plan.has(|it| it.post_start) {
            it.hooking = true;
            effects.push(Effect::RunHook {
                container,
                attempt,
                hook: Hook::PostStart,
            });
        } else {
            it.hook_failure = None;
            it.runs(plan);
        }
    }

    pub(super) fn ended(
        &mut self,
        container: usize,
        mut end: Ended,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
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
        if it.hooking || matches!(it.stopping, Stopping::Hook { .. }) {
            effects.push(Effect::DropHook { container });
        }
        let policy = self.plan.containers[container].restart;
        let forced = it.unwell && policy != RestartPolicy::Never;
        let before = it.ended_at.replace(now.mono);
        it.before = it.last.replace(end);
        it.stopping = Stopping::No;
        it.hooking = false;
        it.pre_stopped = false;
        it.unwell = false;
        it.started = false;
        it.ready = false;
        it.slot = Slot::Ended {
            // What its probes ended waits from its end before that, as the kubelet counts.
            since: if forced { before } else { Some(now.mono) },
            forced,
            pause: None,
        };
    }

    pub(super) fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
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
        // An ephemeral container may be there to look at an init container that hangs.
        for index in 0..self.containers.len() {
            if self.plan.containers[index].role == Role::Ephemeral && !self.starting() {
                self.drive(index, now, effects);
            }
        }
        let begun = self.main_begun();
        // What came before the last init container that has begun was passed once and
        // is not waited for again, even if it is down now.
        let frontier = self.init().filter(|(_, _, it)| it.begun());
        let frontier = { frontier }.last().map_or(0, |(index, _, _)| index);
        for index in 0..self.containers.len() {
            // One start at a time.
            if self.starting() {
                return;
            }
            let role = self.plan.containers[index].role;
            match role {
                Role::Init if begun || index < frontier || self.containers[index].done() => {}
                Role::Init => {
                    self.drive(index, now, effects);
                    return;
                }
                Role::Sidecar => {
                    self.drive(index, now, effects);
                    let passed = self.containers[index].passed(&self.plan.containers[index]);
                    if !begun && index >= frontier && !passed {
                        return;
                    }
                }
                Role::Main => self.drive(index, now, effects),
                Role::Ephemeral => {}
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
            Slot::Ended { since: None, .. } => {}
            Slot::Ended {
                pause: Some((until, _)),
                ..
            } if now.mono < *until => return,
            Slot::Ended {
                since: Some(since),
                pause: Some(_),
                ..
            } => container.backoff.restart(*since, now.mono),
            Slot::Ended {
                since: Some(since),
                pause,
                ..
            } => {
                match container.backoff.wait(*since) {
                    Some(wait) if now.mono < wait.0 => {
                        *pause = Some(wait);
                        container.hook_failure = None;
                        let message = format!(
                            "Back-off restarting failed container {} in pod {}",
                            plan.name, self.plan.label
                        );
                        effects.push(notify(Some(index), true, "BackOff", message));
                        return;
                    }
                    _ => container.backoff.restart(*since, now.mono),
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

    /// Whether this container starts again after its last end.
    pub(super) fn restarts(&self, index: usize) -> bool {
        let (plan, container) = (&self.plan.containers[index], &self.containers[index]);
        let by_rule = || {
            let code = container.last.as_ref().map(|last| last.code);
            let means = |code| plan.has(|it| it.rules.iter().any(|rule| rule.means(code)));
            code.is_some_and(means)
        };
        let failed = container.failed();
        match plan.role {
            Role::Sidecar => true,
            Role::Ephemeral => false,
            Role::Init => failed && (plan.restart != RestartPolicy::Never || by_rule()),
            Role::Main => match plan.restart {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => failed || by_rule(),
                RestartPolicy::Never => by_rule(),
            },
        }
    }

    /// Monotonic time at which a deadline of `seconds` after a wall time is over.
    pub fn deadline_after(start: Timestamp, seconds: Duration, now: Now) -> Duration {
        let elapsed = Duration::try_from(now.wall.duration_since(start)).unwrap_or_default();
        (now.mono + seconds.min(Duration::from_secs(u32::MAX.into()))).saturating_sub(elapsed)
    }

    /// The event that sets a deadline counted from `start`, or takes it away.
    pub fn deadline(start: Timestamp, seconds: Option<Duration>, now: Now) -> Event {
        let at = seconds.map(|seconds| Self::deadline_after(start, seconds, now));
        Event::Deadline { at }
    }
}
