//! The entrypoint with a host end of its own: the agent has another home and no environment of the host's.

use std::{
    os::unix::{fs::symlink, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::{Cluster, eventually, skip};

use crate::VK_CMD;
use crate::both::both;

both![
    the_documented_one_liner_is_managed_on_the_host_of_a_serving_reader,
    the_documented_one_liner_is_managed_on_the_host_of_the_old_loop,
    a_pipe_without_a_reader_is_a_condition_and_an_event,
    a_port_that_is_taken_and_a_server_that_is_not_there_are_said,
];

const LOOP: &str = "while true; do eval \"$(cat $HOME/hostpipe/vk-cmd)\" > $HOME/hostpipe/pipeline.out \
                    2> $HOME/hostpipe/pipeline.err; done";

/// A host with a reader, and an agent in "a container": `<temp>/in` is its home, the host's is `<temp>/home`.
struct Site {
    temp: TempDir,
    node: String,
    reader: Option<Child>,
    agent: Option<Child>,
}

impl Site {
    fn new(cluster: &Cluster, serve: bool) -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        let host = temp.path().join("home/hostpipe");
        std::fs::create_dir_all(&host).expect("mkdir");
        std::fs::create_dir_all(temp.path().join("in")).expect("mkdir");
        symlink(&host, temp.path().join("in/hostpipe")).expect("symlink");
        std::fs::copy(cluster.kubeconfig(), host.join("kubeconfig")).expect("copied");
        let mut site = Self {
            temp,
            node: cluster.node("vk-lin"),
            reader: None,
            agent: None,
        };
        site.read(serve);
        site
    }

    fn home(&self) -> PathBuf {
        self.temp.path().join("home")
    }

    fn read(&mut self, serve: bool) {
        let mut command = if serve {
            let mut command = Command::new(VK_CMD);
            command.args(["hostpipe", "serve"]);
            command
        } else {
            let fifo = self.home().join("hostpipe/vk-cmd");
            if !fifo.exists() {
                nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
            }
            let mut command = Command::new("sh");
            command.args(["-c", LOOP]);
            command
        };
        let reader = command
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", std::env::var_os("PATH").expect("set"))
            .env("ON_THE_HOST", "yes")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a reader");
        self.reader = Some(reader);
        let fifo = self.home().join("hostpipe/vk-cmd");
        eventually("a FIFO", || fifo.exists().then_some(()).ok_or(()));
    }

    fn start_agent(&mut self, cluster: &Cluster) {
        let log = std::fs::File::create(self.temp.path().join("agent.log")).expect("a log");
        let agent = Command::new(VK_CMD)
            .args(["entrypoint", "--site", "jiriaf2301"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.temp.path().join("in"))
            .env("JOBNAME", &self.node)
            .env("KUBELET_PORT", "0")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("an agent");
        self.agent = Some(agent);
        cluster.own(&self.node);
    }

    /// A JSONPath of a condition of the node.
    fn hostpipe_ready(&self, cluster: &Cluster, field: &str) -> String {
        let path = format!("{{.status.conditions[?(@.type==\"HostpipeReady\")].{field}}}");
        cluster.get(&format!("node/{}", self.node), &path)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.temp.path().join("agent.log")).unwrap_or_default()
    }

    fn stop_reader(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            let _ = killpg(Pid::from_raw(reader.id().cast_signed()), Signal::SIGKILL);
            reader.wait().expect("our child");
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        self.stop_reader();
        testkit::end_processes_of(self.temp.path());
    }
}

fn pod(name: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         nodeSelector: {{kubernetes.io/role: agent}}\n  tolerations: [{{key: virtual-kubelet.io/provider, value: mock, \
         effect: NoSchedule}}]\n  containers:\n  - {{name: c1, image: host, command: [{command:?}]}}\n"
    )
}

fn wait(cluster: &Cluster, site: &Site, name: &str, phase: &str) {
    eventually("the pod's end", || {
        let found = cluster.get(&format!("pod/{name}"), "{.status.phase}");
        if found == phase {
            Ok(())
        } else {
            Err((found, site.log()))
        }
    });
}

fn site_runs_pods(cluster: &Cluster, serve: bool) {
    let kubectl = cluster.kubectl();
    let mut site = Site::new(cluster, serve);
    site.start_agent(cluster);
    eventually("the host answers", || {
        let found = site.hostpipe_ready(cluster, "status");
        if found == "True" {
            Ok(())
        } else {
            Err((found, site.log()))
        }
    });
    // A line of Table 3: run on the host, managed.
    let line = "echo 'echo $ON_THE_HOST $HOME; exit 7' > /root/hostpipe/vk-cmd";
    kubectl.pipe("apply -f -", &pod("p1", line)).ok();
    wait(cluster, &site, "p1", "Failed");
    let code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(kubectl.words(&["get", "pod", "p1", "-o", code]).ok(), "7");
    let home = site.home().display().to_string();
    assert_eq!(kubectl.run("logs p1").ok(), format!("yes {home}\n"));
    // A delete ends what runs on the host.
    kubectl
        .pipe(
            "apply -f -",
            &pod("p2", "echo here > $HOME/p2-ran; sleep 1000"),
        )
        .ok();
    eventually("it runs", || {
        site.home()
            .join("p2-ran")
            .exists()
            .then_some(())
            .ok_or(site.log())
    });
    kubectl.run("delete pod p2 --grace-period=1").ok();
    // The end of the job is the end of the agent.
    let mut agent = site.agent.take().expect("started");
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    assert!(agent.wait().expect("our child").success(), "{}", site.log());
    let sockets = site.home().join("hostpipe/.vk/s");
    let left: Vec<_> = std::fs::read_dir(sockets)
        .expect("listed")
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn the_documented_one_liner_is_managed_on_the_host_of_a_serving_reader(cluster: &Cluster) {
    site_runs_pods(cluster, true);
}

fn the_documented_one_liner_is_managed_on_the_host_of_the_old_loop(cluster: &Cluster) {
    site_runs_pods(cluster, false);
}

fn a_pipe_without_a_reader_is_a_condition_and_an_event(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let mut site = Site::new(cluster, false);
    site.stop_reader();
    site.start_agent(cluster);
    let message = eventually("the condition", || {
        let found = site.hostpipe_ready(cluster, "message");
        if found.is_empty() {
            Err(site.log())
        } else {
            Ok(found)
        }
    });
    assert!(message.contains("vk-cmd hostpipe serve"), "{message}");
    eventually("the event", || {
        // Events of nodes are in the namespace default.
        let events = kubectl
            .run(&format!(
                "get events -n default --field-selector involvedObject.name={} -o jsonpath={{.items[*].reason}}",
                site.node
            ))
            .stdout;
        if events.contains("HostpipeNoReader") {
            Ok(())
        } else {
            Err(events)
        }
    });
    // A reader that comes later is found.
    site.read(true);
    kubectl
        .pipe(
            "apply -f -",
            &pod("p1", "echo 'date' > $HOME/hostpipe/vk-cmd"),
        )
        .ok();
    wait(cluster, &site, "p1", "Succeeded");
}

#[test]
fn every_variable_of_the_tunnels_wrong_in_turn() {
    let temp = tempfile::tempdir().expect("a directory");
    for (name, value, problem) in [
        ("APISERVER_PORT", "0", "is not a port"),
        ("APISERVER_PORT", "70000", "is not a port"),
        ("KUBELET_PORT", "70000", "is not a port"),
        ("KUBELET_PORT", "0", "names no port for the reverse tunnel"),
        ("NODENAME", "Not_Valid", "cannot be the name of a node"),
        ("VKUBELET_POD_IP", "here", "is not an IP address"),
        ("VK_CMD_SITE", "jlab", "is no known site"),
        ("JIRIAF_WALLTIME", "abc", "is not a number of seconds"),
        ("JIRIAF_WALLTIME", "-60", "is negative"),
        ("JIRIAF_WALLTIME", "61", "is not a multiple of 60"),
        ("KUBECONFIG", "/no/such/kubeconfig", "cannot be used"),
        ("KUBECONFIG", "/", "cannot be used"),
    ] {
        let output = Command::new(VK_CMD)
            .arg("entrypoint")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", temp.path())
            .env("CONTROL_PLANE_IP", "localhost")
            .env("KUBELET_PORT", "10250")
            .env("VK_CMD_SITE", "local")
            .env(name, value)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {error}");
        for word in [value, problem, "environment"] {
            assert!(
                error.contains(word),
                "{name}={value}: no {word:?} in {error}"
            );
        }
    }
}

fn a_port_that_is_taken_and_a_server_that_is_not_there_are_said(cluster: &Cluster) {
    let temp = tempfile::tempdir().expect("a directory");
    let entrypoint = |kubeconfig: &std::path::Path, port: u16| {
        let mut command = Command::new(VK_CMD);
        command
            .arg("entrypoint")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", temp.path())
            .env("VK_CMD_SITE", "local")
            .env("NODENAME", "vk-bad")
            .env("KUBECONFIG", kubeconfig)
            .env("KUBELET_PORT", port.to_string())
            .stdin(Stdio::null());
        command
    };
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let output = entrypoint(cluster.kubeconfig(), port)
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{error}");
    assert!(
        error.contains(&port.to_string()) && error.contains("in use"),
        "{error}"
    );

    // One that points nowhere is waited for, and said.
    let text = std::fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
    let server = { text.lines() }.find(|line| line.trim().starts_with("server: "));
    let nowhere = text.replace(server.expect("a server"), "    server: https://127.0.0.1:1");
    let file = temp.path().join("nowhere");
    std::fs::write(&file, nowhere).expect("written");
    let log = temp.path().join("log");
    let mut agent = entrypoint(&file, 0)
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("it runs");
    eventually("it says what it waits for", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("waiting for the API server") {
            Ok(())
        } else {
            Err(said)
        }
    });
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    agent.wait().expect("our child");
}

#[test]
fn what_cannot_be_a_hostpipe_is_refused_with_the_mend() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = |name: &str| temp.path().join(name);
    let run = |words: &[&str], dir: PathBuf| {
        let output = Command::new(VK_CMD)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", temp.path())
            .env("NODENAME", "vk-bad")
            .env("VK_CMD_HOSTPIPE", dir)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{words:?}: {error}");
        error
    };
    // A plain file where the directory should be.
    std::fs::write(path("file"), "").expect("written");
    let error = run(&["entrypoint", "--site", "jiriaf2301"], path("file"));
    assert!(error.contains("cannot be used as the hostpipe"), "{error}");
    assert!(error.contains("vk-cmd hostpipe serve"), "{error}");
    let error = run(&["hostpipe", "serve"], path("file"));
    assert!(
        error.contains(path("file").to_str().expect("text")),
        "{error}"
    );
    // A plain file where the FIFO should be: somebody wrote before there was a pipe.
    std::fs::create_dir(path("dir")).expect("mkdir");
    std::fs::write(path("dir/vk-cmd"), "docker run x\n").expect("written");
    for words in [
        &["hostpipe", "serve"][..],
        &["hostpipe", "send", "--", "date"],
    ] {
        let error = run(words, path("dir"));
        assert!(error.contains("is a plain file and no FIFO"), "{error}");
    }
    let kept = std::fs::read_to_string(path("dir/vk-cmd")).expect("it stays");
    assert_eq!(kept, "docker run x\n");
    // Nobody's there.
    let error = run(&["hostpipe", "send", "--", "date"], path("missing"));
    assert!(error.contains("start `vk-cmd hostpipe serve`"), "{error}");
    if !nix::unistd::geteuid().is_root() {
        return skip!("only root can make another user's directory");
    }
    std::fs::create_dir(path("theirs")).expect("mkdir");
    let other = nix::unistd::Uid::from_raw(4711);
    nix::unistd::chown(&path("theirs"), Some(other), None).expect("chown");
    let error = run(&["hostpipe", "serve"], path("theirs"));
    assert!(error.contains("belongs to user 4711"), "{error}");
}
