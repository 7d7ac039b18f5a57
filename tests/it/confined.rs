//! Control groups and mount namespaces of containers, for a user without privileges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::{Agent, AgentBuilder, Cluster, Kubectl, Plane, eventually, note, skip};

use crate::both::both;
use crate::env::{log_of, state_says};

both![
    a_container_has_a_group_of_its_own_that_ends_with_it,
    groups_hold_memory_cpu_and_processes,
    a_limit_of_processes_that_nobody_can_hold_is_named,
    a_user_without_privileges_gets_mount_namespaces_and_a_site_makes_them_the_default,
    processes_that_others_cannot_see_end_with_their_container,
];

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

    /// An agent that begins in the group, as its owner.
    fn agent(&self, cluster: &Cluster) -> AgentBuilder {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.0.display());
        cluster
            .agent("n")
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

/// Words of a script that leave a process behind and its number in the home.
fn daemon(name: &str) -> String {
    format!("env -i setsid sleep 7777 & echo $! > ~/{name}.new; mv ~/{name}.new ~/{name}.daemon")
}

fn daemon_of(agent: &Agent, name: &str) -> String {
    eventually("the daemon's number is told", || {
        fs::read_to_string(agent.home().join(format!("{name}.daemon")))
    })
}

fn running(kubectl: &Kubectl, name: &str) {
    kubectl
        .run(&format!(
            "wait --for=condition=Ready pod/{name} --timeout=60s"
        ))
        .ok();
}

fn a_container_has_a_group_of_its_own_that_ends_with_it(cluster: &Cluster) {
    let group = delegated!();
    let agent = cluster.ready_node(group.agent(cluster));
    let kubectl = cluster.kubectl();
    let script = |name| format!("{}; cat /proc/self/cgroup; sleep infinity", daemon(name));
    kubectl
        .pipe("create -f -", &pod("p", "", &shell(&script("p")), ""))
        .ok();
    running(kubectl, "p");
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
    if cluster.plane() == Plane::Embedded {
        let said = cluster.client("exec p -- cat /proc/self/cgroup").ok();
        assert!(said.contains(&id), "{said}");
    }
    let daemon = daemon_of(&agent, "p");
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
        .pipe("create -f -", &pod("q", "", &shell(&script("q")), ""))
        .ok();
    running(kubectl, "q");
    let daemon = daemon_of(&agent, "q");
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
    state_says(kubectl, "q", &["ContainerStatusUnknown"]);
    gone(&daemon);
    eventually("its group goes", || {
        let left = group.containers();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn groups_hold_memory_cpu_and_processes(cluster: &Cluster) {
    let group = delegated!();
    let held = |name: &&str| group.has(name);
    let (there, absent): (Vec<_>, Vec<_>) = ["memory", "cpu", "pids"].into_iter().partition(held);
    for name in absent {
        skip!("this host keeps the controller of {name} in version 1, or has none");
    }
    if there.is_empty() {
        return;
    }
    let mut agent = group.agent(cluster);
    if there.contains(&"pids") {
        agent = agent.args(&["--pod-max-pids", "40"]);
    }
    let _agent = cluster.ready_node(agent);
    for name in there {
        match name {
            "memory" => memory_is_held(cluster.kubectl()),
            "cpu" => cpu_is_held(cluster.kubectl(), &group),
            _ => processes_are_held(cluster.kubectl(), &group),
        }
        note(&format!("control groups of version 2 hold {name}"));
    }
}

fn limited(limits: &str, script: &str) -> String {
    format!("resources: {{limits: {{{limits}}}}}, {}", shell(script))
}

fn memory_is_held(kubectl: &Kubectl) {
    // Taken and given back between two looks of any watcher.
    let script = "head -c 200m /dev/zero | tail -c 150m >/dev/null";
    let container = limited("memory: 40Mi", script);
    kubectl
        .pipe("create -f -", &pod("greedy", "", &container, ""))
        .ok();
    state_says(kubectl, "greedy", &["OOMKilled"]);
    let code =
        "get pod greedy -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(kubectl.run(code).ok(), "137");
}

/// The group of the only container that runs, with what it holds.
fn group_of_one(kubectl: &Kubectl, group: &Delegated, name: &str, container: &str) -> PathBuf {
    kubectl
        .pipe("create -f -", &pod(name, "", container, ""))
        .ok();
    running(kubectl, name);
    let [dir] = &group.containers()[..] else {
        panic!("{:?}", group.containers());
    };
    // What a group holds is no cause for a warning.
    let warned = kubectl
        .run(&format!(
            "get events --field-selector involvedObject.name={name},reason=Unsupported -o name"
        ))
        .ok();
    assert_eq!(warned, "");
    dir.clone()
}

fn cpu_is_held(kubectl: &Kubectl, group: &Delegated) {
    let container = limited("cpu: 500m", "while :; do :; done");
    let dir = group_of_one(kubectl, group, "half", &container);
    let read = |file: &str| fs::read_to_string(dir.join(file)).expect("a file of the group");
    assert_eq!(read("cpu.max"), "50000 100000\n");
    eventually("the kernel holds it back", || {
        let stat = read("cpu.stat");
        let times = stat.lines().find_map(|it| it.strip_prefix("nr_throttled "));
        match times.and_then(|it| it.parse::<u64>().ok()) {
            Some(1..) => Ok(()),
            _ => Err(stat),
        }
    });
    kubectl.run("delete pod half --timeout=60s").ok();
}

fn processes_are_held(kubectl: &Kubectl, group: &Delegated) {
    let dir = group_of_one(kubectl, group, "few", &shell("sleep infinity"));
    let pod = dir.parent().expect("the pod's");
    let max = fs::read_to_string(pod.join("pids.max")).expect("a file of the group");
    assert_eq!(max, "40\n");
    let script = "for i in $(seq 60); do sleep 60 & done";
    let log = log_of_failed(kubectl, "forks", script);
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

fn a_limit_of_processes_that_nobody_can_hold_is_named(cluster: &Cluster) {
    let _agent = cluster.start_node(&["--cgroup", "off", "--pod-max-pids", "40"]);
    let kubectl = cluster.kubectl();
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

fn a_user_without_privileges_gets_mount_namespaces_and_a_site_makes_them_the_default(
    cluster: &Cluster,
) {
    if !is_root() {
        return skip!("becoming another user takes root");
    }
    let agent = cluster.agent("n").user(USER);
    let _agent = cluster.ready_node(agent.args(&["--mount-namespace", "private"]));
    let kubectl = cluster.kubectl();
    kubectl.run("create cm m --from-literal=k=v").ok();
    let volumes = "volumes: [{name: t, emptyDir: {}}, {name: m, configMap: {name: m}}, {name: h, hostPath: {path: /usr}}]";
    let mounts = "volumeMounts: [{name: t, mountPath: /tmp}, {name: m, mountPath: /etc/conf.d/deep}, {name: h, mountPath: /opt/usr, readOnly: true}, {name: m, mountPath: /tmp/inner}]";
    let script = "id -u; cat /etc/conf.d/deep/k /tmp/inner/k; echo; echo x > /tmp/only-here; ls /tmp; test -d /opt/usr/bin && echo usr; touch /opt/usr/x 2>&1 | grep -o Read-only";
    let container = format!("{mounts}, {}", shell(script));
    let manifest = pod("p", "", &container, volumes);
    kubectl.pipe("create -f -", &manifest).ok();
    let ended = eventually("the pod ends or says why it cannot", || {
        let state = crate::env::state(kubectl, "p");
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
    assert_eq!(log_of(kubectl, "q", &manifest), "link\n");
}

fn processes_that_others_cannot_see_end_with_their_container(cluster: &Cluster) {
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
    let agent = cluster
        .agent("n")
        .behind(&["unshare", "--mount", "sh", "-c", hide, "sh"])
        .user(USER);
    let agent = cluster.ready_node(agent);
    let kubectl = cluster.kubectl();
    let script = format!(
        "test -e /proc/1 || echo hidden; {}; sleep infinity",
        daemon("p")
    );
    kubectl
        .pipe("create -f -", &pod("p", "", &shell(&script), ""))
        .ok();
    running(kubectl, "p");
    assert_eq!(kubectl.run("logs p").ok(), "hidden\n");
    let daemon = daemon_of(&agent, "p");
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
    state_says(kubectl, "greedy", &["OOMKilled"]);
}
