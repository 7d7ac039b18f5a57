//! `vk-cmd top`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cli::{TopArgs, TopKind};
use crate::client::{Connection, render};
use crate::exit::Exit;
use crate::printer;
use crate::quantity::Quantity;

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";

/// Prints what nodes or pods use.
///
/// # Errors
/// Those of the cluster; a cluster without metrics.
pub async fn run(args: TopArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let used = items(&connection, &args).await?;
    if used.is_empty() {
        bail!("metrics not available yet: nothing that runs has been seen twice");
    }
    let table = match args.what {
        TopKind::Nodes => nodes(&connection, &used).await?,
        TopKind::Pods => pods(&used, args.containers),
    };
    printer::out(render(&table, false, args.all_namespaces).as_bytes())?;
    Ok(Exit::Success)
}

async fn items(connection: &Connection, args: &TopArgs) -> Result<Vec<Value>> {
    let mut path = match args.what {
        TopKind::Nodes => format!("{GROUP}/nodes"),
        TopKind::Pods if args.all_namespaces => format!("{GROUP}/pods"),
        TopKind::Pods => format!("{GROUP}/namespaces/{}/pods", connection.namespace),
    };
    if let Some(name) = &args.name {
        path = format!("{path}/{name}");
    } else if let Some(selector) = &args.selector {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("labelSelector", selector)
            .finish();
        path = format!("{path}?{query}");
    }
    let answer = match connection.get(&path).await {
        Err(kube::Error::Api(status)) if status.code == 404 && args.name.is_none() => {
            bail!("metrics not available: no metrics server serves metrics.k8s.io in this cluster")
        }
        answer => answer?,
    };
    Ok(match answer["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![answer],
    })
}

/// CPU in thousandths and memory in bytes.
fn amounts(usage: &Value) -> (u64, u64) {
    let quantity = |key: &str| Quantity::parse(usage[key].as_str().unwrap_or_default());
    let cpu = quantity("cpu").and_then(Quantity::to_millis);
    let memory = quantity("memory").and_then(Quantity::to_units);
    (cpu.unwrap_or(0), memory.unwrap_or(0))
}

fn millis(cpu: u64) -> Value {
    format!("{cpu}m").into()
}

fn mebibytes(memory: u64) -> Value {
    format!("{}Mi", memory >> 20).into()
}

fn table(columns: &[&str], rows: Vec<Value>) -> Value {
    let columns: Vec<Value> = columns.iter().map(|name| json!({"name": name})).collect();
    json!({"columnDefinitions": columns, "rows": rows})
}

async fn nodes(connection: &Connection, used: &[Value]) -> Result<Value> {
    let all = connection.get("/api/v1/nodes").await;
    let all = all.context("the nodes, for what they have")?;
    let mut rows = Vec::new();
    for metrics in used {
        let name = &metrics["metadata"]["name"];
        let mut nodes = all["items"].as_array().into_iter().flatten();
        let node = nodes.find(|node| node["metadata"]["name"] == *name);
        let (cpu, memory) = amounts(&metrics["usage"]);
        let (cores, bytes) = node.map_or((0, 0), |node| amounts(&node["status"]["allocatable"]));
        let share = |used: u64, all: u64| match all {
            0 => Value::from("<unknown>"),
            all => format!("{}%", used * 100 / all).into(),
        };
        rows.push(json!({"cells": [name, millis(cpu), share(cpu, cores),
                                   mebibytes(memory), share(memory, bytes)]}));
    }
    let columns = ["name", "cpu(cores)", "cpu(%)", "memory(bytes)", "memory(%)"];
    Ok(named(table(&columns, rows)))
}

fn pods(used: &[Value], containers: bool) -> Value {
    let mut rows = Vec::new();
    for metrics in used {
        let name = &metrics["metadata"]["name"];
        let object = json!({"metadata": {"namespace": metrics["metadata"]["namespace"]}});
        let all = metrics["containers"].as_array().into_iter().flatten();
        let all: Vec<(&Value, (u64, u64))> =
            all.map(|it| (&it["name"], amounts(&it["usage"]))).collect();
        if containers {
            for (container, (cpu, memory)) in all {
                rows.push(json!({"object": object,
                    "cells": [name, container, millis(cpu), mebibytes(memory)]}));
            }
        } else {
            let cpu = all.iter().map(|(_, (cpu, _))| cpu).sum();
            let memory = all.iter().map(|(_, (_, memory))| memory).sum();
            rows.push(json!({"object": object, "cells": [name, millis(cpu), mebibytes(memory)]}));
        }
    }
    if containers {
        let columns = ["pod", "name", "cpu(cores)", "memory(bytes)"];
        named(table(&columns, rows))
    } else {
        named(table(&["name", "cpu(cores)", "memory(bytes)"], rows))
    }
}

/// In the order of the cells, as everybody expects it.
fn named(mut table: Value) -> Value {
    if let Some(rows) = table["rows"].as_array_mut() {
        rows.sort_by_key(|row| row["cells"].to_string());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_containers_are_summed_or_shown() {
        let used = [
            json!({"metadata": {"name": "p", "namespace": "n"}, "containers": [
            {"name": "a", "usage": {"cpu": "1500000n", "memory": "2048Ki"}},
            {"name": "b", "usage": {"cpu": "250m", "memory": "1Gi"}}]}),
        ];
        let text = render(&pods(&used, false), false, true);
        assert_eq!(
            text,
            "NAMESPACE   NAME   CPU(CORES)   MEMORY(BYTES)\nn           p      252m         1026Mi\n"
        );
        let text = render(&pods(&used, true), false, false);
        assert!(text.contains("p     b      250m         1024Mi"), "{text}");
    }
}
