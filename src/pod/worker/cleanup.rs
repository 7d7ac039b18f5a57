//! Removes the files of a pod that is gone.

use crate::{
    container::Root,
    pod::{api::chain, record::HomeLink, volumes::remove_memory},
};

/// Removes a pod's files. Nothing of it runs any more.
pub(in crate::pod) async fn clean_up(link: Option<HomeLink>, root: Root, uid: String) {
    let removed = tokio::task::spawn_blocking(move || {
        if let Some(link) = link
            && let Err(error) = link.remove()
        {
            tracing::warn!(%error, uid, "the link in the home directory stays");
        }
        if let Err(error) = remove_memory(&root, &uid) {
            let error = chain(&error);
            tracing::warn!(error, uid, "a volume in memory stays");
        }
        if let Err(error) = root.remove_pod(&uid) {
            let error = chain(&error);
            tracing::warn!(error, uid, "files of a pod that is gone stay");
        }
    });
    if let Err(error) = removed.await {
        tracing::error!(%error, "removing a pod's files failed");
    }
}
