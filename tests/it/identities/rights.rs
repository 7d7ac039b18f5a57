//! An identity that lacks each right of `deploy/rbac.yaml` in turn.

use serde_json::json;
use testkit::{Cluster, eventually};

use super::{DEPLOY, kubeconfig_of_token};
use crate::both::both;

both![
    a_right_that_is_needed_is_asked_for,
    a_right_that_helps_is_done_without
];

/// A service account with the rights of the documents less one, and its kubeconfig.
fn without(cluster: &Cluster, group: &str, resource: &str, verb: &str) -> std::path::PathBuf {
    let name = cluster.namespace();
    let text = std::fs::read_to_string(format!("{DEPLOY}/rbac.yaml")).expect("it is there");
    let lease = resource == "leases";
    let mut rules: Vec<serde_json::Value> = Vec::new();
    let mut lease_rules = Vec::new();
    for part in text.split("\n---\n") {
        let object: serde_json::Value = serde_norway::from_str(part).expect("YAML");
        for rule in object["rules"].as_array().into_iter().flatten() {
            // Each resource and verb a rule of its own.
            for one in rule["resources"].as_array().into_iter().flatten() {
                for may in rule["verbs"].as_array().into_iter().flatten() {
                    if (one.as_str(), may.as_str()) == (Some(resource), Some(verb))
                        && rule["apiGroups"][0] == group
                    {
                        continue;
                    }
                    let single =
                        json!({"apiGroups": rule["apiGroups"], "resources": [one], "verbs": [may]});
                    match object["kind"].as_str() {
                        Some("Role") => lease_rules.push(single),
                        _ => rules.push(single),
                    }
                }
            }
        }
    }
    assert!(!lease || lease_rules.len() == 2, "{lease_rules:?}");
    let account = json!([{"kind": "ServiceAccount", "name": "default", "namespace": name}]);
    let rbac = "rbac.authorization.k8s.io";
    let version = format!("{rbac}/v1");
    let objects = [
        json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}),
        json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": account,
         "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name}}),
        json!({"apiVersion": version, "kind": "Role", "metadata": {"name": name, "namespace": "kube-node-lease"}, "rules": lease_rules}),
        json!({"apiVersion": version, "kind": "RoleBinding", "metadata": {"name": name, "namespace": "kube-node-lease"},
         "subjects": account, "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name}}),
    ];
    let objects: Vec<_> = objects.iter().map(ToString::to_string).collect();
    cluster
        .kubectl()
        .pipe("apply -f -", &objects.join("\n"))
        .ok();
    let token = cluster.kubectl().run("create token default").ok();
    kubeconfig_of_token(cluster, token.trim())
}

fn a_right_that_is_needed_is_asked_for(cluster: &Cluster) {
    for (group, resource, verb) in [
        ("", "nodes", "create"),
        ("", "nodes", "get"),
        ("", "nodes/status", "patch"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "pods", "delete"),
        ("", "pods/status", "patch"),
        ("coordination.k8s.io", "leases", "create"),
        ("coordination.k8s.io", "leases", "get"),
        ("coordination.k8s.io", "leases", "update"),
        ("", "services", "get"),
    ] {
        let kubeconfig = without(cluster, group, resource, verb);
        let mut agent = cluster.agent_with(&kubeconfig, "n").start();
        assert_eq!(
            agent.ended().code(),
            Some(1),
            "{verb} {resource}: {}",
            agent.log()
        );
        let log = agent.log();
        let words = if resource == "services" {
            // Whether it may is found out by reading it: who cannot may read the namespace kube-system.
            "refuses to read the Service default/kubernetes".to_owned()
        } else {
            format!("this identity may not {verb} {resource}")
        };
        assert_eq!(log.matches(&words).count(), 1, "{verb} {resource}: {log}");
        assert!(log.contains("deploy/rbac.yaml"), "{log}");
    }
    let nodes = cluster.kubectl().run("get nodes -o name").ok();
    assert!(!nodes.contains(&cluster.node("n")), "{nodes}");
}

fn a_right_that_helps_is_done_without(cluster: &Cluster) {
    for (number, (group, resource, verb)) in [
        ("", "nodes", "patch"),
        ("", "nodes", "list"),
        ("", "nodes", "watch"),
        ("", "nodes", "delete"),
        ("", "pods", "get"),
        ("", "configmaps", "get"),
        ("", "configmaps", "list"),
        ("", "configmaps", "watch"),
        ("", "secrets", "get"),
        ("", "secrets", "list"),
        ("", "secrets", "watch"),
        ("", "services", "list"),
        ("", "services", "watch"),
        ("", "persistentvolumeclaims", "get"),
        ("", "persistentvolumes", "get"),
        ("", "serviceaccounts/token", "create"),
        ("", "events", "create"),
        ("", "events", "patch"),
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ]
    .into_iter()
    .enumerate()
    {
        let kubeconfig = without(cluster, group, resource, verb);
        let node = format!("n{number}");
        let agent = cluster.agent_with(&kubeconfig, &node).start();
        cluster.ready(&node);
        let name = cluster.node(&node);
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nspec:\n  nodeName: {name}\n  restartPolicy: Never\n  \
             automountServiceAccountToken: false\n  containers:\n  - {{name: c, image: host, command: ['true']}}\n"
        ));
        let words = format!("this identity may not {verb} {resource}");
        eventually(&format!("without {verb} {resource} a pod runs"), || {
            let phase = cluster.get(&format!("pod/p{number}"), "{.status.phase}");
            if phase == "Succeeded" {
                Ok(())
            } else {
                Err((phase, agent.log()))
            }
        });
        assert_eq!(
            agent.log().matches(&words).count(),
            1,
            "{verb} {resource}: {}",
            agent.log()
        );
        let lines = agent
            .log()
            .lines()
            .filter(|line| line.contains("forbidden"))
            .count();
        assert!(
            lines <= 1,
            "without {verb} {resource} it goes on about it: {}",
            agent.log()
        );
    }
}
