//! Pods that are on disk and no longer in the API: their processes end, their files go.

use std::{path::Path, time::Duration};

use futures::future::join_all;

use super::{
    api::{Retry, chain},
    record::{HomeLink, Record},
    worker::{Context, clean_up},
};
use crate::container::{Adopted, ContainerDir, dir::DirError};

/// Ends what runs of a pod and removes its files.
pub(super) async fn end(context: &Context, uid: &str) {
    let root = &context.root;
    let record = Record::read(root, uid);
    let grace = record.as_ref().map_or(30, |record| record.grace_seconds);
    let grace = Duration::from_secs(grace);
    let containers = until_read(uid, || root.containers(uid)).await;
    let dirs = containers
        .iter()
        .filter_map(|name| root.container(uid, name).ok());
    join_all(dirs.map(|dir| end_container(context, dir, grace))).await;
    let link = record.and_then(|record| {
        let home: &Path = context.home.as_deref()?;
        Some(HomeLink::new(home, root, &record.name, uid))
    });
    tracing::info!(uid, "removing a pod that is gone from the API");
    clean_up(link, root.clone(), uid.to_owned()).await;
}

/// Reads records until they can be read. What cannot be read now may belong to a process that runs:
/// it counts as neither ended nor absent.
pub(super) async fn until_read<T>(uid: &str, read: impl Fn() -> Result<T, DirError>) -> T {
    let mut retry = Retry::default();
    loop {
        match read() {
            Ok(found) => return found,
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, uid, "records of a pod cannot be read");
            }
        }
        tokio::time::sleep(retry.failed()).await;
    }
}

async fn end_container(context: &Context, dir: ContainerDir, grace: Duration) {
    let attempts = until_read(dir.uid(), || dir.attempts()).await;
    // Only the newest can run: an attempt begins when the one before has ended.
    let Some(attempt) = attempts.last().copied() else {
        return;
    };
    let mut retry = Retry::default();
    loop {
        match context.launcher.adopt(&dir, attempt).await {
            Ok(Adopted::Running(handle)) => {
                if let Err(error) = handle.terminate(grace).await {
                    tracing::debug!(
                        error = chain(&error),
                        container = dir.name(),
                        "not terminated"
                    );
                }
                handle.wait().await;
                return;
            }
            Ok(Adopted::NeverStarted) => {
                match context.launcher.cancel(&dir, attempt, context.epoch).await {
                    Ok(crate::container::launch::Cancellation::Cancelled) => return,
                    // Started a moment ago: it is adopted in the next round.
                    Ok(crate::container::launch::Cancellation::Claimed) => {}
                    Err(error) => {
                        tracing::warn!(
                            error = chain(&error),
                            container = dir.name(),
                            "not cancelled"
                        );
                    }
                }
            }
            Ok(Adopted::Exited(_) | Adopted::Lost(_) | Adopted::Cancelled) => return,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    container = dir.name(),
                    "not adopted yet"
                );
            }
        }
        tokio::time::sleep(retry.failed()).await;
    }
}
