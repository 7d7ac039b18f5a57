//! Environments of containers, seen from inside.

use std::collections::BTreeMap;

use testkit::{Cluster, Kubectl, eventually};

use crate::both::both;

both![
    every_source_of_a_variable,
    services_can_be_left_out,
    what_is_missing_is_said_as_a_kubelet_says_it_and_mended_by_its_coming,
    values_that_no_environment_can_hold,
];

/// Runs a pod to its end and returns its log. `spec` is the container's, without name and image.
pub(crate) fn log_of(kubectl: &Kubectl, name: &str, pod: &str) -> String {
    kubectl.pipe("create -f -", pod).ok();
    kubectl
        .run(&format!(
            "wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"
        ))
        .ok();
    kubectl.run(&format!("logs {name}")).ok()
}

/// What `env` printed.
fn variables(log: &str) -> BTreeMap<&str, &str> {
    log.lines()
        .filter_map(|line| line.split_once('='))
        .collect()
}

pub(crate) fn state(kubectl: &Kubectl, name: &str) -> String {
    kubectl
        .run(&format!(
            "get pod {name} -o jsonpath={{.status.containerStatuses[0].state.*.reason}}|{{.status.containerStatuses[0].state.*.message}}"
        ))
        .ok()
}

pub(crate) fn state_says(kubectl: &Kubectl, name: &str, words: &[&str]) {
    eventually(&format!("the state of {name} says {words:?}"), || {
        let state = state(kubectl, name);
        if words.iter().all(|word| state.contains(word)) {
            Ok(())
        } else {
            Err(state)
        }
    });
}

fn every_source_of_a_variable(cluster: &Cluster) {
    let agent = cluster
        .agent("n")
        .env("KEPT_FROM_THE_JOB", "yes")
        .env("SLURM_JWT", "a key of the user's")
        .start();
    cluster.ready("n");
    let kubectl = cluster.kubectl();
    kubectl
        .run("create cm m --from-literal=key=value --from-literal=dotted.key=1")
        .ok();
    kubectl
        .run("create secret generic s --from-literal=pass=word")
        .ok();
    kubectl
        .run("create service clusterip my-web --tcp=80:8080")
        .ok();
    let address = kubectl
        .run("get service my-web -o jsonpath={.spec.clusterIP}")
        .ok();
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: x}, annotations: {note: "a b"}}
spec:
  restartPolicy: Never
  serviceAccountName: default
  containers:
  - name: c
    image: host
    command: [env]
    args: ["ARG=$(LATER)-$(NONE)-$$(LATER)", env]
    resources: {requests: {cpu: 250m, memory: 16Mi}}
    envFrom:
    - {prefix: M_, configMapRef: {name: m}}
    - {secretRef: {name: s}}
    - {configMapRef: {name: absent, optional: true}}
    env:
    - {name: A, value: "1"}
    - {name: B, value: "$(A)$(M_key)$(C)"}
    - {name: C, value: "$$(A)"}
    - {name: A, value: "$(A)2"}
    - {name: KEY, valueFrom: {configMapKeyRef: {name: m, key: key}}}
    - {name: PASS, valueFrom: {secretKeyRef: {name: s, key: pass}}}
    - {name: GONE, valueFrom: {secretKeyRef: {name: s, key: none, optional: true}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: UID_OF, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: WHERE, value: "~/x"}
    - {name: LATER, value: "$(MY_WEB_PORT)"}
"#;
    let log = log_of(kubectl, "p", pod);
    let all = variables(&log);
    let field = |path: &str| {
        kubectl
            .run(&format!("get pod p -o jsonpath={{{path}}}"))
            .ok()
    };
    let host = field(".status.hostIP");
    let node = field(".spec.nodeName");
    let uid = field(".metadata.uid");
    let url = format!("tcp://{address}:80");
    let home = format!("{}/x", agent.home().display());
    for (name, value) in [
        ("A", "12"),
        ("B", "1value$(C)"),
        ("C", "$(A)"),
        ("M_key", "value"),
        ("M_dotted.key", "1"),
        ("pass", "word"),
        ("KEY", "value"),
        ("PASS", "word"),
        ("LABEL", "x"),
        ("NOTE", "a b"),
        ("NAME", "p"),
        ("SPACE", cluster.namespace()),
        ("UID_OF", uid.as_str()),
        ("NODE", node.as_str()),
        ("ACCOUNT", "default"),
        ("HOST_IP", host.as_str()),
        ("HOST_IPS", host.as_str()),
        ("POD_IP", host.as_str()),
        ("POD_IPS", host.as_str()),
        ("CPU", "250"),
        ("MEM", "16"),
        ("WHERE", home.as_str()),
        ("MY_WEB_SERVICE_HOST", address.as_str()),
        ("MY_WEB_PORT_80_TCP", url.as_str()),
        ("LATER", url.as_str()),
        ("KEPT_FROM_THE_JOB", "yes"),
    ] {
        assert_eq!(all.get(name), Some(&value), "{name} of {log}");
    }
    let argument = format!("{url}-$(NONE)-$(LATER)");
    assert_eq!(all.get("ARG"), Some(&argument.as_str()), "{log}");
    let allocatable = kubectl
        .run(&format!(
            "get node {node} -o jsonpath={{.status.allocatable.memory}}"
        ))
        .ok();
    let limit: u64 = all["LIMIT"].parse().expect("a number");
    let kibibytes = allocatable
        .strip_suffix("Ki")
        .map(|it| it.parse::<u64>().expect("a number") * 1024);
    let bytes = kibibytes.unwrap_or_else(|| allocatable.parse().unwrap_or(limit));
    assert_eq!(limit, bytes, "without a limit the node's {allocatable}");
    for secret in ["GONE", "SLURM_JWT", "KUBECONFIG", "VK_CMD_STATE_DIR"] {
        assert!(!all.contains_key(secret), "{secret} in {log}");
    }
}

fn services_can_be_left_out(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl
        .run("create service clusterip my-web --tcp=80:8080")
        .ok();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  enableServiceLinks: false\n  restartPolicy: Never\n  containers: [{name: c, image: host, command: [env]}]\n";
    let log = log_of(kubectl, "p", pod);
    assert!(!log.contains("MY_WEB"), "{log}");
    assert!(log.contains("KUBERNETES_SERVICE_HOST="), "{log}");
    // One that appears later is there for the next pod.
    kubectl
        .run("create service clusterip second --tcp=81:8080")
        .ok();
    let mut tries = 0;
    eventually("the watch of services has brought the second", || {
        tries += 1;
        let name = format!("q{tries}");
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers: [{{name: c, image: host, command: [env]}}]\n"
        );
        let log = log_of(kubectl, &name, &pod);
        if log.contains("SECOND_SERVICE_PORT=81") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

fn what_is_missing_is_said_as_a_kubelet_says_it_and_mended_by_its_coming(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl.run("create cm here --from-literal=a=1").ok();
    let space = cluster.namespace();
    let missing = format!("couldn't find key b in ConfigMap {space}/here");
    for (name, env, words) in [
        (
            "nokey",
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: here, key: b}}}]",
            missing.as_str(),
        ),
        (
            "nomap",
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: later, key: b}}}]",
            "configmap \"later\" not found",
        ),
        (
            "nosecret",
            "envFrom: [{secretRef: {name: none}}]",
            "secret \"none\" not found",
        ),
    ] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers: [{{name: c, image: host, command: [env], {env}}}]\n"
        );
        kubectl.pipe("create -f -", &pod).ok();
        state_says(kubectl, name, &["CreateContainerConfigError|", words]);
    }
    kubectl.run("create cm later --from-literal=b=come").ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/nomap --timeout=60s")
        .ok();
    assert!(kubectl.run("logs nomap").ok().contains("A=come"));
}

fn values_that_no_environment_can_hold(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let large = "x".repeat(900_000);
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{k: {large}}}\n"
    );
    kubectl.pipe("create -f -", &map).ok();
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: bytes}\ndata: {k: /w==}\n";
    kubectl.pipe("create -f -", secret).ok();
    for (name, source, words) in [
        (
            "large",
            "{configMapKeyRef: {name: large, key: k}}",
            ["StartError|", "argument list too long"],
        ),
        (
            "bytes",
            "{secretKeyRef: {name: bytes, key: k}}",
            ["CreateContainerError|", "not valid UTF-8"],
        ),
    ] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers: [{{name: c, image: host, command: ['true'], env: [{{name: A, valueFrom: {source}}}]}}]\n"
        );
        kubectl.pipe("create -f -", &pod).ok();
        state_says(kubectl, name, &words);
    }
}
