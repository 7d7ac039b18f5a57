//! Hooks, deadlines, failures of the pod as a whole.

use super::*;

fn hooked(post_start: bool, pre_stop: bool) -> World {
    let mut plan = Plan::clone(&plan(0, 2, RestartPolicy::Always));
    plan.containers[0].extras = Some(Box::new(Extras {
        post_start,
        pre_stop,
        ..Extras::default()
    }));
    let mut world = World::new(Arc::new(plan));
    world.act(&Action::Volumes(true));
    world.started(0);
    world
}

fn told(effects: &[Effect], wanted: &str) -> Vec<String> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Notify {
            reason, message, ..
        } if reason == wanted => Some(message.clone()),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_container_runs_when_its_post_start_hook_is_done() {
    let mut world = hooked(true, false);
    assert!(!world.state.containers()[0].running());
    assert!(world.ordered().is_empty(), "the next start waits for it");
    world.hook_done(0, false);
    assert!(world.state.containers()[0].running() && world.state.containers()[0].ready);
    assert_eq!(world.ordered(), [1]);
}

#[test]
fn a_post_start_hook_that_fails_ends_its_container() {
    let mut world = hooked(true, false);
    let effects = world.hook_done(0, true);
    assert_eq!(
        told(&effects, "FailedPostStartHook"),
        ["PostStartHook failed"]
    );
    assert_eq!(told(&effects, "Killing"), ["FailedPostStartHook"]);
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    world.started(1);
    world.exited(0, 143);
    assert_eq!(world.ordered(), [0], "its policy starts it again");
    world.started(0);
    assert_eq!(world.hooks[&0], (1, Hook::PostStart));
}

#[test]
fn a_pre_stop_hook_runs_within_the_grace_and_once() {
    let mut world = hooked(false, true);
    world.started(1);
    let effects = world.step(Event::Delete {
        grace: Duration::from_secs(30),
    });
    assert!(!effects.contains(&Effect::Terminate { container: 0 }));
    assert!(effects.contains(&Effect::Terminate { container: 1 }));
    world.act(&Action::Later(10));
    let effects = world.hook_done(0, true);
    assert_eq!(told(&effects, "FailedPreStopHook"), ["PreStopHook failed"]);
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    assert_eq!(
        world.state.wake_at(),
        Some(world.now + Duration::from_secs(20))
    );
    world.restart_agent();
    assert!(world.hooks.is_empty(), "not a second time");
}

#[test]
fn a_pre_stop_hook_that_hangs_leaves_two_seconds() {
    let mut world = hooked(false, true);
    world.started(1);
    world.act(&Action::Delete(5));
    world.exited(1, 143);
    world.now += Duration::from_secs(5);
    let effects = world.step(Event::Tick);
    assert!(effects.contains(&Effect::DropHook { container: 0 }));
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    world.now += Duration::from_secs(2);
    assert!(
        world
            .step(Event::Tick)
            .contains(&Effect::Kill { container: 0 })
    );
}

#[test]
fn a_node_that_goes_down_gives_no_moment_more() {
    let mut world = hooked(false, true);
    world.started(1);
    world.act(&Action::Shutdown(3));
    world.now += Duration::from_secs(3);
    let effects = world.step(Event::Tick);
    assert!(effects.contains(&Effect::Kill { container: 0 }));
    assert!(effects.contains(&Effect::Kill { container: 1 }));
}

#[test]
fn a_hook_ends_with_its_container() {
    let mut world = hooked(true, true);
    let effects = world.exited(0, 1);
    assert!(effects.contains(&Effect::DropHook { container: 0 }));
    let mut world = hooked(false, true);
    world.act(&Action::Delete(5));
    let effects = world.exited(0, 0);
    assert!(effects.contains(&Effect::DropHook { container: 0 }));
}

#[test]
fn a_deadline_fails_the_pod_once_all_has_ended() {
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    world.act(&Action::Volumes(true));
    world.started(0);
    world.act(&Action::Deadline(60));
    assert_eq!(
        world.state.wake_at(),
        Some(world.now + Duration::from_secs(60))
    );
    world.now += Duration::from_secs(60);
    let effects = world.step(Event::Tick);
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(told(&effects, "DeadlineExceeded"), [message]);
    assert!(effects.contains(&Effect::Terminate { container: 0 }));
    assert_eq!(world.state.terminal(), None);
    world.exited(0, 0);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
    assert_eq!(world.state.failure().unwrap().reason, "DeadlineExceeded");
}

#[test]
fn a_deadline_is_counted_from_the_pods_start() {
    let now = at(Duration::from_secs(1000));
    let start = now.wall - Duration::from_secs(10);
    let after = |seconds| State::deadline_after(start, Duration::from_secs(seconds), now);
    assert_eq!(after(25), Duration::from_secs(1015));
    assert_eq!(after(5), Duration::from_secs(995));
    assert!(after(u64::MAX) > Duration::from_secs(1_000_000));
}

#[test]
fn the_first_failure_is_the_one_that_is_told() {
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    world.act(&Action::Volumes(true));
    world.started(0);
    let effects = {
        world.act(&Action::Fail(None));
        world.act(&Action::Deadline(0));
        world.step(Event::Tick)
    };
    assert!(effects.is_empty());
    world.exited(0, 143);
    let failure = world.state.failure().unwrap();
    assert_eq!(
        (&*failure.reason, failure.disruption),
        ("Evicted", Some("TerminationByKubelet"))
    );
}

#[test]
fn a_failure_without_grace_kills_at_once() {
    let mut world = hooked(false, true);
    world.started(1);
    let failure = Box::new(Failure {
        reason: "Evicted".into(),
        message: "x".into(),
        disruption: None,
        warning: true,
    });
    let effects = world.step(Event::Fail {
        failure,
        grace: Some(Duration::ZERO),
    });
    assert!(effects.contains(&Effect::Kill { container: 0 }));
    assert!(effects.contains(&Effect::Kill { container: 1 }));
    assert_eq!(told(&effects, "Evicted"), ["x"]);
}

#[test]
fn a_pod_that_cannot_be_admitted_fails_without_a_start() {
    let mut world = World::new(plan(0, 1, RestartPolicy::Always));
    world.act(&Action::Fail(None));
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
    world.act(&Action::Volumes(true));
    assert!(world.ordered().is_empty());
}
