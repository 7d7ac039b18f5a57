//! What is used, as `kubectl top`, a metrics server and the small client see it.

use serde_json::{Value, json};
use testkit::{Cluster, Kubectl, Up, eventually, skip};

use crate::VK_CMD;
use crate::both::both;

both![the_kubelets_endpoints_say_the_same_to_those_who_may_ask];

fn busy(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "busy", "image": "host", "command": ["bash", "-c", "while :; do (:); done"]},
            {"name": "idle", "image": "host", "command": ["sleep", "600"]}]}})
    .to_string()
}

fn running(kubectl: &Kubectl, name: &str) {
    kubectl
        .run(&format!(
            "wait --for=condition=Ready pod/{name} --timeout=60s"
        ))
        .ok();
}

/// The lines of a table, cut into words.
fn words(text: &str) -> Vec<Vec<String>> {
    let line = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(line).collect()
}

fn number(text: &str, suffix: &str) -> u64 {
    let number = text.strip_suffix(suffix).and_then(|it| it.parse().ok());
    number.unwrap_or_else(|| panic!("{text:?} is not a number of {suffix}"))
}

#[test]
fn kubectl_top_shows_who_is_busy() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    for name in ["p", "q"] {
        kubectl.pipe("create -f -", &busy(name)).ok();
    }
    running(&kubectl, "p");
    running(&kubectl, "q");
    let table = eventually("the busy container is seen", || {
        let table = kubectl.run("top pod p --containers --no-headers");
        if table.code != 0 {
            return Err(table.stderr);
        }
        let table = words(&table.stdout);
        let cpu = |name: &str| {
            let row = table.iter().find(|row| row[1] == name);
            row.map(|row| number(&row[2], "m"))
        };
        match (cpu("busy"), cpu("idle")) {
            (Some(busy), Some(idle)) if busy > 50 && idle < busy => Ok(table),
            _ => Err(format!("{table:?}")),
        }
    });
    assert_eq!(table.len(), 2);
    let some = kubectl.run("top pods -l app=q --no-headers").ok();
    assert!(some.starts_with("q ") && !some.contains("p "), "{some}");
    let node = words(&kubectl.run("top nodes --no-headers").ok());
    assert!(
        number(&node[0][1], "m") > 50 && number(&node[0][3], "Mi") > 1,
        "{node:?}"
    );
    let raw = kubectl
        .run("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/p")
        .ok();
    let raw: Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!(raw["kind"], "PodMetrics");
    assert_eq!(raw["metadata"]["labels"]["app"], "p");
    let missing = kubectl.run("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/x");
    assert!(missing.fails_with(1).contains("not found"));
    // The small client, for machines without kubectl.
    let own = words(&up.client("top pods -A --containers").ok());
    assert_eq!(
        own[0],
        ["NAMESPACE", "POD", "NAME", "CPU(CORES)", "MEMORY(BYTES)"]
    );
    assert_eq!(own.len(), 5, "{own:?}");
    assert_eq!(words(&up.client("top node").ok())[0][0], "NAME");
}

fn the_kubelets_endpoints_say_the_same_to_those_who_may_ask(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let space = cluster.namespace();
    kubectl.pipe("create -f -", &busy("p")).ok();
    running(kubectl, "p");
    let node = cluster.node("n");
    let port = cluster.get(
        &format!("node/{node}"),
        "{.status.daemonEndpoints.kubeletEndpoint.Port}",
    );
    let ask = |token: &str, path: &str| {
        kubectl.run(&format!(
            "get --raw /{path} --server=https://127.0.0.1:{port} --kubeconfig=/dev/null --insecure-skip-tls-verify --token={token}"
        ))
    };
    // A metrics server's rights.
    let may = |role: &str, account: &str, resources: &str| {
        let role = format!("{role}-{space}");
        kubectl
            .run(&format!(
                "create clusterrole {role} --verb=get --resource={resources}"
            ))
            .ok();
        kubectl.run(&format!("create clusterrolebinding {role} --clusterrole={role} --serviceaccount={space}:{account}")).ok();
    };
    let token_of = |account: &str| {
        let token = kubectl.run(&format!("create token {account}")).ok();
        token.trim().to_owned()
    };
    kubectl.run("create serviceaccount scraper").ok();
    may("scraper", "scraper", "nodes/metrics,nodes/stats");
    let token = token_of("scraper");
    eventually("the rights are known", || {
        let answer = ask(&token, "metrics");
        if answer.code == 0 {
            Ok(())
        } else {
            Err(answer)
        }
    });
    let raw = |path: &str| ask(&token, path).ok();
    let labels = format!("{{container=\"busy\",pod=\"p\",namespace=\"{space}\"}}");
    let cpu = || {
        let text = raw("metrics/resource");
        let line = format!("container_cpu_usage_seconds_total{labels} ");
        let rest = text.lines().find_map(|it| it.strip_prefix(&line));
        let rest = rest
            .unwrap_or_else(|| panic!("no CPU in\n{text}"))
            .to_owned();
        assert!(text.contains("\nresource_scrape_error 0\n"), "{text}");
        let (value, at) = rest.split_once(' ').expect("a time");
        (
            value.parse::<f64>().expect("a number"),
            at.parse::<i64>().expect("a number"),
        )
    };
    let first = cpu();
    let (more, later) = eventually("it uses more", || {
        let now = cpu();
        assert!(now.0 >= first.0, "never less: {now:?} after {first:?}");
        if now.0 > first.0 { Ok(now) } else { Err(now) }
    });
    assert!(more > first.0 && later > first.1, "fresh times");
    let summary: Value = serde_json::from_str(&raw("stats/summary")).expect("JSON");
    assert_eq!(summary["node"]["nodeName"], node.as_str());
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"]["name"], "p");
    assert_eq!(pod["containers"].as_array().map(Vec::len), Some(2));
    assert!(
        pod["ephemeral-storage"]["usedBytes"].as_u64() > Some(0),
        "{pod}"
    );
    assert!(raw("metrics").contains("kubelet_running_containers 2"));
    // An account without rights gets nothing, and nobody gets nothing either.
    kubectl.run("create serviceaccount nobody").ok();
    let nobody = token_of("nobody");
    assert!(
        ask(&nobody, "metrics/resource")
            .fails_with(1)
            .contains("orbidden")
    );
    assert!(
        ask("nonsense", "metrics/resource")
            .fails_with(1)
            .contains("must be logged in")
    );
    may("metrics", "nobody", "nodes/metrics");
    let other = token_of("nobody");
    eventually("the right is seen once the refusal is forgotten", || {
        let answer = ask(&other, "metrics/resource");
        if answer.code == 0 {
            Ok(())
        } else {
            Err(answer.stderr)
        }
    });
}
