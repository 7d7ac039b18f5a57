//! Tests of decisions, and of the loop over a real registry.

mod looping;
mod oracle;
mod placing;
mod words;

use serde_json::{Value, json};

use super::*;

/// A cluster of these nodes and of pods that are placed already.
fn cluster(nodes: &[Value], placed: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(node["metadata"]["name"].as_str().expect("a name"), node);
    }
    for pod in placed {
        cluster.set_pod(parsed(pod));
    }
    cluster
}

fn parsed(pod: &Value) -> Pod {
    let name = |field: &str| {
        pod["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let key = format!("pods/{}/{}", name("namespace"), name("name"));
    Pod::parse(key.into(), pod)
}

/// A node with two cores and room for two pods.
fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {
            "cpu": "2", "memory": "4Gi", "pods": "2", "ephemeral-storage": "1Gi",
        }},
    })
}

/// `base` with the members of `more`, merged where both are objects.
fn with(mut base: Value, more: Value) -> Value {
    merge(&mut base, more);
    base
}

fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}

fn pod(name: &str, spec: Value) -> Value {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "uid": name, "generation": 1},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending"},
    });
    with(pod, json!({ "spec": spec }))
}

fn requesting(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]})
}

/// The node of a decision, or its message.
fn outcome(pod: &Value, cluster: &Cluster) -> Result<String, String> {
    match decide(&parsed(pod), cluster) {
        Decision::Place { node } => Ok(node.into()),
        Decision::Unschedulable { message } => Err(message),
    }
}
