//! What `up --apply` runs: objects applied, their pods' output printed, their end awaited.

use anyhow::{Context, Result};
use futures::future::try_join_all;

use super::apply::{AppliedObject, apply_all};
use super::logs;
use crate::client::{Connection, LogOptions, Manifest, Outcome, until_settled};
use crate::exit::Exit;
use crate::printer;

/// Applies the manifests. With `wait`, returns how their pods ended; without, returns none at once
/// (with `follow`: once their logs have ended).
pub(super) async fn run(
    connection: &Connection,
    manifests: Vec<Manifest>,
    wait: bool,
    follow: bool,
) -> Result<Option<Exit>> {
    let applied = apply_all(connection, manifests, false, &mut |line| {
        printer::note(line);
        Ok(())
    })
    .await?;
    let pods: Vec<&AppliedObject> = applied
        .iter()
        .filter(|object| object.kind.kind == "Pod" && object.kind.group.is_empty())
        .collect();
    if wait && pods.is_empty() {
        printer::note("nothing to wait for: no pod was applied");
    }
    let outcomes = try_join_all(pods.iter().map(|pod| one(connection, pod, wait, follow))).await?;
    if !wait {
        return Ok(None);
    }
    // The first failure, in the order of the files, is what the shell is told.
    let failed = outcomes.iter().find_map(|outcome| match outcome {
        Some(Outcome::Failed { code, .. }) => Some(Exit::Process(*code)),
        Some(Outcome::Gone) => Some(Exit::Failure),
        Some(Outcome::Good) | None => None,
    });
    Ok(Some(failed.unwrap_or(Exit::Success)))
}

async fn one(
    connection: &Connection,
    pod: &AppliedObject,
    wait: bool,
    follow: bool,
) -> Result<Option<Outcome>> {
    let namespace = pod.namespace.as_deref().unwrap_or("default");
    let settled = async {
        if wait {
            let tell = |obstacle: &str| printer::note(format!("pod/{}: {obstacle}", pod.name));
            let outcome = until_settled(connection, &pod.kind, namespace, &pod.name, tell)
                .await
                .with_context(|| format!("waiting for pod {}", pod.name))?;
            match &outcome {
                Outcome::Good => printer::note(format!("pod/{} ended well", pod.name)),
                Outcome::Failed { why, .. } => printer::note(format!("pod/{}: {why}", pod.name)),
                Outcome::Gone => printer::note(format!("pod/{} was deleted", pod.name)),
            }
            Ok(Some(outcome))
        } else {
            Ok::<_, anyhow::Error>(None)
        }
    };
    if !follow {
        return settled.await;
    }
    let (outcome, ()) = tokio::try_join!(settled, all_logs(connection, pod, namespace))?;
    Ok(outcome)
}

/// The output of every container of a pod, each from its start to its end.
async fn all_logs(connection: &Connection, pod: &AppliedObject, namespace: &str) -> Result<()> {
    let names = crate::client::until_started(connection, &pod.kind, namespace, &pod.name).await?;
    try_join_all(names.into_iter().map(|container| async {
        let options = LogOptions {
            container: Some(container),
            follow: true,
            ..LogOptions::default()
        };
        logs::print(connection, namespace, &pod.name, &options).await
    }))
    .await?;
    Ok(())
}
