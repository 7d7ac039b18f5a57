//! A change of a status costs one write, and what is no change costs none.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use serde_json::Value;
use testkit::{Cluster, Plane, eventually};

use crate::both::both;

both![a_status_change_costs_one_write];

/// `kubectl get pods --watch`, its events in a file.
pub(crate) struct Watch {
    child: Child,
    file: std::path::PathBuf,
}

impl Watch {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let file = cluster.dir().join("watch");
        let words = [
            "get",
            "pods",
            "--watch",
            "--output-watch-events",
            "-o",
            "json",
        ];
        let child = cluster
            .kubectl()
            .command(&words)
            .stdout(std::fs::File::create(&file).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl runs");
        Self { child, file }
    }

    /// Types of events and objects so far.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        let text = std::fs::read(&self.file).expect("a file");
        // The last may be on its way.
        serde_json::Deserializer::from_slice(&text)
            .into_iter::<Value>()
            .map_while(Result::ok)
            .map(|event| {
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                (kind, event["object"].clone())
            })
            .collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many PATCHes of pods the API server has served.
fn patches(cluster: &Cluster) -> u64 {
    let text = cluster.kubectl().run("get --raw /metrics").ok();
    text.lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
        .filter(|line| line.contains("verb=\"PATCH\"") && line.contains("resource=\"pods"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn a_status_change_costs_one_write(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let node = cluster.node("n");
    let before = patches(cluster);
    let watch = Watch::new(cluster);
    let pod = |name: &str, script: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  restartPolicy: Never\n  \
             containers: [{{name: c, image: host, command: [sh, -c, '{script}']{more}}}]\n---\n"
        )
    };
    let mut all: String = (0..8)
        .map(|n| pod(&format!("p{n}"), "exit 0", ""))
        .collect();
    // Its probe finds the same each second, which is no news. It counts how often it looks.
    let probe = ", readinessProbe: {periodSeconds: 1, exec: {command: [sh, -c, 'echo >> ~/looks; test -e there']}}";
    all.push_str(&pod(
        "ready",
        "touch there; until [ -e ~/end ]; do sleep 0.1; done",
        probe,
    ));
    cluster.kubectl().pipe("create -f -", &all).ok();
    for n in 0..8 {
        cluster.is(&format!("pod/p{n}"), "{.status.phase}", "Succeeded");
    }
    cluster.is(
        "pod/ready",
        "{.status.conditions[?(@.type==\"Ready\")].status}",
        "True",
    );
    let looks = || {
        let text = std::fs::read_to_string(agent.home().join("looks")).unwrap_or_default();
        text.lines().count()
    };
    let first = looks();
    eventually("the probe looks four times more", || match looks() {
        now if now >= first + 4 => Ok(()),
        now => Err(now),
    });
    std::fs::write(agent.home().join("end"), "").expect("written");
    cluster.is("pod/ready", "{.status.phase}", "Succeeded");
    let events = eventually("the watch has seen the end", || {
        let events = watch.events();
        let over = events.iter().any(|(_, pod)| {
            pod["metadata"]["name"] == "ready" && pod["status"]["phase"] == "Succeeded"
        });
        if over { Ok(events) } else { Err(events.len()) }
    });
    let mut stories: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (kind, pod) in events {
        let name = pod["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if kind == "MODIFIED" {
            stories.entry(name).or_default().push(pod["status"].clone());
        }
    }
    for (name, statuses) in &stories {
        assert!(
            statuses.windows(2).all(|pair| pair[0] != pair[1]),
            "{name} was written without a change: {statuses:#?}"
        );
        // Waiting, running, (ready,) ended.
        let most = if name == "ready" { 4 } else { 3 };
        assert!(
            (2..=most).contains(&statuses.len()),
            "{name}: {statuses:#?}"
        );
    }
    assert_eq!(stories.len(), 9);
    // The real one serves other tests at the same time, which count too.
    if cluster.plane() == Plane::Embedded {
        let changes: usize = stories.values().map(Vec::len).sum();
        assert_eq!(patches(cluster) - before, changes as u64, "{stories:#?}");
    }
}
