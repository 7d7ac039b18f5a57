//! Pods through the whole of vk-cmd: start, end, a burst, memory.
//!
//! `make bench` runs it and prints the rows of `docs/performance.md`. `VK_CMD` names the program that is
//! measured; without it, it is the one that was built with this.

#![expect(clippy::print_stdout, reason = "the figures are the result")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::json;

const BUILT: &str = env!("CARGO_BIN_EXE_vk-cmd");
const SEQUENCE: usize = 100;
const BURST: usize = 1_000;
/// After this long what the burst needed for a moment has been given back.
const SETTLED: Duration = Duration::from_secs(10);

struct Up {
    child: Child,
    place: tempfile::TempDir,
    kubeconfig: PathBuf,
    start: Duration,
}

fn up() -> Up {
    let place = tempfile::tempdir().expect("a directory");
    let begin = Instant::now();
    let program = std::env::var_os("VK_CMD").unwrap_or_else(|| BUILT.into());
    let mut child = Command::new(program)
        .args(["up", "--port", "0", "--state-dir"])
        .arg(place.path().join("state"))
        .env("HOME", place.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(place.path().join("log")).expect("a log"))
        .spawn()
        .expect("the program runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("a line");
    let start = begin.elapsed();
    let path = line
        .trim_end()
        .strip_prefix("export KUBECONFIG=")
        .expect("the line of a node that is Ready");
    Up {
        kubeconfig: path.into(),
        child,
        place,
        start,
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGINT);
        let _ = self.child.wait();
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs_f64()
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values[((last as f64) * share).round() as usize]
}

fn row(what: &str, values: &mut [f64]) {
    println!(
        "| {what} | {:.1} | {:.1} | {:.1} |",
        percentile(values, 0.5) * 1e3,
        percentile(values, 0.99) * 1e3,
        percentile(values, 1.0) * 1e3
    );
}

/// `smaps_rollup` or `status` of a process, in KiB.
fn memory(pid: u32, file: &str, keys: &[&str]) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines()
        .filter(|line| keys.iter().any(|key| line.starts_with(key)))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn shims() -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        if program.ends_with(b"vk-cmd") && words.next() == Some(b"shim") {
            found.push(pid);
        }
    }
    found
}

fn pod(name: &str, script: &str) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"bench": "yes"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "script", "command": ["bash"],
                "volumeMounts": [{"name": "script", "mountPath": "m"}], "args": [script]}],
            "volumes": [{"name": "script", "configMap": {"name": "bench"}}]}}))
    .expect("a pod")
}

async fn client(path: &Path) -> Client {
    let file = Kubeconfig::read_from(path).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .expect("a kubeconfig");
    Client::try_from(config).expect("a client")
}

/// Sends `(name, phase, when)` for each change of a pod.
async fn watch(pods: Api<Pod>, sender: tokio::sync::mpsc::UnboundedSender<(String, String, f64)>) {
    let list = pods.list(&ListParams::default()).await.expect("a list");
    let version = list.metadata.resource_version.expect("a version");
    let params = WatchParams::default().labels("bench=yes");
    let mut events = pods
        .watch(&params, &version)
        .await
        .expect("a watch")
        .boxed();
    while let Some(Ok(event)) = events.next().await {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod)) = event
        else {
            continue;
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        if sender
            .send((pod.name_any(), phase.unwrap_or_default(), now()))
            .is_err()
        {
            return;
        }
    }
}

async fn until_gone(pods: &Api<Pod>) {
    loop {
        let left = pods.list(&ListParams::default()).await.expect("a list");
        if left.items.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main]
async fn main() {
    let cluster = up();
    let mut starts = vec![cluster.start.as_secs_f64()];
    for _ in 0..9 {
        starts.push(up().start.as_secs_f64());
    }
    println!("| what, ms | p50 | p99 | max |\n|---|---|---|---|");
    row("binary start to node Ready (new state)", &mut starts);
    let agent = cluster.child.id();
    println!("at rest: RSS {} KiB", memory(agent, "status", &["VmRSS:"]));

    let client = client(&cluster.kubeconfig).await;
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(client.clone(), "default");
    let ends = cluster.place.path().join("ends");
    let script = format!(
        "#!/bin/bash\nsleep \"$1\"\necho \"$POD $EPOCHREALTIME\" >> {}\n",
        ends.display()
    );
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bench"}, "data": {"s.sh": script}});
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).expect("a map"),
    )
    .await
    .expect("a configMap");
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let (sender, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(watch(pods.clone(), sender));

    let mut running = Vec::new();
    let mut terminal = HashMap::new();
    for number in 0..SEQUENCE {
        let name = format!("s{number}");
        let mut pod = pod(&name, "0.05");
        pod.spec.as_mut().expect("a spec").containers[0].env =
            Some(vec![k8s_openapi::api::core::v1::EnvVar {
                name: "POD".to_owned(),
                value: Some(name.clone()),
                ..Default::default()
            }]);
        let begin = now();
        pods.create(&PostParams::default(), &pod)
            .await
            .expect("a pod");
        let mut seen = false;
        loop {
            let (changed, phase, when) = changes.recv().await.expect("a change");
            if changed != name {
                continue;
            }
            if phase == "Running" && !seen {
                seen = true;
                running.push(when - begin);
            }
            if phase == "Succeeded" || phase == "Failed" {
                assert!(seen, "{name} was never seen running");
                terminal.insert(name.clone(), when);
                break;
            }
        }
    }
    row("pod created to Running seen", &mut running);
    let text = std::fs::read_to_string(&ends).expect("the scripts wrote");
    let mut exits: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let (name, time) = line.split_once(' ')?;
            Some(terminal.get(name)? - time.parse::<f64>().ok()?)
        })
        .collect();
    row("last act of the script to terminal status seen", &mut exits);

    // The burst has the node for itself.
    let gone = DeleteParams::default().grace_period(0);
    pods.delete_collection(&gone, &ListParams::default())
        .await
        .expect("deleted");
    until_gone(&pods).await;

    let begin = now();
    let api = pods.clone();
    let creates = futures::stream::iter(0..BURST)
        .map(move |number| {
            let pods = api.clone();
            async move {
                let pod = pod(&format!("b{number}"), "600");
                pods.create(&PostParams::default(), &pod)
                    .await
                    .expect("a pod");
            }
        })
        .buffer_unordered(32)
        .collect::<Vec<()>>();
    let creates = tokio::spawn(creates);
    let mut up = std::collections::HashSet::new();
    let mut last = begin;
    while up.len() < BURST {
        let next = tokio::time::timeout(Duration::from_secs(120), changes.recv());
        let Ok(Some((name, phase, when))) = next.await else {
            println!("only {} of {BURST} pods run", up.len());
            return;
        };
        if name.starts_with('b') && phase == "Running" && up.insert(name) {
            last = when;
        }
    }
    creates.await.expect("the creates");
    println!(
        "{BURST} pods created at once, all Running: {:.2} s",
        last - begin
    );
    let resident = |when: &str| {
        println!(
            "with {BURST} pods, {when}: RSS {} KiB, private {} KiB",
            memory(agent, "status", &["VmRSS:"]),
            memory(agent, "smaps_rollup", &["Private_"])
        );
    };
    resident("as the last one starts");
    tokio::time::sleep(SETTLED).await;
    resident("settled");
    let mut private: Vec<f64> = shims()
        .iter()
        .map(|pid| memory(*pid, "smaps_rollup", &["Private_"]) as f64)
        .collect();
    println!(
        "{} shims: private memory p50 {} KiB, max {} KiB",
        private.len(),
        percentile(&mut private, 0.5),
        percentile(&mut private, 1.0)
    );
    let begin = Instant::now();
    pods.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("bench=yes"),
    )
    .await
    .expect("a delete");
    until_gone(&pods).await;
    println!("all deleted: {:.2} s", begin.elapsed().as_secs_f64());
    watching.abort();
}
