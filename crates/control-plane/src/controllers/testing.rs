//! A registry over a store in a temporary directory, and level-triggered waits.

use std::time::Duration;

use tempfile::TempDir;

use crate::admission::Admission;
use crate::auth::authz::Authorizer;
use crate::registry::Registry;
use crate::store::{Options, Store};

/// A registry with admission over an empty store. The directory lives as long as the first value.
pub(crate) fn registry() -> (TempDir, Registry) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        fsync: false,
        attributes: crate::resource::attributes_of_bytes,
        ..Options::default()
    };
    let store = Store::open(dir.path(), options).expect("an empty store");
    let admission = Admission::new(store.clone(), Authorizer::new(store.clone()));
    (dir, Registry::with_admission(store, admission))
}

/// Waits until `look` finds something; looks again after each write to the store.
pub(crate) async fn eventually<T>(registry: &Registry, mut look: impl FnMut() -> Option<T>) -> T {
    let (_, mut watcher) = registry.store().watch_from_now("");
    let wait = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            watcher.next().await.expect("the store stays open");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("what was waited for did not come")
}
