use std::collections::BTreeMap;

use super::*;

mod basic;
mod endings;
mod random;
mod sidecars;
mod trouble;

fn at(mono: Duration) -> Now {
    Now {
        wall: jiff::Timestamp::from_second(1_800_000_000).unwrap() + mono,
        mono,
    }
}

fn container(index: usize, role: Role, restart: RestartPolicy) -> ContainerPlan {
    ContainerPlan {
        name: Arc::from(format!("c{index}")),
        role,
        restart,
        extras: None,
        refusal: None,
    }
}

fn plan(init: usize, main: usize, restart: RestartPolicy) -> Arc<Plan> {
    let roles = (0..init + main).map(|index| if index < init { Role::Init } else { Role::Main });
    plan_of(roles, restart)
}

fn plan_of(roles: impl IntoIterator<Item = Role>, restart: RestartPolicy) -> Arc<Plan> {
    let containers = roles.into_iter().enumerate();
    let containers = { containers }
        .map(|(index, role)| container(index, role, restart))
        .collect();
    let label = "p_default(u)".to_owned();
    Arc::new(Plan {
        label,
        containers,
        grace: Duration::from_secs(30),
        refusal: None,
    })
}

fn end(attempt: u32, code: i32, now: Now) -> Ended {
    Ended {
        attempt,
        code,
        reason: if code == 0 { "Completed" } else { "Error" },
        message: String::new(),
        started_at: None,
        finished_at: now.wall,
        id: None,
    }
}

/// Carries effects out the way a worker does, and checks each against the world.
struct World {
    state: State,
    now: Duration,
    /// Starts that were ordered and not answered.
    starting: BTreeMap<usize, u32>,
    /// Processes.
    running: BTreeMap<usize, u32>,
    attempts: BTreeMap<usize, u32>,
    /// Hooks that were ordered and not answered.
    hooks: BTreeMap<usize, (u32, Hook)>,
    /// Containers whose preStop hook was run in the running attempt.
    pre_stopped: Vec<usize>,
    preparing: bool,
    deleted: bool,
    terminal: Option<Terminal>,
    stored: bool,
}

impl World {
    fn new(plan: Arc<Plan>) -> Self {
        let mut world = Self {
            state: State::new(plan),
            now: Duration::from_secs(3600),
            starting: BTreeMap::new(),
            running: BTreeMap::new(),
            attempts: BTreeMap::new(),
            hooks: BTreeMap::new(),
            pre_stopped: Vec::new(),
            preparing: false,
            deleted: false,
            terminal: None,
            stored: false,
        };
        world.step(Event::Tick);
        world
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let before = self.state.clone();
        let effects = self.state.step(event, at(self.now));
        for effect in &effects {
            match *effect {
                Effect::PrepareVolumes => {
                    assert!(!self.preparing, "volumes are prepared twice at once");
                    self.preparing = true;
                }
                Effect::Start { container, attempt } => {
                    assert!(
                        !self.starting.contains_key(&container),
                        "started while starting"
                    );
                    assert!(
                        !self.running.contains_key(&container),
                        "started while running"
                    );
                    assert!(before.ending().is_none(), "started during an ending");
                    assert!(before.terminal().is_none(), "started after the end");
                    let used = self.attempts.get(&container);
                    assert!(
                        used.is_none_or(|used| *used < attempt),
                        "attempt used twice"
                    );
                    self.starting.insert(container, attempt);
                }
                Effect::Terminate { container } => {
                    assert!(
                        self.running.contains_key(&container),
                        "signal without a process"
                    );
                    self.check_turn(container);
                }
                Effect::Kill { container } => {
                    assert!(
                        self.running.contains_key(&container),
                        "signal without a process"
                    );
                    self.check_turn(container);
                }
                Effect::RunHook {
                    container,
                    attempt,
                    hook,
                } => {
                    assert_eq!(
                        self.running.get(&container),
                        Some(&attempt),
                        "hook without a process"
                    );
                    assert!(
                        self.hooks.insert(container, (attempt, hook)).is_none(),
                        "two hooks at once"
                    );
                    if hook == Hook::PreStop {
                        assert!(!self.pre_stopped.contains(&container), "preStop twice");
                        self.pre_stopped.push(container);
                    }
                }
                Effect::DropHook { container } => {
                    assert!(
                        self.hooks.remove(&container).is_some(),
                        "no hook to be dropped"
                    );
                }
                Effect::Probe {
                    container,
                    attempt,
                    which,
                } => {
                    if which != Probing::Off {
                        assert_eq!(
                            self.running.get(&container),
                            Some(&attempt),
                            "probes without a process"
                        );
                        assert!(!self.state.containers()[container].hooking);
                    }
                }
                Effect::DeleteObject => {
                    assert!(!self.deleted, "deleted twice");
                    assert!(
                        self.running.is_empty() && self.starting.is_empty(),
                        "processes are left"
                    );
                    assert!(self.stored, "deleted before its terminal status was stored");
                    self.deleted = true;
                }
                Effect::Notify { .. } => {}
            }
        }
        for (was, is) in before.containers().iter().zip(self.state.containers()) {
            assert!(is.restarts >= was.restarts && is.next_attempt >= was.next_attempt);
        }
        if self.terminal.is_some() {
            assert_eq!(
                self.terminal,
                self.state.terminal(),
                "a terminal phase changed"
            );
        }
        self.terminal = self.state.terminal();
        if let (Some(was), Some(is)) = (&before.ends, &self.state.ends) {
            assert!(is.until <= was.until, "the end went further away");
        }
        for (was, is) in before.containers().iter().zip(self.state.containers()) {
            if let (Stopping::Terminated { kill_at: was }, Stopping::Terminated { kill_at: is }) =
                (was.stopping, is.stopping)
            {
                assert!(is <= was, "SIGKILL went further away");
            }
            assert!(is.stopping == Stopping::No || matches!(is.slot, Slot::Running { .. }));
            assert!(!is.ready || is.started, "ready before it started");
            assert!(!is.started || is.running(), "started without running");
        }
        for (index, _) in self.state.containers().iter().enumerate() {
            let pending = self.hooks.contains_key(&index);
            let it = &self.state.containers()[index];
            let waits = it.hooking || matches!(it.stopping, Stopping::Hook { .. });
            assert_eq!(
                pending, waits,
                "a hook that nobody waits for, or none that is"
            );
        }
        if let Some(wake) = self.state.wake_at() {
            assert!(
                wake > self.now,
                "a timer that is due already: {:?}",
                self.state
            );
        }
        effects
    }

    /// A sidecar ends after all that it serves, unless the grace is over.
    fn check_turn(&self, container: usize) {
        let Some(ends) = &self.state.ends else {
            return;
        };
        if self.state.plan.containers[container].role != Role::Sidecar || ends.until <= self.now {
            return;
        }
        for (index, plan) in self.state.plan.containers.iter().enumerate() {
            let earlier =
                plan.role == Role::Main || (plan.role == Role::Sidecar && index > container);
            // One that failed its probes was on its way down before.
            let alone = self.state.containers()[container].unwell;
            assert!(
                alone || !earlier || !self.state.containers()[index].active(),
                "a sidecar ended before its turn"
            );
        }
    }

    fn hook_done(&mut self, container: usize, failed: bool) -> Vec<Effect> {
        let Some((attempt, hook)) = self.hooks.remove(&container) else {
            return Vec::new();
        };
        self.step(Event::HookDone {
            container,
            attempt,
            hook,
            failure: failed.then(|| "exit status 1".to_owned()),
        })
    }

    fn probed(&mut self, container: usize, probe: Probe, healthy: bool) -> Vec<Effect> {
        let Some(&attempt) = self.running.get(&container) else {
            return Vec::new();
        };
        self.step(Event::Probed {
            container,
            attempt,
            probe,
            healthy,
        })
    }

    fn running(&self) -> Vec<usize> {
        self.running.keys().copied().collect()
    }

    fn ordered(&self) -> Vec<usize> {
        self.starting.keys().copied().collect()
    }

    fn started(&mut self, container: usize) -> Vec<Effect> {
        let Some(attempt) = self.starting.remove(&container) else {
            return Vec::new();
        };
        self.running.insert(container, attempt);
        self.attempts.insert(container, attempt);
        let id = Arc::from("vk-cmd://1");
        let started_at = at(self.now).wall;
        self.step(Event::Started {
            container,
            attempt,
            id,
            started_at,
        })
    }

    fn exited(&mut self, container: usize, code: i32) -> Vec<Effect> {
        let Some(attempt) = self.running.remove(&container) else {
            return Vec::new();
        };
        self.pre_stopped.retain(|it| *it != container);
        let end = end(attempt, code, at(self.now));
        self.step(Event::Ended { container, end })
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Volumes(ok) => {
                if std::mem::take(&mut self.preparing) {
                    let message = "no such configmap".to_owned();
                    self.step(if ok {
                        Event::VolumesReady
                    } else {
                        Event::VolumesFailed { message }
                    });
                }
            }
            Action::Started(container) => {
                self.started(container);
            }
            Action::StartFailed(container) => {
                if let Some(attempt) = self.starting.remove(&container) {
                    self.attempts.insert(container, attempt);
                    let end = end(attempt, 128, at(self.now));
                    self.step(Event::Ended { container, end });
                }
            }
            Action::ConfigFailed(container) => {
                if let Some(attempt) = self.starting.remove(&container) {
                    let problem = Waiting {
                        reason: "CreateContainerConfigError",
                        message: "x".into(),
                    };
                    self.step(Event::ConfigFailed {
                        container,
                        attempt,
                        problem,
                    });
                }
            }
            Action::Exited(container, code) => {
                self.exited(container, code);
            }
            Action::Stale(container, attempt) => {
                // Words about attempts that are over change nothing.
                if self.running.get(&container).is_none_or(|it| *it != attempt)
                    && self
                        .starting
                        .get(&container)
                        .is_none_or(|it| *it != attempt)
                {
                    let slot = self
                        .state
                        .containers()
                        .get(container)
                        .map(|it| it.slot.clone());
                    let end = end(attempt, 1, at(self.now));
                    self.step(Event::Ended { container, end });
                    if !matches!(slot, Some(Slot::Ended { .. })) {
                        assert_eq!(
                            slot,
                            self.state
                                .containers()
                                .get(container)
                                .map(|it| it.slot.clone())
                        );
                    }
                }
            }
            Action::Delete(grace) => {
                self.step(Event::Delete {
                    grace: Duration::from_secs(grace),
                });
            }
            Action::Removed(grace) => {
                self.step(Event::Removed {
                    grace: Duration::from_secs(grace),
                });
            }
            Action::Shutdown(grace) => {
                self.step(Event::Shutdown {
                    grace: Duration::from_secs(grace),
                });
            }
            Action::HookDone(container, failed) => {
                self.hook_done(container, failed);
            }
            Action::Probed(container, probe, healthy) => {
                self.probed(container, probe, healthy);
            }
            Action::Fail(grace) => {
                let failure = Failure {
                    reason: "Evicted".into(),
                    message: "x".into(),
                    disruption: Some("TerminationByKubelet"),
                    warning: true,
                };
                self.step(Event::Fail {
                    failure: Box::new(failure),
                    grace: grace.map(Duration::from_secs),
                });
            }
            Action::Deadline(after) => {
                let at = self.now + Duration::from_secs(after);
                self.step(Event::Deadline { at: Some(at) });
            }
            Action::Ephemeral => {
                let index = self.state.containers().len();
                let restart = RestartPolicy::Never;
                self.step(Event::Ephemeral {
                    containers: vec![container(index, Role::Ephemeral, restart)],
                });
            }
            Action::Stored => {
                self.stored |= self.state.terminal().is_some();
                self.step(Event::StatusStored);
            }
            Action::Later(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.step(Event::Tick);
            }
        }
    }

    /// The agent dies and another reads the disk.
    fn restart_agent(&mut self) {
        let recovered = self
            .state
            .containers()
            .iter()
            .enumerate()
            .map(|(index, container)| Recovered {
                next_attempt: container.next_attempt,
                restarts: container.restarts,
                running: self.running.get(&index).map(|attempt| RecoveredRun {
                    attempt: *attempt,
                    id: Arc::from("vk-cmd://1"),
                    started_at: at(self.now).wall,
                    started: container.started,
                    ready: container.ready,
                    pre_stopped: container.pre_stopped,
                }),
                ended: container
                    .before
                    .iter()
                    .chain(&container.last)
                    .cloned()
                    .collect(),
            })
            .collect();
        let terminal = self.state.terminal().filter(|_| self.stored);
        let ends = self.state.ends.clone();
        let plan = self.state.plan.clone();
        self.state = State::recover(plan, recovered, terminal, at(self.now));
        self.starting.clear();
        // Hooks end with the agent that runs them.
        self.hooks.clear();
        self.preparing = false;
        self.terminal = self.state.terminal();
        // A new agent does not know what the old one asked the API for.
        self.deleted = false;
        self.step(Event::Tick);
        if let Some(ends) = ends {
            let grace = ends.until.saturating_sub(self.now);
            match ends.why {
                Ending::Deleted => drop(self.step(Event::Delete { grace })),
                Ending::Removed => drop(self.step(Event::Removed { grace })),
                Ending::NodeShutdown => drop(self.step(Event::Shutdown { grace })),
                Ending::Failed => self.act(&Action::Fail(Some(grace.as_secs()))),
                // Seen anew in what ended.
                Ending::Completed => {}
            }
        }
    }

    /// Whatever happened before: a delete ends, even with processes that ignore SIGTERM.
    fn delete_to_the_end(&mut self) {
        if !self.deleted {
            self.act(&Action::Delete(5));
        }
        for _ in 0..4 {
            for container in self.starting.keys().copied().collect::<Vec<_>>() {
                self.started(container);
            }
            // Past the grace, then past what a hook that hangs leaves.
            for _ in 0..2 {
                self.now += Duration::from_secs(6);
                self.step(Event::Tick);
            }
            for container in self.running.keys().copied().collect::<Vec<_>>() {
                assert_eq!(
                    self.state.containers()[container].stopping,
                    Stopping::Killed
                );
                self.exited(container, 137);
            }
            self.act(&Action::Stored);
        }
        assert!(self.deleted || self.state.ending() == Some(Ending::Removed));
        assert!(self.state.terminal().is_some());
        self.act(&Action::Removed(0));
        assert!(self.state.finished());
    }
}

#[derive(Clone, Debug)]
enum Action {
    Volumes(bool),
    Started(usize),
    StartFailed(usize),
    ConfigFailed(usize),
    Exited(usize, i32),
    Stale(usize, u32),
    Delete(u64),
    Removed(u64),
    Shutdown(u64),
    HookDone(usize, bool),
    Probed(usize, Probe, bool),
    Fail(Option<u64>),
    Deadline(u64),
    Ephemeral,
    Stored,
    Later(u64),
}
