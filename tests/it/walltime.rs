//! The end of the allocation: countdown, cordon, warning, SIGTERM, NotReady, and who comes after.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Agent, Cluster, eventually};

use crate::both::both;

/// A moment so many seconds from now, as `--end-time` takes it.
fn in_seconds(seconds: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    (now.as_secs() + seconds).to_string()
}

/// A pod for the node of that name whose one container runs `script`.
fn pod(cluster: &Cluster, node: &str, name: &str, more: &str, script: &str) -> String {
    let node = cluster.node(node);
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations: {{{more}}}\n\
         spec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 4\n  restartPolicy: Always\n  \
         containers:\n  - name: c\n    image: host\n    command: [bash, -c, {script}]\n"
    )
}

const READY: &str = "{.status.conditions[?(@.type==\"Ready\")].status}";
const DISRUPTED: &str = "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn runs(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

both! {

fn a_node_goes_down_in_order(cluster: &Cluster) {
    let end = in_seconds(40);
    let mut agent = cluster.agent("n").args(&["--end-time", &end, "--drain-window", "15s"]).start();
    cluster.ready("n");
    let node = format!("node/{}", cluster.node("n"));
    let left: u64 = cluster.get(&node, "{.metadata.labels.jiriaf\\.alivetime}").parse().expect("seconds");
    assert!(left > 15 && left <= 40, "{left}");
    let script = "echo start >> ~/log; trap 'echo warned >> ~/log' USR1; \
                  trap 'echo term >> ~/log; exit 0' TERM; while :; do sleep 0.1; done";
    let warning = "vk-cmd.io/warning-signal: SIGUSR1, vk-cmd.io/warning-lead: 3s";
    cluster.apply(&pod(cluster, "n", "p", warning, script));
    cluster.is("pod/p", "{.status.phase}", "Running");
    assert_eq!(cluster.get("pod/p", DISRUPTED), "");

    cluster.is(&node, "{.spec.unschedulable}", "true");
    cluster.is("pod/p", DISRUPTED, "WalltimeExceeded");
    assert_eq!(cluster.get("pod/p", "{.status.phase}"), "Running", "the pod still has time");
    // What comes now is not begun.
    cluster.apply(&pod(cluster, "n", "late", "", "echo late >> ~/log"));
    cluster.is("pod/late", "{.status.phase} {.status.reason}", "Failed OutOfWalltime");

    cluster.is("pod/p", "{.status.phase} {.status.reason}", "Failed WalltimeExceeded");
    let code = "{.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.get("pod/p", code), "0 0");
    assert_eq!(text(&agent.home().join("log")), "start\nwarned\nterm\n");
    cluster.is(&node, "{.metadata.labels.jiriaf\\.alivetime}", "0");
    cluster.is(&node, READY, "False");
    cluster.is(&node, "{.status.conditions[?(@.type==\"Ready\")].reason}", "NodeNotReady");
    eventually("the events tell of it", || {
        let told = cluster.kubectl().run("get events -A -o custom-columns=R:.reason,N:.involvedObject.name --no-headers").ok();
        let node = cluster.node("n");
        let all = [format!("NodeNotSchedulable   {node}"), "WalltimeWarning".into(), "WalltimeExceeded".into()];
        let squeezed = told.split_whitespace().collect::<Vec<_>>().join(" ");
        let missing: Vec<_> = all.iter()
            .map(|it| it.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|it| !squeezed.contains(it.as_str())).collect();
        if missing.is_empty() { Ok(()) } else { Err((missing, told)) }
    });
    // As documented the agent lives on, until it is told to end.
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().success(), "{}", agent.log());
}

fn pods_say_how_long_they_need(cluster: &Cluster) {
    let end = in_seconds(600);
    let _agent = cluster.agent("n").args(&["--end-time", &end]).start();
    cluster.ready("n");
    for (name, needs) in [("long", "30m"), ("short", "60s"), ("odd", "soon")] {
        let needs = format!("vk-cmd.io/needs-time: {needs}");
        cluster.apply(&pod(cluster, "n", name, &needs, "sleep 600"));
    }
    cluster.is("pod/long", "{.status.phase} {.status.reason}", "Failed OutOfWalltime");
    let message = cluster.get("pod/long", "{.status.message}");
    assert!(message.contains("needs 30m (annotation vk-cmd.io/needs-time)"), "{message}");
    assert!(message.contains("jiriaf.alivetime Gt 1800"), "{message}");
    cluster.is("pod/short", "{.status.phase}", "Running");
    cluster.is("pod/odd", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    let why = cluster.get("pod/odd", "{.status.containerStatuses[0].state.waiting.message}");
    assert!(why.contains("[vk-cmd.io/needs-time]: \"soon\" is not a length of time"), "{why}");
}

fn an_agent_that_is_told_to_ends_with_its_walltime(cluster: &Cluster) {
    let end = in_seconds(20);
    let words = ["--end-time", &end, "--drain-window", "6s", "--exit-at-walltime", "--drain-on-exit"];
    let mut agent = cluster.agent("n").args(&words).start();
    cluster.ready("n");
    cluster.apply(&pod(cluster, "n", "p", "", "trap '' TERM; echo $BASHPID > ~/pid; while :; do sleep 0.1; done"));
    let pid = eventually("the pod runs", || text(&agent.home().join("pid")).trim().parse::<i32>());
    assert!(agent.ended().success(), "{}", agent.log());
    assert!(!runs(pid), "it ignored SIGTERM, and the end does not wait");
    let gone = cluster.get(&format!("node/{}", cluster.node("n")), "{.metadata.name}");
    assert!(gone.contains("NotFound"), "{gone}");
    let log = agent.log();
    assert!(!log.contains("came to its end in time"), "{log}");
}

fn a_signal_drains_and_the_next_agent_takes_the_name_over(cluster: &Cluster) {
    let first = cluster.agent("n").args(&["--drain-window", "5s"]).start();
    cluster.ready("n");
    let node = format!("node/{}", cluster.node("n"));
    assert_eq!(cluster.get(&node, "{.metadata.labels.jiriaf\\.alivetime}"), "");
    cluster.apply(&pod(cluster, "n", "p", "", "sleep 600"));
    cluster.is("pod/p", "{.status.phase}", "Running");
    first.signal(Signal::SIGUSR1);
    cluster.is(&node, "{.spec.unschedulable}", "true");
    cluster.is("pod/p", "{.status.phase} {.status.reason}", "Failed WalltimeExceeded");
    cluster.is(&node, READY, "False");

    // The job was put back into the queue, and its next run has the same node name on another machine.
    let _second = cluster.agent("n").start();
    cluster.is(&node, "{.spec.unschedulable}", "");
    cluster.ready("n");
    let mut first = first;
    assert_eq!(first.ended().code(), Some(1), "{}", first.log());
    assert!(first.log().contains("another agent took this node's name"), "{}", first.log());
    assert_eq!(cluster.get(&node, READY), "True", "the older one wrote nothing any more");
    assert_eq!(cluster.get(&node, "{.metadata.annotations.vk-cmd\\.io/cordoned-by}"), "");
    cluster.apply(&pod(cluster, "n", "q", "", "sleep 600"));
    cluster.is("pod/q", "{.status.phase}", "Running");
}

fn the_batch_system_ends_everything_at_once(cluster: &Cluster) {
    let mut agent = cluster.agent("n")
        .env("PBS_JOBID", "1.server")
        .args(&["--kill-wait", "12s"])
        .start();
    cluster.ready("n");
    let script = "trap '' TERM; setsid sleep 1000 & echo $BASHPID >> ~/pids; echo $! >> ~/pids; while :; do sleep 0.1; done";
    let long = pod(cluster, "n", "p", "", script).replace("PeriodSeconds: 4", "PeriodSeconds: 600");
    cluster.apply(&long);
    cluster.apply(&pod(cluster, "n", "polite", "", "trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    for name in ["p", "polite"] {
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    let start = std::time::Instant::now();
    // Shims, containers and the agent get it in whatever order.
    for pid in processes_of(agent.place().path()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    assert!(agent.ended().success(), "{}", agent.log());
    assert!(start.elapsed() < Duration::from_secs(12), "SIGKILL would have come before");
    assert_eq!(processes_of(agent.place().path()), Vec::<i32>::new());
    for pid in text(&agent.home().join("pids")).lines() {
        assert!(!runs(pid.parse().expect("a pid")), "{pid}");
    }
    assert_eq!(cluster.get("pod/p", "{.status.phase} {.status.reason}"), "Failed Terminated");
    assert_eq!(cluster.get("pod/p", DISRUPTED), "TerminationByKubelet");
    let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(cluster.get("pod/p", code), "137");
    let gone = cluster.get(&format!("node/{}", cluster.node("n")), "{.metadata.name}");
    assert!(gone.contains("NotFound"), "{gone}");
}

}

/// Processes that name the directory, as a batch system finds those of its job.
fn processes_of(place: &Path) -> Vec<i32> {
    let place = place.as_os_str().as_encoded_bytes();
    let pids = std::fs::read_dir("/proc").expect("procfs").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let of = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let named = |bytes: Vec<u8>| bytes.windows(place.len()).any(|window| window == place);
        *pid != std::process::id().cast_signed() && (named(of("environ")) || named(of("cmdline")))
    })
    .collect()
}

#[test]
fn wrong_walltimes_end_the_program_with_the_mend() {
    let place = tempfile::tempdir().expect("a directory");
    for (value, problem) in [
        ("abc", "is not a number of seconds"),
        ("-60", "is negative"),
        ("90", "is not a multiple of 60"),
    ] {
        let done = Agent::of(crate::VK_CMD, &place.path().join("none"), "n")
            .env("JIRIAF_WALLTIME", value)
            .command()
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        let start = format!("JIRIAF_WALLTIME: {value:?} {problem} (from environment); give ");
        assert!(said.contains(&start), "{said}");
    }
}
