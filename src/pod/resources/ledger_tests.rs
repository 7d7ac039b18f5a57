use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const GPU: &str = "nvidia.com/gpu";

fn node(cores: usize, gpus: usize) -> NodeShare {
    let amounts = [
        (CPU, cores as u64 * 1000),
        (amounts::MEMORY, 1 << 30),
        (amounts::STORAGE, 1 << 30),
        ("pods", 5),
        (GPU, gpus as u64),
    ];
    let names = (0..gpus).map(|it| it.to_string()).collect();
    NodeShare {
        amounts: amounts.map(|(name, it)| (name.to_owned(), it)).into(),
        cores: (0..cores).collect(),
        devices: BTreeMap::from([(GPU, names)]),
    }
}

fn pod(containers: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}}))
        .expect("a pod")
}

fn limits(name: &str, limits: Value) -> Value {
    json!({"name": name, "resources": {"limits": limits}})
}

fn uid(number: usize) -> Arc<str> {
    Arc::from(format!("u{number}"))
}

#[test]
fn what_is_short_is_named_in_the_kubelets_words() {
    let mut ledger = Ledger::new(node(2, 1));
    let asks = |list: Value| pod(json!([{"name": "c", "resources": {"requests": list}}]));
    ledger
        .admit(&uid(0), &asks(json!({"cpu": "1500m", "memory": "1Mi"})))
        .expect("it fits");
    let refused = ledger
        .admit(&uid(1), &asks(json!({"cpu": "1"})))
        .expect_err("no CPU");
    assert_eq!(refused.reason, "OutOfcpu");
    assert_eq!(
        refused.message,
        "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
    );
    for (list, reason) in [
        (json!({"memory": "1Gi"}), "OutOfmemory"),
        (
            json!({"ephemeral-storage": "2Gi"}),
            "OutOfephemeral-storage",
        ),
        (json!({"nvidia.com/gpu": "2"}), "OutOfnvidia.com/gpu"),
    ] {
        let refused = ledger.admit(&uid(1), &asks(list)).expect_err(reason);
        assert_eq!(refused.reason, reason);
    }
    // What this node does not know is somebody else's to count.
    for number in 1..5 {
        ledger
            .admit(&uid(number), &asks(json!({"example.com/x": "9"})))
            .expect("it fits");
    }
    let refused = ledger.admit(&uid(9), &asks(json!({}))).expect_err("pods");
    assert_eq!(
        (refused.reason.as_str(), refused.message.as_str()),
        (
            "OutOfpods",
            "Node didn't have enough resource: pods, requested: 1, used: 5, capacity: 5"
        )
    );
    ledger.release("u0");
    ledger
        .admit(&uid(9), &asks(json!({"cpu": "2"})))
        .expect("freed");
}

#[test]
fn guaranteed_pods_with_whole_cpus_have_cores_of_their_own() {
    let mut ledger = Ledger::new(node(4, 0));
    let shared = pod(json!([limits("c", json!({"cpu": "1"}))]));
    ledger.admit(&uid(0), &shared).expect("it fits");
    assert_eq!(ledger.placement().shared, None);
    assert_eq!(ledger.placement().cores("u0", "c"), Some(&[0][..]));
    let own = pod(json!([limits("c", json!({"cpu": "2", "memory": "1Mi"}))]));
    ledger.admit(&uid(1), &own).expect("it fits");
    let placement = ledger.placement();
    assert_eq!(placement.cores("u1", "c"), Some(&[0, 1][..]));
    assert_eq!(placement.cores("u0", "c"), Some(&[2][..]), "moved away");
    assert_eq!(placement.cores("other", "c"), Some(&[2, 3][..]));
    // A fraction of a core is shared.
    let part = pod(json!([limits(
        "c",
        json!({"cpu": "500m", "memory": "1Mi"})
    )]));
    ledger.admit(&uid(2), &part).expect("it fits");
    assert_eq!(ledger.placement().cores("u2", "c"), Some(&[3][..]));
    assert!(ledger.release("u1"));
    assert_eq!(ledger.placement().shared, Some(vec![0, 1, 2, 3]));
}

#[test]
fn a_container_sees_its_gpus_and_no_others() {
    let mut ledger = Ledger::new(node(4, 3));
    let two = pod(json!([
        limits("a", json!({GPU: "1"})),
        limits("b", json!({GPU: "1"})),
        {"name": "none"},
    ]));
    ledger.admit(&uid(0), &two).expect("it fits");
    let placement = ledger.placement();
    let seen = |container: &str| {
        let all = placement.variables("u0", container);
        let found = all.iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES");
        found.map(|(_, value)| value.clone())
    };
    assert_eq!(seen("a").as_deref(), Some("0"));
    assert_eq!(seen("b").as_deref(), Some("1"));
    assert_eq!(seen("none").as_deref(), Some(""));
    let nothing = Ledger::new(node(4, 0));
    let mut nothing = nothing.placement();
    nothing.devices.clear();
    assert!(nothing.variables("u0", "a").is_empty());
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let container = (0..4_u64, 0..3_u64, any::<bool>()).prop_map(|(cpus, gpus, whole)| {
        let cpu = if whole {
            cpus * 1000
        } else {
            cpus * 1000 + 500
        };
        json!({"cpu": format!("{cpu}m"), "memory": "1Mi", GPU: gpus.to_string()})
    });
    prop::collection::vec(container, 1..3).prop_map(|all| {
        let all = all.into_iter().enumerate();
        let all = all.map(|(index, it)| limits(&format!("c{index}"), it));
        pod(Value::Array(all.collect()))
    })
}

proptest! {
    /// Whatever comes, goes and is restored by the next agent: no core and no GPU has two owners,
    /// nobody has more than the node, and who asked for a GPU has as many as asked.
    #[test]
    fn nothing_is_given_twice(steps in prop::collection::vec((0..6_usize, any_pod(), any::<bool>()), 1..40)) {
        let share = node(6, 4);
        let mut ledger = Ledger::new(share.clone());
        let mut pods: BTreeMap<Arc<str>, Pod> = BTreeMap::new();
        for (number, pod, restart) in steps {
            let uid = uid(number);
            if pods.remove(&uid).is_some() {
                ledger.release(&uid);
            } else if ledger.admit(&uid, &pod).is_ok() {
                pods.insert(uid, pod);
            }
            if restart {
                let before = ledger.placement();
                let mut next = Ledger::new(share.clone());
                for (uid, pod) in &pods {
                    let kept = before.of(uid).map(|it| Assigned::clone(it));
                    let text = serde_json::to_string(&kept.unwrap_or_default()).expect("JSON");
                    next.restore(uid, pod, serde_json::from_str(&text).expect("JSON"));
                }
                ledger = next;
                prop_assert_eq!(&ledger.placement().assigned, &before.assigned);
            }
            let placement = ledger.placement();
            let (mut cores, mut gpus) = (Vec::new(), Vec::new());
            for (uid, pod) in &pods {
                let spec = pod.spec.as_ref().expect("a spec");
                for container in &spec.containers {
                    let given = placement.of(uid);
                    let wanted = amounts::requests(container)[GPU];
                    let own = given
                        .and_then(|it| it.devices.get(&container.name))
                        .and_then(|it| it.get(GPU));
                    prop_assert_eq!(own.map_or(0, Vec::len) as u64, wanted);
                    gpus.extend(own.into_iter().flatten().cloned());
                    let own = given.and_then(|it| it.cores.get(&container.name));
                    cores.extend(own.into_iter().flatten().copied());
                    if let Some(usable) = placement.cores(uid, &container.name) {
                        prop_assert!(!usable.is_empty());
                    }
                }
            }
            let (all_cores, all_gpus) = (cores.len(), gpus.len());
            cores.sort_unstable();
            cores.dedup();
            gpus.sort_unstable();
            gpus.dedup();
            prop_assert_eq!((cores.len(), gpus.len()), (all_cores, all_gpus));
            prop_assert!(all_cores <= 6 && all_gpus <= 4);
        }
    }
}
