//! What an API server alone can do: writes, reads, lists, watches.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use testkit::{Client, Link, Request, Response};

use crate::figures::Figures;
use crate::plane::Plane;

/// How much is asked of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Writes, one after the other.
    pub(crate) single: usize,
    /// Pods that many clients create.
    pub(crate) pods: usize,
    pub(crate) clients: usize,
    /// Lists of all pods.
    pub(crate) lists: usize,
    pub(crate) watchers: usize,
    /// Events that each watcher is to see.
    pub(crate) events: usize,
}

/// Watches that one connection carries; kube-apiserver allows 100.
const WATCHES_A_LINK: usize = 50;
/// Longer than anything here takes; a server that is stuck is told of so.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures an API server without scheduler and controllers.
pub(crate) async fn measure(plane: &Plane, load: Load) -> Result<Figures> {
    let mut figures = Figures::default();
    let client = plane.client()?;
    let link = client.link().await?;
    prepare(&link).await?;
    tokio::time::sleep(Duration::from_secs(5)).await; // what a start needs for a moment is given back
    figures.low(
        "API server (and etcd) at rest, memory",
        "MB",
        plane.resident(),
    );
    single(&link, load, &mut figures).await?;
    many(&client, load, &mut figures).await?;
    lists(&link, load, &mut figures).await?;
    let what = format!("memory with {} pods stored", load.pods);
    figures.low(what, "MB", plane.resident());
    fan_out(&client, load, &mut figures).await?;
    let what = format!("memory after that, {} watches open", load.watchers);
    figures.low(what, "MB", plane.resident());
    plane.describe();
    Ok(figures)
}

fn request(method: &str, path: &str, body: &Value) -> Request {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: vec![
            ("content-type".to_owned(), kind.to_owned()),
            ("accept".to_owned(), "application/json".to_owned()),
        ],
        body: if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        },
    }
}

async fn ok(link: &Link, request: &Request) -> Result<Response> {
    let response = tokio::time::timeout(PATIENCE, link.send(request)).await??;
    ensure!(
        response.status < 300,
        "{} {}: {} {}",
        request.method,
        request.path,
        response.status,
        String::from_utf8_lossy(&response.body)
    );
    Ok(response)
}

/// Namespaces, and the account that pods need: no controller makes it here.
async fn prepare(link: &Link) -> Result<()> {
    for name in ["bench", "fan"] {
        let body = json!({"metadata": {"name": name}});
        ok(link, &request("POST", "/api/v1/namespaces", &body)).await?;
    }
    let account = json!({"metadata": {"name": "default"}});
    let path = "/api/v1/namespaces/bench/serviceaccounts";
    ok(link, &request("POST", path, &account)).await?;
    Ok(())
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"run.sh": "#!/bin/bash\nset -eu\n".repeat(16)}})
}

/// A pod as a Deployment makes it, of a scheduler that nobody runs.
fn pod(number: usize) -> Value {
    json!({
        "metadata": {
            "name": format!("web-6f9d7c5b8d-{number:05}"),
            "labels": {"app": "web", "pod-template-hash": "6f9d7c5b8d", "shard": (number % 100).to_string()},
        },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "main", "image": "script", "command": ["bash"], "args": ["run.sh"],
                "env": [{"name": "NUMBER", "value": number.to_string()}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "volumeMounts": [{"name": "script", "mountPath": "stress"}],
            }],
            "volumes": [{"name": "script", "configMap": {"name": "script"}}],
        },
    })
}

async fn single(link: &Link, load: Load, figures: &mut Figures) -> Result<()> {
    const MAPS: &str = "/api/v1/namespaces/bench/configmaps";
    let (mut creates, mut patches, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    let timed = async |request: Request, times: &mut Vec<f64>| {
        let begin = Instant::now();
        ok(link, &request).await?;
        times.push(begin.elapsed().as_secs_f64());
        Ok::<_, anyhow::Error>(())
    };
    for number in 0..load.single {
        let body = config_map(&format!("single-{number}"));
        timed(request("POST", MAPS, &body), &mut creates).await?;
    }
    for number in 0..load.single {
        let path = format!("{MAPS}/single-{number}");
        let body = json!({"data": {"changed": number.to_string()}});
        timed(request("PATCH", &path, &body), &mut patches).await?;
    }
    for number in 0..load.single {
        let path = format!("{MAPS}/single-{number}");
        timed(request("GET", &path, &Value::Null), &mut reads).await?;
    }
    figures.spread("create a ConfigMap", &mut creates);
    figures.spread("patch it", &mut patches);
    figures.spread("read it", &mut reads);
    Ok(())
}

async fn many(client: &Client, load: Load, figures: &mut Figures) -> Result<()> {
    let links: Vec<Link> = futures::stream::iter(0..load.clients)
        .then(|_| client.link())
        .try_collect()
        .await?;
    let begin = Instant::now();
    let work = links
        .into_iter()
        .enumerate()
        .map(|(first, link)| async move {
            for number in (first..load.pods).step_by(load.clients) {
                ok(&link, &request("POST", PODS, &pod(number))).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    let mut tasks = tokio::task::JoinSet::new();
    for one in work {
        tasks.spawn(one);
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let rate = load.pods as f64 / begin.elapsed().as_secs_f64();
    let what = format!("pods created by {} clients", load.clients);
    figures.high(what, "/s", rate);
    Ok(())
}

const PODS: &str = "/api/v1/namespaces/bench/pods";

async fn lists(link: &Link, load: Load, figures: &mut Figures) -> Result<()> {
    let (mut whole, mut chosen, mut paged) = (Vec::new(), Vec::new(), Vec::new());
    let mut size = 0;
    for _ in 0..load.lists {
        let begin = Instant::now();
        let path = format!("{PODS}?resourceVersion=0");
        size = ok(link, &request("GET", &path, &Value::Null))
            .await?
            .body
            .len();
        whole.push(begin.elapsed().as_secs_f64());

        let begin = Instant::now();
        let path = format!("{PODS}?labelSelector=shard%3D7");
        ok(link, &request("GET", &path, &Value::Null)).await?;
        chosen.push(begin.elapsed().as_secs_f64());

        let begin = Instant::now();
        let mut next = String::new();
        loop {
            let path = format!("{PODS}?limit=500&continue={next}");
            let answer = ok(link, &request("GET", &path, &Value::Null)).await?;
            let list: Value = serde_json::from_slice(&answer.body)?;
            match list["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => token.clone_into(&mut next),
                _ => break,
            }
        }
        paged.push(begin.elapsed().as_secs_f64());
    }
    let pods = load.pods;
    testkit::note(&format!("  (a list of all pods has {size} bytes)"));
    for (what, times) in [
        (format!("list {pods} pods"), &mut whole),
        (
            format!("list 1 in 100 of {pods} pods by label"),
            &mut chosen,
        ),
        (format!("list {pods} pods in pages of 500"), &mut paged),
    ] {
        figures.low(
            format!("{what}, p50"),
            "ms",
            crate::figures::percentile(times, 0.5) * 1e3,
        );
    }
    Ok(())
}

async fn fan_out(client: &Client, load: Load, figures: &mut Figures) -> Result<()> {
    const MAPS: &str = "/api/v1/namespaces/fan/configmaps";
    let writer = client.link().await?;
    let answer = ok(&writer, &request("GET", MAPS, &Value::Null)).await?;
    let list: Value = serde_json::from_slice(&answer.body)?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a revision")?;
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}");

    // How long until one watcher sees a write.
    let mut seen = Vec::new();
    let reader = client.link().await?;
    let watch = reader.start(&request("GET", &path, &Value::Null)).await?;
    let mut body = watch.into_body();
    let alone = load.single.min(200);
    for number in 0..alone {
        let begin = Instant::now();
        let create = request("POST", MAPS, &config_map(&format!("alone-{number}")));
        let write = ok(&writer, &create);
        let event = async {
            lines(&mut body, 1).await?;
            Ok::<_, anyhow::Error>(begin.elapsed().as_secs_f64())
        };
        seen.push(futures::future::try_join(write, event).await?.1);
    }
    figures.spread("create sent to event at a watcher", &mut seen);
    drop(body);

    let answer = ok(&writer, &request("GET", MAPS, &Value::Null)).await?;
    let list: Value = serde_json::from_slice(&answer.body)?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a revision")?;
    let path = format!("{MAPS}?watch=1&resourceVersion={revision}");
    let mut watchers = tokio::task::JoinSet::new();
    let mut links = Vec::new();
    for first in (0..load.watchers).step_by(WATCHES_A_LINK) {
        let link = client.link().await?;
        for _ in first..load.watchers.min(first + WATCHES_A_LINK) {
            let response = link.start(&request("GET", &path, &Value::Null)).await?;
            ensure!(response.status() == 200, "{}", response.status());
            watchers.spawn(async move {
                let mut body = response.into_body();
                tokio::time::timeout(PATIENCE, lines(&mut body, load.events)).await??;
                Ok::<_, anyhow::Error>(body)
            });
        }
        links.push(link);
    }
    let begin = Instant::now();
    let writes = futures::stream::iter(0..load.events).map(|number| {
        let create = request("POST", MAPS, &config_map(&format!("event-{number}")));
        let writer = &writer;
        async move { ok(writer, &create).await }
    });
    writes.buffer_unordered(8).try_collect::<Vec<_>>().await?;
    let mut open = Vec::new();
    while let Some(done) = watchers.join_next().await {
        open.push(done??);
    }
    let rate = (load.watchers * load.events) as f64 / begin.elapsed().as_secs_f64();
    let what = format!("events delivered to {} watchers", load.watchers);
    figures.high(what, "/s", rate);
    Ok(())
}

/// Reads until that many lines have come.
async fn lines(body: &mut hyper::body::Incoming, many: usize) -> Result<()> {
    let mut seen = 0;
    while seen < many {
        let frame = body.frame().await.context("the watch ended")??;
        if let Some(data) = frame.data_ref() {
            seen += data.iter().filter(|byte| **byte == b'\n').count();
        }
    }
    Ok(())
}
