//! API servers that restart, lose their store, are too busy, or are of another age; clocks that differ.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use testkit::{Agent, Between, Cluster, Fate, RealCluster, eventually, eventually_within};

use crate::VK_CMD;
use crate::both::both;
use crate::clock::Clock;

both![
    a_busy_server_is_left_alone_as_long_as_it_says,
    a_server_that_fails_is_asked_again,
    a_server_that_does_not_answer_is_given_up,
    a_skewed_clock_ends_nothing,
];

/// A pod that writes down each start, waits for the file `end` in the home and ends with code 3.
fn pod(cluster: &Cluster, name: &str) -> String {
    let node = cluster.node("n");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  restartPolicy: Never\n  \
         containers:\n  - name: c\n    image: host\n    command: [bash, -c, 'echo $BASHPID >> ~/{name}.starts; \
         until [ -e ~/end ]; do sleep 0.1; done; exit 3']\n"
    )
}

fn starts(home: &Path, name: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(home.join(format!("{name}.starts"))).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

const ENDED: &str = "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].restartCount}";

/// Lets the container of `p` end while the server is in trouble.
fn end_container(agent: &Agent) {
    let home = agent.home();
    let pid = starts(&home, "p")[0];
    std::fs::write(home.join("end"), "").expect("written");
    eventually("the container ends", || {
        match kill(Pid::from_raw(pid), None) {
            Ok(()) => Err(pid),
            Err(_) => Ok(()),
        }
    });
}

/// An agent behind a server that a test commands.
fn behind(cluster: &Cluster) -> (Between, Agent) {
    let kubeconfig = cluster.dir().join("between.kubeconfig");
    let between = Between::before(cluster.kubeconfig(), &kubeconfig).expect("a server");
    let agent = cluster.agent_with(&kubeconfig, "n").start();
    cluster.ready("n");
    (between, agent)
}

/// Whether a request is one of the agent's writes or reads; watches are not touched.
fn is_watch(uri: &hyper::Uri) -> bool {
    uri.query().is_some_and(|query| query.contains("watch="))
}

fn a_busy_server_is_left_alone_as_long_as_it_says(cluster: &Cluster) {
    let (between, agent) = behind(cluster);
    cluster.apply(&pod(cluster, "p"));
    cluster.is("pod/p", "{.status.phase}", "Running");
    between.set(|_, uri| {
        if is_watch(uri) {
            Fate::Pass
        } else {
            Fate::Refuse(429, Some(2))
        }
    });
    end_container(&agent);
    eventually("the status is tried three times", || {
        let tries = between.stopped();
        if tries >= 3 { Ok(()) } else { Err(tries) }
    });
    between.set(|_, _| Fate::Pass);
    cluster.is("pod/p", ENDED, "Failed 3 0");
    let stopped = between.take_stopped();
    let tries: Vec<_> = stopped
        .iter()
        .filter(|it| it.path.ends_with("/pods/p/status"))
        .collect();
    assert!(!tries.is_empty(), "{stopped:?}");
    for pair in tries.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(
            pause >= Duration::from_secs(2),
            "asked again after {pause:?}"
        );
    }
    assert_eq!(starts(&agent.home(), "p").len(), 1);
    cluster.ready("n");
}

fn a_server_that_fails_is_asked_again(cluster: &Cluster) {
    let (between, agent) = behind(cluster);
    let home = agent.home();
    for (number, code) in [500, 503, 504].into_iter().enumerate() {
        let _ = std::fs::remove_file(home.join("end"));
        cluster.apply(&pod(cluster, "p"));
        cluster.is("pod/p", "{.status.phase}", "Running");
        between.take_stopped();
        // Everything, also the watches that begin now.
        between.set(move |_, _| Fate::Refuse(code, None));
        end_container(&agent);
        eventually("the server is asked again and again", || {
            let tries = between.stopped();
            if tries >= 3 { Ok(()) } else { Err(tries) }
        });
        between.set(|_, _| Fate::Pass);
        cluster.is("pod/p", ENDED, "Failed 3 0");
        assert_eq!(starts(&home, "p").len(), 1, "round {number}");
        cluster.kubectl().run("delete pod p --timeout=60s").ok();
        let _ = std::fs::remove_file(home.join("p.starts"));
    }
    cluster.ready("n");
}

fn a_server_that_does_not_answer_is_given_up(cluster: &Cluster) {
    let (between, agent) = behind(cluster);
    cluster.apply(&pod(cluster, "p"));
    cluster.is("pod/p", "{.status.phase}", "Running");
    between.set(|_, _| Fate::Hang);
    end_container(&agent);
    // The first request waits its time out, then there is another.
    eventually_within(Duration::from_secs(120), "a request is given up", || {
        let stopped = between.stopped();
        let log = agent.log();
        if stopped >= 2 && log.contains("no answer within") {
            Ok(())
        } else {
            Err((stopped, log))
        }
    });
    between.set(|_, _| Fate::Pass);
    cluster.is("pod/p", ENDED, "Failed 3 0");
    assert_eq!(starts(&agent.home(), "p").len(), 1);
    cluster.ready("n");
}

fn a_skewed_clock_ends_nothing(cluster: &Cluster) {
    let mut clock = Clock::new(cluster.dir());
    // A clock that is behind the birth of the API server's certificate is told so, and waits for better times.
    clock.set_shift(-3600);
    let behind = clock.of(cluster.agent("behind")).start();
    eventually("the log names the clock's trouble", || {
        let log = behind.log();
        if log.contains("certificate not valid yet") {
            Ok(())
        } else {
            Err(log)
        }
    });
    drop(behind);

    let node = "ahead";
    clock.set_shift(3600);
    let agent = clock.of(cluster.agent(node)).start();
    cluster.ready(node);
    let name = cluster.node(node);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}}}\nspec:\n  nodeName: {name}\n  \
         terminationGracePeriodSeconds: 30\n  activeDeadlineSeconds: 600\n  containers:\n  - name: c\n    image: host\n    \
         command: [bash, -c, 'trap \"echo bye >> ~/bye-{node}; exit 0\" TERM; while :; do sleep 0.1; done']\n"
    ));
    let pod = format!("pod/on-{node}");
    cluster.is(&pod, "{.status.phase}", "Running");
    // Two renewals of the lease, with times that are an hour off: the node lives.
    for _ in 0..2 {
        let path = "{.spec.renewTime}";
        let lease = || {
            let words = ["-n", "kube-node-lease", "get", "lease", &name, "-o"];
            let output = format!("jsonpath={path}");
            let words: Vec<_> = words.into_iter().chain([output.as_str()]).collect();
            cluster.kubectl().words(&words).ok()
        };
        let before = lease();
        eventually("the lease is renewed", || {
            let now = lease();
            if now == before { Err(now) } else { Ok(()) }
        });
    }
    cluster.ready(node);
    assert_eq!(
        cluster.get(&pod, "{.status.phase}"),
        "Running",
        "{}",
        agent.log()
    );
    // The grace is counted by no wall clock: the container says its last word.
    cluster
        .kubectl()
        .run(&format!("delete pod on-{node} --timeout=60s"))
        .ok();
    assert!(agent.home().join(format!("bye-{node}")).exists());
}

/// A cluster of the test's own, to do harm to.
fn own(version: Option<&str>) -> Option<(RealCluster, Cluster)> {
    let builder = RealCluster::builder().for_tests();
    let builder = match version {
        Some(version) => builder.version(version),
        None => builder,
    };
    let real = builder.start()?;
    let cluster = Cluster::of(&real, VK_CMD)?;
    Some((real, cluster))
}

#[test]
fn real_server_that_restarts_finds_all_as_it_is() {
    let Some((real, cluster)) = own(None) else {
        return;
    };
    let agent = cluster.start_node(&[]);
    cluster.apply(&pod(&cluster, "p"));
    cluster.apply(&pod(&cluster, "gone").replace("~/end", "~/never"));
    for name in ["p", "gone"] {
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    let killed = real.kill("kube-apiserver");
    end_container(&agent);
    real.start_again(&killed);
    eventually("the server is back", || {
        let asked = cluster.kubectl().run("get --raw /readyz");
        if asked.code == 0 { Ok(()) } else { Err(asked) }
    });
    cluster.is("pod/p", ENDED, "Failed 3 0");
    cluster.ready("n");
    // The watch is back too: a delete is heard.
    cluster
        .kubectl()
        .run("delete pod gone --grace-period=1 --timeout=60s")
        .ok();
    for name in ["p", "gone"] {
        assert_eq!(starts(&agent.home(), name).len(), 1);
    }
}

#[test]
fn real_server_without_its_etcd_is_waited_for() {
    let Some((real, cluster)) = own(None) else {
        return;
    };
    let agent = cluster.start_node(&[]);
    cluster.apply(&pod(&cluster, "p"));
    cluster.apply(&pod(&cluster, "stays").replace("~/end", "~/never"));
    for name in ["p", "stays"] {
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    real.pause("etcd");
    let since = Instant::now();
    end_container(&agent);
    // It is gone for a minute at least: longer than a lease of a node holds.
    eventually_within(Duration::from_secs(150), "the agent notices", || {
        let log = agent.log();
        if since.elapsed() >= Duration::from_secs(60)
            && log.contains("the node's heartbeat failed")
            && log.contains("the status was not written")
        {
            Ok(())
        } else {
            Err(log)
        }
    });
    let stays = starts(&agent.home(), "stays");
    assert!(kill(Pid::from_raw(stays[0]), None).is_ok());
    real.resume("etcd");
    cluster.is("pod/p", ENDED, "Failed 3 0");
    cluster.ready("n");
    cluster.is(
        "pod/stays",
        "{.status.phase} {.status.containerStatuses[0].restartCount}",
        "Running 0",
    );
    assert_eq!(starts(&agent.home(), "stays"), stays);
    // Killed and started anew it is the same.
    let killed = real.kill("etcd");
    real.start_again(&killed);
    eventually("the server has its store again", || {
        let asked = cluster.kubectl().run("create configmap after");
        if asked.code == 0 { Ok(()) } else { Err(asked) }
    });
    cluster
        .kubectl()
        .run("delete pod stays --grace-period=1 --timeout=60s")
        .ok();
}

/// A server of another minor version than ours serves an agent, and is served.
fn of_version(version: &str) {
    let Some((_real, cluster)) = own(Some(version)) else {
        return;
    };
    let told = cluster.kubectl().run("version").ok();
    assert!(
        told.contains(&format!("Server Version: {version}")),
        "{told}"
    );
    let agent = cluster.start_node(&[]);
    crate::identities::pods_work(&cluster, "n");
    cluster.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: a}}\n  \
         template:\n    metadata: {labels: {app: a}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers: [{name: c, image: host, command: [bash, -c, 'echo hello; sleep infinity']}]\n",
    );
    cluster
        .kubectl()
        .run("rollout status deployment/d --timeout=120s")
        .ok();
    eventually("the server reads a log from the node", || {
        let said = cluster.kubectl().run("logs deployment/d");
        if said.stdout == "hello\n" {
            Ok(())
        } else {
            Err(said)
        }
    });
    cluster
        .kubectl()
        .run("delete deployment d --cascade=foreground --timeout=60s")
        .ok();
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
}

#[test]
fn real_server_of_an_older_minor_is_served() {
    of_version("v1.30");
}

#[test]
fn real_server_of_the_newest_minor_is_served() {
    of_version("v1.36");
}
