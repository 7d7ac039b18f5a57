//! Everyday work with the real kubectl: what people type, and what they read.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use testkit::{Cluster, Kubectl, eventually};

use crate::both::both;

both![
    apply_creates_changes_and_leaves_alone,
    server_side_apply_keeps_owners_apart,
    create_makes_each_kind_with_bodies_in_protobuf,
    get_prints_in_every_form,
    get_watch_shows_a_pod_through_its_life,
    describe_explains_pod_and_node,
    logs_take_every_flag,
    logs_follow_a_running_container_and_show_its_previous_run,
    label_annotate_patch_and_edit_change_an_object,
    a_stale_replace_is_refused,
    delete_takes_grace_force_cascade_labels_and_all,
    a_node_is_cordoned_uncordoned_and_tainted,
    discovery_explains_itself,
];

fn config_map(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, labels: {{app: a}}}}\ndata: {{key: {value:?}}}\n"
    )
}

/// Runs a pod of one container that runs `script`, to its end.
fn run_script(kubectl: &Kubectl, name: &str, script: &str) {
    kubectl
        .words(&[
            "run",
            name,
            "--image=host",
            "--restart=Never",
            "--command",
            "--",
            "bash",
            "-c",
            script,
        ])
        .ok();
    kubectl
        .run(&format!(
            "wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=60s"
        ))
        .ok();
}

fn apply_creates_changes_and_leaves_alone(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    for (value, word) in [("1", "created"), ("2", "configured"), ("2", "unchanged")] {
        let said = kubectl.pipe("apply -f -", &config_map(value)).ok();
        assert_eq!(said, format!("configmap/c {word}\n"));
    }
    let diff = kubectl.pipe("diff -f -", &config_map("2"));
    assert_eq!(
        (diff.code, diff.stdout.as_str()),
        (0, ""),
        "{}",
        diff.stderr
    );
    let diff = kubectl.pipe("diff -f -", &config_map("3"));
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    assert!(
        diff.stdout.contains("-  key: \"2\"") && diff.stdout.contains("+  key: \"3\""),
        "{}",
        diff.stdout
    );
    assert_eq!(kubectl.run("get cm c -o jsonpath={.data.key}").ok(), "2");
    // A key that a later file leaves out goes; one that others set stays.
    kubectl.run("annotate cm c mine=kept").ok();
    kubectl
        .pipe(
            "apply -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {other: x}\n",
        )
        .ok();
    let data = kubectl
        .run("get cm c -o jsonpath={.data}{.metadata.annotations.mine}")
        .ok();
    assert_eq!(data, r#"{"other":"x"}kept"#);
    let said = kubectl.pipe("replace -f -", &config_map("4")).ok();
    assert_eq!(said, "configmap/c replaced\n");
    assert_eq!(kubectl.run("get cm c -o jsonpath={.data.key}").ok(), "4");
}

fn server_side_apply_keeps_owners_apart(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let said = kubectl
        .pipe("apply --server-side -f -", &config_map("1"))
        .ok();
    assert_eq!(said, "configmap/c serverside-applied\n");
    let clash = kubectl
        .pipe(
            "apply --server-side --field-manager=other -f -",
            &config_map("2"),
        )
        .fails_with(1);
    assert!(
        clash.contains("conflict with \"kubectl\": .data.key"),
        "{clash}"
    );
    kubectl
        .pipe(
            "apply --server-side --field-manager=other --force-conflicts -f -",
            &config_map("2"),
        )
        .ok();
    assert_eq!(kubectl.run("get cm c -o jsonpath={.data.key}").ok(), "2");
    let managers = kubectl
        .run("get cm c --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}")
        .ok();
    assert!(managers.contains("other"), "{managers}");
}

fn create_makes_each_kind_with_bodies_in_protobuf(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let home = cluster.namespace();
    let n = format!("{home}-n");
    let made = [
        format!("create namespace {n}"),
        format!("namespace/{n} created\n"),
    ];
    let binding =
        format!("create rolebinding readers --role=reader --serviceaccount={home}:builder");
    for (line, said) in [
        (
            "create configmap c --from-literal=a=1",
            "configmap/c created\n",
        ),
        (
            "create secret generic s --from-literal=password=hunter2",
            "secret/s created\n",
        ),
        (&made[0], &made[1]),
        (
            "create serviceaccount builder",
            "serviceaccount/builder created\n",
        ),
        (
            "create role reader --verb=get,list --resource=pods",
            "role.rbac.authorization.k8s.io/reader created\n",
        ),
        (
            &binding,
            "rolebinding.rbac.authorization.k8s.io/readers created\n",
        ),
    ] {
        assert_eq!(kubectl.run(line).ok(), said, "{line}");
    }
    assert_eq!(
        kubectl
            .run("get secret s -o jsonpath={.data.password}")
            .ok(),
        "aHVudGVyMg=="
    );
    eventually("the root certificate is published", || {
        let found = kubectl.run(&format!("get cm -n {n} kube-root-ca.crt -o name"));
        if found.stdout == "configmap/kube-root-ca.crt\n" {
            Ok(())
        } else {
            Err(found)
        }
    });
    let token = kubectl.run("create token builder").ok();
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let yes = kubectl
        .run(&format!(
            "auth can-i list pods --as=system:serviceaccount:{home}:builder"
        ))
        .ok();
    assert_eq!(yes, "yes\n");
    let no = kubectl.run(&format!(
        "auth can-i delete pods --as=system:serviceaccount:{home}:builder"
    ));
    assert_eq!((no.code, no.stdout.as_str()), (1, "no\n"));
    let exists = kubectl.run(&format!("create namespace {n}")).fails_with(1);
    assert!(
        exists.contains(&format!("namespaces \"{n}\" already exists")),
        "{exists}"
    );
    kubectl
        .run(&format!("delete namespace {n} --wait=false"))
        .ok();
}

fn get_prints_in_every_form(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run_script(kubectl, "p", "echo hi");
    let lines = |text: &str| {
        text.lines()
            .map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let table = lines(&kubectl.run("get pods").ok());
    assert_eq!(table[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(table[1][..4], ["p", "0/1", "Completed", "0"]);
    let wide = lines(&kubectl.run("get pods -o wide").ok());
    assert_eq!(
        wide[0][4..],
        [
            "AGE",
            "IP",
            "NODE",
            "NOMINATED",
            "NODE",
            "READINESS",
            "GATES"
        ]
    );
    assert_eq!(kubectl.run("get pods -o name").ok(), "pod/p\n");
    assert_eq!(
        kubectl.run("get pod p -o jsonpath={.status.phase}").ok(),
        "Succeeded"
    );
    let columns = kubectl
        .run("get pods -o custom-columns=N:.metadata.name,P:.status.phase")
        .ok();
    assert_eq!(lines(&columns), [["N", "P"], ["p", "Succeeded"]]);
    let json: serde_json::Value =
        serde_json::from_str(&kubectl.run("get pod p -o json").ok()).expect("JSON");
    assert_eq!(
        json["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        0
    );
    assert!(
        kubectl
            .run("get pod p -o yaml")
            .ok()
            .contains("phase: Succeeded")
    );
    assert!(
        kubectl
            .run("get all -A")
            .ok()
            .contains("service/kubernetes")
    );
    assert_eq!(kubectl.run("get pods -l run=p -o name").ok(), "pod/p\n");
    assert_eq!(kubectl.run("get pods -l run!=p -o name").ok(), "");
    assert_eq!(
        kubectl
            .run("get pods --field-selector status.phase=Succeeded -o name")
            .ok(),
        "pod/p\n"
    );
    let bad = kubectl
        .run("get pods --field-selector spec.nonsense=1")
        .fails_with(1);
    assert!(bad.contains("field label not supported"), "{bad}");
    let nodes = lines(&kubectl.run(&format!("get nodes {}", node.node)).ok());
    assert_eq!(nodes[1][1..3], ["Ready", "agent"]);
}

fn get_watch_shows_a_pod_through_its_life(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    // A pod that no node takes: once the watch shows it, the watch is there.
    let first = "apiVersion: v1\nkind: Pod\nmetadata: {name: first}\nspec:\n  nodeSelector: {no: where}\n  containers: [{name: c, image: host}]\n";
    kubectl.pipe("create -f -", first).ok();
    let columns = "custom-columns=N:.metadata.name,P:.status.phase";
    let mut watch = kubectl
        .command(&["get", "pods", "-w", "--no-headers", "-o", columns])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let shown = lines.next().expect("a line").expect("text");
    assert!(shown.starts_with("first"), "{shown}");
    run_script(kubectl, "p", "true");
    let mut phases = Vec::new();
    for line in lines {
        let line = line.expect("a line");
        let Some(phase) = line.strip_prefix("p ") else {
            continue;
        };
        phases.push(phase.trim().to_owned());
        if phases.last().is_some_and(|phase| phase == "Succeeded") {
            break;
        }
    }
    watch.kill().expect("it runs");
    watch.wait().expect("our child");
    phases.dedup();
    assert_eq!(phases, ["Pending", "Running", "Succeeded"]);
}

fn describe_explains_pod_and_node(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run_script(kubectl, "p", "echo hi");
    let pod = kubectl.run("describe pod p").ok();
    for word in [
        "Status:           Succeeded",
        "Reason:       Completed",
        "Exit Code:    0",
        &format!("Successfully assigned {}/p to", cluster.namespace()),
        "Started container",
    ] {
        assert!(pod.contains(word), "{word:?} is missing in:\n{pod}");
    }
    let node = kubectl.run(&format!("describe node {}", node.node)).ok();
    for word in [
        "Roles:              agent",
        "type=virtual-kubelet",
        "KubeletReady",
        "Allocatable:",
        "Lease:",
    ] {
        assert!(node.contains(word), "{word:?} is missing in:\n{node}");
    }
    let events = kubectl.run("events --for pod/p").ok();
    assert!(
        events.contains("Scheduled") && events.contains("Started"),
        "{events}"
    );
}

fn logs_take_every_flag(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run_script(kubectl, "p", "echo one; echo two; echo three");
    assert_eq!(kubectl.run("logs p").ok(), "one\ntwo\nthree\n");
    assert_eq!(kubectl.run("logs pod/p -c p --tail=1").ok(), "three\n");
    assert_eq!(kubectl.run("logs p --limit-bytes=3").ok(), "one");
    assert_eq!(kubectl.run("logs p --since=1h").ok(), "one\ntwo\nthree\n");
    assert_eq!(
        kubectl.run("logs p --since-time=2100-01-01T00:00:00Z").ok(),
        ""
    );
    assert_eq!(
        kubectl.run("logs -l run=p --prefix").ok().lines().next(),
        Some("[pod/p/p] one")
    );
    assert_eq!(
        kubectl.run("logs p --all-containers -f").ok(),
        "one\ntwo\nthree\n"
    );
    let stamped = kubectl.run("logs p --timestamps").ok();
    for line in stamped.lines() {
        let (time, _) = line.split_once(' ').expect("a time and a text");
        assert_eq!(time.len(), "2026-01-02T03:04:05.000000000Z".len(), "{line}");
    }
    let none = kubectl.run("logs p --previous").fails_with(1);
    assert!(
        none.contains("previous terminated container \"p\" in pod \"p\" not found"),
        "{none}"
    );
    let none = kubectl.run("logs p -c q").fails_with(1);
    assert!(
        none.contains("container q is not valid for pod p"),
        "{none}"
    );
}

fn logs_follow_a_running_container_and_show_its_previous_run(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let gate = node.home().join("gate");
    let script = format!(
        "echo begin; until [ -e {} ]; do sleep 0.05; done; echo end; exit 3",
        gate.display()
    );
    kubectl
        .words(&[
            "run",
            "p",
            "--image=host",
            "--restart=OnFailure",
            "--command",
            "--",
            "bash",
            "-c",
            &script,
        ])
        .ok();
    kubectl
        .run("wait --for=condition=Ready pod/p --timeout=60s")
        .ok();
    let mut follow = kubectl
        .command(&["logs", "-f", "p"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "begin");
    std::fs::write(&gate, "").expect("a file");
    assert_eq!(lines.next().expect("a line").expect("text"), "end");
    assert!(lines.next().is_none());
    assert!(follow.wait().expect("our child").success());
    eventually(
        "the container restarts and its previous run is kept",
        || {
            let log = kubectl.run("logs p --previous");
            if log.code == 0 && log.stdout == "begin\nend\n" {
                Ok(())
            } else {
                Err(log)
            }
        },
    );
    let state = kubectl
        .run("get pod p -o jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}")
        .ok();
    assert_eq!(state, "3");
}

fn label_annotate_patch_and_edit_change_an_object(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.pipe("apply -f -", &config_map("1")).ok();
    assert_eq!(
        kubectl.run("label cm c tier=one").ok(),
        "configmap/c labeled\n"
    );
    let refused = kubectl.run("label cm c tier=two").fails_with(1);
    assert!(refused.contains("already has a value"), "{refused}");
    assert_eq!(
        kubectl.run("label cm c tier=two --overwrite").ok(),
        "configmap/c labeled\n"
    );
    assert_eq!(
        kubectl.run("label cm c tier-").ok(),
        "configmap/c unlabeled\n"
    );
    assert_eq!(
        kubectl.run("annotate cm c note=x").ok(),
        "configmap/c annotated\n"
    );
    for (kind, patch) in [
        ("strategic", r#"{"data":{"a":"1"}}"#),
        ("merge", r#"{"data":{"b":"2"}}"#),
        ("json", r#"[{"op":"add","path":"/data/c","value":"3"}]"#),
    ] {
        let said = kubectl
            .words(&["patch", "cm", "c", "--type", kind, "-p", patch])
            .ok();
        assert_eq!(said, "configmap/c patched\n", "{kind}");
    }
    let same = kubectl
        .words(&[
            "patch",
            "cm",
            "c",
            "--type",
            "merge",
            "-p",
            r#"{"data":{"b":"2"}}"#,
        ])
        .ok();
    assert_eq!(same, "configmap/c patched (no change)\n");
    let editor = cluster.dir().join("editor");
    std::fs::write(
        &editor,
        "#!/bin/sh\nsed -i 's/  key: \"1\"/  key: \"edited\"/' \"$1\"\n",
    )
    .expect("a script");
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a script");
    let edited = testkit::Output::of(
        kubectl
            .command(&["edit", "cm", "c"])
            .env("KUBE_EDITOR", &editor),
    )
    .ok();
    assert_eq!(edited, "configmap/c edited\n");
    assert_eq!(
        kubectl.run("get cm c -o jsonpath={.data}").ok(),
        r#"{"a":"1","b":"2","c":"3","key":"edited"}"#
    );
}

fn a_stale_replace_is_refused(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.pipe("create -f -", &config_map("1")).ok();
    let old = cluster.dir().join("old.yaml");
    std::fs::write(&old, kubectl.run("get cm c -o yaml").ok()).expect("a file");
    kubectl.run("label cm c x=y").ok();
    let refused = kubectl
        .run(&format!("replace -f {}", old.display()))
        .fails_with(1);
    assert!(
        refused.contains(
            "the object has been modified; please apply your changes to the latest version"
        ),
        "{refused}"
    );
}

fn delete_takes_grace_force_cascade_labels_and_all(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let run = |name: &str| {
        kubectl
            .words(&[
                "run",
                name,
                "--image=host",
                "--restart=Never",
                "--labels=g=x",
                "--command",
                "--",
                "bash",
                "-c",
                "trap '' TERM; echo up; while :; do sleep 1; done",
            ])
            .ok();
        kubectl
            .run(&format!(
                "wait --for=condition=Ready pod/{name} --timeout=60s"
            ))
            .ok();
    };
    run("a");
    let start = std::time::Instant::now();
    kubectl.run("delete pod a --grace-period=1").ok();
    assert!(
        start.elapsed() >= std::time::Duration::from_secs(1),
        "SIGTERM is ignored: the grace must pass"
    );
    run("b");
    let said = kubectl.run("delete pod b --force --grace-period=0").ok();
    assert!(said.contains("pod \"b\" force deleted"), "{said}");
    run("c");
    run("d");
    kubectl.run("delete pods -l g=x --grace-period=1").ok();
    assert_eq!(kubectl.run("get pods -o name").ok(), "");
    kubectl.pipe("create -f -", &config_map("1")).ok();
    for cascade in ["background", "foreground", "orphan"] {
        let uid = kubectl.run("get cm c -o jsonpath={.metadata.uid}").ok();
        let child = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: child-{cascade}\n  ownerReferences:\n  - {{apiVersion: v1, kind: ConfigMap, name: c, uid: {uid}}}\n"
        );
        kubectl.pipe("create -f -", &child).ok();
        kubectl
            .run(&format!("delete cm c --cascade={cascade}"))
            .ok();
        if cascade == "orphan" {
            eventually("the child has no owner any more", || {
                let owners = kubectl
                    .run("get secret child-orphan -o jsonpath={.metadata.ownerReferences}")
                    .ok();
                if owners.is_empty() {
                    Ok(())
                } else {
                    Err(owners)
                }
            });
        } else {
            kubectl
                .run(&format!(
                    "wait --for=delete secret/child-{cascade} --timeout=60s"
                ))
                .ok();
            kubectl.pipe("create -f -", &config_map("1")).ok();
        }
    }
    kubectl.run("delete secret --all").ok();
    let n = format!("{}-n", cluster.namespace());
    kubectl.run(&format!("create namespace {n}")).ok();
    kubectl.run(&format!("create cm -n {n} inside")).ok();
    kubectl
        .run(&format!("delete namespace {n} --timeout=120s"))
        .ok();
    let gone = kubectl.run(&format!("get cm -n {n} inside")).fails_with(1);
    assert!(gone.contains("not found"), "{gone}");
}

fn a_node_is_cordoned_uncordoned_and_tainted(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let node = &agent.node;
    assert_eq!(
        kubectl.run(&format!("cordon {node}")).ok(),
        format!("node/{node} cordoned\n")
    );
    assert!(
        kubectl
            .run(&format!("get node {node}"))
            .ok()
            .contains("Ready,SchedulingDisabled")
    );
    kubectl
        .run("run p --image=host --restart=Never --command -- true")
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.conditions[0].reason}=Unschedulable pod/p --timeout=60s")
        .ok();
    let why = kubectl
        .run("get pod p -o jsonpath={.status.conditions[0].message}")
        .ok();
    assert!(
        why.contains(" nodes are available: ") && why.contains("1 node(s) were unschedulable"),
        "{why}"
    );
    assert_eq!(
        kubectl.run(&format!("uncordon {node}")).ok(),
        format!("node/{node} uncordoned\n")
    );
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/p --timeout=60s")
        .ok();
    assert_eq!(
        kubectl
            .run(&format!("taint node {node} k=v:NoSchedule"))
            .ok(),
        format!("node/{node} tainted\n")
    );
    assert_eq!(
        kubectl.run(&format!("taint node {node} k-")).ok(),
        format!("node/{node} untainted\n")
    );
}

fn discovery_explains_itself(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let explained = kubectl.run("explain pod.spec.containers.image").ok();
    assert!(explained.contains("FIELD: image <string>"), "{explained}");
    assert!(
        kubectl
            .run("explain deployment --recursive")
            .ok()
            .contains("matchLabels")
    );
    let resources = kubectl.run("api-resources").ok();
    let pods = resources
        .lines()
        .find(|line| line.starts_with("pods "))
        .expect("a row for pods");
    assert_eq!(
        pods.split_whitespace().collect::<Vec<_>>(),
        ["pods", "po", "v1", "true", "Pod"]
    );
    assert!(
        kubectl
            .run("api-versions")
            .ok()
            .lines()
            .any(|line| line == "apps/v1")
    );
    assert!(
        kubectl
            .run("version")
            .ok()
            .contains("Server Version: v1.34")
    );
    assert_eq!(kubectl.run("auth can-i create pods").ok(), "yes\n");
    let who = kubectl.run("auth whoami").ok();
    assert!(
        who.contains("kubernetes-admin") && who.contains("system:masters"),
        "{who}"
    );
    let strict = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\nfoo: 1\n";
    let refused = kubectl
        .pipe("create --validate=strict -f -", strict)
        .fails_with(1);
    assert!(refused.contains("unknown field \"foo\""), "{refused}");
    let dry = kubectl
        .pipe("create --dry-run=server -f -", &config_map("1"))
        .ok();
    assert_eq!(dry, "configmap/c created (server dry run)\n");
    kubectl.run("get cm c").fails_with(1);
}
