use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(mono: Duration) -> Now {
    Now {
        wall: jiff::Timestamp::from_second(1_800_000_000).unwrap() + mono,
        mono,
    }
}

fn plan(init: usize, main: usize, restart: RestartPolicy) -> Arc<Plan> {
    let name = |index: usize| Arc::from(format!("c{index}"));
    let containers = (0..init + main)
        .map(|index| ContainerPlan {
            name: name(index),
            init: index < init,
            refusal: None,
        })
        .collect();
    let label = "p_default(u)".to_owned();
    Arc::new(Plan {
        label,
        containers,
        restart,
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
                Effect::Terminate { container } | Effect::Kill { container } => {
                    assert!(
                        self.running.contains_key(&container),
                        "signal without a process"
                    );
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
            assert!(is.kill_at <= was.kill_at, "the end went further away");
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
                running: self
                    .running
                    .get(&index)
                    .map(|attempt| (*attempt, Arc::from("vk-cmd://1"), at(self.now).wall)),
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
        self.preparing = false;
        self.terminal = self.state.terminal();
        // A new agent does not know what the old one asked the API for.
        self.deleted = false;
        self.step(Event::Tick);
        if let Some(ends) = ends {
            let grace = ends.kill_at.saturating_sub(self.now);
            self.step(match ends.why {
                Ending::Deleted => Event::Delete { grace },
                Ending::Removed => Event::Removed { grace },
                Ending::NodeShutdown => Event::Shutdown { grace },
            });
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
            self.now += Duration::from_secs(6);
            let killed: Vec<_> = self.step(Event::Tick);
            drop(killed);
            for container in self.running.keys().copied().collect::<Vec<_>>() {
                assert_eq!(
                    self.state.containers()[container].stopping,
                    Stopping::Killed
                );
                self.exited(container, 137);
            }
            self.act(&Action::Stored);
        }
        assert!(self.deleted || self.state.ending() == Some(&Ending::Removed));
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
    Stored,
    Later(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let container = 0..4usize;
    prop_oneof![
        3 => any::<bool>().prop_map(Action::Volumes),
        8 => container.clone().prop_map(Action::Started),
        1 => container.clone().prop_map(Action::StartFailed),
        1 => container.clone().prop_map(Action::ConfigFailed),
        6 => (container.clone(), prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(container, code)| Action::Exited(container, code)),
        1 => (container, 0..5u32).prop_map(|(container, attempt)| Action::Stale(container, attempt)),
        1 => (0..40u64).prop_map(Action::Delete),
        1 => (0..40u64).prop_map(Action::Removed),
        1 => (0..40u64).prop_map(Action::Shutdown),
        3 => Just(Action::Stored),
        6 => (0..700u64).prop_map(Action::Later),
    ]
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never)
    ]
}

proptest! {
    #[test]
    fn random_lives_keep_the_invariants(
        init in 0..3usize,
        main in 1..3usize,
        policy in policy(),
        actions in proptest::collection::vec(action(), 0..120),
        restarts in proptest::collection::vec(0..120usize, 0..3),
    ) {
        let mut world = World::new(plan(init, main, policy));
        for (index, action) in actions.iter().enumerate() {
            if restarts.contains(&index) && world.starting.is_empty() {
                world.restart_agent();
            }
            world.act(action);
        }
        world.delete_to_the_end();
    }
}

#[test]
fn runs_once_and_succeeds() {
    let mut world = World::new(plan(0, 2, RestartPolicy::Never));
    world.act(&Action::Volumes(true));
    assert_eq!(
        world.starting.keys().copied().collect::<Vec<_>>(),
        [0],
        "one start at a time"
    );
    world.started(0);
    world.started(1);
    world.exited(0, 0);
    assert_eq!(world.state.terminal(), None);
    world.exited(1, 0);
    assert_eq!(world.state.terminal(), Some(Terminal::Succeeded));
    assert_eq!(world.state.wake_at(), None);
}

#[test]
fn one_failure_fails_the_pod() {
    let mut world = World::new(plan(0, 2, RestartPolicy::Never));
    world.act(&Action::Volumes(true));
    world.started(0);
    world.started(1);
    world.exited(0, 3);
    world.exited(1, 0);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
}

#[test]
fn a_failure_is_restarted_and_a_success_is_not() {
    let mut world = World::new(plan(0, 1, RestartPolicy::OnFailure));
    world.act(&Action::Volumes(true));
    world.started(0);
    world.exited(0, 1);
    assert_eq!(
        world.starting.get(&0),
        Some(&1),
        "the first restart follows at once"
    );
    world.started(0);
    assert_eq!(world.state.containers()[0].restarts, 1);
    world.exited(0, 1);
    assert!(world.starting.is_empty(), "the second one waits");
    let until = world.state.wake_at().unwrap();
    assert_eq!(until, world.now + Duration::from_secs(10));
    world.act(&Action::Later(9));
    assert!(world.starting.is_empty());
    world.act(&Action::Later(1));
    world.started(0);
    world.exited(0, 0);
    assert_eq!(world.state.terminal(), Some(Terminal::Succeeded));
    assert_eq!(world.state.containers()[0].restarts, 2);
}

#[test]
fn init_containers_run_one_after_another_and_only_once() {
    let mut world = World::new(plan(2, 1, RestartPolicy::Always));
    world.act(&Action::Volumes(true));
    world.started(0);
    assert!(world.starting.is_empty());
    world.exited(0, 0);
    world.started(1);
    assert!(!world.state.initialized());
    world.exited(1, 0);
    assert!(world.state.initialized());
    world.started(2);
    world.exited(2, 0);
    assert_eq!(world.starting.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut world = World::new(plan(1, 1, RestartPolicy::Never));
    world.act(&Action::Volumes(true));
    world.started(0);
    world.exited(0, 1);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
}

#[test]
fn a_refused_pod_says_so_once_and_can_be_deleted() {
    let mut refused = Plan::clone(&plan(0, 1, RestartPolicy::Always));
    let message = "spec.containers[0].livenessProbe is not supported".to_owned();
    refused.refusal = Some(Refusal {
        reason: "CreateContainerConfigError",
        event: "Failed",
        message,
    });
    let mut world = World::new(Arc::new(refused));
    assert!(world.step(Event::Tick).is_empty());
    assert!(!world.preparing && world.starting.is_empty());
    world.act(&Action::Delete(30));
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
    world.act(&Action::Stored);
    assert!(world.deleted);
}

#[test]
fn a_later_delete_may_only_shorten_the_grace() {
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    world.act(&Action::Volumes(true));
    world.started(0);
    let effects = world.step(Event::Delete {
        grace: Duration::from_secs(30),
    });
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    world.act(&Action::Delete(600));
    world.act(&Action::Later(5));
    let effects = world.step(Event::Delete {
        grace: Duration::from_secs(1),
    });
    assert!(effects.is_empty());
    world.now += Duration::from_secs(1);
    assert!(
        world
            .step(Event::Tick)
            .contains(&Effect::Kill { container: 0 })
    );
}

#[test]
fn volumes_are_tried_again_with_a_growing_pause() {
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    let mut pauses = Vec::new();
    for _ in 0..7 {
        world.act(&Action::Volumes(false));
        let wake = world.state.wake_at().unwrap();
        pauses.push((wake - world.now).as_millis());
        world.now = wake;
        world.step(Event::Tick);
        assert!(world.preparing);
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15000, 15000]);
}

#[test]
fn a_node_that_goes_down_leaves_pods_that_never_ran() {
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    world.act(&Action::Shutdown(10));
    assert_eq!(world.state.terminal(), None);
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    world.act(&Action::Volumes(true));
    world.started(0);
    world.act(&Action::Shutdown(10));
    world.exited(0, 143);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
}
