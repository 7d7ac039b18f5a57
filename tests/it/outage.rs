//! An hour without the API server, as the agent sees it: its clocks run eighty times as fast meanwhile.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{Cluster, Line, Proxy, eventually, eventually_within};

use crate::both::both;
use crate::clock::Clock;
use crate::writes::Watch;

both![an_hour_without_the_api_is_told_in_order_afterwards];

/// How many times as fast.
const SPEED: i64 = 80;

fn starts(home: &Path, name: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(home.join(format!("{name}.starts"))).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn runs(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

/// How far a status has come: a phase never goes back, and restarts only grow.
fn progress(pod: &Value) -> (u64, u64) {
    let phase = match pod["status"]["phase"].as_str() {
        Some("Running") => 1,
        Some("Succeeded" | "Failed") => 2,
        _ => 0,
    };
    let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
    (phase, restarts.as_u64().unwrap_or_default())
}

fn an_hour_without_the_api_is_told_in_order_afterwards(cluster: &Cluster) {
    let kubeconfig = cluster.dir().join("n.kubeconfig");
    let proxy = Proxy::before(cluster.kubeconfig(), &kubeconfig).expect("a proxy");
    let mut clock = Clock::new(cluster.dir());
    let agent = clock.of(cluster.agent_with(&kubeconfig, "n")).start();
    cluster.ready("n");
    let node = cluster.node("n");
    let pod = |name: &str, policy: &str, script: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  restartPolicy: {policy}\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: host, command: [bash, -c, 'echo $BASHPID >> ~/{name}.starts; {script}']}}\n"
        )
    };
    let wait = "until [ -e ~/cut ]; do sleep 0.1; done";
    cluster.apply(&pod("stays", "Always", "sleep 1000"));
    cluster.apply(&pod("ends", "Never", &format!("{wait}; exit 3")));
    // It fails three times, and each back-off is one of the agent's clock.
    let thrice = format!("{wait}; [ $(wc -l < ~/again.starts) -gt 3 ] || exit 4; sleep 1000");
    cluster.apply(&pod("again", "Always", &thrice));
    for name in ["stays", "ends", "again"] {
        cluster.is(&format!("pod/{name}"), "{.status.phase}", "Running");
    }
    let home = agent.home();
    let stays = eventually("it tells its pid", || {
        starts(&home, "stays").first().copied().ok_or(())
    });
    let lease = |path: &str| {
        let path = format!("jsonpath={path}");
        cluster
            .kubectl()
            .words(&["-n", "kube-node-lease", "get", "lease", &node, "-o", &path])
            .ok()
    };
    let holder = lease("{.spec.holderIdentity}");
    let watch = Watch::new(cluster);

    proxy.set(Line::Cut);
    let renewed = lease("{.spec.renewTime}");
    clock.set_speed(SPEED);
    std::fs::write(home.join("cut"), "").expect("written");
    eventually_within(
        std::time::Duration::from_secs(150),
        "an hour passes",
        || {
            if clock.gained() > 3600 {
                Ok(())
            } else {
                Err(clock.gained())
            }
        },
    );
    clock.set_speed(1);
    assert!(runs(stays));
    assert_eq!(starts(&home, "ends").len(), 1);
    // 10, 20 and 40 seconds of back-off, which only the fast clock had time for.
    let all = eventually("it was started again without the API server", || {
        let all = starts(&home, "again");
        if all.len() == 4 {
            Ok(all)
        } else {
            Err((all, agent.log()))
        }
    });
    assert_eq!(lease("{.spec.renewTime}"), renewed, "nobody could renew it");
    assert_eq!(
        cluster.get("pod/ends", "{.status.phase}"),
        "Running",
        "nobody could tell"
    );

    proxy.set(Line::Up);
    cluster.is(
        "pod/ends",
        "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}",
        "Failed 3",
    );
    let again = "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode}";
    cluster.is("pod/again", again, "3 4");
    cluster.ready("n");
    eventually("the lease is renewed by the same agent", || {
        let now = lease("{.spec.renewTime} {.spec.holderIdentity}");
        if !now.starts_with(&renewed) && now.ends_with(&holder) {
            Ok(())
        } else {
            Err(now)
        }
    });
    assert!(runs(stays) && runs(all[3]));
    assert_eq!(starts(&home, "stays"), [stays]);
    let events = eventually("the watch has seen it all", || {
        let events = watch.events();
        let over = events.iter().any(|(_, pod)| {
            pod["metadata"]["name"] == "ends" && pod["status"]["phase"] == "Failed"
        });
        if over { Ok(events) } else { Err(events.len()) }
    });
    let mut before: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (_, pod) in events {
        let name = pod["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let now = progress(&pod);
        let last = before.insert(name.clone(), now).unwrap_or_default();
        assert!(now >= last, "{name} went back from {last:?} to {now:?}");
    }
}
