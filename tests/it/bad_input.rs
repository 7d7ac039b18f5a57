//! Bad input ends in a clear message: no panic, nothing lost, no process left.

use std::io::{Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use testkit::{Cluster, Kubectl, Output, Place, Up, eventually, skip};

use crate::VK_CMD;
use crate::both::both;

both![
    a_pod_that_names_what_is_missing_waits_and_says_for_what,
    a_command_that_cannot_run_ends_the_container_with_the_cause,
    an_image_that_is_none_is_refused_or_explained,
    a_field_that_is_not_built_is_named_and_nothing_runs,
    a_users_directory_of_the_pods_name_stays_untouched,
    paths_that_lead_outside_are_refused,
    bodies_that_are_wrong_get_a_status,
];

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: c, {container}}}\n"
    )
}

/// The reason and message of the first container's waiting or terminated state.
fn state(kubectl: &Kubectl, name: &str) -> String {
    kubectl
        .run(&format!(
            "get pod {name} -o jsonpath={{.status.containerStatuses[0].state.*.reason}}|{{.status.containerStatuses[0].state.*.message}}"
        ))
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

fn state_says(kubectl: &Kubectl, name: &str, words: &[&str]) {
    eventually(&format!("the state of {name} says {words:?}"), || {
        let state = state(kubectl, name);
        if words.iter().all(|word| state.contains(word)) {
            Ok(())
        } else {
            Err(state)
        }
    });
}

fn a_pod_that_names_what_is_missing_waits_and_says_for_what(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let volume = |name: &str, map: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: c, image: v, volumeMounts: [{{name: v, mountPath: m}}]}}\n  volumes:\n  - {{name: v, configMap: {map}}}\n"
        )
    };
    kubectl
        .pipe("create -f -", &volume("absent", "{name: nowhere}"))
        .ok();
    event_says(
        kubectl,
        "absent",
        &["Warning|FailedMount", "configmap \"nowhere\" not found"],
    );
    kubectl.run("create cm here --from-literal=a=1").ok();
    kubectl
        .pipe(
            "create -f -",
            &volume("nokey", "{name: here, items: [{key: b, path: b}]}"),
        )
        .ok();
    event_says(
        kubectl,
        "nokey",
        &[
            "Warning|FailedMount",
            "references non-existent config key: b",
        ],
    );
    // What was missing appears: the pod goes on by itself.
    kubectl
        .words(&[
            "create",
            "cm",
            "nowhere",
            "--from-literal=s=#!/bin/sh\necho found",
        ])
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/absent --timeout=60s")
        .ok();
    assert_eq!(kubectl.run("logs absent").ok(), "found\n");
}

fn a_command_that_cannot_run_ends_the_container_with_the_cause(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let plain = node.home().join("plain");
    std::fs::write(&plain, "no program").expect("a file");
    kubectl
        .pipe(
            "create -f -",
            &pod("missing", "image: host, command: [no-such-program]"),
        )
        .ok();
    state_says(kubectl, "missing", &["no-such-program"]);
    event_says(kubectl, "missing", &["Warning|Failed", "no-such-program"]);
    let command = format!("image: host, command: [{}]", plain.display());
    kubectl.pipe("create -f -", &pod("plain", &command)).ok();
    state_says(kubectl, "plain", &["permission denied"]);
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Failed pod/plain --timeout=60s")
        .ok();
}

fn an_image_that_is_none_is_refused_or_explained(cluster: &Cluster) {
    let site = tempfile::tempdir().expect("a directory");
    let file = site.path().join("bare.yaml");
    let profile = "name: bare\nbase: local\nengine: {kind: none}\n";
    std::fs::write(&file, profile).expect("a profile");
    let _node = cluster.start_node(&["--site-file", file.to_str().expect("text")]);
    let kubectl = cluster.kubectl();
    let refused = kubectl
        .pipe("create -f -", &pod("p", "command: ['true']"))
        .fails_with(1);
    assert!(
        refused.contains("spec.containers[0].image: Required value"),
        "{refused}"
    );
    kubectl
        .pipe(
            "create -f -",
            &pod("engine", "image: 'docker.io/library/busybox:1'"),
        )
        .ok();
    state_says(kubectl, "engine", &["ErrImageNeverPull"]);
    kubectl.run("delete pod engine --timeout=60s").ok();
}

fn a_field_that_is_not_built_is_named_and_nothing_runs(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let marker = node.home().join("ran");
    let container = format!(
        "image: host, command: [touch, {}], securityContext: {{privileged: true}}",
        marker.display()
    );
    kubectl.pipe("create -f -", &pod("mighty", &container)).ok();
    state_says(
        kubectl,
        "mighty",
        &["CreateContainerConfigError", "privileged"],
    );
    event_says(kubectl, "mighty", &["Warning|", "privileged"]);
    assert_eq!(
        kubectl
            .run("get pod mighty -o jsonpath={.status.phase}")
            .ok(),
        "Pending"
    );
    assert!(!marker.exists());
}

fn a_users_directory_of_the_pods_name_stays_untouched(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let own = node.home().join("thesis");
    std::fs::create_dir(&own).expect("a directory");
    std::fs::write(own.join("chapter1"), "years of work").expect("a file");
    kubectl
        .pipe(
            "create -f -",
            &pod(
                "thesis",
                "image: host, command: [sh, -c, 'echo x > made; ls']",
            ),
        )
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/thesis --timeout=60s")
        .ok();
    let listing = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .expect("it is there")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(listing(&own), ["chapter1"]);
    kubectl.run("delete pod thesis").ok();
    assert_eq!(listing(&own), ["chapter1"]);
    assert_eq!(
        std::fs::read_to_string(own.join("chapter1")).expect("it is there"),
        "years of work"
    );
}

fn paths_that_lead_outside_are_refused(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let mount = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: v, volumeMounts: [{name: v, mountPath: ../../up}]}\n  volumes:\n  - {name: v, configMap: {name: m}}\n";
    kubectl.run("create cm m --from-literal=a=1").ok();
    let created = kubectl.pipe("create -f -", mount);
    if created.code == 0 {
        state_says(kubectl, "p", &["CreateContainerConfigError", "../../up"]);
    } else {
        assert!(created.stderr.contains("mountPath"), "{created:#?}");
    }
    let key = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: k}\ndata: {../escape: x}\n";
    let refused = kubectl.pipe("create -f -", key).fails_with(1);
    assert!(
        refused.contains("a valid config key must consist of alphanumeric characters"),
        "{refused}"
    );
}

fn bodies_that_are_wrong_get_a_status(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let raw = |body: &str| {
        kubectl.pipe(
            &format!(
                "create --raw /api/v1/namespaces/{}/configmaps -f -",
                cluster.namespace()
            ),
            body,
        )
    };
    for (body, words) in [
        ("{", "unexpected end of JSON input"),
        (
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":7}}",
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"x\"}}",
            "cannot be handled as a ConfigMap",
        ),
    ] {
        let refused = raw(body).fails_with(1);
        assert!(refused.contains(words), "{body}: {refused}");
    }
    let big = format!(
        "{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"k\":\"{}\"}}}}",
        "x".repeat(10 << 20)
    );
    let refused = raw(&big).fails_with(1);
    assert!(
        refused.contains("limit is 3145728") || refused.contains("too large"),
        "{refused}"
    );
    let medium = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: medium}}\ndata: {{k: {}}}\n",
        "x".repeat(2 << 20)
    );
    let refused = kubectl.pipe("create -f -", &medium).fails_with(1);
    assert!(refused.contains("Too long"), "{refused}");
    // And the server is as well as before.
    assert_eq!(kubectl.run("get --raw /readyz").ok(), "ok");
}

#[test]
fn a_watch_from_long_ago_is_told_so() {
    let up = Up::of(VK_CMD).args(&["--no-node"]).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    kubectl.run("create cm a").ok();
    let (_, place) = up.interrupt();
    // After a restart the history before it is gone.
    let up = Up::of(VK_CMD).args(&["--no-node"]).at(&place).start();
    let kubectl = up.kubectl().expect("it was there before");
    let said = kubectl.run("get --raw /api/v1/configmaps?watch=true&resourceVersion=2");
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(
        all.contains("\"reason\":\"Expired\"") || all.contains("too old resource version"),
        "{said:#?}"
    );
}

#[test]
fn half_open_connections_do_not_keep_others_out() {
    let up = Up::of(VK_CMD).args(&["--no-node"]).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let config = std::fs::read_to_string(&up.kubeconfig).expect("the kubeconfig");
    let address = config
        .lines()
        .find_map(|line| line.split_once("https://"))
        .expect("a server")
        .1
        .trim_matches(['"', ' '])
        .to_owned();
    let wanted: u64 = 10_000;
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("a limit");
    if hard < wanted + 200 {
        return skip!(
            "10,000 connections need as many open files, and this user may have {hard} (was {soft})"
        );
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)
        .expect("it is the hard limit");
    let target = address.parse().expect("an address");
    let mut open = Vec::new();
    let mut refused = 0;
    while (open.len() as u64) < wanted && refused < 5 {
        // Where the server's queue is full, the kernel asks again after a second.
        match TcpStream::connect_timeout(&target, std::time::Duration::from_secs(5)) {
            Ok(stream) => open.push(stream),
            Err(_) => refused += 1,
        }
    }
    assert!(open.len() > 1000, "only {} connections", open.len());
    assert_eq!(
        kubectl.run("get --raw /readyz --request-timeout=30s").ok(),
        "ok"
    );
    kubectl.run("create cm still-works").ok();
    drop(open);
}

fn fails(mut up: testkit::UpBuilder, code: i32) -> String {
    Output::of(&mut up.command()).fails_with(code)
}

#[test]
fn a_state_directory_that_cannot_be_used_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let up = Up::of(VK_CMD).args(&["--state-dir", file.to_str().expect("text")]);
    let said = Output::of(
        std::process::Command::new(VK_CMD)
            .args(["up", "--state-dir"])
            .arg(&file),
    )
    .fails_with(2);
    assert!(
        said.contains("--state-dir") && said.contains("is not a directory"),
        "{said}"
    );
    drop(up);
    let said =
        Output::of(std::process::Command::new(VK_CMD).args(["up", "--state-dir", "/proc/nowhere"]))
            .fails_with(2);
    assert!(
        said.contains("\"/proc/nowhere\"") && said.contains("cannot be made"),
        "{said}"
    );
}

#[test]
fn a_second_up_on_the_same_state_is_refused() {
    let up = Up::of(VK_CMD).args(&["--no-node"]).start();
    let said = fails(Up::of(VK_CMD).args(&["--no-node"]).at(&up.place()), 1);
    let pid = up.pid().to_string();
    assert!(
        said.contains("is in use by process") && said.contains(&pid),
        "{said}"
    );
}

/// The newest log of the store.
fn log_file(state: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![state.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("it is there").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if name.starts_with("log-") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.pop().expect("a store has a log")
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let up = Up::of(VK_CMD).args(&["--no-node"]).start();
    let place = up.kill();
    let log = log_file(&place.path().join("state"));
    let mut file = std::fs::File::options()
        .write(true)
        .open(&log)
        .expect("the log");
    let length = file.metadata().expect("the log").len();
    file.seek(SeekFrom::Start(length / 2)).expect("the log");
    file.write_all(b"\xff\x00garbage\xff").expect("the log");
    drop(file);
    let before = std::fs::read(&log).expect("the log");
    let said = fails(Up::of(VK_CMD).at(&place), 1);
    assert!(
        said.contains("is damaged at byte") && said.contains("log-"),
        "{said}"
    );
    assert_eq!(std::fs::read(&log).expect("the log"), before);
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let place = std::sync::Arc::new(Place::new());
    let state = place.path().join("state");
    std::fs::create_dir(&state).expect("a directory");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"])
        .arg(&state)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        return skip!("a small file system needs the right to mount");
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(&self.0)
                .status();
        }
    }
    let _unmount = Unmount(state.clone());
    let up = Up::of(VK_CMD).args(&["--no-node"]).at(&place).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let map = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {}}}\n",
            "x".repeat(400_000)
        )
    };
    let mut acknowledged = Vec::new();
    let refusal = loop {
        let name = format!("m{}", acknowledged.len());
        let said = kubectl.pipe("create -f -", &map(&name));
        if said.code != 0 {
            break said.stderr;
        }
        acknowledged.push(name);
        assert!(acknowledged.len() < 40, "the disk never fills");
    };
    assert!(refusal.contains("no space is left"), "{refusal}");
    let listed = kubectl.run("get cm -o name").ok();
    for name in &acknowledged {
        assert!(
            listed.contains(&format!("configmap/{name}\n")),
            "{name} is lost"
        );
    }
    let place = up.kill();
    let up = Up::of(VK_CMD).args(&["--no-node"]).at(&place);
    // The disk is full still: what was acknowledged is there all the same, once there is space.
    std::process::Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(&state)
        .status()
        .expect("mount runs");
    let up = up.start();
    let kubectl = up.kubectl().expect("it was there before");
    let listed = kubectl.run("get cm -o name").ok();
    for name in &acknowledged {
        assert!(
            listed.contains(&format!("configmap/{name}\n")),
            "{name} is lost"
        );
    }
    kubectl.pipe("create -f -", &map("later")).ok();
}
