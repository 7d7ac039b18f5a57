//! Volumes, seen from inside of containers and from the API.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::{Agent, Cluster, Kubectl, eventually, skip};

use crate::both::both;
use crate::clock::Clock;
use crate::env::{log_of, state_says};

both![
    what_files_hold_and_who_may_read_them,
    volumes_follow_what_they_show,
    tokens_are_renewed_while_the_pod_runs,
    empty_directories_are_shared_and_go_with_their_pod,
    a_volume_beyond_its_limit_evicts_its_pod,
    parts_of_volumes,
    paths_of_the_host,
    claims_that_are_bound_to_this_node,
    a_mount_namespace_of_ones_own,
    scripts_that_are_none,
    ten_thousand_files_of_a_config_map,
    mounts_that_cannot_be,
];

fn pod(name: &str, containers: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers: [{containers}]\n  volumes: [{volumes}]\n"
    )
}

fn shell(name: &str, script: &str, mounts: &str) -> String {
    let script = script.replace('\'', "''");
    format!(
        "{{name: {name}, image: host, command: [sh, -c, '{script}'], volumeMounts: [{mounts}]}}"
    )
}

fn event_says(kubectl: &Kubectl, name: &str, words: &[&str]) {
    eventually(&format!("an event of {name} says {words:?}"), || {
        let all = kubectl
            .run(&format!(
                "get events --field-selector involvedObject.name={name} -o jsonpath={{range.items[*]}}{{.type}}|{{.reason}}|{{.message}}{{\"\\n\"}}{{end}}"
            ))
            .ok();
        let mut lines = all.lines();
        if lines.any(|line| words.iter().all(|word| line.contains(word))) {
            Ok(())
        } else {
            Err(all)
        }
    });
}

/// The directory of a pod on this node.
fn pod_directory(agent: &Agent, kubectl: &Kubectl, name: &str) -> PathBuf {
    let uid = kubectl
        .run(&format!("get pod {name} -o jsonpath={{.metadata.uid}}"))
        .ok();
    let found = find(&agent.root(), &uid);
    found.unwrap_or_else(|| panic!("no directory of {uid} below {}", agent.root().display()))
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|it| it.is_dir())
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

fn what_files_hold_and_who_may_read_them(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl
        .run("create cm m --from-literal=a=A --from-literal=b=B")
        .ok();
    kubectl
        .run("create secret generic s --from-literal=k=hidden")
        .ok();
    let volumes = "{name: m, configMap: {name: m, defaultMode: 0o755, items: [{key: a, path: x/y, mode: 0o400}, {key: b, path: b}]}}, \
        {name: s, secret: {secretName: s, defaultMode: 0o400}}, \
        {name: o, configMap: {name: none, optional: true}}, \
        {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: c, resource: requests.cpu, divisor: 1m}}]}}, \
        {name: p, projected: {sources: [{serviceAccountToken: {path: t, audience: me, expirationSeconds: 700}}, {configMap: {name: m}}, {secret: {name: s}}, {downwardAPI: {items: [{path: called, fieldRef: {fieldPath: metadata.name}}]}}]}}";
    let mounts = "{name: m, mountPath: m}, {name: s, mountPath: s}, {name: o, mountPath: o}, {name: d, mountPath: d}, {name: p, mountPath: p}";
    let script = "cat m/x/y m/b; stat -Lc %a m/x/y m/b s/k; cat s/k; ls -A o | grep -v ^..data; cat d/labels; echo; cat d/cpu; echo; cat p/a p/k p/called; cut -d. -f2 p/t | tr _- /+ | base64 -d 2>/dev/null; true";
    let pod = pod("p", &shell("c", script, mounts), volumes)
        .replace(
            "metadata: {name: p}",
            "metadata: {name: p, labels: {app: x}}",
        )
        .replace(
            "{name: c, image",
            "{name: c, resources: {requests: {cpu: 250m}}, image",
        );
    let log = log_of(kubectl, "p", &pod);
    assert!(log.starts_with("AB400\n755\n400\nhidden"), "{log}");
    assert!(log.contains("app=\"x\"\n250\nAhiddenp"), "{log}");
    assert!(
        log.contains("\"aud\":[\"me\"]") || log.contains("\"aud\":\"me\""),
        "{log}"
    );
}

fn volumes_follow_what_they_show(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl.run("create cm m --from-literal=k=old").ok();
    kubectl
        .run("create secret generic s --from-literal=k=old")
        .ok();
    let volumes = "{name: m, configMap: {name: m}}, {name: s, secret: {secretName: s}}, {name: o, configMap: {name: later, optional: true}}, \
        {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}, \
        {name: p, projected: {sources: [{configMap: {name: m}}, {serviceAccountToken: {path: t}}]}}";
    let mounts = "{name: m, mountPath: m}, {name: m, mountPath: part, subPath: k}, {name: s, mountPath: s}, {name: o, mountPath: o}, {name: d, mountPath: d}, {name: p, mountPath: p}";
    // What a reader sees is the old or the new contents, never nothing.
    let script = "token=$(cat p/t); echo up; until grep -q new m/k && grep -q new s/k && grep -q new p/k && grep -qs come o/k && grep -q later d/labels; do cat m/k s/k p/k d/labels > seen || exit 7; done; cat part; test \"$token\" = \"$(cat p/t)\" && echo same-token";
    kubectl
        .pipe(
            "create -f -",
            &pod("p", &shell("c", script, mounts), volumes),
        )
        .ok();
    kubectl
        .run("wait --for=condition=Ready pod/p --timeout=60s")
        .ok();
    for kind in ["cm m", "secret generic s"] {
        let made = kubectl
            .run(&format!(
                "create {kind} --from-literal=k=new --dry-run=client -o yaml"
            ))
            .ok();
        kubectl.pipe("replace -f -", &made).ok();
    }
    kubectl.run("create cm later --from-literal=k=come").ok();
    kubectl.run("label pod p tag=later").ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/p --timeout=60s")
        .ok();
    assert_eq!(kubectl.run("logs p").ok(), "up\noldsame-token\n");
}

fn tokens_are_renewed_while_the_pod_runs(cluster: &Cluster) {
    let mut clock = Clock::new(cluster.dir());
    let agent = cluster.ready_node(clock.of(cluster.agent("n")));
    let kubectl = cluster.kubectl();
    let begun = Instant::now();
    let volumes = "{name: p, projected: {sources: [{serviceAccountToken: {path: t, audience: me, expirationSeconds: 600}}]}}";
    // Each token that is seen, once.
    let script = "while :; do now=$(cat p/t) || exit 7; test \"$now\" = \"$last\" || echo $now >> ~/tokens; last=$now; sleep 0.1; done";
    let spec = shell("c", script, "{name: p, mountPath: p}");
    kubectl.pipe("create -f -", &pod("p", &spec, volumes)).ok();
    cluster.is("pod/p", "{.status.phase}", "Running");
    let tokens = || {
        let text = std::fs::read_to_string(agent.home().join("tokens")).unwrap_or_default();
        let all = text.lines().map(str::to_owned).collect::<Vec<_>>();
        (all.first().cloned(), all.get(1).cloned())
    };
    let first = eventually("the pod sees its token", || tokens().0.ok_or(()));
    // The eight minutes until four fifths of its life are over pass faster on the agent's clock.
    clock.set_speed(20);
    let second = eventually("the pod sees another token", || tokens().1.ok_or(()));
    let passed = Duration::from_secs(clock.gained().unsigned_abs()) + begun.elapsed();
    clock.set_speed(1);
    assert!(
        passed >= Duration::from_secs(479),
        "it was renewed after {passed:?} of ten minutes"
    );
    assert_ne!(first, second);
    // The control plane takes the new one, for whom it was made out.
    let review = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": second, "audiences": ["me"]}});
    let line = "create -f - -o jsonpath={.status.authenticated}|{.status.user.username}|{.status.user.extra}";
    let said = kubectl.pipe(line, &review.to_string()).ok();
    let account = format!(
        "true|system:serviceaccount:{}:default|",
        cluster.namespace()
    );
    assert!(said.starts_with(&account), "{said}");
    let uid = cluster.get("pod/p", "{.metadata.uid}");
    assert!(said.contains(&uid), "{said}");
    assert_eq!(
        cluster.get("pod/p", "{.status.containerStatuses[0].restartCount}"),
        "0"
    );
}

fn empty_directories_are_shared_and_go_with_their_pod(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let containers = [
        shell("a", "until test -s d/x && test -s m/x; do :; done; cat d/x m/x; df --output=fstype m/. | tail -1", "{name: d, mountPath: d}, {name: m, mountPath: m}"),
        shell("b", "echo disk > d/x; echo memory > m/x", "{name: d, mountPath: d}, {name: m, mountPath: m}"),
    ]
    .join(", ");
    let volumes = "{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 1Gi}}";
    kubectl
        .pipe("create -f -", &pod("p", &containers, volumes))
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/p --timeout=60s")
        .ok();
    let log = kubectl.run("logs p -c a").ok();
    assert!(log.starts_with("disk\nmemory\n"), "{log}");
    let memory = pod_directory(&agent, kubectl, "p").join("volumes/m");
    match std::fs::read_link(&memory) {
        Ok(place) => {
            assert!(log.ends_with("tmpfs\n"), "{log}");
            assert!(place.join("x").exists());
            kubectl.run("delete pod p --timeout=60s").ok();
            eventually("memory is given back", || {
                if place.exists() {
                    Err(place.clone())
                } else {
                    Ok(())
                }
            });
        }
        Err(_) => event_says(kubectl, "p", &["Warning|Unsupported|", "/dev/shm"]),
    }
}

fn a_volume_beyond_its_limit_evicts_its_pod(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let container = shell(
        "c",
        "head -c 3000000 /dev/zero > d/x; sleep 1000",
        "{name: d, mountPath: d}",
    );
    kubectl
        .pipe(
            "create -f -",
            &pod("p", &container, "{name: d, emptyDir: {sizeLimit: 1Mi}}"),
        )
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Failed pod/p --timeout=60s")
        .ok();
    let said = kubectl
        .run("get pod p -o jsonpath={.status.reason}|{.status.message}")
        .ok();
    assert_eq!(
        said,
        "Evicted|Usage of EmptyDir volume \"d\" exceeds the limit \"1Mi\". "
    );
    event_says(kubectl, "p", &["Warning|Evicted|Usage of EmptyDir volume"]);
}

fn parts_of_volumes(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl
        .run("create cm m --from-literal=a.sh=A --from-literal=b=B")
        .ok();
    let volumes = "{name: d, emptyDir: {}}, {name: m, configMap: {name: m}}";
    let mounts = "{name: d, mountPath: one, subPath: x/y}, {name: d, mountPath: two, subPathExpr: $(NAME)/z}, {name: d, mountPath: all}, {name: m, mountPath: etc/a.sh, subPath: a.sh}";
    let script = "echo 1 > one/f; echo 2 > two/f; cat all/x/y/f all/p/z/f etc/a.sh";
    let container = shell("c", script, mounts).replace(
        "{name: c, image",
        "{name: c, env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], image",
    );
    let log = log_of(kubectl, "p", &pod("p", &container, volumes));
    assert_eq!(log, "1\n2\nA");
    for (name, mount, words) in [
        (
            "noname",
            "{name: d, mountPath: x, subPathExpr: $(NONE)/y}",
            "missing value for NONE",
        ),
        (
            "outside",
            "{name: h, mountPath: x, subPath: link/y}",
            "failed to",
        ),
    ] {
        let outside = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/", outside.path().join("link")).expect("a link");
        let volumes = format!(
            "{{name: d, emptyDir: {{}}}}, {{name: h, hostPath: {{path: {}}}}}",
            outside.path().display()
        );
        kubectl
            .pipe(
                "create -f -",
                &pod(name, &shell("c", "true", mount), &volumes),
            )
            .ok();
        state_says(kubectl, name, &["CreateContainerConfigError|", words]);
    }
}

fn paths_of_the_host(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let data = agent.home().join("data");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(
        data.join("run.sh"),
        "#!/bin/sh\ncat \"$(dirname \"$0\")/in\" > \"$(dirname \"$0\")/out\"\n",
    )
    .expect("a script");
    std::fs::write(data.join("in"), "data").expect("a file");
    let container = "{name: c, image: h, command: [sh], args: [run.sh], volumeMounts: [{name: h, mountPath: work}]}";
    let volume = format!(
        "{{name: h, hostPath: {{path: {}, type: Directory}}}}",
        data.display()
    );
    log_of(kubectl, "p", &pod("p", container, &volume));
    assert_eq!(
        std::fs::read_to_string(data.join("out")).expect("written"),
        "data"
    );
    kubectl.run("delete pod p --timeout=60s").ok();
    assert!(data.join("in").exists(), "what is the user's stays");
    for (name, path, kind, words) in [
        ("nodir", "none", "Directory", "none is not a directory"),
        ("nofile", "../data", "File", "is not a file"),
        ("nosocket", "in", "Socket", "in is not a socket file"),
        (
            "nodevice",
            "in",
            "CharDevice",
            "in is not a character device",
        ),
    ] {
        let path = if path == "../data" {
            data.clone()
        } else {
            data.join(path)
        };
        let volume = format!(
            "{{name: h, hostPath: {{path: {}, type: {kind}}}}}",
            path.display()
        );
        kubectl
            .pipe(
                "create -f -",
                &pod(
                    name,
                    &shell("c", "true", "{name: h, mountPath: x}"),
                    &volume,
                ),
            )
            .ok();
        event_says(
            kubectl,
            name,
            &[
                "Warning|FailedMount|MountVolume.SetUp failed for volume \"h\" : hostPath type check failed: ",
                words,
            ],
        );
    }
    // What was missing appears: the pod goes on by itself.
    std::fs::create_dir(data.join("none")).expect("a directory");
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/nodir --timeout=60s")
        .ok();
}

fn claims_that_are_bound_to_this_node(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let node = cluster.node("n");
    let space = cluster.namespace();
    let data = agent.home().join("disk");
    std::fs::create_dir(&data).expect("a directory");
    let unbound = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: unbound}\nspec: {accessModes: [ReadWriteOnce], storageClassName: '', resources: {requests: {storage: 1Gi}}}\n";
    kubectl.pipe("create -f -", unbound).ok();
    // The scheduler does not place such pods; who names the node is told by the node.
    let claiming = |name: &str, claim: &str| {
        let volume = format!("{{name: d, persistentVolumeClaim: {{claimName: {claim}}}}}");
        pod(
            name,
            &shell("c", "echo kept > d/x", "{name: d, mountPath: d}"),
            &volume,
        )
        .replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"))
    };
    kubectl
        .pipe("create -f -", &claiming("waits", "unbound"))
        .ok();
    event_says(
        kubectl,
        "waits",
        &[
            "Warning|FailedMount|Unable to attach or mount volumes: unmounted volumes=[d]",
            &format!("error processing PVC {space}/unbound: PVC is not bound"),
        ],
    );
    kubectl
        .pipe("create -f -", &claiming("lost", "nowhere"))
        .ok();
    event_says(
        kubectl,
        "lost",
        &["failed to fetch PVC from API server: persistentvolumeclaims \"nowhere\" not found"],
    );
    let uid = kubectl
        .run("get pvc unbound -o jsonpath={.metadata.uid}")
        .ok();
    let volume = format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: pv-{space}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], hostPath: {{path: {}, type: Directory}}, claimRef: {{namespace: {space}, name: unbound, uid: {uid}}}}}\n",
        data.display()
    );
    kubectl.pipe("create -f -", &volume).ok();
    kubectl
        .words(&[
            "patch",
            "pvc",
            "unbound",
            "--type=merge",
            "-p",
            &format!(r#"{{"spec":{{"volumeName":"pv-{space}"}}}}"#),
        ])
        .ok();
    kubectl
        .words(&[
            "patch",
            "pvc",
            "unbound",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"phase":"Bound"}}"#,
        ])
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/waits --timeout=60s")
        .ok();
    assert_eq!(
        std::fs::read_to_string(data.join("x")).expect("written"),
        "kept\n"
    );
}

fn a_mount_namespace_of_ones_own(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl.run("create cm m --from-literal=k=v").ok();
    let data = agent.home().join("data");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("f"), "host").expect("a file");
    let volumes = format!(
        "{{name: t, emptyDir: {{}}}}, {{name: m, configMap: {{name: m}}}}, {{name: h, hostPath: {{path: {}}}}}",
        data.display()
    );
    let mounts = "{name: t, mountPath: /tmp}, {name: m, mountPath: /etc/conf.d/deep/m}, {name: m, mountPath: /vk-cmd-test/k, subPath: k}, {name: h, mountPath: /opt, readOnly: true}, {name: t, mountPath: /vk-cmd-test/inner, subPath: i}";
    let script = "echo mine > /tmp/only-here; cat /etc/conf.d/deep/m/k /vk-cmd-test/k /opt/f; test -e /etc/passwd && echo passwd; (echo x > /opt/f) 2>/dev/null || echo read-only; echo in > /vk-cmd-test/inner/x; cat /tmp/i/x; id -u; pwd; ls /";
    let pod = pod("p", &shell("c", script, mounts), &volumes).replace(
        "metadata: {name: p}",
        "metadata: {name: p, annotations: {vk-cmd.io/mount-namespace: private}}",
    );
    kubectl.pipe("create -f -", &pod).ok();
    let phase = eventually("the pod ends or says why it cannot", || {
        let phase = kubectl.run("get pod p -o jsonpath={.status.phase}").ok();
        let state = crate::env::state(kubectl, "p");
        if phase == "Succeeded" || phase == "Failed" || state.contains("ConfigError") {
            Ok(format!("{phase} {state}"))
        } else {
            Err(state)
        }
    });
    if phase.contains("cannot give a container a mount namespace") {
        return skip!("no mount namespaces here: {phase}");
    }
    let log = kubectl.run("logs p").ok();
    assert!(phase.starts_with("Succeeded"), "{phase}: {log}");
    let directory = pod_directory(&agent, kubectl, "p");
    let uid = nix_uid();
    let head = format!(
        "vvhostpasswd\nread-only\nin\n{uid}\n{}\n",
        directory.join("containers/c").display()
    );
    assert!(log.starts_with(&head), "{log}");
    assert!(
        log.contains("\nvk-cmd-test\n") && log.contains("\nusr\n"),
        "{log}"
    );
    assert!(!Path::new("/tmp/only-here").exists() && !Path::new("/vk-cmd-test").exists());
    assert!(!Path::new("/etc/conf.d/deep").exists());
    assert_eq!(
        std::fs::read_to_string(data.join("f")).expect("a file"),
        "host"
    );
    assert_eq!(
        std::fs::read_to_string(directory.join("volumes/t/only-here")).expect("written"),
        "mine\n"
    );
}

fn nix_uid() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.expect("a uid").to_owned()
}

fn scripts_that_are_none(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl
        .words(&[
            "create",
            "cm",
            "plain",
            "--from-literal=run=echo no interpreter",
        ])
        .ok();
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bytes}\nbinaryData: {run: f0VMRgD/AAE=}\n";
    kubectl.pipe("create -f -", map).ok();
    let script = "{name: c, image: v, volumeMounts: [{name: v, mountPath: m}]}";
    for (name, volume, words) in [
        (
            "plain",
            "{name: v, configMap: {name: plain, defaultMode: 0o755}}",
            "exec format error",
        ),
        (
            "closed",
            "{name: v, configMap: {name: plain}}",
            "permission denied",
        ),
        (
            "bytes",
            "{name: v, configMap: {name: bytes, defaultMode: 0o755}}",
            "exec format error",
        ),
    ] {
        kubectl.pipe("create -f -", &pod(name, script, volume)).ok();
        state_says(kubectl, name, &["StartError|", words]);
    }
}

fn ten_thousand_files_of_a_config_map(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let mut map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: many}\ndata:\n".to_owned();
    for number in 0..10_000 {
        map.push_str(&format!("  f-{number}: x\n"));
    }
    kubectl.pipe("create -f -", &map).ok();
    let volumes = "{name: m, configMap: {name: many}}";
    let log = log_of(
        kubectl,
        "p",
        &pod(
            "p",
            &shell("c", "ls m | wc -l; cat m/f-9999", "{name: m, mountPath: m}"),
            volumes,
        ),
    );
    assert_eq!(log, "10000\nx");
}

fn mounts_that_cannot_be(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let volumes = "{name: a, emptyDir: {}}, {name: b, emptyDir: {}}";
    for (name, mounts, words) in [
        (
            "over",
            "{name: a, mountPath: x}, {name: b, mountPath: x/y}",
            "lies inside of the mount",
        ),
        (
            "reserved",
            "{name: a, mountPath: stdout}",
            "is the name of a file that this node writes",
        ),
    ] {
        kubectl
            .pipe(
                "create -f -",
                &pod(name, &shell("c", "true", mounts), volumes),
            )
            .ok();
        state_says(kubectl, name, &["CreateContainerConfigError|", words]);
        event_says(kubectl, name, &["Warning|Failed|", words]);
    }
    let nfs = "{name: a, nfs: {server: s, path: /}}";
    kubectl
        .pipe(
            "create -f -",
            &pod("nfs", &shell("c", "true", "{name: a, mountPath: x}"), nfs),
        )
        .ok();
    state_says(
        kubectl,
        "nfs",
        &[
            "CreateContainerConfigError|",
            "spec.volumes[0].nfs is not supported by this node",
        ],
    );
}
