use super::*;

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
    assert!(world.step(Event::Tick).is_empty(), "two seconds at least");
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
