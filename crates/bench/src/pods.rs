//! Pods through scheduler, agent and real processes.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use testkit::{Agent, Client, Link, Request};
use tokio::sync::mpsc;

use crate::figures::Figures;
use crate::plane::{self, Plane};
use crate::watch::{self, Change, now};

/// How many pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// One after the other.
    pub(crate) single: usize,
    /// At once.
    pub(crate) burst: usize,
    /// How long the burst's pods are watched while they idle.
    pub(crate) idle: Duration,
}

const NODE: &str = "bench";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// The measured ones.
const OURS: &str = "bench%3Dyes";

type Changes = mpsc::UnboundedReceiver<Result<Change>>;
/// Longer than any single step takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// After this long what a burst needed for a moment has been given back.
const SETTLED: Duration = Duration::from_secs(10);

/// Runs an agent of `program` on a whole control plane and measures pods.
pub(crate) async fn measure(plane: &Plane, program: &str, load: Load) -> Result<Figures> {
    let mut figures = Figures::default();
    let client = plane.client()?;
    let link = client.link().await?;
    until("the default service account", async || {
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        Ok(link.send(&request("GET", path, &Value::Null)).await?.status == 200)
    })
    .await?;
    let began = Instant::now();
    let agent = Agent::of(program, &plane.kubeconfig(), NODE)
        .args(&["--no-taint"])
        .start();
    let ready = until("the node is Ready", async || {
        let read = request("GET", &format!("/api/v1/nodes/{NODE}"), &Value::Null);
        let node: Value = serde_json::from_slice(&link.send(&read).await?.body)?;
        let conditions = node["status"]["conditions"].as_array();
        Ok(conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        }))
    });
    ready.await.with_context(|| agent.log())?;
    figures.low(
        "agent started to node Ready",
        "ms",
        began.elapsed().as_secs_f64() * 1e3,
    );
    tokio::time::sleep(SETTLED).await;
    let pid = agent.pid().as_raw();
    figures.low(
        "whole control plane at rest, memory",
        "MB",
        plane.resident(),
    );
    figures.low("agent at rest, memory", "MB", plane::resident(pid));

    let place = tempfile::tempdir()?;
    let ends = place.path().join("ends");
    script(&link, &ends).await?;
    let (sender, mut changes) = mpsc::unbounded_channel();
    let path = format!("{PODS}?labelSelector={OURS}");
    let watching = tokio::spawn(watch::follow(client.clone(), path, sender));
    sequence(&client, &link, &ends, load, &mut changes, &mut figures).await?;
    burst(&client, &link, load, &mut changes, &mut figures).await?;

    tokio::time::sleep(SETTLED).await;
    let many = load.burst;
    let what = |of: &str| format!("{of} with {many} pods, memory");
    figures.low(what("whole control plane"), "MB", plane.resident());
    figures.low(what("agent"), "MB", plane::resident(pid));
    let before = (
        plane.processor_time(),
        plane::processor_time(pid),
        Instant::now(),
    );
    tokio::time::sleep(load.idle).await;
    let passed = before.2.elapsed().as_secs_f64();
    let share = |now: f64, then: f64| (now - then) / passed * 100.0;
    let what = |of: &str| format!("{of} with {many} idle pods, processor time");
    figures.low(
        what("whole control plane"),
        "% of a core",
        share(plane.processor_time(), before.0),
    );
    figures.low(
        what("agent"),
        "% of a core",
        share(plane::processor_time(pid), before.1),
    );

    deletion(&link, load, &mut changes, &mut figures).await?;
    plane.describe();
    watching.abort();
    Ok(figures)
}

pub(crate) fn request(method: &str, path: &str, body: &Value) -> Request {
    let json = "application/json".to_owned();
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: vec![
            ("content-type".to_owned(), json.clone()),
            ("accept".to_owned(), json),
        ],
        body: if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        },
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn create(link: &Link, path: &str, body: &Value) -> Result<()> {
    let answer = link.send(&request("POST", path, body)).await?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(
        answer.status == 201,
        "POST {path}: {} {text}",
        answer.status
    );
    Ok(())
}

async fn script(link: &Link, ends: &Path) -> Result<()> {
    let text = format!(
        "#!/bin/bash\nsleep \"$1\"\necho \"$POD $EPOCHREALTIME\" >> {}\n",
        ends.display()
    );
    let map = json!({"metadata": {"name": "bench"}, "data": {"run.sh": text}});
    create(link, "/api/v1/namespaces/default/configmaps", &map).await
}

fn pod(name: &str, seconds: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"bench": "yes"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "c", "image": "script", "command": ["bash"], "args": [seconds],
                "env": [{"name": "POD", "value": name}],
                "volumeMounts": [{"name": "script", "mountPath": "m"}],
            }],
            "volumes": [{"name": "script", "configMap": {"name": "bench"}}],
        },
    })
}

async fn next(changes: &mut Changes) -> Result<Change> {
    let change = tokio::time::timeout(PATIENCE, changes.recv()).await;
    change
        .context("no change of a pod")?
        .context("the watch ended")?
}

async fn sequence(
    client: &Client,
    link: &Link,
    ends: &Path,
    load: Load,
    changes: &mut Changes,
    figures: &mut Figures,
) -> Result<()> {
    let (mut running, mut terminal) = (Vec::new(), HashMap::new());
    let before = plane::revision(client).await?;
    for number in 0..load.single {
        let name = format!("s{number}");
        let pod = pod(&name, "0.05");
        let begin = now();
        create(link, PODS, &pod).await?;
        let mut seen = false;
        loop {
            let change = next(changes).await?;
            if change.name != name {
                continue;
            }
            match change.phase.as_str() {
                "Running" if !seen => {
                    seen = true;
                    running.push(change.when - begin);
                }
                "Succeeded" => {
                    ensure!(seen, "{name} was never seen running");
                    terminal.insert(name.clone(), change.when);
                    break;
                }
                "Failed" => anyhow::bail!("{name} failed"),
                _ => {}
            }
        }
    }
    let writes = plane::revision(client).await? - before;
    figures.spread("pod created to Running seen", &mut running);
    let text = std::fs::read_to_string(ends)?;
    let mut exits: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let (name, time) = line.split_once(' ')?;
            Some(terminal.get(name)? - time.parse::<f64>().ok()?)
        })
        .collect();
    ensure!(
        exits.len() == load.single,
        "only {} ends were written",
        exits.len()
    );
    figures.spread("last act of its script to terminal status seen", &mut exits);
    let what = "writes to the store, a pod from create to end, with events";
    figures.low(what, "", writes / load.single as f64);
    Ok(())
}

async fn burst(
    client: &Client,
    link: &Link,
    load: Load,
    changes: &mut Changes,
    figures: &mut Figures,
) -> Result<()> {
    let before = plane::revision(client).await?;
    let begin = now();
    let creates = futures::stream::iter(0..load.burst).map(|number| {
        let pod = pod(&format!("b{number}"), "100000");
        async move { create(link, PODS, &pod).await }
    });
    let creates = creates.buffer_unordered(32).try_collect::<Vec<()>>();
    let running = async {
        let mut running = HashSet::new();
        let mut last = begin;
        while running.len() < load.burst {
            let change = next(changes)
                .await
                .with_context(|| format!("{} of {} pods run", running.len(), load.burst))?;
            if change.name.starts_with('b') && change.phase == "Running" {
                last = change.when;
                running.insert(change.name);
            }
        }
        Ok::<_, anyhow::Error>(last - begin)
    };
    let (_, taken) = futures::future::try_join(creates, running).await?;
    let many = load.burst;
    figures.low(
        format!("{many} pods created at once, all Running"),
        "s",
        taken,
    );
    let writes = plane::revision(client).await? - before;
    figures.low(
        "writes to the store, each of them until Running",
        "",
        writes / many as f64,
    );
    Ok(())
}

async fn deletion(
    link: &Link,
    load: Load,
    changes: &mut Changes,
    figures: &mut Figures,
) -> Result<()> {
    let begin = now();
    let path = format!("{PODS}?labelSelector={OURS}");
    let answer = link.send(&request("DELETE", &path, &Value::Null)).await?;
    ensure!(answer.status == 200, "delete: {}", answer.status);
    let mut left: HashSet<String> = (0..load.burst).map(|number| format!("b{number}")).collect();
    let mut last = begin;
    while !left.is_empty() {
        let change = next(changes)
            .await
            .with_context(|| format!("{} pods left", left.len()))?;
        if change.gone && left.remove(&change.name) {
            last = change.when;
        }
    }
    figures.low(
        format!("{} pods deleted, grace 1 s", load.burst),
        "s",
        last - begin,
    );
    Ok(())
}
