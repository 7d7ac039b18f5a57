//! Pods with wrong values that an API server lets through: each ends in the reason and event of a kubelet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use testkit::{Cluster, Kubectl, Place, Plane, eventually, skip};

use crate::both::both;
use crate::env::{log_of, state_says};

both![
    commands_that_are_none,
    references_in_a_circle_stay_as_they_are_written,
    a_megabyte_of_environment_is_passed_on_or_explained,
    ports_that_are_none_and_ports_that_are_closed,
    a_container_whose_start_hook_fails_says_so_while_it_is_tried_again,
    a_container_is_stopped_by_the_signal_that_it_asks_for,
    a_volume_of_another_node_is_not_mounted,
    a_full_disk_is_named_at_each_write_and_what_runs_keeps_its_end,
    a_start_that_finds_no_room_for_any_of_its_files_is_tried_again,
    an_agent_that_finds_its_disk_full_says_so_and_waits,
];

fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 1, {spec} containers: [{{name: c, image: host, {container}}}]}}\n"
    )
}

fn create(kubectl: &Kubectl, name: &str, spec: &str, container: &str) {
    kubectl
        .pipe("create -f -", &pod(name, spec, container))
        .ok();
}

fn get(kubectl: &Kubectl, name: &str, path: &str) -> String {
    kubectl
        .run(&format!("get pod {name} -o jsonpath={{{path}}}"))
        .ok()
}

fn events(kubectl: &Kubectl, name: &str) -> String {
    kubectl
        .run(&format!(
            "get events --field-selector involvedObject.name={name} -o jsonpath={{range.items[*]}}{{.type}}|{{.reason}}|{{.message}}{{\"\\n\"}}{{end}}"
        ))
        .ok()
}

/// Waits until an event about a pod holds all of `words`.
fn event_says(kubectl: &Kubectl, name: &str, words: &[&str]) {
    eventually(&format!("an event of {name} says {words:?}"), || {
        let all = events(kubectl, name);
        let found = all
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        if found { Ok(()) } else { Err(all) }
    });
}

const NEVER: &str = "restartPolicy: Never,";
const STATE: &str = ".status.containerStatuses[0].state";

fn commands_that_are_none(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(kubectl, "nothing", NEVER, "args: []");
    event_says(kubectl, "nothing", &["Warning|Failed|", "no command"]);
    create(kubectl, "empty", NEVER, "command: ['']");
    event_says(kubectl, "empty", &["Warning|Failed|"]);
    for name in ["nothing", "empty"] {
        let reason = eventually("a reason", || {
            let reason = get(kubectl, name, &format!("{STATE}.*.reason"));
            if reason.is_empty() || reason == "ContainerCreating" {
                Err(reason)
            } else {
                Ok(reason)
            }
        });
        let known = ["CreateContainerError", "StartError"];
        assert!(known.contains(&&*reason), "{name}: {reason}");
    }
    // Bytes that no kernel runs, in a file that may be run.
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bytes}\nbinaryData: {run: f0VMRgD/AAE=}\n";
    kubectl.pipe("create -f -", map).ok();
    let volumes =
        "restartPolicy: Never, volumes: [{name: v, configMap: {name: bytes, defaultMode: 0o755}}],";
    let container = "command: [v/run], volumeMounts: [{name: v, mountPath: v}]";
    create(kubectl, "binary", volumes, container);
    state_says(kubectl, "binary", &["StartError|", "exec format error"]);
    event_says(
        kubectl,
        "binary",
        &["Warning|Failed|Error: ", "exec format error"],
    );
    assert_eq!(
        get(kubectl, "binary", &format!("{STATE}.terminated.exitCode")),
        "128"
    );
}

fn references_in_a_circle_stay_as_they_are_written(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let container = "command: [sh, -c, 'printf \"%s|%s|%s\" \"$A\" \"$B\" \"$1\"', sh, $(NONE)], env: [{name: A, value: $(B)}, {name: B, value: $(A)}]";
    // A names what comes later, so that it is no reference; B takes A's text.
    let log = log_of(kubectl, "p", &pod("p", NEVER, container));
    assert_eq!(log, "$(B)|$(B)|$(NONE)");
}

fn a_megabyte_of_environment_is_passed_on_or_explained(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let part = "x".repeat(100_000);
    let data: String = (0..9).map(|it| format!("  k{it}: {part}\n")).collect();
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata:\n{data}");
    kubectl.pipe("create -f -", &map).ok();
    let container = "command: [sh, -c, 'env | wc -c'], envFrom: [{configMapRef: {name: large}}]";
    let log = log_of(kubectl, "p", &pod("p", NEVER, container));
    assert!(
        log.trim().parse::<u64>().is_ok_and(|it| it > 900_000),
        "{log}"
    );
    let variables: Vec<_> = (0..4)
        .map(|it| format!("{{prefix: P{it}_, configMapRef: {{name: large}}}}"))
        .collect();
    let container = format!("command: ['true'], envFrom: [{}]", variables.join(", "));
    create(kubectl, "q", NEVER, &container);
    state_says(kubectl, "q", &["StartError|", "argument list too long"]);
    event_says(
        kubectl,
        "q",
        &["Warning|Failed|Error: ", "argument list too long"],
    );
}

fn ports_that_are_none_and_ports_that_are_closed(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    // A port that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|it| it.local_addr())
        .expect("a port")
        .port();
    let closed = format!(
        "command: [sleep, infinity], readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}"
    );
    create(kubectl, "closed", "", &closed);
    event_says(
        kubectl,
        "closed",
        &[
            "Warning|Unhealthy|Readiness probe failed: dial tcp",
            "connection refused",
        ],
    );
    let condition = ".status.conditions[?(@.type==\"Ready\")].status";
    assert_eq!(get(kubectl, "closed", condition), "False");
    let named = "command: [sleep, infinity], lifecycle: {postStart: {httpGet: {port: nosuch}}}";
    create(kubectl, "hook", NEVER, named);
    event_says(kubectl, "hook", &["Warning|FailedPostStartHook|"]);
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Failed pod/hook --timeout=60s")
        .ok();
}

fn a_container_whose_start_hook_fails_says_so_while_it_is_tried_again(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    // Fails once, then hangs: what is shown meanwhile is the failure.
    let seen = agent.home().join("seen").display().to_string();
    let hook = format!("test -e {seen} && exec sleep infinity; touch {seen}; exit 3");
    let container = format!(
        "command: [sleep, infinity], lifecycle: {{postStart: {{exec: {{command: [sh, -c, '{hook}']}}}}}}"
    );
    create(kubectl, "p", "", &container);
    state_says(kubectl, "p", &["PostStartHookError|"]);
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert!(!get(kubectl, "p", last).is_empty());
    event_says(kubectl, "p", &["Warning|FailedPostStartHook|"]);
    kubectl.run("delete pod p --timeout=60s").ok();
}

fn a_container_is_stopped_by_the_signal_that_it_asks_for(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    for (name, signal, trapped) in [("usr", "SIGUSR1", "USR1"), ("rt", "SIGRTMIN+3", "RTMIN+3")] {
        // `~/<pod>` is taken.
        let file = agent.home().join(format!("told-{name}"));
        let script = format!(
            "trap \"echo told > {}; exit 0\" {trapped}; trap \"\" TERM; touch {}.up; while :; do sleep 0.05; done",
            file.display(),
            file.display()
        );
        let container =
            format!("command: [bash, -c, '{script}'], lifecycle: {{stopSignal: {signal}}}");
        let spec = "os: {name: linux}, restartPolicy: Never,";
        let manifest = pod(name, spec, &container).replace("Seconds: 1,", "Seconds: 600,");
        kubectl.pipe("create -f -", &manifest).ok();
        let ready = file.with_extension("up");
        eventually("the trap is set", || {
            if ready.exists() {
                Ok(())
            } else {
                Err(crate::env::state(kubectl, name))
            }
        });
        // Within far less than the grace.
        kubectl
            .run(&format!("delete pod {name} --timeout=60s"))
            .ok();
        let told = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(told, "told\n", "{name}");
    }
}

fn a_volume_of_another_node_is_not_mounted(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let data = agent.home().join("data");
    std::fs::create_dir(&data).expect("a directory");
    let space = cluster.namespace();
    let claimed = |name: &str, value: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}-{space}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: '', claimRef: {{namespace: {space}, name: {name}}}, local: {{path: {}}}, nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/os, operator: In, values: [{value}]}}]}}]}}}}}}\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], storageClassName: '', volumeName: {name}-{space}, resources: {{requests: {{storage: 1Gi}}}}}}\n",
            data.display()
        )
    };
    let node = cluster.node("n");
    let uses = |name: &str| {
        let spec = format!(
            "nodeName: {node}, restartPolicy: Never, volumes: [{{name: v, persistentVolumeClaim: {{claimName: {name}}}}}],"
        );
        pod(
            name,
            &spec,
            "command: [sh, -c, 'echo here'], volumeMounts: [{name: v, mountPath: v}]",
        )
    };
    for (name, value) in [("near", "linux"), ("far", "windows")] {
        kubectl.pipe("create -f -", &claimed(name, value)).ok();
        if cluster.plane() == Plane::Embedded {
            bind(cluster, name);
        }
        cluster.is(&format!("pvc/{name}"), "{.status.phase}", "Bound");
        kubectl.pipe("create -f -", &uses(name)).ok();
    }
    event_says(
        kubectl,
        "far",
        &["Warning|FailedMount|", "no matching NodeSelectorTerms"],
    );
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/near --timeout=60s")
        .ok();
    assert_eq!(get(kubectl, "far", ".status.phase"), "Pending");
}

/// What the controller of claims does, where there is none.
fn bind(cluster: &Cluster, name: &str) {
    let kubectl = cluster.kubectl();
    let uid = cluster.get(&format!("pvc/{name}"), "{.metadata.uid}");
    let volume = format!("{name}-{}", cluster.namespace());
    let patch = format!("{{\"spec\":{{\"claimRef\":{{\"uid\":\"{uid}\"}}}}}}");
    kubectl
        .words(&["patch", "pv", &volume, "--type=merge", "-p", &patch])
        .ok();
    let patch = "{\"status\":{\"phase\":\"Bound\"}}";
    kubectl
        .words(&[
            "patch",
            "pvc",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            patch,
        ])
        .ok();
}

/// A small file system, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|it| it.success())
            .then(|| Self(at.to_owned()))
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("a file");
        let page = [0_u8; 4096];
        while std::io::Write::write_all(&mut file, &page).is_ok() {}
    }

    /// Leaves so many pages.
    fn fill_but(&self, pages: u64) {
        self.fill();
        let file = File::options().write(true).open(self.0.join("filler"));
        let file = file.expect("it was made");
        let length = file.metadata().expect("a file").len();
        file.set_len(length.saturating_sub(pages * 4096))
            .expect("a file");
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("it was there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn a_full_disk_is_named_at_each_write_and_what_runs_keeps_its_end(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let place = Arc::new(Place::new());
    let Some(disk) = Small::mount(&place.path().join("root")) else {
        return skip!("a small file system needs the right to mount");
    };
    let words = ["--eviction-hard", "memory.available<1Mi"];
    let _agent = cluster.restart_node(&place, &words);
    let gate = place.path().join("gate");
    let script = format!(
        "until test -e {}; do sleep 0.05; done; yes 0123456789 | head -c 8000000; exit 7",
        gate.display()
    );
    let container = format!("command: [sh, -c, '{script}']");
    create(kubectl, "runs", NEVER, &container);
    kubectl
        .run("wait --for=condition=Ready pod/runs --timeout=60s")
        .ok();
    disk.fill();
    // Its output finds no room any more, and its end does.
    std::fs::write(&gate, "").expect("another disk");
    let ended = format!("{STATE}.terminated.exitCode");
    eventually("the end is known", || {
        let code = get(kubectl, "runs", &ended);
        if code == "7" { Ok(()) } else { Err(code) }
    });
    // No room for a container's own directory, nor for volumes.
    create(kubectl, "bare", NEVER, "command: ['true']");
    kubectl.run("create cm m --from-literal=k=v").ok();
    let spec = "restartPolicy: Never, volumes: [{name: v, configMap: {name: m}}],";
    let container = "command: [cat, v/k], volumeMounts: [{name: v, mountPath: v}]";
    create(kubectl, "volume", spec, container);
    event_says(
        kubectl,
        "volume",
        &["Warning|Failed", "o space left on device"],
    );
    event_says(
        kubectl,
        "bare",
        &["Warning|Failed", "o space left on device"],
    );
    assert_eq!(get(kubectl, "volume", ".status.phase"), "Pending");
    // With room again they run, without anybody's help.
    disk.empty();
    for name in ["bare", "volume"] {
        kubectl
            .run(&format!(
                "wait --for=jsonpath={{.status.phase}}=Succeeded pod/{name} --timeout=120s"
            ))
            .ok();
    }
    assert_eq!(kubectl.run("logs volume").ok(), "v");
}

fn a_start_that_finds_no_room_for_any_of_its_files_is_tried_again(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let place = Arc::new(Place::new());
    let Some(disk) = Small::mount(&place.path().join("root")) else {
        return skip!("a small file system needs the right to mount");
    };
    let words = ["--eviction-hard", "memory.available<1Mi"];
    let _agent = cluster.restart_node(&place, &words);
    // Each page more lets a start come to its next file.
    let mut waited = Vec::new();
    for pages in 0..12 {
        let name = format!("room-{pages}");
        disk.fill_but(pages);
        create(kubectl, &name, NEVER, "command: [sh, -c, 'echo went well']");
        let waits = eventually("the start goes well or says what it waits for", || {
            let phase = get(kubectl, &name, ".status.phase");
            let told = events(kubectl, &name);
            let no_room = { told.lines() }.any(|it| {
                it.starts_with("Warning|Failed") && it.contains("o space left on device")
            });
            match phase.as_str() {
                "Succeeded" | "Failed" => Ok(false),
                _ if no_room => Ok(true),
                _ => Err((phase, told)),
            }
        });
        if waits {
            waited.push(pages);
        }
        disk.empty();
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Succeeded");
        let count = get(kubectl, &name, ".status.containerStatuses[0].restartCount");
        assert_eq!(count, "0", "{name}");
    }
    assert!(!waited.is_empty(), "the disk was never full");
}

fn an_agent_that_finds_its_disk_full_says_so_and_waits(cluster: &Cluster) {
    let place = Arc::new(Place::new());
    let Some(disk) = Small::mount(&place.path().join("root")) else {
        return skip!("a small file system needs the right to mount");
    };
    disk.fill();
    let agent = cluster.agent("n").at(&place);
    let mut agent = agent
        .args(&["--eviction-hard", "memory.available<1Mi"])
        .start();
    eventually("the agent says what it waits for", || {
        let log = agent.log();
        if log.contains("waiting for room") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert!(agent.runs(), "{}", agent.log());
    disk.empty();
    cluster.ready("n");
    create(cluster.kubectl(), "p", NEVER, "command: ['true']");
    cluster.is("pod/p", "{.status.phase}", "Succeeded");
}
