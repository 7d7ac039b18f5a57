//! Pods on a control plane, one after the other and many at once, as a watcher sees them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Client, Link, Request};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

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

const PODS: &str = "/api/v1/namespaces/default/pods";
/// The measured ones.
const OURS: &str = "bench%3Dyes";
/// Longer than any single step takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// After this long what a start or a burst needed for a moment has been given back.
pub(crate) const SETTLED: Duration = Duration::from_secs(10);

type Changes = mpsc::UnboundedReceiver<Result<Change>>;

/// The pods' script, and a watch on them.
pub(crate) struct Stage {
    client: Client,
    link: Link,
    place: TempDir,
    changes: Changes,
    watching: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// A connection to a control plane that takes pods.
pub(crate) async fn reach(plane: &Plane) -> Result<Link> {
    let link = plane.client()?.link().await?;
    until("the default service account", async || {
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        Ok(link.send(&request("GET", path, &Value::Null)).await?.status == 200)
    })
    .await?;
    Ok(link)
}

impl Stage {
    /// Makes what the pods need and begins to watch.
    pub(crate) async fn new(plane: &Plane, link: Link) -> Result<Self> {
        let (client, place) = (plane.client()?, tempfile::tempdir()?);
        script(&link, &place.path().join("ends")).await?;
        let (sender, changes) = mpsc::unbounded_channel();
        let path = format!("{PODS}?labelSelector={OURS}");
        let watching = tokio::spawn(watch::follow(client.clone(), path, sender));
        Ok(Self {
            client,
            link,
            place,
            changes,
            watching,
        })
    }

    /// Pods that end, one after the other.
    pub(crate) async fn sequence(&mut self, load: Load, figures: &mut Figures) -> Result<()> {
        let Self {
            client,
            link,
            changes,
            ..
        } = self;
        let ends = self.place.path().join("ends");
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
        let text = std::fs::read_to_string(&ends)?;
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

    /// Pods that stay, all at once.
    pub(crate) async fn burst(&mut self, load: Load, figures: &mut Figures) -> Result<()> {
        let Self {
            client,
            link,
            changes,
            ..
        } = self;
        let (client, link) = (&*client, &*link);
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

    /// The end of those.
    pub(crate) async fn deletion(&mut self, load: Load, figures: &mut Figures) -> Result<()> {
        let Self { link, changes, .. } = self;
        let begin = now();
        let path = format!("{PODS}?labelSelector={OURS}");
        let answer = link.send(&request("DELETE", &path, &Value::Null)).await?;
        ensure!(answer.status == 200, "delete: {}", answer.status);
        let mut left: HashSet<String> =
            (0..load.burst).map(|number| format!("b{number}")).collect();
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

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
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
