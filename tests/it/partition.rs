//! Agents that die, API servers that cannot be reached, homes and clusters that change: what runs goes on,
//! once, and its story is told in the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use testkit::{Agent, AgentBuilder, Cluster, Line, Plane, Proxy, eventually, eventually_within};

use crate::both::both;

const READY: &str = "{.status.conditions[?(@.type==\"Ready\")].status}";

/// A pod that writes down each start and its pid in the home, then runs `script`.
fn pod(cluster: &Cluster, node: &str, name: &str, more: &str, script: &str) -> String {
    let node = cluster.node(node);
    let script = format!("echo $BASHPID >> ~/{name}.starts; {script}");
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 4\n{more}\
         \x20 containers:\n  - name: c\n    image: host\n    command: [bash, -c, {script}]\n"
    )
}

/// The pids of all starts of a pod so far.
fn starts(home: &Path, name: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(home.join(format!("{name}.starts"))).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[track_caller]
fn first_start(home: &Path, name: &str) -> i32 {
    eventually(&format!("{name} runs"), || match starts(home, name)[..] {
        [pid] => Ok(pid),
        ref other => Err(other.to_vec()),
    })
}

fn runs(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

/// An agent whose way to the API server can be cut.
fn behind_a_proxy(cluster: &Cluster, node: &str) -> (Proxy, PathBuf, AgentBuilder) {
    let kubeconfig = cluster.dir().join(format!("{node}.kubeconfig"));
    let proxy = Proxy::before(cluster.kubeconfig(), &kubeconfig).expect("a proxy");
    let agent = cluster.agent_with(&kubeconfig, node);
    (proxy, kubeconfig, agent)
}

both! {

fn a_killed_agent_is_followed_by_one_that_adopts(cluster: &Cluster) {
    let (proxy, _, builder) = behind_a_proxy(cluster, "n");
    let agent = builder.clone().start();
    cluster.ready("n");
    let init = "  initContainers:\n  - name: i\n    image: host\n    command: [bash, -c, 'echo i >> ~/inits']\n";
    cluster.apply(&pod(cluster, "n", "stays", init, "sleep 1000"));
    cluster.apply(&pod(cluster, "n", "goes", "", "sleep 1000"));
    cluster.apply(&pod(cluster, "n", "ends", "  restartPolicy: Never\n", "until [ -e ~/end ]; do sleep 0.1; done; exit 3"));
    for name in ["stays", "goes", "ends"] {
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    let home = agent.home();
    let (stays, goes) = (first_start(&home, "stays"), first_start(&home, "goes"));
    let place = agent.kill();

    // While nobody is there one pod is deleted and one ends.
    cluster.kubectl().run("delete pod goes --force --grace-period=0").ok();
    std::fs::write(home.join("end"), "").expect("written");
    eventually("a container ended without an agent", || {
        let pid = starts(&home, "ends")[0];
        if runs(pid) { Err(pid) } else { Ok(()) }
    });
    proxy.set(Line::Hung);
    let asked = proxy.accepted();
    let agent = builder.clone().at(&place).start();
    eventually("the next agent asks", || if proxy.accepted() > asked { Ok(()) } else { Err(()) });
    // It knows nothing yet, so it ends nothing. That it does not is what a wait can show, briefly.
    std::thread::sleep(Duration::from_secs(2));
    assert!(runs(goes) && runs(stays));

    proxy.set(Line::Up);
    eventually("a pod that was deleted meanwhile ends", || if runs(goes) { Err(agent.log()) } else { Ok(()) });
    cluster.is("pod/ends", "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}", "Failed 3");
    assert!(runs(stays));
    assert_eq!(starts(&home, "stays"), [stays]);
    assert_eq!(starts(&home, "ends").len(), 1);
    assert_eq!(std::fs::read_to_string(home.join("inits")).expect("written"), "i\n");
    assert_eq!(cluster.get("pod/stays", "{.status.containerStatuses[0].restartCount}"), "0");
    cluster.ready("n");
}

fn a_long_silence_loses_nothing(cluster: &Cluster) {
    let (proxy, _, builder) = behind_a_proxy(cluster, "n");
    let agent = builder.start();
    cluster.ready("n");
    let node = format!("node/{}", cluster.node("n"));
    cluster.apply(&pod(cluster, "n", "stays", "", "sleep 1000"));
    cluster.apply(&pod(cluster, "n", "ends", "  restartPolicy: Never\n", "until [ -e ~/end ]; do sleep 0.1; done; exit 3"));
    cluster.apply(&pod(cluster, "n", "again", "", "until [ -e ~/end ]; do sleep 0.1; done; [ $(wc -l < ~/again.starts) -gt 1 ] || exit 4; sleep 1000"));
    for name in ["stays", "ends", "again"] {
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    let home = agent.home();
    let stays = first_start(&home, "stays");
    proxy.set(Line::Cut);
    std::fs::write(home.join("end"), "").expect("written");
    // The control plane gives the node up, and pods go on.
    eventually_within(Duration::from_secs(150), "the node is given up", || {
        let ready = cluster.get(&node, READY);
        if ready == "Unknown" { Ok(()) } else { Err(ready) }
    });
    eventually("a container restarts without the API", || {
        let all = starts(&home, "again");
        if all.len() == 2 { Ok(()) } else { Err(all) }
    });
    assert!(runs(stays));
    assert_eq!(cluster.get("pod/ends", "{.status.phase}"), "Running", "nobody could tell");

    proxy.set(Line::Up);
    cluster.ready("n");
    cluster.is("pod/ends", "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}", "Failed 3");
    let again = "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode}";
    cluster.is("pod/again", again, "1 4");
    cluster.is("pod/stays", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    assert_eq!(starts(&home, "stays"), [stays]);
    assert!(runs(stays));
    assert_eq!(starts(&home, "ends").len(), 1);
    let taints = cluster.get(&node, "{.spec.taints[*].key}");
    eventually("the taints go", || {
        let taints = cluster.get(&node, "{.spec.taints[*].key}");
        if taints.is_empty() { Ok(()) } else { Err(taints) }
    });
    assert!(!taints.contains("virtual-kubelet"), "{taints}");
}

fn a_line_that_hangs_is_no_end(cluster: &Cluster) {
    let (proxy, _, builder) = behind_a_proxy(cluster, "n");
    let agent = builder.start();
    cluster.ready("n");
    cluster.apply(&pod(cluster, "n", "p", "  restartPolicy: Never\n", "until [ -e ~/end ]; do sleep 0.1; done; exit 3"));
    cluster.is("pod/p", "{.status.phase}", "Running");
    let pid = first_start(&agent.home(), "p");
    proxy.set(Line::Hung);
    std::fs::write(agent.home().join("end"), "").expect("written");
    eventually("the container ends", || if runs(pid) { Err(()) } else { Ok(()) });
    cluster.kubectl().run("delete pod p --wait=false").ok();
    proxy.set(Line::Up);
    eventually("the delete comes to its end", || {
        let found = cluster.kubectl().run("get pod p");
        if found.code == 1 { Ok(()) } else { Err((found, agent.log())) }
    });
}

fn two_nodes_share_a_home(cluster: &Cluster) {
    let one = cluster.agent("one").start();
    let place = one.place();
    let two = cluster.agent("two").at(&place).start();
    for node in ["one", "two"] {
        cluster.ready(node);
        cluster.apply(&pod(cluster, node, &format!("on-{node}"), "", "sleep 1000"));
    }
    let home = one.home();
    let pids = ["on-one", "on-two"].map(|name| first_start(&home, name));
    drop(one.kill());
    let one = cluster.agent("one").at(&place).start();
    cluster.kubectl().run("delete pod on-one --timeout=60s").ok();
    assert!(!runs(pids[0]));
    assert!(runs(pids[1]), "{}", one.log());
    cluster.kubectl().run("delete pod on-two --timeout=60s").ok();
    assert!(!runs(pids[1]), "{}", two.log());
    // One agent a node: a second of that name in that home is told who is there.
    let mut third = cluster.agent("one").at(&place).start();
    assert_eq!(third.ended().code(), Some(1));
    assert!(third.log().contains(&format!("pid {} on ", one.pid())), "{}", third.log());
}

fn another_cluster_is_another_root(cluster: &Cluster) {
    let agent = cluster.agent("n").start();
    cluster.ready("n");
    cluster.apply(&pod(cluster, "n", "p", "", "sleep 1000"));
    let home = agent.home();
    let pid = first_start(&home, "p");
    cluster.is("pod/p", "{.status.phase}", "Running");
    let place = agent.kill();

    let other = Cluster::on(Plane::Embedded, crate::VK_CMD).expect("it was had before");
    let visitor = Agent::of(crate::VK_CMD, other.kubeconfig(), &cluster.node("n")).args(&["--no-taint"]).at(&place).start();
    eventually("it joins the other cluster", || {
        let ready = other.get(&format!("node/{}", cluster.node("n")), READY);
        if ready == "True" { Ok(()) } else { Err((ready, visitor.log())) }
    });
    assert!(runs(pid), "the first cluster's pod is none of its business");
    drop(visitor.kill());

    let _agent = cluster.agent("n").at(&place).start();
    cluster.ready("n");
    cluster.is("pod/p", "{.status.phase} {.status.containerStatuses[0].restartCount}", "Running 0");
    assert_eq!(starts(&home, "p"), [pid]);
    assert!(runs(pid));
}

}
