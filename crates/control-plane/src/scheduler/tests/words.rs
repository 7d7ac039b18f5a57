//! The messages, as a real kube-scheduler 1.34.4 gave them for the same nodes and pods.

use super::*;

/// One plain node, one with taints, one that is cordoned.
fn three_nodes() -> Vec<Value> {
    let taints = json!([
        {"key": "k", "value": "v", "effect": "NoSchedule"},
        {"key": "k2", "effect": "NoExecute"},
    ]);
    let cordoned = json!({"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    ]});
    vec![
        with(
            node("a"),
            json!({"metadata": {"labels": {"disk": "ssd", "n": "5"}}}),
        ),
        with(
            node("b"),
            json!({"metadata": {"labels": {"n": "x"}}, "spec": {"taints": taints}}),
        ),
        with(node("c"), json!({ "spec": cordoned })),
    ]
}

const OTHERS: &str = "1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.";
const NOT_HELPFUL: &str = "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.";

fn node_affinity(term: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
    }}})
}

#[test]
fn each_node_says_what_it_lacks() {
    let port = json!({"containers": [{
        "name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 8080}],
    }]});
    let placed = [with(
        pod("port", port.clone()),
        json!({"spec": {"nodeName": "a"}}),
    )];
    let affinity = json!({"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "kubernetes.io/hostname",
        }],
    }}});
    let spread = json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}},
    }]});
    let cases = [
        (
            requesting(json!({"cpu": "3"})),
            "1 Insufficient cpu",
            NOT_HELPFUL,
        ),
        (
            requesting(json!({"cpu": "3", "memory": "8Gi", "ephemeral-storage": "2Gi"})),
            "1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient memory",
            NOT_HELPFUL,
        ),
        (
            requesting(json!({"example.com/gpu": "1"})),
            "1 Insufficient example.com/gpu",
            NOT_HELPFUL,
        ),
        (
            json!({"nodeSelector": {"disk": "hdd"}}),
            "1 node(s) didn't match Pod's node affinity/selector",
            NOT_HELPFUL,
        ),
        (
            node_affinity(json!({"matchExpressions": [
                {"key": "n", "operator": "Gt", "values": ["10"]},
            ]})),
            "1 node(s) didn't match Pod's node affinity/selector",
            NOT_HELPFUL,
        ),
        (
            affinity,
            "1 node(s) didn't match pod affinity rules",
            NOT_HELPFUL,
        ),
        (
            spread,
            "1 node(s) didn't match pod topology spread constraints (missing required label)",
            NOT_HELPFUL,
        ),
        (
            port,
            "1 node(s) didn't have free ports for the requested pod ports",
            NO_VICTIMS,
        ),
    ];
    let cluster = cluster(&three_nodes(), &placed);
    for (spec, reasons, end) in cases {
        let expected = format!("0/3 nodes are available: {reasons}, {OTHERS} {end}");
        assert_eq!(outcome(&pod("p", spec), &cluster), Err(expected));
    }
}

#[test]
fn a_full_node_has_too_many_pods() {
    let placed = ["x", "y"].map(|name| pod(name, json!({"nodeName": "a"})));
    let cluster = cluster(&three_nodes(), &placed);
    let expected = format!("0/3 nodes are available: 1 Too many pods, {OTHERS} {NO_VICTIMS}");
    assert_eq!(outcome(&pod("p", json!({})), &cluster), Err(expected));
}

#[test]
fn nodes_that_are_left_out_by_name_say_so() {
    let by_name = node_affinity(json!({"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["nosuch"]},
    ]}));
    let expected = format!(
        "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]. {NOT_HELPFUL}"
    );
    let cluster = cluster(&three_nodes(), &[]);
    assert_eq!(outcome(&pod("p", by_name), &cluster), Err(expected));
}

#[test]
fn without_nodes_there_is_nothing_to_count() {
    let expected = "no nodes available to schedule pods";
    assert_eq!(
        outcome(&pod("p", json!({})), &Cluster::default()),
        Err(expected.into())
    );
}

#[test]
fn what_preemption_could_do_is_said_as_it_is() {
    let spec = requesting(json!({"cpu": "2"}));
    let low = with(
        pod("low", spec.clone()),
        json!({"spec": {"nodeName": "a", "priority": -1}}),
    );
    let cluster = cluster(&[node("a")], &[low]);
    let ends = |spec: Value, end: &str| {
        let message = outcome(&pod("p", spec), &cluster).expect_err("a refusal");
        assert!(message.ends_with(end), "{message}");
    };
    ends(
        spec.clone(),
        "preemption: 0/1 nodes are available: 1 Preemption is not supported.",
    );
    ends(
        with(spec, json!({"preemptionPolicy": "Never"})),
        "preemption: not eligible due to preemptionPolicy=Never.",
    );
}
