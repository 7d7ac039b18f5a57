//! Requests, limits, cores and eviction, as a user sees them.

use serde_json::{Value, json};
use testkit::{Cluster, Kubectl, eventually, skip};

use crate::both::both;

both![
    a_container_over_its_memory_limit_is_killed_and_says_so,
    a_pod_that_does_not_fit_is_refused_in_the_kubelets_words,
    whole_cpus_of_a_guaranteed_pod_are_its_own_across_a_restart,
    a_pod_that_outgrows_its_ephemeral_storage_is_evicted,
    a_node_short_of_memory_says_so_and_evicts,
    logs_rotate_and_data_of_dead_pods_goes_as_settings_say,
];

fn pod(name: &str, resources: Value, script: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": "host", "command": ["bash", "-c", script],
             "resources": resources}]}})
    .to_string()
}

fn create(kubectl: &Kubectl, manifest: &str) {
    kubectl.pipe("create -f -", manifest).ok();
}

fn get(kubectl: &Kubectl, name: &str) -> Value {
    let text = kubectl.run(&format!("get pod {name} -o json")).ok();
    serde_json::from_str(&text).expect("JSON")
}

/// Waits until a pod is in a phase, and returns it.
fn in_phase(kubectl: &Kubectl, name: &str, phase: &str) -> Value {
    eventually(&format!("pod {name} is {phase}"), || {
        let pod = get(kubectl, name);
        if pod["status"]["phase"] == phase {
            Ok(pod)
        } else {
            Err(pod["status"].clone())
        }
    })
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn a_container_over_its_memory_limit_is_killed_and_says_so(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    // A child of the shell takes the memory: the whole tree counts, and goes.
    let script = "head -c 300m /dev/zero | tail -c 200m | (sleep 60; cat) >/dev/null";
    let limits = json!({"limits": {"memory": "48Mi"}});
    create(kubectl, &pod("greedy", limits, script));
    let modest = json!({"limits": {"memory": "200Mi"}});
    create(kubectl, &pod("modest", modest, "exec sleep 600"));
    let greedy = in_phase(kubectl, "greedy", "Failed");
    let end = &greedy["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("OOMKilled"), &json!(137)),
        "{end}"
    );
    assert_eq!(
        in_phase(kubectl, "modest", "Running")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
}

fn a_pod_that_does_not_fit_is_refused_in_the_kubelets_words(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let node = cluster.node("n");
    // Straight to the node, past the scheduler, which would not have done it.
    let direct = |name: &str, requests: Value, more: Value| {
        let mut pod: Value =
            serde_json::from_str(&pod(name, json!({"requests": requests}), "sleep 600"))
                .expect("JSON");
        pod["spec"]["nodeName"] = node.as_str().into();
        if let Some(more) = more.as_object() {
            for (key, value) in more {
                pod["spec"][key] = value.clone();
            }
        }
        create(kubectl, &pod.to_string());
    };
    direct("first", json!({"cpu": "500m"}), json!({}));
    in_phase(kubectl, "first", "Running");
    let all = cores() * 1000;
    direct("cpu", json!({"cpu": format!("{all}m")}), json!({}));
    let refused = in_phase(kubectl, "cpu", "Failed");
    assert_eq!(refused["status"]["reason"], "OutOfcpu");
    assert_eq!(
        refused["status"]["message"],
        format!(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: {all}, used: 500, capacity: {all}"
        )
    );
    let events = kubectl.run("events --for pod/cpu").ok();
    assert!(events.contains("OutOfcpu"), "{events}");
    direct("memory", json!({"memory": "900Ti"}), json!({}));
    assert_eq!(
        in_phase(kubectl, "memory", "Failed")["status"]["reason"],
        "OutOfmemory"
    );
    direct(
        "elsewhere",
        json!({}),
        json!({"nodeSelector": {"no": "where"}}),
    );
    let refused = in_phase(kubectl, "elsewhere", "Failed");
    assert_eq!(refused["status"]["reason"], "NodeAffinity");
    // A label that somebody has set since the node was registered counts.
    kubectl.run(&format!("label node {node} late=yes")).ok();
    direct("late", json!({}), json!({"nodeSelector": {"late": "yes"}}));
    in_phase(kubectl, "late", "Running");
    // What the first had is free again once it is gone.
    kubectl.run("delete pod first").ok();
    direct(
        "again",
        json!({"cpu": format!("{}m", all - 100)}),
        json!({}),
    );
    in_phase(kubectl, "again", "Running");
}

/// The cores that a pod's processes may use, as it has printed them.
fn printed_cores(kubectl: &Kubectl, name: &str) -> Vec<String> {
    let text = kubectl.run(&format!("logs {name}")).ok();
    text.lines().map(str::to_owned).collect()
}

fn whole_cpus_of_a_guaranteed_pod_are_its_own_across_a_restart(cluster: &Cluster) {
    if cores() < 2 {
        return skip!("one core cannot be divided");
    }
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let watch = "while sleep 0.2; do grep Cpus_allowed_list /proc/self/status | cut -f2; done";
    create(kubectl, &pod("shared", json!({}), watch));
    in_phase(kubectl, "shared", "Running");
    let whole = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    create(kubectl, &pod("own", whole, watch));
    in_phase(kubectl, "own", "Running");
    let own = eventually("the pod tells its core", || {
        let lines = printed_cores(kubectl, "own");
        lines.last().cloned().ok_or(lines)
    });
    assert!(own.parse::<usize>().is_ok(), "one core: {own}");
    // Who ran there before has been moved away.
    let moved = |kubectl: &Kubectl| {
        eventually("the other pod leaves that core", || {
            let lines = printed_cores(kubectl, "shared");
            let last = lines.last().cloned().unwrap_or_default();
            let free = !last.is_empty() && last != own && !last.split(',').any(|it| it == own);
            let wide = last.contains('-') && cores() == 2;
            if free && !wide { Ok(()) } else { Err(lines) }
        })
    };
    moved(kubectl);
    let place = agent.kill();
    let _agent = cluster.restart_node(&place, &[]);
    in_phase(kubectl, "own", "Running");
    let second = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    if cores() > 2 {
        create(kubectl, &pod("second", second, watch));
        in_phase(kubectl, "second", "Running");
        let other = eventually("the second pod tells its core", || {
            let lines = printed_cores(kubectl, "second");
            lines.last().cloned().ok_or(lines)
        });
        assert_ne!(other, own, "the record of the first outlived the agent");
    }
    let still = printed_cores(kubectl, "own");
    assert_eq!(still.last(), Some(&own));
}

fn a_pod_that_outgrows_its_ephemeral_storage_is_evicted(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let limits = json!({"limits": {"ephemeral-storage": "1Mi"}});
    let script = "head -c 4000000 /dev/urandom > file; exec sleep 600";
    create(kubectl, &pod("hoarder", limits, script));
    let evicted = in_phase(kubectl, "hoarder", "Failed");
    assert_eq!(evicted["status"]["reason"], "Evicted");
    assert_eq!(
        evicted["status"]["message"],
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
    );
}

fn a_node_short_of_memory_says_so_and_evicts(cluster: &Cluster) {
    // No host has that much: the node is short from the start.
    let _agent = cluster.start_node(&["--eviction-hard=memory.available<900Ti"]);
    let kubectl = cluster.kubectl();
    let node = cluster.node("n");
    eventually("the condition and the taint", || {
        let node = kubectl.run(&format!("get node {node} -o json")).ok();
        let node: Value = serde_json::from_str(&node).expect("JSON");
        let conditions = node["status"]["conditions"].as_array();
        let pressed = conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "MemoryPressure" && it["status"] == "True");
        let taints = node["spec"]["taints"].as_array();
        let tainted = taints
            .into_iter()
            .flatten()
            .any(|it| it["key"] == "node.kubernetes.io/memory-pressure");
        if pressed && tainted {
            Ok(())
        } else {
            Err(node)
        }
    });
    let mut tolerant: Value =
        serde_json::from_str(&pod("victim", json!({}), "sleep 600")).expect("JSON");
    tolerant["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    create(kubectl, &tolerant.to_string());
    let evicted = in_phase(kubectl, "victim", "Failed");
    assert_eq!(evicted["status"]["reason"], "Evicted");
    let message = evicted["status"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with(
            "The node was low on resource: memory. Threshold quantity: 900Ti, available: "
        ),
        "{message}"
    );
    let conditions = evicted["status"]["conditions"].as_array();
    let target =
        { conditions.expect("conditions").iter() }.find(|it| it["type"] == "DisruptionTarget");
    let target = target.expect("the condition");
    assert_eq!(
        (&target["status"], &target["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
}

fn logs_rotate_and_data_of_dead_pods_goes_as_settings_say(cluster: &Cluster) {
    let agent = cluster.start_node(&[
        "--container-log-max-size=16Ki",
        "--container-log-max-files=2",
        "--dead-pods-max-count=1",
        "--dead-pods-max-age=1000",
    ]);
    let kubectl = cluster.kubectl();
    let script = "for i in $(seq 5000); do echo line $i; done";
    for name in ["a", "b"] {
        create(kubectl, &pod(name, json!({}), script));
        in_phase(kubectl, name, "Succeeded");
    }
    let log = kubectl.run("logs b").ok();
    assert!(
        log.ends_with("line 5000\n") && !log.contains("line 1\n"),
        "{}",
        log.len()
    );
    let uid = get(kubectl, "a")["metadata"]["uid"]
        .as_str()
        .map(str::to_owned)
        .expect("a UID");
    eventually("the data of the older pod goes", || {
        let mut found = Vec::new();
        let mut dirs = vec![agent.root()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name() == uid.as_str() {
                    found.push(entry.path());
                } else if entry.path().is_dir() && !entry.path().is_symlink() {
                    dirs.push(entry.path());
                }
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
    kubectl.run("get pod a").ok();
    kubectl.run("logs b").ok();
}
