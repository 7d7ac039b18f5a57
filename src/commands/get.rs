//! `vk-cmd get`.

use anyhow::Result;
use serde_json::{Value, json};

use super::select::{Selected, resolve};
use crate::cli::{GetArgs, OutputFormat};
use crate::client::{Connection, Kinds, render};
use crate::exit::Exit;
use crate::printer;

/// Prints objects.
///
/// # Errors
/// Those of the cluster, and of what was typed.
pub async fn run(args: GetArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let kinds = Kinds::discover(&connection.client).await?;
    let selected = resolve(&kinds, &args.select)?;
    match args.output {
        None | Some(OutputFormat::Wide) => tables(&connection, &args, &selected).await?,
        Some(format) => whole(&connection, &args, &selected, format).await?,
    }
    Ok(Exit::Success)
}

fn path(connection: &Connection, args: &GetArgs, one: &Selected) -> String {
    let namespace = (!args.all_namespaces).then_some(connection.namespace.as_str());
    match &one.name {
        Some(name) => one.kind.path(namespace, Some(name)),
        None => connection.collection(&one.kind, namespace, args.select.selector.as_deref()),
    }
}

async fn tables(connection: &Connection, args: &GetArgs, selected: &[Selected]) -> Result<()> {
    let wide = args.output == Some(OutputFormat::Wide);
    let mut printed = false;
    for one in selected {
        let table = connection.table(&path(connection, args, one)).await?;
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        if printed {
            printer::line("")?;
        }
        let namespaces = args.all_namespaces && one.kind.namespaced;
        printer::out(render(&table, wide, namespaces).as_bytes())?;
        printed = true;
    }
    if !printed {
        let place = if args.all_namespaces || selected.iter().all(|one| !one.kind.namespaced) {
            String::new()
        } else {
            format!(" in {} namespace", connection.namespace)
        };
        printer::note(format!("No resources found{place}."));
    }
    Ok(())
}

async fn whole(
    connection: &Connection,
    args: &GetArgs,
    selected: &[Selected],
    format: OutputFormat,
) -> Result<()> {
    let mut objects = Vec::new();
    let mut listed = false;
    for one in selected {
        let answer = connection.get(&path(connection, args, one)).await?;
        let Value::Array(items) = &answer["items"] else {
            objects.push(answer);
            continue;
        };
        listed = true;
        objects.extend(items.iter().map(|item| {
            // Items of a list carry no type of their own.
            let mut item = item.clone();
            item["apiVersion"] = one.kind.api_version().into();
            item["kind"] = one.kind.kind.as_str().into();
            item
        }));
    }
    if format == OutputFormat::Name {
        for object in &objects {
            let version = object["apiVersion"].as_str().unwrap_or_default();
            let kind = object["kind"].as_str().unwrap_or_default();
            let shown = kinds_display(version, kind);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            printer::line(format!("{shown}/{name}"))?;
        }
        return Ok(());
    }
    let document = match <[Value; 1]>::try_from(objects) {
        Ok([one]) if !listed => one,
        Ok([one]) => list(vec![one]),
        Err(many) => list(many),
    };
    match format {
        OutputFormat::Json => printer::line(serde_json::to_string_pretty(&document)?)?,
        _ => printer::out(serde_norway::to_string(&document)?.as_bytes())?,
    }
    Ok(())
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

fn kinds_display(api_version: &str, kind: &str) -> String {
    let singular = kind.to_lowercase();
    match api_version.split_once('/') {
        Some((group, _)) => format!("{singular}.{group}"),
        None => singular,
    }
}
