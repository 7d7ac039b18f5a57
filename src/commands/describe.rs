//! `vk-cmd describe`: the object as YAML without bookkeeping, then its events.

use anyhow::Result;
use serde_json::Value;

use super::select::resolve;
use crate::cli::DescribeArgs;
use crate::client::{Connection, Kind, Kinds};
use crate::exit::Exit;
use crate::printer;

/// Describes objects.
///
/// # Errors
/// Those of the cluster, and of what was typed.
pub async fn run(args: DescribeArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let kinds = Kinds::discover(&connection.client).await?;
    let mut first = true;
    for one in resolve(&kinds, &args.select)? {
        let namespace = Some(connection.namespace.as_str());
        let objects = match &one.name {
            Some(name) => vec![
                connection
                    .get(&one.kind.path(namespace, Some(name)))
                    .await?,
            ],
            None => {
                let path =
                    connection.collection(&one.kind, namespace, args.select.selector.as_deref());
                match connection.get(&path).await?["items"].take() {
                    Value::Array(items) => items,
                    _ => Vec::new(),
                }
            }
        };
        for object in objects {
            if !first {
                printer::line("")?;
            }
            first = false;
            describe(&connection, &one.kind, object).await?;
        }
    }
    Ok(Exit::Success)
}

async fn describe(connection: &Connection, kind: &Kind, mut object: Value) -> Result<()> {
    let uid = object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if kind.kind == "Secret" {
        hide_values(&mut object);
    }
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.as_str().into();
    printer::out(serde_norway::to_string(&object)?.as_bytes())?;
    // Events about objects without a namespace lie in `default`.
    let place = namespace.as_deref().unwrap_or("default");
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("fieldSelector", &format!("involvedObject.uid={uid}"))
        .finish();
    let mut events = connection
        .get(&format!("/api/v1/namespaces/{place}/events?{query}"))
        .await?;
    let Value::Array(mut events) = events["items"].take() else {
        return Ok(());
    };
    // Objects such as Node carry their name as the UID of their events.
    if events.is_empty() && kind.kind == "Node" {
        events = node_events(connection, &object).await?;
    }
    if events.is_empty() {
        printer::line("Events:  <none>")?;
        return Ok(());
    }
    events.sort_by_key(|event| when(event).to_owned());
    printer::line("Events:")?;
    for event in &events {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let count = event["count"].as_u64().unwrap_or(1);
        let times = if count > 1 {
            format!(" (x{count})")
        } else {
            String::new()
        };
        printer::line(format!(
            "  {}  {}  {}{times}  {}",
            when(event),
            text("type"),
            text("reason"),
            text("message").trim_end()
        ))?;
    }
    Ok(())
}

async fn node_events(connection: &Connection, node: &Value) -> Result<Vec<Value>> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair(
            "fieldSelector",
            &format!("involvedObject.uid={name},involvedObject.kind=Node"),
        )
        .finish();
    let mut events = connection.get(&format!("/api/v1/events?{query}")).await?;
    Ok(match events["items"].take() {
        Value::Array(events) => events,
        _ => Vec::new(),
    })
}

fn when(event: &Value) -> &str {
    ["lastTimestamp", "eventTime"]
        .iter()
        .find_map(|key| event[key].as_str())
        .or_else(|| event["metadata"]["creationTimestamp"].as_str())
        .unwrap_or_default()
}

fn hide_values(secret: &mut Value) {
    for key in ["data", "stringData"] {
        for value in secret[key]
            .as_object_mut()
            .into_iter()
            .flat_map(|map| map.values_mut())
        {
            let bytes = value
                .as_str()
                .map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
            *value = format!("{bytes} bytes").into();
        }
    }
    if let Some(map) = secret.as_object_mut() {
        map.retain(|key, value| !(key == "stringData" && value.is_null()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_shows_sizes_and_not_values() {
        let mut secret = json!({"data": {"password": "aHVudGVyMg=="}});
        hide_values(&mut secret);
        assert_eq!(secret, json!({"data": {"password": "7 bytes"}}));
    }
}
