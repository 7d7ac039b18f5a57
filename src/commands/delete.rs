//! `vk-cmd delete`.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::select::resolve;
use crate::cli::DeleteArgs;
use crate::client::{Connection, Kind, Kinds, read_manifests, until_gone};
use crate::exit::{Exit, UsageError};
use crate::printer;

struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: String,
}

/// Deletes objects, all before it waits for any.
///
/// # Errors
/// Those of the cluster, and of what was typed.
pub async fn run(args: DeleteArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let kinds = Kinds::discover(&connection.client).await?;
    let targets = if args.filename.is_empty() {
        typed(&connection, &kinds, &args).await?
    } else {
        from_files(&connection, &kinds, &args)?
    };
    if targets.is_empty() {
        printer::note("No resources found.");
    }
    let mut waiting = Vec::new();
    for target in targets {
        let path = target
            .kind
            .path(target.namespace.as_deref(), Some(&target.name));
        // The UID tells the object that we delete from a later one of the same name.
        let object = connection.get(&path).await?;
        connection.delete(&path, args.grace_period).await?;
        printer::line(format!(
            "{} \"{}\" deleted",
            target.kind.display(),
            target.name
        ))?;
        waiting.push((target, uid(&object)));
    }
    if !args.no_wait {
        for (target, uid) in waiting {
            until_gone(
                &connection,
                &target.kind,
                target.namespace.as_deref(),
                &target.name,
                &uid,
            )
            .await
            .with_context(|| format!("waiting for {}/{}", target.kind.display(), target.name))?;
        }
    }
    Ok(Exit::Success)
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn typed(connection: &Connection, kinds: &Kinds, args: &DeleteArgs) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for one in resolve(kinds, &args.select)? {
        let namespace = one.kind.namespaced.then(|| connection.namespace.clone());
        if let Some(name) = one.name {
            targets.push(Target {
                kind: one.kind,
                namespace,
                name,
            });
            continue;
        }
        if !args.all && args.select.selector.is_none() {
            return Err(UsageError {
                key: "NAME".to_owned(),
                value: String::new(),
                problem: "is missing".to_owned(),
                origin: "command line".to_owned(),
                mend: format!("name the {}, or say -l SELECTOR or --all", one.kind.plural),
            }
            .into());
        }
        let selector = args.select.selector.as_deref();
        let list = connection
            .get(&connection.collection(&one.kind, namespace.as_deref(), selector))
            .await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let name = item["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            targets.push(Target {
                kind: one.kind.clone(),
                namespace: namespace.clone(),
                name,
            });
        }
    }
    Ok(targets)
}

fn from_files(connection: &Connection, kinds: &Kinds, args: &DeleteArgs) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for manifest in read_manifests(&args.filename)? {
        let kind = kinds
            .by_kind(&manifest.api_version, &manifest.kind)
            .ok_or_else(|| {
                anyhow!(
                    "{}: the server has no kind {} {}",
                    manifest.origin,
                    manifest.api_version,
                    manifest.kind
                )
            })?;
        let namespace = manifest
            .namespace
            .unwrap_or_else(|| connection.namespace.clone());
        targets.push(Target {
            kind: kind.clone(),
            namespace: kind.namespaced.then_some(namespace),
            name: manifest.name,
        });
    }
    Ok(targets)
}
