//! Random lives: whatever happens, in whatever order, the invariants that [`World`]
//! checks hold after each step.

use proptest::prelude::*;

use super::*;

fn action() -> impl Strategy<Value = Action> {
    let container = 0..5usize;
    let probe = prop_oneof![
        Just(Probe::Startup),
        Just(Probe::Readiness),
        Just(Probe::Liveness)
    ];
    prop_oneof![
        3 => any::<bool>().prop_map(Action::Volumes),
        8 => container.clone().prop_map(Action::Started),
        1 => container.clone().prop_map(Action::StartFailed),
        1 => container.clone().prop_map(Action::ConfigFailed),
        6 => (container.clone(), prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(container, code)| Action::Exited(container, code)),
        1 => (container.clone(), 0..5u32)
            .prop_map(|(container, attempt)| Action::Stale(container, attempt)),
        4 => (container.clone(), prop::bool::weighted(0.2))
            .prop_map(|(container, failed)| Action::HookDone(container, failed)),
        5 => (container, probe, prop::bool::weighted(0.8))
            .prop_map(|(container, probe, healthy)| Action::Probed(container, probe, healthy)),
        1 => (0..40u64).prop_map(Action::Delete),
        1 => (0..40u64).prop_map(Action::Removed),
        1 => (0..40u64).prop_map(Action::Shutdown),
        1 => prop::option::of(0..40u64).prop_map(Action::Fail),
        1 => (0..900u64).prop_map(Action::Deadline),
        1 => Just(Action::Ephemeral),
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

fn extras() -> impl Strategy<Value = Option<Box<Extras>>> {
    let flags = any::<[bool; 5]>();
    let rules = prop::option::of((any::<bool>(), Just(vec![1])));
    let extras = (flags, rules, prop::option::of(0..10u64)).prop_map(|(flags, rule, grace)| {
        let [post_start, pre_stop, startup, readiness, liveness] = flags;
        Box::new(Extras {
            rules: rule
                .into_iter()
                .map(|(among, codes)| RestartRule { among, codes })
                .collect(),
            post_start,
            pre_stop,
            startup,
            readiness,
            liveness,
            startup_grace: grace.map(Duration::from_secs),
            liveness_grace: grace.map(Duration::from_secs),
            stop_signal: None,
        })
    });
    prop::option::of(extras)
}

fn plans() -> impl Strategy<Value = Arc<Plan>> {
    let init = prop_oneof![Just(Role::Init), Just(Role::Sidecar)];
    let init = prop::collection::vec(init, 0..3);
    let extras = prop::collection::vec(extras(), 5);
    (init, 1..3usize, policy(), extras).prop_map(|(init, main, policy, extras)| {
        let roles = init.into_iter().chain((0..main).map(|_| Role::Main));
        let mut plan = Plan::clone(&plan_of(roles, policy));
        for (container, extras) in plan.containers.iter_mut().zip(extras) {
            container.extras = extras;
        }
        Arc::new(plan)
    })
}

proptest! {
    #[test]
    fn random_lives_keep_the_invariants(
        plan in plans(),
        actions in proptest::collection::vec(action(), 0..120),
        restarts in proptest::collection::vec(0..120usize, 0..3),
    ) {
        let mut world = World::new(plan);
        for (index, action) in actions.iter().enumerate() {
            if restarts.contains(&index) && world.starting.is_empty() {
                world.restart_agent();
            }
            world.act(action);
        }
        world.delete_to_the_end();
    }
}
