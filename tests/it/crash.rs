//! `kill -9` at random moments: nothing acknowledged is lost, nothing runs twice.
//!
//! `VK_CMD_CRASH_ROUNDS` sets the number of rounds (`scripts/crash` runs a thousand).

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use testkit::{Cluster, Up, eventually, skip};

use crate::VK_CMD;
use crate::both::both;

// The others are about a store and an agent that die as one.
both![
    a_container_outlives_the_agent_and_is_adopted,
    a_shim_that_is_killed_takes_its_container_with_it_and_the_pod_says_so,
];

/// A small generator: the rounds differ, and a seed that failed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn rounds() -> u64 {
    std::env::var("VK_CMD_CRASH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50)
}

#[test]
fn acknowledged_writes_and_running_containers_survive_kill_9() {
    let seed = std::env::var("VK_CMD_CRASH_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed);
    let mut random = Random(seed);
    let mut up = Up::of(VK_CMD).start();
    if up.kubectl().is_none() {
        return skip!("kubectl is missing");
    }
    let mut acknowledged = BTreeMap::new();
    let mut pods = Vec::new();
    for round in 0..rounds() {
        // The writer goes on until the server dies under it, and tells of each answer.
        let client = up.kubectl().expect("it was there before");
        let starts = up.home().join("starts");
        let (tell, told) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut written = Vec::new();
            let mut created = Vec::new();
            for number in 0.. {
                let name = format!("r{round}-{number}");
                let done = client.pipe(
                    "create -f - --request-timeout=5s",
                    &format!(
                        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{round: \"{round}\"}}\n"
                    ),
                );
                if done.code != 0 {
                    break;
                }
                written.push(name);
                if number == 0 {
                    // Says that it started, works for a while, says that it ended.
                    let pod = format!("p{round}");
                    let script = format!(
                        "echo start {pod} >> {0}; echo begin; sleep 0.3; echo end; echo end {pod} >> {0}; exit 4",
                        starts.display()
                    );
                    let done = client.words(&[
                        "run",
                        &pod,
                        "--image=host",
                        "--restart=Never",
                        "--request-timeout=5s",
                        "--command",
                        "--",
                        "bash",
                        "-c",
                        &script,
                    ]);
                    if done.code == 0 {
                        created.push(pod);
                    }
                }
                if tell.send(()).is_err() {
                    break;
                }
            }
            (written, created)
        });
        for _ in 0..1 + random.below(3) {
            told.recv().expect("the writer writes");
        }
        // A random moment after that is the point of the test, not a wait for something.
        std::thread::sleep(Duration::from_millis(random.below(400)));
        let place = up.kill();
        drop(told);
        let (written, created) = writer.join().expect("the writer does not panic");
        for name in written {
            acknowledged.insert(name, round);
        }
        pods.extend(created);
        up = Up::of(VK_CMD).at(&place).start();
    }
    let kubectl = up.kubectl().expect("it was there before");
    let listed = kubectl.run("get cm -o name").ok();
    let listed: std::collections::BTreeSet<_> = listed.lines().collect();
    for (name, round) in &acknowledged {
        assert!(
            listed.contains(format!("configmap/{name}").as_str()),
            "seed {seed}: {name} of round {round} is lost"
        );
    }
    for pod in &pods {
        let ended = eventually("every pod ends", || {
            let phase = kubectl.run(&format!("get pod {pod} -o jsonpath={{.status.phase}}/{{.status.containerStatuses[0].state.terminated.exitCode}}/{{.status.containerStatuses[0].restartCount}}")).ok();
            if phase.starts_with("Failed") || phase.starts_with("Succeeded") {
                Ok(phase)
            } else {
                Err(phase)
            }
        });
        assert_eq!(ended, "Failed/4/0", "seed {seed}: {pod}");
        assert_eq!(
            kubectl.run(&format!("logs {pod}")).ok(),
            "begin\nend\n",
            "seed {seed}: {pod}"
        );
    }
    let starts = std::fs::read_to_string(up.home().join("starts")).unwrap_or_default();
    for pod in &pods {
        let count = |word: &str| {
            starts
                .lines()
                .filter(|line| *line == format!("{word} {pod}"))
                .count()
        };
        assert_eq!(
            (count("start"), count("end")),
            (1, 1),
            "seed {seed}: {pod} ran not exactly once:\n{starts}"
        );
    }
    assert!(
        !acknowledged.is_empty() && !pods.is_empty(),
        "the test wrote nothing"
    );
}

fn a_container_outlives_the_agent_and_is_adopted(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let gate = agent.home().join("gate");
    let script = format!(
        "echo $BASHPID; until [ -e {} ]; do sleep 0.05; done; echo after; exit 9",
        gate.display()
    );
    kubectl
        .words(&[
            "run",
            "p",
            "--image=host",
            "--restart=Never",
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
    let id = kubectl
        .run("get pod p -o jsonpath={.status.containerStatuses[0].containerID}")
        .ok();
    let pid = eventually("the script says its pid", || {
        let log = kubectl.run("logs p").ok();
        log.trim().parse::<u32>().map_err(|_| log)
    });
    let place = agent.kill();
    assert!(
        std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the container went with the agent"
    );
    std::fs::write(&gate, "").expect("a file");
    let _agent = cluster.restart_node(&place, &[]);
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Failed pod/p --timeout=60s")
        .ok();
    let state = kubectl
        .run("get pod p -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
        .ok();
    assert_eq!(state, "9");
    assert_eq!(
        kubectl
            .run("get pod p -o jsonpath={.status.containerStatuses[0].containerID}")
            .ok(),
        id
    );
    assert_eq!(kubectl.run("logs p").ok(), format!("{pid}\nafter\n"));
}

fn a_shim_that_is_killed_takes_its_container_with_it_and_the_pod_says_so(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    kubectl
        .words(&[
            "run",
            "p",
            "--image=host",
            "--restart=Never",
            "--command",
            "--",
            "bash",
            "-c",
            "echo $BASHPID; sleep 1000 & wait",
        ])
        .ok();
    let pid = eventually("the script says its pid", || {
        let log = kubectl.run("logs p");
        log.stdout.trim().parse::<i32>().map_err(|_| log)
    });
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let parent: i32 = stat
        .rsplit_once(") ")
        .expect("a name")
        .1
        .split(' ')
        .nth(1)
        .expect("a parent")
        .parse()
        .expect("a number");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(parent),
        nix::sys::signal::SIGKILL,
    )
    .expect("the shim runs");
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Failed pod/p --timeout=60s")
        .ok();
    let state = kubectl.run("get pod p -o jsonpath={.status.containerStatuses[0].state.terminated.reason}/{.status.containerStatuses[0].state.terminated.exitCode}").ok();
    assert_eq!(state, "ContainerStatusUnknown/137");
    eventually("its processes are gone", || {
        if std::path::Path::new(&format!("/proc/{pid}")).exists() {
            Err(pid)
        } else {
            Ok(())
        }
    });
}

#[test]
fn interrupt_drains_and_leaves_no_process() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    kubectl
        .words(&[
            "run",
            "p",
            "--image=host",
            "--restart=Never",
            "--command",
            "--",
            "bash",
            "-c",
            "trap 'echo bye; exit 0' TERM; echo $BASHPID; while :; do sleep 0.1; done",
        ])
        .ok();
    let pid = eventually("the script says its pid", || {
        let log = kubectl.run("logs p");
        log.stdout.trim().parse::<i32>().map_err(|_| log)
    });
    let (status, place) = up.interrupt();
    assert!(status.success(), "{status:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let left = Command::new("pgrep")
        .arg("-f")
        .arg(place.path())
        .stdout(Stdio::piped())
        .output()
        .expect("pgrep runs");
    assert_eq!(
        String::from_utf8_lossy(&left.stdout),
        "",
        "processes are left"
    );
    std::io::stdout().flush().expect("stdout");
}
