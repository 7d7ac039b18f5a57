//! Every namespace has a service account `default` and the certificate of the authority.

use std::sync::Arc;

use serde_json::json;

use super::feed::{Feed, News};
use super::queue::Queue;
use super::text;
use crate::registry::{Context, Registry};
use crate::resource::stored;
use crate::status::ApiError;

/// The ConfigMap that holds the authority's certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const DEFAULT_ACCOUNT: &str = "default";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when \
    using internal endpoints such as the internal service IP or kubernetes.default.svc. No other \
    usage is guaranteed across distributions of Kubernetes clusters.";

/// Makes what is missing in `namespace`, and mends the certificate where it differs.
///
/// # Errors
/// Those of the registry, but not that the namespace goes or has gone.
pub async fn ensure(registry: &Registry, namespace: &str, ca_pem: &str) -> Result<(), ApiError> {
    let outcome = tokio::try_join!(
        ensure_account(registry, namespace),
        ensure_root_ca(registry, namespace, ca_pem)
    );
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if goes(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn goes(error: &ApiError) -> bool {
    error.is_not_found()
        || error
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
}

fn unless_exists<T>(outcome: Result<T, ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

async fn ensure_account(registry: &Registry, namespace: &str) -> Result<(), ApiError> {
    let accounts = stored("", "serviceaccounts");
    if registry.get(accounts, namespace, DEFAULT_ACCOUNT).is_ok() {
        return Ok(());
    }
    let object = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT_ACCOUNT, "namespace": namespace},
    });
    let context = Context::system("system:service-account-controller");
    unless_exists(registry.create(&context, accounts, namespace, object).await)
}

async fn ensure_root_ca(
    registry: &Registry,
    namespace: &str,
    ca_pem: &str,
) -> Result<(), ApiError> {
    let maps = stored("", "configmaps");
    let context = Context::system("system:root-ca-cert-publisher");
    let data = json!({"ca.crt": ca_pem});
    match registry.get(maps, namespace, ROOT_CA) {
        Ok(present) if present.value()["data"] == data => Ok(()),
        Ok(_) => registry
            .modify(&context, maps, namespace, ROOT_CA, "", |map| {
                map["data"] = data.clone();
                Ok(())
            })
            .await
            .map(|_| ()),
        Err(_) => {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": ROOT_CA,
                    "namespace": namespace,
                    "annotations": {"kubernetes.io/description": DESCRIPTION},
                },
                "data": data,
            });
            unless_exists(registry.create(&context, maps, namespace, object).await)
        }
    }
}

/// Keeps both in every namespace, until the store is closed.
pub async fn run(registry: Registry, ca_pem: Arc<str>) {
    let mut namespaces = Feed::new(registry.store(), "namespaces/");
    let mut accounts = Feed::new(registry.store(), "serviceaccounts/");
    let mut maps = Feed::new(registry.store(), "configmaps/");
    let mut queue: Queue<String> = Queue::default();
    loop {
        // All arms are cancel-safe: feeds and the queue lose nothing when another is taken.
        tokio::select! {
            news = namespaces.next() => {
                let Some(news) = news else { return };
                for namespace in news.present() {
                    if text(&namespace.value(), "/status/phase") != "Terminating" {
                        queue.add(namespace.name().to_owned());
                    }
                }
            }
            news = accounts.next() => {
                let Some(news) = news else { return };
                if let News::Deleted(event) = &news
                    && event.object.name() == DEFAULT_ACCOUNT
                {
                    queue.add(event.object.namespace().to_owned());
                }
            }
            news = maps.next() => {
                let Some(news) = news else { return };
                if let News::Put(event) | News::Deleted(event) = &news
                    && event.object.name() == ROOT_CA
                {
                    queue.add(event.object.namespace().to_owned());
                }
            }
            namespace = queue.next() => {
                if registry.get(stored("", "namespaces"), "", &namespace).is_err() {
                    queue.remove(&namespace);
                    continue;
                }
                match ensure(&registry, &namespace, &ca_pem).await {
                    Ok(()) => queue.succeeded(&namespace),
                    Err(error) => {
                        tracing::warn!(namespace, %error, "cannot complete the namespace");
                        queue.retry(namespace);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eventually, registry};
    use super::*;
    use crate::registry::DeleteOptions;

    #[tokio::test]
    async fn a_namespace_gets_both_again_when_they_are_deleted_or_changed() {
        let (_dir, registry) = registry();
        let task = tokio::spawn(run(registry.clone(), "PEM".into()));
        let context = Context::system("test");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        registry
            .create(&context, stored("", "namespaces"), "", namespace)
            .await
            .unwrap();
        let (accounts, maps) = (stored("", "serviceaccounts"), stored("", "configmaps"));
        let first = eventually(&registry, || registry.get(accounts, "a", "default").ok()).await;
        eventually(&registry, || registry.get(maps, "a", ROOT_CA).ok()).await;
        let options = DeleteOptions::default();
        registry
            .delete(&context, accounts, "a", "default", &options)
            .await
            .unwrap();
        eventually(&registry, || {
            let again = registry.get(accounts, "a", "default").ok()?;
            (again.revision != first.revision).then_some(())
        })
        .await;
        registry
            .modify(&context, maps, "a", ROOT_CA, "", |map| {
                map["data"] = json!({"ca.crt": "other"});
                Ok(())
            })
            .await
            .unwrap();
        eventually(&registry, || {
            let map = registry.get(maps, "a", ROOT_CA).ok()?.value();
            (map["data"]["ca.crt"] == "PEM").then_some(())
        })
        .await;
        registry.store().close().await;
        task.await.unwrap();
    }
}
