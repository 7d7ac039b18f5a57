//! A watch of pods as every client keeps it: where it ends, it begins anew after the last thing it saw.
//!
//! kube-apiserver ends the watches of clients that do not keep up, which a burst on a small machine brings about.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::Value;
use testkit::{Client, Link};
use tokio::sync::mpsc::UnboundedSender;

use crate::stage::request;

/// One change of a pod, as a watcher sees it. After a gap it may have been said before.
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) phase: String,
    pub(crate) gone: bool,
    /// Seconds since 1970.
    pub(crate) when: f64,
}

type Sender = UnboundedSender<Result<Change>>;

/// Watches in a row that may bring nothing.
const FRUITLESS: usize = 10;

pub(crate) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Sends each change of the pods of `path` (with a query) until nobody listens; an error is the last thing it sends.
pub(crate) async fn follow(client: Client, path: String, sender: Sender) {
    if let Err(error) = changes(&client, &path, &sender).await {
        // Nobody listens any more: nobody misses it.
        let _ = sender.send(Err(error));
    }
}

async fn changes(client: &Client, path: &str, sender: &Sender) -> Result<()> {
    let (mut known, mut link) = (HashSet::new(), client.link().await?);
    let mut at = list(&link, path, &mut known, sender).await?;
    let mut fruitless = 0;
    loop {
        let before = at.clone();
        let (too_old, why) = match watch(&link, path, &mut at, &mut known, sender).await {
            Ok(End::NobodyListens) => return Ok(()),
            Ok(End::OfStream) => (false, "end of stream".to_owned()),
            Ok(End::TooOld) => (true, "too old a revision".to_owned()),
            Err(error) => (false, format!("{error:#}")),
        };
        fruitless = if at == before { fruitless + 1 } else { 0 };
        ensure!(
            fruitless < FRUITLESS,
            "{FRUITLESS} watches brought nothing; the last one: {why}"
        );
        testkit::note(&format!(
            "  (the server ended the watch at revision {at}: {why}; it begins anew)"
        ));
        link = client.link().await?;
        if too_old {
            at = list(&link, path, &mut known, sender).await?;
        }
    }
}

enum End {
    NobodyListens,
    /// Nothing more was to come.
    OfStream,
    /// The revision is no longer known.
    TooOld,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Sends the state of all pods, and which of the known ones are gone; gives the revision of that state.
async fn list(
    link: &Link,
    path: &str,
    known: &mut HashSet<String>,
    sender: &Sender,
) -> Result<String> {
    let answer = link.send(&request("GET", path, &Value::Null)).await?;
    ensure!(answer.status == 200, "GET {path}: {}", answer.status);
    let when = now();
    let list: Value = serde_json::from_slice(&answer.body)?;
    let mut gone = std::mem::take(known);
    for pod in list["items"].as_array().into_iter().flatten() {
        let change = Change {
            name: text(&pod["metadata"]["name"]),
            phase: text(&pod["status"]["phase"]),
            gone: false,
            when,
        };
        gone.remove(&change.name);
        known.insert(change.name.clone());
        let _ = sender.send(Ok(change));
    }
    for name in gone {
        let phase = String::new();
        let _ = sender.send(Ok(Change {
            name,
            phase,
            gone: true,
            when,
        }));
    }
    let revision = list["metadata"]["resourceVersion"].as_str();
    Ok(revision.context("a list without a revision")?.to_owned())
}

/// Sends what changes after the revision `at`, which goes on with what was seen.
async fn watch(
    link: &Link,
    path: &str,
    at: &mut String,
    known: &mut HashSet<String>,
    sender: &Sender,
) -> Result<End> {
    let path = format!("{path}&watch=1&allowWatchBookmarks=true&resourceVersion={at}");
    let answer = link.start(&request("GET", &path, &Value::Null)).await?;
    if answer.status() == 410 {
        return Ok(End::TooOld);
    }
    ensure!(answer.status() == 200, "GET {path}: {}", answer.status());
    let mut body = answer.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let when = now();
        rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
        let mut begin = 0;
        while let Some(length) = rest[begin..].iter().position(|byte| *byte == b'\n') {
            let event: Value = serde_json::from_slice(&rest[begin..begin + length])?;
            begin += length + 1;
            let (kind, pod) = (text(&event["type"]), &event["object"]);
            if kind == "ERROR" {
                ensure!(pod["code"] == 410, "the watch says {pod}");
                return Ok(End::TooOld);
            }
            *at = text(&pod["metadata"]["resourceVersion"]);
            if kind == "BOOKMARK" {
                continue;
            }
            let change = Change {
                name: text(&pod["metadata"]["name"]),
                phase: text(&pod["status"]["phase"]),
                gone: kind == "DELETED",
                when,
            };
            if change.gone {
                known.remove(&change.name);
            } else {
                known.insert(change.name.clone());
            }
            if sender.send(Ok(change)).is_err() {
                return Ok(End::NobodyListens);
            }
        }
        rest.drain(..begin);
    }
    Ok(End::OfStream)
}
