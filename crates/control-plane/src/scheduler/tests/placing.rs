//! Where pods go.

use super::*;

fn terms(field: &str, terms: Value) -> Value {
    json!({"affinity": {field: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn labelled(pod: Value, labels: Value) -> Value {
    with(pod, json!({"metadata": {"labels": labels}}))
}

fn on(pod: Value, node: &str) -> Value {
    with(pod, json!({"spec": {"nodeName": node}}))
}

fn zoned(name: &str, zone: &str) -> Value {
    with(node(name), json!({"metadata": {"labels": {"zone": zone}}}))
}

#[test]
fn the_emptiest_node_is_chosen() {
    let placed = on(pod("x", requesting(json!({"cpu": "1"}))), "a");
    let cluster = cluster(&[node("a"), node("b")], &[placed]);
    assert_eq!(outcome(&pod("p", json!({})), &cluster), Ok("b".into()));
}

#[test]
fn pods_without_requests_are_spread_too() {
    let mut cluster = cluster(&[node("a"), node("b")], &[]);
    let mut nodes = Vec::new();
    for name in ["p", "q", "r", "s"] {
        let pod = parsed(&pod(name, json!({})));
        let Decision::Place { node } = decide(&pod, &cluster) else {
            panic!("no place for {name}");
        };
        cluster.assume(&pod, &node);
        nodes.push(node);
    }
    nodes.sort();
    assert_eq!(nodes.concat(), "aabb");
}

#[test]
fn preferences_outweigh_room() {
    let placed = on(pod("x", requesting(json!({"cpu": "500m"}))), "a");
    let wanted = with(node("a"), json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let cluster = cluster(&[wanted, node("b")], &[placed]);
    let preferred = json!([{"weight": 50, "preference": {"matchExpressions": [
        {"key": "disk", "operator": "In", "values": ["ssd"]},
    ]}}]);
    let spec = json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    }}});
    assert_eq!(outcome(&pod("p", spec), &cluster), Ok("a".into()));
}

#[test]
fn a_node_that_would_rather_not_is_the_last_choice() {
    let taints = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
    let spurned = with(node("a"), json!({"spec": {"taints": taints}}));
    let placed = on(pod("x", requesting(json!({"cpu": "1"}))), "b");
    let cluster = cluster(&[spurned, node("b")], &[placed]);
    assert_eq!(outcome(&pod("p", json!({})), &cluster), Ok("b".into()));
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    assert_eq!(outcome(&pod("p", tolerant), &cluster), Ok("a".into()));
}

#[test]
fn the_documented_walltime_affinity_works() {
    let alive = |name: &str, seconds: &str| {
        with(
            node(name),
            json!({"metadata": {"labels": {"jiriaf.alivetime": seconds}}}),
        )
    };
    let cluster = cluster(&[alive("a", "9"), alive("b", "11")], &[]);
    let spec = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "jiriaf.alivetime", "operator": "Gt", "values": ["10"]}]},
        ]},
    }}});
    assert_eq!(outcome(&pod("p", spec), &cluster), Ok("b".into()));
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
    let cluster = cluster(
        &[with(node("a"), json!({"spec": {"unschedulable": true}}))],
        &[],
    );
    assert!(outcome(&pod("p", json!({})), &cluster).is_err());
    let tolerant = json!({"tolerations": [{"operator": "Exists"}]});
    assert_eq!(outcome(&pod("p", tolerant), &cluster), Ok("a".into()));
}

#[test]
fn affinity_follows_and_anti_affinity_avoids_by_domain() {
    let nodes = [zoned("a", "1"), zoned("b", "1"), zoned("c", "2")];
    let web = on(labelled(pod("web", json!({})), json!({"app": "web"})), "a");
    let cluster = cluster(&nodes, &[web]);
    let term = json!([{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]);
    let beside = pod("p", terms("podAffinity", term.clone()));
    assert_eq!(outcome(&beside, &cluster), Ok("b".into()));
    let apart = pod("p", terms("podAntiAffinity", term));
    assert_eq!(outcome(&apart, &cluster), Ok("c".into()));
}

#[test]
fn a_placed_pod_keeps_others_out_of_its_domain() {
    let nodes = [zoned("a", "1"), zoned("b", "1")];
    let term = json!([{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]);
    let alone = on(pod("alone", terms("podAntiAffinity", term)), "a");
    let mut cluster = cluster(&nodes, &[alone]);
    let web = labelled(pod("p", json!({})), json!({"app": "web"}));
    let message = outcome(&web, &cluster).expect_err("a refusal");
    assert!(message.contains("2 node(s) didn't satisfy existing pods anti-affinity rules"));
    cluster.remove_pod("pods/a/alone");
    assert!(outcome(&web, &cluster).is_ok());
}

#[test]
fn the_first_of_a_group_that_wants_to_be_together_may_go_anywhere() {
    let cluster = cluster(&[zoned("a", "1")], &[]);
    let term = json!([{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]);
    let first = labelled(pod("p", terms("podAffinity", term)), json!({"app": "web"}));
    assert_eq!(outcome(&first, &cluster), Ok("a".into()));
}

#[test]
fn affinity_looks_into_the_namespaces_it_names() {
    let mut other = on(labelled(pod("web", json!({})), json!({"app": "web"})), "a");
    other["metadata"]["namespace"] = json!("elsewhere");
    let mut cluster = cluster(&[zoned("a", "1"), zoned("b", "2")], &[other]);
    cluster.set_namespace("elsewhere", &json!({"metadata": {"labels": {"team": "x"}}}));
    let term = |more: Value| {
        let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"});
        pod("p", terms("podAffinity", json!([with(term, more)])))
    };
    let cases = [
        (json!({}), false),
        (json!({"namespaces": ["elsewhere"]}), true),
        (json!({"namespaceSelector": {}}), true),
        (
            json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}),
            true,
        ),
        (
            json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}),
            false,
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(
            outcome(&term(more.clone()), &cluster).is_ok(),
            expected,
            "{more}"
        );
    }
}

#[test]
fn spread_keeps_the_difference_between_domains_small() {
    let nodes = [zoned("a", "1"), zoned("b", "2")];
    let web = |name: &str| labelled(pod(name, json!({})), json!({"app": "web"}));
    let constraint = json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]});
    // Zone 2 is fuller in all but pods of this kind.
    let big = on(pod("big", requesting(json!({"cpu": "1900m"}))), "b");
    let cluster = cluster(&nodes, &[on(web("x"), "a"), big]);
    let next = with(web("p"), json!({ "spec": constraint }));
    assert_eq!(outcome(&next, &cluster), Ok("b".into()));
}

#[test]
fn what_ended_takes_nothing() {
    let ended = with(
        on(pod("x", requesting(json!({"cpu": "2"}))), "a"),
        json!({"status": {"phase": "Succeeded"}}),
    );
    let cluster = cluster(&[node("a")], &[ended]);
    let next = pod("p", requesting(json!({"cpu": "2"})));
    assert_eq!(outcome(&next, &cluster), Ok("a".into()));
}

#[test]
fn an_assumed_pod_counts_until_its_binding_failed() {
    let mut cluster = cluster(&[node("a")], &[]);
    let first = pod("x", requesting(json!({"cpu": "2"})));
    let parsed_first = cluster.set_pod(parsed(&first));
    cluster.assume(&parsed_first, "a");
    let next = pod("p", requesting(json!({"cpu": "1"})));
    assert!(outcome(&next, &cluster).is_err());
    // An update that was on its way before the binding changes nothing.
    cluster.set_pod(parsed(&labelled(first, json!({"late": "update"}))));
    assert!(outcome(&next, &cluster).is_err());
    assert!(
        cluster
            .unassume("pods/a/x")
            .is_some_and(|pod| pod.is_waiting())
    );
    assert_eq!(outcome(&next, &cluster), Ok("a".into()));
}
