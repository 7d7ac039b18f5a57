//! The documents' semantics: every state of `docs/compat.md` that can occur, reached.

use testkit::{Agent, Cluster, Kubectl, eventually};

use crate::both::both;

both![
    the_end_of_a_process_is_the_documented_one,
    what_keeps_a_container_from_starting_is_the_documented_state,
    a_running_container_has_the_documented_state_and_conditions,
    a_pod_chooses_for_itself,
];

/// A pod whose main container `c` runs a script of the volume `s`. `before` is run by an
/// init container, in its own directory beside that of `c`; what it breaks in the volume stays
/// so, since nobody watches a map that cannot change.
fn pod(name: &str, before: &str, script: &str) -> String {
    let init = if before.is_empty() {
        String::new()
    } else {
        format!("  initContainers: [{{name: i, image: host, command: [sh, -c, '{before}']}}]\n")
    };
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\nimmutable: true\ndata:\n  s.sh: |\n    #!/bin/sh\n    {script}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{init}  containers:\n  \
         - {{name: c, image: s, command: [sh], volumeMounts: [{{name: s, mountPath: job/one}}]}}\n  \
         volumes: [{{name: s, configMap: {{name: {name}}}}}]\n"
    )
}

fn get(kubectl: &Kubectl, name: &str, path: &str) -> String {
    kubectl
        .run(&format!("get pod {name} -o jsonpath={{{path}}}"))
        .ok()
}

/// Exit code, reason and message of the end of `c`, once the pod has that phase.
#[track_caller]
fn end(kubectl: &Kubectl, name: &str, phase: &str) -> (String, String, String) {
    eventually(&format!("{name} is {phase}"), || {
        let found = get(kubectl, name, ".status.phase");
        if found == phase { Ok(()) } else { Err(found) }
    });
    let of = |field: &str| {
        let path = format!(".status.containerStatuses[0].state.terminated.{field}");
        get(kubectl, name, &path)
    };
    (of("exitCode"), of("reason"), of("message"))
}

#[track_caller]
fn ends(kubectl: &Kubectl, name: &str, phase: &str, code: &str, reason: &str, message: &str) {
    let wanted = (code.to_owned(), reason.to_owned(), message.to_owned());
    assert_eq!(end(kubectl, name, phase), wanted, "{name}");
}

fn documented(cluster: &Cluster) -> Agent {
    cluster.start_node(&["--compat", "virtual-kubelet-cmd"])
}

fn the_end_of_a_process_is_the_documented_one(cluster: &Cluster) {
    let _agent = documented(cluster);
    let kubectl = cluster.kubectl();
    for (name, script) in [
        ("completed", "echo fine"),
        ("stderr", "echo wrong >&2"),
        ("own-code", "echo wrong >&2; exit 7"),
        ("gone", "rm stderr"),
    ] {
        kubectl.pipe("create -f -", &pod(name, "", script)).ok();
    }
    // get-cont-completed
    let words = "Remaining processes are zombies";
    ends(kubectl, "completed", "Succeeded", "0", "completed", words);
    // get-cont-stderrNotEmpty
    let words = "The stderr file is not empty.";
    ends(kubectl, "stderr", "Failed", "3", "stderrNotEmpty", words);
    ends(kubectl, "own-code", "Failed", "7", "Error", "");
    // get-cont-getStderrFileInfoError
    let words = "Error getting stderr file info";
    ends(
        kubectl,
        "gone",
        "Failed",
        "2",
        "getStderrFileInfoError",
        words,
    );
    // It ran once, though its policy says Always.
    let policy = get(kubectl, "completed", ".spec.restartPolicy");
    let count = get(
        kubectl,
        "completed",
        ".status.containerStatuses[0].restartCount",
    );
    assert_eq!((&*policy, &*count), ("Always", "0"));
}

fn what_keeps_a_container_from_starting_is_the_documented_state(cluster: &Cluster) {
    let _agent = documented(cluster);
    let kubectl = cluster.kubectl();
    for (name, before) in [
        ("stdout-file", "mkdir -p ../c/stdout/x"),
        ("stderr-file", "mkdir -p ../c/stderr/x"),
        ("pgid-file", "mkdir -p ../c/pgid/x"),
        ("copy", "mkdir -p ../c/job; touch ../c/job/one"),
        ("read", "rm -rf ../../volumes/s; touch ../../volumes/s"),
    ] {
        kubectl.pipe("create -f -", &pod(name, before, "true")).ok();
    }
    let missing = pod("start", "", "true").replace("command: [sh]", "command: [no-such-program]");
    kubectl.pipe("create -f -", &missing).ok();
    // create-cont-createStdoutFileError
    let words = "failed to create stdout file";
    ends(
        kubectl,
        "stdout-file",
        "Failed",
        "1",
        "createStdoutFileError",
        words,
    );
    // create-cont-createStderrFileError
    let words = "failed to create stderr file";
    ends(
        kubectl,
        "stderr-file",
        "Failed",
        "1",
        "createStderrFileError",
        words,
    );
    // create-cont-writePgidError
    let (code, reason, message) = end(kubectl, "pgid-file", "Failed");
    assert_eq!((&*code, &*reason), ("1", "writePgidError"));
    assert!(
        message.starts_with("failed to write pgid to file /"),
        "{message}"
    );
    assert!(message.contains("/c/pgid; error: "), "{message}");
    // create-cont-copyFileError
    let (code, reason, message) = end(kubectl, "copy", "Failed");
    assert_eq!((&*code, &*reason), ("1", "copyFileError"));
    assert!(message.starts_with("Failed to copy file "), "{message}");
    assert!(message.contains("; error: "), "{message}");
    // create-cont-readDefaultVolDirError
    let (code, reason, message) = end(kubectl, "read", "Failed");
    assert_eq!((&*code, &*reason), ("1", "readDefaultVolDirError"));
    let words = "Failed to read default volume directory ";
    assert!(message.starts_with(words), "{message}");
    // create--cont-cmdStartError
    ends(
        kubectl,
        "start",
        "Failed",
        "1",
        "cmdStartError",
        "cmd.Start() failed",
    );
    let started = ".status.containerStatuses[0].state.terminated.startedAt";
    let start = get(kubectl, "start", ".status.startTime");
    assert_eq!(get(kubectl, "start", started), start);
}

fn a_running_container_has_the_documented_state_and_conditions(cluster: &Cluster) {
    let _agent = documented(cluster);
    let kubectl = cluster.kubectl();
    kubectl.pipe("create -f -", &pod("p", "", "sleep 600")).ok();
    kubectl
        .run("wait --for=condition=Ready pod/p --timeout=60s")
        .ok();
    // create-cont-containerStarted, get-cont-running
    let running = get(
        kubectl,
        "p",
        ".status.containerStatuses[0].state.running.startedAt",
    );
    assert!(!running.is_empty());
    let type_ = ".status.conditions[*].type";
    assert_eq!(get(kubectl, "p", type_), "PodScheduled Initialized Ready");
    let since = |type_: &str| {
        let path = format!(".status.conditions[?(@.type==\"{type_}\")].lastTransitionTime");
        get(kubectl, "p", &path)
    };
    let start = get(kubectl, "p", ".status.startTime");
    assert_eq!(since("PodScheduled"), start);
    assert_eq!(since("Initialized"), start);
    assert_eq!(since("Ready"), running);

    // create-cont-cmdWaitError: whoever waits for the process is gone.
    let uid = get(kubectl, "p", ".metadata.uid");
    let shim = eventually("the shim of the pod", || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok());
            if let Some(pid) = pid
                && line.contains("\0shim\0")
                && line.contains(&uid)
            {
                found.push(pid);
            }
        }
        match found[..] {
            [pid] => Ok(pid),
            _ => Err(found),
        }
    });
    let shim = nix::unistd::Pid::from_raw(shim);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    ends(
        kubectl,
        "p",
        "Failed",
        "1",
        "cmdWaitError",
        "cmd.Wait() failed",
    );
}

fn a_pod_chooses_for_itself(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let chosen = pod("chosen", "", "echo wrong >&2").replace(
        "kind: Pod\nmetadata: {name: chosen}",
        "kind: Pod\nmetadata: {name: chosen, annotations: {vk-cmd/compat: virtual-kubelet-cmd}}",
    );
    kubectl.pipe("create -f -", &chosen).ok();
    let plain = pod("plain", "", "echo wrong >&2")
        .replace("  containers:", "  restartPolicy: Never\n  containers:");
    kubectl.pipe("create -f -", &plain).ok();
    let words = "The stderr file is not empty.";
    ends(kubectl, "chosen", "Failed", "3", "stderrNotEmpty", words);
    ends(kubectl, "plain", "Succeeded", "0", "Completed", "");
}
