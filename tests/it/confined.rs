//! Control groups and mount namespaces of containers, for a user without privileges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::{Kubectl, Up, UpBuilder, eventually, skip};

use crate::VK_CMD;
use crate::env::{log_of, state_says};

/// A user that nobody is.
const USER: u32 = 61_234;

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|it| it.stdout == b"0\n")
}

fn pod(name: &str, annotations: &str, container: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: host, {container}}}]\n  {more}\n"
    )
}

fn shell(script: &str) -> String {
    format!("command: [sh, -c, '{}']", script.replace('\'', "''"))
}

/// Where this host has control groups of version 2.
fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = mounts.lines().map(|it| it.split(' ').collect::<Vec<_>>());
    lines
        .find(|it| it.get(2) == Some(&"cgroup2"))
        .map(|it| it[1].into())
}

/// A group that was handed to [`USER`]; removed at the end.
struct Delegated(PathBuf);

impl Delegated {
    fn make() -> Option<Self> {
        let top = mounted()?;
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = top.join(format!("vk-cmd-test-{}-{number}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let made = Self(group);
        // What of these there is to be handed on; the group itself cannot otherwise be limited.
        for name in ["memory", "cpu", "pids"] {
            let _ = fs::write(top.join("cgroup.subtree_control"), format!("+{name}"));
        }
        for file in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ] {
            std::os::unix::fs::chown(made.0.join(file), Some(USER), Some(USER)).ok()?;
        }
        Some(made)
    }

    fn has(&self, controller: &str) -> bool {
        let text = fs::read_to_string(self.0.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().any(|it| it == controller)
    }

    /// Starts in the group, as its owner.
    fn up(&self) -> UpBuilder {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.0.display());
        Up::of(VK_CMD)
            .behind(&["sh", "-c", &enter, "sh"])
            .user(USER)
    }

    /// The groups of containers that there are.
    fn containers(&self) -> Vec<PathBuf> {
        let below = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let dirs = entries.filter(|it| it.path().is_dir());
            dirs.map(|it| it.path()).collect::<Vec<_>>()
        };
        let pods = below(&self.0.join("vk-cmd.pods"));
        pods.iter().flat_map(|pod| below(pod)).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        eventually("a group of the test goes", || {
            let mut all = self.containers();
            let pods = all.iter().filter_map(|it| it.parent());
            let pods: Vec<_> = pods.map(Path::to_owned).collect();
            all.extend(pods);
            all.extend([self.0.join("vk-cmd.pods"), self.0.join("vk-cmd.agent")]);
            all.push(self.0.clone());
            for dir in &all {
                let _ = fs::remove_dir(dir);
            }
            if self.0.exists() { Err(all) } else { Ok(()) }
        });
    }
}

macro_rules! delegated {
    () => {{
        if !is_root() {
            return skip!("handing a control group to another user takes root");
        }
        match Delegated::make() {
            Some(group) => group,
            None => return skip!("there are no control groups of version 2 here"),
        }
    }};
}

/// Makes sure that a process has ended; who inherits it may reap it when it likes.
fn gone(pid: &str) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|it| it.1.trim_start());
    assert!(state.is_none_or(|it| it.starts_with('Z')), "{stat}");
}

fn running(kubectl: &Kubectl, name: &str) {
    kubectl
        .run(&format!(
            "wait --for=condition=Ready pod/{name} --timeout=60s"
        ))
        .ok();
}

#[test]
fn a_container_has_a_group_of_its_own_that_ends_with_it() {
    let group = delegated!();
    let up = group.up().start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let script =
        "env -i setsid sleep 7777 & echo $! > daemon; cat /proc/self/cgroup; sleep infinity";
    kubectl
        .pipe("create -f -", &pod("p", "", &shell(script), ""))
        .ok();
    running(&kubectl, "p");
    let [dir] = &group.containers()[..] else {
        panic!("{:?}", group.containers());
    };
    let id = dir
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(kubectl.run("logs p").ok().contains(&id));
    // Further commands are among them; the supervisor is not.
    let said = kubectl.run("exec p -- cat /proc/self/cgroup").ok();
    assert!(said.contains(&id), "{said}");
    let daemon = kubectl.run("exec p -- cat daemon").ok();
    let listed = fs::read_to_string(dir.join("cgroup.procs")).expect("a group");
    assert!(listed.lines().any(|it| it == daemon.trim()), "{listed}");
    for pid in listed.lines() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!line.starts_with(b"vk-cmd\0shim"), "{pid}");
    }
    kubectl.run("delete pod p --timeout=60s").ok();
    gone(&daemon);
    assert!(group.containers().is_empty(), "{:?}", group.containers());
    // What a dead shim has left is found by its group.
    kubectl
        .pipe("create -f -", &pod("q", "", &shell(script), ""))
        .ok();
    running(&kubectl, "q");
    let daemon = kubectl.run("exec q -- cat daemon").ok();
    let parent = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields = stat.rsplit_once(')').expect("a stat").1.split(' ');
        fields.clone().nth(2).expect("a parent").to_owned()
    };
    let id = kubectl
        .run("get pod q -o jsonpath={.status.containerStatuses[0].containerID}")
        .ok();
    let main = id.rsplit('-').nth(1).expect("a pid").to_owned();
    let shim = parent(&main);
    let killed = Command::new("kill").args(["-9", &shim]).status();
    assert!(killed.expect("kill runs").success());
    state_says(&kubectl, "q", &["ContainerStatusUnknown"]);
    gone(&daemon);
    eventually("its group goes", || {
        let left = group.containers();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn groups_hold_memory_cpu_and_processes() {
    let group = delegated!();
    if !["memory", "cpu", "pids"].iter().all(|it| group.has(it)) {
        return skip!("this host keeps the controllers of memory, cpu and pids in version 1");
    }
    let up = group.up().args(&["--pod-max-pids", "40"]).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let limited = |limits: &str, script: &str| {
        format!("resources: {{limits: {{{limits}}}}}, {}", shell(script))
    };
    let create = |name: &str, container: &str| {
        kubectl
            .pipe("create -f -", &pod(name, "", container, ""))
            .ok();
    };
    // Taken and given back between two looks of any watcher.
    let script = "head -c 200m /dev/zero | tail -c 150m >/dev/null";
    create("greedy", &limited("memory: 40Mi", script));
    state_says(&kubectl, "greedy", &["OOMKilled"]);
    let code =
        "get pod greedy -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(kubectl.run(code).ok(), "137");
    create("half", &limited("cpu: 500m", "sleep infinity"));
    running(&kubectl, "half");
    let [dir] = &group.containers()[..] else {
        panic!("{:?}", group.containers());
    };
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file of the group");
    assert_eq!(read(dir.join("cpu.max")), "50000 100000\n");
    let pod = dir.parent().expect("the pod's").to_owned();
    assert_eq!(read(pod.join("pids.max")), "40\n");
    let warned = kubectl
        .run("get events --field-selector involvedObject.name=half,reason=Unsupported -o name")
        .ok();
    assert_eq!(warned, "");
    let script = "for i in $(seq 60); do sleep 60 & done";
    let log = log_of_failed(&kubectl, "forks", script);
    assert!(log.contains("fork"), "{log}");
}

/// The log of a container that ends with an error.
fn log_of_failed(kubectl: &Kubectl, name: &str, script: &str) -> String {
    kubectl
        .pipe("create -f -", &pod(name, "", &shell(script), ""))
        .ok();
    kubectl
        .run(&format!(
            "wait --for=jsonpath={{.status.phase}}=Failed pod/{name} --timeout=60s"
        ))
        .ok();
    kubectl.run(&format!("logs {name}")).ok()
}

#[test]
fn a_limit_of_processes_that_nobody_can_hold_is_named() {
    let up = Up::of(VK_CMD)
        .args(&["--cgroup", "off", "--pod-max-pids", "40"])
        .start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    kubectl
        .pipe("create -f -", &pod("p", "", &shell("true"), ""))
        .ok();
    eventually("the warning", || {
        let events = kubectl
            .run("get events --field-selector reason=Unsupported -o jsonpath={.items[*].message}")
            .ok();
        if events.contains("--pod-max-pids=40") {
            Ok(())
        } else {
            Err(events)
        }
    });
}

#[test]
fn a_user_without_privileges_gets_mount_namespaces_and_a_site_makes_them_the_default() {
    if !is_root() {
        return skip!("becoming another user takes root");
    }
    let up = Up::of(VK_CMD)
        .user(USER)
        .args(&["--mount-namespace", "private"])
        .start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    kubectl.run("create cm m --from-literal=k=v").ok();
    let volumes = "volumes: [{name: t, emptyDir: {}}, {name: m, configMap: {name: m}}, {name: h, hostPath: {path: /usr}}]";
    let mounts = "volumeMounts: [{name: t, mountPath: /tmp}, {name: m, mountPath: /etc/conf.d/deep}, {name: h, mountPath: /opt/usr, readOnly: true}, {name: m, mountPath: /tmp/inner}]";
    let script = "id -u; cat /etc/conf.d/deep/k /tmp/inner/k; echo; echo x > /tmp/only-here; ls /tmp; test -d /opt/usr/bin && echo usr; touch /opt/usr/x 2>&1 | grep -o Read-only";
    let container = format!("{mounts}, {}", shell(script));
    let manifest = pod("p", "", &container, volumes);
    kubectl.pipe("create -f -", &manifest).ok();
    let ended = eventually("the pod ends or says why it cannot", || {
        let state = crate::env::state(&kubectl, "p");
        if ["Completed|", "Error|", "ConfigError|"]
            .iter()
            .any(|it| state.contains(it))
        {
            Ok(state)
        } else {
            Err(state)
        }
    });
    if ended.contains("cannot give a container a mount namespace") {
        return skip!("no user namespaces here: {ended}");
    }
    let wanted = format!("{USER}\nvv\ninner\nonly-here\nusr\nRead-only\n");
    assert_eq!(kubectl.run("logs p").ok(), wanted, "{ended}");
    assert!(!Path::new("/tmp/only-here").exists() && !Path::new("/etc/conf.d/deep").exists());
    // A pod has the last word.
    let container = format!(
        "volumeMounts: [{{name: t, mountPath: /tmp}}], {}",
        shell("readlink tmp >/dev/null && echo link")
    );
    let annotation = "vk-cmd.io/mount-namespace: host";
    let manifest = pod("q", annotation, &container, volumes);
    assert_eq!(log_of(&kubectl, "q", &manifest), "link\n");
}

#[test]
fn processes_that_others_cannot_see_end_with_their_container() {
    if !is_root() {
        return skip!("mounting /proc takes root");
    }
    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let hides = Command::new("unshare")
        .args(["--mount", "sh", "-c", hide, "sh", "true"])
        .output();
    if !hides.is_ok_and(|it| it.status.success()) {
        return skip!("/proc cannot be mounted with hidepid here");
    }
    let up = Up::of(VK_CMD)
        .behind(&["unshare", "--mount", "sh", "-c", hide, "sh"])
        .user(USER)
        .start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let script = "test -e /proc/1 || echo hidden; env -i setsid sleep 7776 & echo $! > daemon; sleep infinity";
    kubectl
        .pipe("create -f -", &pod("p", "", &shell(script), ""))
        .ok();
    running(&kubectl, "p");
    assert_eq!(kubectl.run("logs p").ok(), "hidden\n");
    let daemon = kubectl.run("exec p -- cat daemon").ok();
    let process = Path::new("/proc").join(daemon.trim());
    assert!(process.exists());
    kubectl.run("delete pod p --timeout=60s").ok();
    gone(&daemon);
    // What they use is seen all the same: they are its own.
    let script = "head -c 300m /dev/zero | tail -c 200m | (sleep 60; cat) >/dev/null";
    let container = format!("resources: {{limits: {{memory: 48Mi}}}}, {}", shell(script));
    kubectl
        .pipe("create -f -", &pod("greedy", "", &container, ""))
        .ok();
    state_says(&kubectl, "greedy", &["OOMKilled"]);
}
