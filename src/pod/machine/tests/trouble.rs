//! Probes and rules: when a container is started again, and after which pause.

use super::*;

fn probed(restart: RestartPolicy, extras: Extras) -> World {
    let mut plan = Plan::clone(&plan(0, 1, restart));
    plan.containers[0].extras = Some(Box::new(extras));
    let mut world = World::new(Arc::new(plan));
    world.act(&Action::Volumes(true));
    world.started(0);
    world
}

fn liveness() -> Extras {
    Extras {
        liveness: true,
        ..Extras::default()
    }
}

#[test]
fn readiness_goes_up_and_down_and_a_new_attempt_begins_unready() {
    let readiness = Extras {
        readiness: true,
        ..Extras::default()
    };
    let mut world = probed(RestartPolicy::Always, readiness);
    let ready = |world: &World| world.state.containers()[0].ready;
    assert!(!ready(&world) && world.state.containers()[0].started);
    world.probed(0, Probe::Readiness, true);
    assert!(ready(&world));
    world.probed(0, Probe::Readiness, false);
    assert!(!ready(&world));
    world.probed(0, Probe::Readiness, true);
    world.exited(0, 0);
    assert!(!ready(&world));
    world.started(0);
    assert!(!ready(&world));
}

#[test]
fn readiness_is_probed_until_the_end_and_liveness_is_not() {
    let extras = Extras {
        readiness: true,
        ..liveness()
    };
    let mut world = probed(RestartPolicy::Always, extras);
    assert_eq!(world.state.containers()[0].probing, Probing::All);
    world.act(&Action::Delete(30));
    assert_eq!(world.state.containers()[0].probing, Probing::ReadinessOnly);
    world.exited(0, 0);
    assert_eq!(world.state.containers()[0].probing, Probing::Off);
}

#[test]
fn one_that_fails_its_liveness_probe_is_started_again_even_after_a_clean_exit() {
    let mut world = probed(RestartPolicy::OnFailure, liveness());
    let effects = world.probed(0, Probe::Liveness, false);
    let message = "Container c0 failed liveness probe, will be restarted".to_owned();
    assert!(effects.contains(&notify(Some(0), false, "Killing", message)));
    assert!(
        world.probed(0, Probe::Liveness, false).is_empty(),
        "once is enough"
    );
    world.exited(0, 0);
    assert_eq!(world.ordered(), [0]);
    assert_eq!(world.state.terminal(), None);
}

#[test]
fn what_never_restarts_ends_with_its_liveness() {
    let mut world = probed(RestartPolicy::Never, liveness());
    let effects = world.probed(0, Probe::Liveness, false);
    let message = "Container c0 failed liveness probe".to_owned();
    assert!(effects.contains(&notify(Some(0), false, "Killing", message)));
    world.exited(0, 143);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
}

#[test]
fn what_its_probes_ended_waits_from_its_end_before_that() {
    let mut world = probed(RestartPolicy::Always, liveness());
    world.exited(0, 1);
    world.started(0);
    // The first pause of 10 s counts from the exit, not from the end that was ordered.
    world.act(&Action::Later(8));
    world.probed(0, Probe::Liveness, false);
    world.exited(0, 143);
    assert!(world.ordered().is_empty());
    assert_eq!(
        world.state.wake_at(),
        Some(world.now + Duration::from_secs(2))
    );
    world.act(&Action::Later(2));
    assert_eq!(world.ordered(), [0]);
}

#[test]
fn rules_restart_what_its_policy_would_not() {
    let rules = vec![RestartRule {
        among: true,
        codes: vec![42],
    }];
    let extras = Extras {
        rules,
        ..Extras::default()
    };
    let mut world = probed(RestartPolicy::Never, extras);
    world.exited(0, 42);
    assert_eq!(world.ordered(), [0]);
    world.started(0);
    world.exited(0, 1);
    assert_eq!(world.state.terminal(), Some(Terminal::Failed));
    let others = RestartRule {
        among: false,
        codes: vec![0],
    };
    assert!(others.means(1) && !others.means(0));
}

#[test]
fn an_earlier_agents_word_on_readiness_is_kept() {
    let extras = Extras {
        startup: true,
        readiness: true,
        ..Extras::default()
    };
    let mut world = probed(RestartPolicy::Always, extras);
    world.probed(0, Probe::Startup, true);
    world.probed(0, Probe::Readiness, true);
    world.restart_agent();
    let container = &world.state.containers()[0];
    assert!(container.started && container.ready);
    assert_eq!(container.probing, Probing::All);
}
