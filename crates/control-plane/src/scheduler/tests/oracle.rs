//! Decisions against a plain reading of the rules, over random clusters.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::quantity::Quantity;

fn amount() -> impl Strategy<Value = &'static str> {
    select(vec![
        "0", "100m", "0.5", "1", "1500m", "2", "1e0", "250000u",
    ])
}

fn labels() -> impl Strategy<Value = Value> {
    let number = select(vec!["1", "5", "x"]);
    (
        prop::option::of(number),
        prop::option::of(select(vec!["1", "2"])),
    )
        .prop_map(|(n, zone)| {
            let mut labels = json!({});
            for (key, value) in [("n", n), ("zone", zone)] {
                if let Some(value) = value {
                    labels[key] = json!(value);
                }
            }
            labels
        })
}

fn taint() -> impl Strategy<Value = Value> {
    let effects = select(vec!["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    (select(vec!["k", "l"]), select(vec!["", "v"]), effects)
        .prop_map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
}

fn toleration() -> impl Strategy<Value = Value> {
    let effects = select(vec!["", "NoSchedule", "NoExecute"]);
    let equal = (
        select(vec!["k", "l"]),
        select(vec!["", "v"]),
        effects.clone(),
    )
        .prop_map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}));
    let exists = (select(vec!["", "k"]), effects)
        .prop_map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect}));
    prop_oneof![equal, exists]
}

fn node_value() -> impl Strategy<Value = Value> {
    let taints = prop::collection::vec(taint(), 0..2);
    (
        labels(),
        taints,
        prop::bool::weighted(0.1),
        amount(),
        0_u8..4,
    )
        .prop_map(|(labels, taints, unschedulable, cpu, pods)| {
            json!({
                "metadata": {"labels": labels},
                "spec": {"taints": taints, "unschedulable": unschedulable},
                "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": pods.to_string()}},
            })
        })
}

fn expression() -> impl Strategy<Value = Value> {
    let one = |operator: &'static str| {
        select(vec!["1", "3", "5", "x"])
            .prop_map(move |value| json!({"key": "n", "operator": operator, "values": [value]}))
    };
    prop_oneof![
        one("In"),
        one("NotIn"),
        one("Gt"),
        one("Lt"),
        Just(json!({"key": "zone", "operator": "Exists"})),
        Just(json!({"key": "zone", "operator": "DoesNotExist"})),
    ]
}

fn pod_value() -> impl Strategy<Value = Value> {
    let expressions = prop::collection::vec(expression(), 0..3);
    let terms = prop::option::weighted(0.3, prop::collection::vec(expressions, 1..3));
    let selector = prop::option::weighted(0.2, select(vec!["1", "2"]));
    let port = prop::option::weighted(
        0.2,
        (select(vec!["", "0.0.0.0", "10.0.0.1", "10.0.0.2"]), 1_u8..3),
    );
    let tolerations = prop::collection::vec(toleration(), 0..3);
    let apart = prop::option::weighted(0.2, select(vec!["zone", "kubernetes.io/hostname"]));
    let group = select(vec!["x", "y"]);
    (amount(), terms, selector, port, tolerations, apart, group).prop_map(
        |(cpu, terms, selector, port, tolerations, apart, group)| {
            let mut container = json!({"resources": {"requests": {"cpu": cpu}}});
            if let Some((address, port)) = port {
                container["ports"] = json!([{"hostPort": port, "hostIP": address}]);
            }
            let mut spec = json!({
                "schedulerName": "default-scheduler",
                "containers": [container],
                "tolerations": tolerations,
            });
            if let Some(zone) = selector {
                spec["nodeSelector"] = json!({"zone": zone});
            }
            if let Some(terms) = terms {
                let terms: Vec<_> = terms
                    .into_iter()
                    .map(|expressions| json!({"matchExpressions": expressions}))
                    .collect();
                spec["affinity"]["nodeAffinity"] = json!({
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
                });
            }
            if let Some(key) = apart {
                spec["affinity"]["podAntiAffinity"] = json!({
                    "requiredDuringSchedulingIgnoredDuringExecution": [{
                        "labelSelector": {"matchLabels": {"group": group}}, "topologyKey": key,
                    }],
                });
            }
            json!({
                "metadata": {"namespace": "a", "labels": {"group": group}},
                "spec": spec,
                "status": {"phase": "Pending"},
            })
        },
    )
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn cpu_of(pod: &Value) -> Quantity {
    let requests = array(&pod["spec"]["containers"]);
    requests
        .filter_map(|container| container["resources"]["requests"]["cpu"].as_str())
        .filter_map(Quantity::parse)
        .sum()
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    array(&pod["spec"]["tolerations"]).any(|toleration| {
        let field = |name: &str| toleration[name].as_str().unwrap_or_default();
        let effect = field("effect").is_empty() || toleration["effect"] == taint["effect"];
        let key = field("key").is_empty() || toleration["key"] == taint["key"];
        let exists = field("operator") == "Exists";
        effect && key && (exists || field("value") == taint["value"].as_str().unwrap_or_default())
    })
}

fn holds(expression: &Value, labels: &Value) -> bool {
    let label = labels[expression["key"].as_str().expect("a key")].as_str();
    let value = expression["values"][0].as_str();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let numbers = number(label).zip(number(value));
    match expression["operator"].as_str() {
        Some("In") => label.is_some() && label == value,
        Some("NotIn") => label.is_none() || label != value,
        Some("Exists") => label.is_some(),
        Some("DoesNotExist") => label.is_none(),
        Some("Gt") => numbers.is_some_and(|(label, value)| label > value),
        Some("Lt") => numbers.is_some_and(|(label, value)| label < value),
        other => panic!("{other:?}"),
    }
}

fn ports_clash(one: &Value, other: &Value) -> bool {
    let ports = |pod: &'_ Value| -> Vec<(u64, String)> {
        array(&pod["spec"]["containers"])
            .flat_map(|container| array(&container["ports"]))
            .map(|port| {
                let address = port["hostIP"].as_str().unwrap_or_default();
                let address = if address.is_empty() {
                    "0.0.0.0"
                } else {
                    address
                };
                (
                    port["hostPort"].as_u64().expect("a port"),
                    address.to_owned(),
                )
            })
            .collect()
    };
    ports(one).iter().any(|(port, address)| {
        ports(other).iter().any(|(other_port, other_address)| {
            let wild = address == "0.0.0.0" || other_address == "0.0.0.0";
            port == other_port && (wild || address == other_address)
        })
    })
}

/// Whether `pod` does not want `other` in its domain, and both nodes share it.
fn keeps_away(pod: &Value, other: &Value, node: &Value, other_node: &Value) -> bool {
    let terms = &pod["spec"]["affinity"]["podAntiAffinity"];
    array(&terms["requiredDuringSchedulingIgnoredDuringExecution"]).any(|term| {
        let meant =
            term["labelSelector"]["matchLabels"]["group"] == other["metadata"]["labels"]["group"];
        let domain = |node: &Value| {
            let key = term["topologyKey"].as_str().expect("a key");
            node["metadata"]["labels"][key].as_str().map(str::to_owned)
        };
        meant && domain(node).is_some() && domain(node) == domain(other_node)
    })
}

fn may_be_on(pod: &Value, node: &Value, nodes: &[Value], placed: &[(usize, Value)]) -> bool {
    let labels = &node["metadata"]["labels"];
    let here = || {
        let name = &node["metadata"]["name"];
        placed
            .iter()
            .filter(move |(index, _)| nodes[*index]["metadata"]["name"] == *name)
    };
    let cordon = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    let schedulable = node["spec"]["unschedulable"] != true || tolerates(pod, &cordon);
    let tolerated = array(&node["spec"]["taints"])
        .all(|taint| taint["effect"] == "PreferNoSchedule" || tolerates(pod, taint));
    let selector = &pod["spec"]["nodeSelector"]["zone"];
    let selected = selector.is_null() || *selector == labels["zone"];
    let required =
        &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let affine = required.is_null()
        || array(&required["nodeSelectorTerms"]).any(|term| {
            let mut expressions = array(&term["matchExpressions"]).peekable();
            expressions.peek().is_some() && expressions.all(|expression| holds(expression, labels))
        });
    let allocatable = &node["status"]["allocatable"];
    let has = |name: &str| {
        allocatable[name]
            .as_str()
            .and_then(Quantity::parse)
            .expect("a quantity")
    };
    let used: Quantity = here().map(|(_, other)| cpu_of(other)).sum();
    let cpu = cpu_of(pod);
    let fits = cpu == Quantity::ZERO || used + cpu <= has("cpu");
    let count = i64::try_from(here().count()).expect("few");
    let has_room = Quantity::from_units(count + 1) <= has("pods");
    let free = here().all(|(_, other)| !ports_clash(pod, other));
    let apart = placed.iter().all(|(index, other)| {
        !keeps_away(pod, other, node, &nodes[*index])
            && !keeps_away(other, pod, &nodes[*index], node)
    });
    schedulable && tolerated && selected && affine && fits && has_room && free && apart
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// A pod is placed exactly where the rules allow it, and only if they allow it anywhere.
    #[test]
    fn decisions_keep_the_rules(
        mut nodes in prop::collection::vec(node_value(), 0..5),
        pods in prop::collection::vec(pod_value(), 1..12),
    ) {
        for (index, node) in nodes.iter_mut().enumerate() {
            node["metadata"]["name"] = json!(format!("n{index}"));
            node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(format!("n{index}"));
        }
        let mut cluster = cluster(&nodes, &[]);
        let mut placed: Vec<(usize, Value)> = Vec::new();
        for (index, mut pod) in pods.into_iter().enumerate() {
            pod["metadata"]["name"] = json!(format!("p{index}"));
            pod["metadata"]["uid"] = json!(format!("p{index}"));
            let allowed: Vec<String> = nodes
                .iter()
                .filter(|node| may_be_on(&pod, node, &nodes, &placed))
                .map(|node| node["metadata"]["name"].as_str().expect("a name").to_owned())
                .collect();
            match outcome(&pod, &cluster) {
                Ok(node) => {
                    prop_assert!(allowed.contains(&node), "{node} is none of {allowed:?} for {pod}");
                    let at = nodes.iter().position(|other| other["metadata"]["name"] == *node);
                    placed.push((at.expect("a node"), pod.clone()));
                    pod["spec"]["nodeName"] = json!(node);
                    cluster.set_pod(parsed(&pod));
                }
                Err(message) => {
                    prop_assert!(allowed.is_empty(), "{allowed:?} would do for {pod}: {message}");
                }
            }
        }
    }

    /// What nodes carry is the sum of their pods, whatever comes and goes.
    #[test]
    fn nothing_is_counted_twice_or_forgotten(
        steps in prop::collection::vec((0_usize..4, 0_usize..4, 0_u8..6, amount()), 1..60),
    ) {
        let names = ["a", "b", "c", "d"];
        let mut cluster = Cluster::default();
        for (pod_index, node_index, action, cpu) in steps {
            let name = names[pod_index];
            let key = format!("pods/a/{name}");
            let new = pod(name, requesting(json!({"cpu": cpu})));
            let bound = with(new.clone(), json!({"spec": {"nodeName": names[node_index]}}));
            match action {
                0 => drop(cluster.set_pod(parsed(&new))),
                1 => drop(cluster.set_pod(parsed(&bound))),
                2 => drop(cluster.remove_pod(&key)),
                3 => {
                    if let Some(known) = cluster.pod(&key).filter(|pod| pod.is_waiting()).cloned() {
                        cluster.assume(&known, names[node_index]);
                    }
                }
                4 => drop(cluster.unassume(&key)),
                _ => {
                    if cluster.nodes().len() % 2 == 0 {
                        cluster.set_node(names[node_index], &node(names[node_index]));
                    } else {
                        cluster.remove_node(names[node_index]);
                    }
                }
            }
            let mut carried = 0;
            for node in cluster.nodes().values() {
                let mut sum = resources::Resources::default();
                for pod in node.pods.values() {
                    sum.add(&pod.requests);
                    prop_assert!(cluster.pod(&pod.key).is_some());
                }
                prop_assert_eq!(node.used.get("cpu"), sum.get("cpu"));
                carried += node.pods.len();
            }
            let placed = names
                .iter()
                .filter_map(|name| cluster.pod(&format!("pods/a/{name}")))
                .filter(|pod| pod.is_placed())
                .count();
            prop_assert_eq!(carried, placed);
        }
    }
}
