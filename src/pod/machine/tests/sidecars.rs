//! Init containers that go on running.

use super::*;

fn sidecar_pod(restart: RestartPolicy) -> World {
    let mut world = World::new(plan_of(
        [Role::Sidecar, Role::Init, Role::Sidecar, Role::Main],
        restart,
    ));
    world.act(&Action::Volumes(true));
    world
}

fn up(restart: RestartPolicy) -> World {
    let mut world = sidecar_pod(restart);
    world.started(0);
    world.started(1);
    world.exited(1, 0);
    world.started(2);
    world.started(3);
    assert_eq!(world.running(), [0, 2, 3]);
    world
}

#[test]
fn they_start_in_order_and_let_the_next_one_start() {
    let mut world = sidecar_pod(RestartPolicy::Never);
    assert_eq!(world.ordered(), [0]);
    world.started(0);
    assert_eq!(world.ordered(), [1]);
    world.started(1);
    assert!(world.ordered().is_empty(), "the init container has to end");
    assert!(!world.state.initialized());
    world.exited(1, 0);
    assert_eq!(world.ordered(), [2]);
    world.started(2);
    assert!(world.state.initialized());
    assert_eq!(world.ordered(), [3]);
}

#[test]
fn the_next_one_waits_for_the_startup_probe() {
    let mut plan = Plan::clone(&plan_of([Role::Sidecar, Role::Main], RestartPolicy::Always));
    plan.containers[0].extras = Some(Box::new(Extras {
        startup: true,
        readiness: true,
        ..Extras::default()
    }));
    let mut world = World::new(Arc::new(plan));
    world.act(&Action::Volumes(true));
    let effects = world.started(0);
    assert!(effects.contains(&Effect::Probe {
        container: 0,
        attempt: 0,
        which: Probing::All
    }));
    assert!(world.ordered().is_empty());
    world.probed(0, Probe::Startup, true);
    assert_eq!(world.ordered(), [1]);
    assert!(!world.state.containers()[0].ready);
    world.probed(0, Probe::Readiness, true);
    assert!(world.state.containers()[0].ready);
}

#[test]
fn one_that_fails_its_startup_probe_is_ended_and_started_again() {
    let mut plan = Plan::clone(&plan_of([Role::Sidecar, Role::Main], RestartPolicy::Never));
    plan.containers[0].extras = Some(Box::new(Extras {
        startup: true,
        startup_grace: Some(Duration::from_secs(7)),
        ..Extras::default()
    }));
    let mut world = World::new(Arc::new(plan));
    world.act(&Action::Volumes(true));
    world.started(0);
    let effects = world.probed(0, Probe::Startup, false);
    let message = "Init container c0 failed startup probe".to_owned();
    assert!(effects.contains(&notify(Some(0), false, "Killing", message)));
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    assert_eq!(
        world.state.wake_at(),
        Some(world.now + Duration::from_secs(7))
    );
    world.exited(0, 143);
    assert_eq!(world.ordered(), [0]);
}

#[test]
fn they_are_started_again_whatever_the_pods_policy_is() {
    let mut world = up(RestartPolicy::Never);
    world.exited(0, 0);
    assert_eq!(world.ordered(), [0]);
    world.started(0);
    assert_eq!(world.state.containers()[0].restarts, 1);
    assert_eq!(world.state.terminal(), None);
}

#[test]
fn one_that_is_down_does_not_hold_back_what_passed_it() {
    let mut world = sidecar_pod(RestartPolicy::Always);
    world.started(0);
    world.started(1);
    world.exited(0, 1);
    assert_eq!(world.ordered(), [0]);
    world.started(0);
    world.exited(0, 1);
    assert!(world.ordered().is_empty(), "it waits for its back-off");
    world.exited(1, 0);
    assert_eq!(world.ordered(), [2]);
}

#[test]
fn they_do_not_keep_a_job_alive_and_end_last_and_in_reverse() {
    for (code, terminal) in [(0, Terminal::Succeeded), (3, Terminal::Failed)] {
        let mut world = up(RestartPolicy::Never);
        let effects = world.exited(3, code);
        assert_eq!(world.state.ending(), Some(Ending::Completed));
        assert_eq!(world.state.terminal(), None, "not while a process is left");
        assert!(effects.contains(&Effect::Terminate { container: 2 }));
        assert!(!effects.contains(&Effect::Terminate { container: 0 }));
        let effects = world.exited(2, 143);
        assert!(effects.contains(&Effect::Terminate { container: 0 }));
        world.exited(0, 1);
        assert_eq!(
            world.state.terminal(),
            Some(terminal),
            "their codes do not count"
        );
    }
}

#[test]
fn a_delete_ends_them_after_the_others() {
    let mut world = up(RestartPolicy::Always);
    let effects = world.step(Event::Delete {
        grace: Duration::from_secs(30),
    });
    let killing = |effects: &[Effect]| {
        let told = effects
            .iter()
            .filter(|it| matches!(it, Effect::Notify { reason, .. } if reason == "Killing"));
        told.count()
    };
    assert_eq!(killing(&effects), 3, "all are told at once");
    assert!(effects.contains(&Effect::Terminate { container: 3 }));
    assert!(!effects.contains(&Effect::Terminate { container: 2 }));
    // The grace passes: the others get the least there is.
    world.now += Duration::from_secs(30);
    let effects = world.step(Event::Tick);
    assert!(effects.contains(&Effect::Kill { container: 3 }));
    assert!(effects.contains(&Effect::Terminate { container: 2 }));
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    world.now += Duration::from_secs(2);
    let effects = world.step(Event::Tick);
    assert!(effects.contains(&Effect::Kill { container: 0 }));
}

#[test]
fn a_failed_init_container_ends_the_sidecars_before_it() {
    let mut world = sidecar_pod(RestartPolicy::Never);
    world.started(0);
    world.started(1);
    let effects = world.exited(1, 1);
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    world.exited(0, 143);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
}

#[test]
fn an_ephemeral_container_runs_once_and_holds_nothing_up() {
    let mut world = up(RestartPolicy::Never);
    world.act(&Action::Ephemeral);
    assert_eq!(world.ordered(), [4]);
    world.started(4);
    world.exited(4, 1);
    assert!(world.ordered().is_empty());
    world.act(&Action::Ephemeral);
    world.started(5);
    let effects = world.exited(3, 0);
    assert!(effects.contains(&Effect::Terminate { container: 5 }));
    for left in [5, 2, 0] {
        world.exited(left, 143);
    }
    assert_eq!(world.state.terminal(), Some(Terminal::Succeeded));
}

#[test]
fn an_ephemeral_container_starts_beside_an_init_container_that_hangs() {
    let mut world = World::new(plan(1, 1, RestartPolicy::Always));
    world.act(&Action::Volumes(true));
    world.started(0);
    world.act(&Action::Ephemeral);
    assert_eq!(world.ordered(), [2]);
}
