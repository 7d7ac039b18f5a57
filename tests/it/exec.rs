//! `kubectl exec`, `cp` and `attach`: through the API server to a container.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use testkit::{Cluster, Kubectl, Plane, eventually};

use crate::VK_CMD;
use crate::both::both;

both![
    a_command_runs_in_a_container_with_its_streams_and_its_exit_code,
    files_are_copied_both_ways,
    what_cannot_be_run_is_told_as_by_a_cluster,
    attach_shows_what_comes_until_the_end,
    a_person_at_a_terminal_gets_one_in_the_container,
    what_is_typed_reaches_the_container
];

fn run(kubectl: &Kubectl, name: &str, command: &str) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{restartPolicy: Never, containers: [{{name: c, image: host, command: [bash, -c, \"{command}\"], env: [{{name: WHO, value: me}}]}}]}}\n"
    );
    kubectl.pipe("create -f -", &pod).ok();
    kubectl
        .run(&format!(
            "wait --for=condition=Ready pod/{name} --timeout=60s"
        ))
        .ok();
}

fn a_command_runs_in_a_container_with_its_streams_and_its_exit_code(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run(kubectl, "p", "sleep infinity");
    let script = "echo $WHO; pwd; echo no >&2; exit 7";
    let done = kubectl.words(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stdout.starts_with("me\n/"), "{done:?}");
    assert!(done.stderr.contains("no\n"), "{done:?}");
    assert!(
        done.stderr.contains("command terminated with exit code 7"),
        "{done:?}"
    );
    // Standard input, and its end.
    let text: String = (0..40_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let done = kubectl.pipe("exec -i p -- cat", &text);
    assert!(done.ok() == text);
    // More than any buffer on the way holds.
    let done = kubectl.words(&[
        "exec",
        "p",
        "--",
        "sh",
        "-c",
        "yes 0123456 | head -c 8000000",
    ]);
    assert_eq!(done.ok().len(), 8_000_000);
    // It runs among the container's processes and goes with them.
    let script =
        "setsid sh -c 'echo $$ > pid; exec sleep infinity' & until [ -s pid ]; do :; done; cat pid";
    let pid = kubectl.words(&["exec", "p", "--", "sh", "-c", script]).ok();
    let process = std::path::Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    kubectl
        .run("delete pod p --grace-period=1 --timeout=60s")
        .ok();
    assert!(!process.exists());
}

fn files_are_copied_both_ways(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run(kubectl, "p", "sleep infinity");
    let (from, back) = (cluster.dir().join("from"), cluster.dir().join("back"));
    let text: Vec<u8> = (0..500_000_u32)
        .map(|number| (number % 253) as u8)
        .collect();
    std::fs::write(&from, &text).expect("a file");
    let words = |from: &str, to: &str| ["cp".to_owned(), from.to_owned(), to.to_owned()];
    let local = |path: &std::path::Path| path.display().to_string();
    kubectl.words(&words(&local(&from), "p:copied")).ok();
    kubectl.words(&words("p:copied", &local(&back))).ok();
    assert!(std::fs::read(&back).expect("a file") == text);
}

fn what_cannot_be_run_is_told_as_by_a_cluster(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run(kubectl, "p", "sleep infinity");
    let says = |line: &str, words: &str| {
        let done = kubectl.run(line);
        assert_ne!(done.code, 0, "{done:?}");
        assert!(done.stderr.contains(words), "{done:?}");
    };
    says(
        "exec p -- no-such-program",
        "executable file not found in $PATH",
    );
    says(
        "exec p -c other -- true",
        "container other is not valid for pod p",
    );
    says("exec nobody -- true", "pods \"nobody\" not found");
    run(kubectl, "over", "sleep 0.5");
    eventually("the pod ends", || {
        let phase = kubectl.run("get pod over -o jsonpath={.status.phase}").ok();
        if phase == "Succeeded" {
            Ok(())
        } else {
            Err(phase)
        }
    });
    let done = kubectl.run("exec over -- true");
    assert_ne!(done.code, 0, "{done:?}");
    // Who may read streams may not begin them. A real server minds that from v1.35 on.
    if cluster.plane() == Plane::Real {
        return;
    }
    let account = format!("{}:reader", cluster.namespace());
    for line in [
        "create serviceaccount reader",
        "create role reader --verb=get,list --resource=pods,pods/exec",
        &format!("create rolebinding reader --role=reader --serviceaccount={account}"),
    ] {
        kubectl.run(line).ok();
    }
    says(
        &format!("exec p --as=system:serviceaccount:{account} -- true"),
        "cannot create resource \"pods/exec\"",
    );
}

fn attach_shows_what_comes_until_the_end(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let (gate, shown) = (cluster.dir().join("gate"), cluster.dir().join("shown"));
    let script = format!(
        "echo before; until [ -e {} ]; do echo tick; sleep 0.05; done; echo after; echo wrong >&2",
        gate.display()
    );
    run(kubectl, "p", &script);
    let file = File::create(&shown).expect("a file");
    let attached = kubectl
        .command(&["attach", "p"])
        .stdout(file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let read = || std::fs::read_to_string(&shown).expect("a file");
    eventually("somebody is attached", || {
        let shown = read();
        if shown.contains("tick\n") {
            Ok(())
        } else {
            Err(shown)
        }
    });
    std::fs::write(&gate, "").expect("a file");
    let done = attached.wait_with_output().expect("it is our child");
    assert!(read().contains("after\n"), "{}", read());
    assert!(!read().contains("before"), "{}", read());
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(stderr.contains("wrong\n"), "{stderr}");
}

/// A command at a terminal of its own, as a person runs it.
struct Typed {
    child: Child,
    keys: File,
    screen: Arc<Mutex<Vec<u8>>>,
    terminal: String,
}

impl Typed {
    /// Starts it at a terminal of 33 lines of 111 characters.
    fn start(command: &Command) -> Self {
        let size = Winsize {
            ws_row: 33,
            ws_col: 111,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).expect("a terminal");
        let terminal = nix::unistd::ttyname(&pair.slave).expect("its name");
        let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let mut words = Command::new("setsid");
        words
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(end())
            .stdout(end())
            .stderr(end());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => words.env(name, value),
                None => words.env_remove(name),
            };
        }
        let child = words.spawn().expect("setsid runs");
        drop(pair.slave);
        let keys = File::from(pair.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (keys.try_clone().expect("a descriptor"), screen.clone());
        // Ends with the last that has the terminal open.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                to.lock()
                    .expect("nobody panics with it")
                    .extend_from_slice(&buffer[..length]);
            }
        });
        Self {
            child,
            keys,
            screen,
            terminal: terminal.display().to_string(),
        }
    }

    fn shows(&self, words: &str) {
        eventually(&format!("the screen shows {words:?}"), || {
            let screen = self.screen.lock().expect("nobody panics with it");
            let screen = String::from_utf8_lossy(&screen).into_owned();
            if screen.contains(words) {
                Ok(())
            } else {
                Err(screen)
            }
        });
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// One change: of two at once kubectl may drop the second.
    fn resize(&self, lines: u16) {
        let words = ["rows", &lines.to_string()];
        let done = Command::new("stty")
            .args(["-F", &self.terminal])
            .args(words)
            .status();
        assert!(done.expect("stty runs").success());
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().expect("it is our child").code()
    }
}

/// The program's own client, not yet run.
fn client(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = Command::new(VK_CMD);
    command
        .args(words)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HOME", cluster.dir());
    command
}

fn a_person_at_a_terminal_gets_one_in_the_container(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    run(kubectl, "p", "sleep infinity");
    // The size comes a moment after the start.
    let script = "tty; until [ \"$(stty size)\" = '33 111' ]; do sleep 0.05; done; \
                  trap 'stty size; exit 3' WINCH; read word; echo got-$word; while :; do sleep 0.05; done";
    let words = ["exec", "-it", "p", "--", "bash", "-c", script];
    for command in [kubectl.command(&words), client(cluster, &words)] {
        let mut typed = Typed::start(&command);
        typed.shows("/dev/pts/");
        typed.types("word\r");
        typed.shows("got-word");
        typed.resize(44);
        typed.shows("44 111");
        assert_eq!(typed.code(), Some(3), "{command:?}");
    }
}

/// A pod that is talked to, once it runs.
fn talks(kubectl: &Kubectl, name: &str, fields: &str, script: &str) {
    let script = serde_json::Value::from(script);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{restartPolicy: Never, containers: [{{name: c, image: host, {fields}, command: [bash, -c, {script}]}}]}}\n"
    );
    kubectl.pipe("create -f -", &pod).ok();
    kubectl
        .run(&format!(
            "wait --for=condition=Ready pod/{name} --timeout=60s"
        ))
        .ok();
}

fn what_is_typed_reaches_the_container(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    // More than any buffer on the way holds, and its end.
    let text: String = (0..40_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let once = "stdin: true, stdinOnce: true";
    talks(kubectl, "once", once, "wc -c; echo over");
    let done = kubectl.pipe("attach -i once", &text);
    assert!(done.stdout.contains(&text.len().to_string()), "{done:?}");
    assert!(done.stdout.contains("over"), "{done:?}");
    let line = "run typed --rm -i --restart=Never --image=host --command -- cat";
    let done = kubectl.pipe(line, "hello\n");
    assert!(done.clone().ok().contains("hello\n"), "{done:?}");

    // Without `stdinOnce` it outlives those who attach.
    let script = "read a; echo first $a; read b; echo second $b";
    talks(kubectl, "kept", "stdin: true", script);
    let mut first = client(cluster, &["attach", "-i", "kept"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut input = first.stdin.take().expect("it is piped");
    input.write_all(b"x\n").expect("it reads");
    drop(input);
    eventually("the first line is read", || {
        let log = kubectl.run("logs kept").ok();
        if log == "first x\n" { Ok(()) } else { Err(log) }
    });
    first.kill().expect("it runs");
    first.wait().expect("it is our child");
    let done = kubectl.pipe("attach -i kept", "y\n");
    assert!(done.stdout.contains("second y\n"), "{done:?}");

    // A terminal of the container's own.
    let script = "echo here; until [ \"$(stty size)\" = '33 111' ]; do sleep 0.05; done; read word; echo got-$word";
    for (name, attach) in [("of-kubectl", true), ("own", false)] {
        talks(kubectl, name, "stdin: true, tty: true", script);
        let words = ["attach", "-it", name];
        let command = match attach {
            true => kubectl.command(&words),
            false => client(cluster, &words),
        };
        let mut typed = Typed::start(&command);
        typed.types("word\r");
        typed.shows("got-word");
        assert_eq!(typed.code(), Some(0), "{command:?}");
        let log = kubectl.run(&format!("logs {name}")).ok();
        assert!(log.starts_with("here\r\n"), "{log:?}");
    }
}
