//! A namespace that goes: its pods first, then everything else, then itself.

use std::collections::{BTreeMap, HashSet};

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::feed::{Feed, News};
use super::meta::Meta;
use super::queue::Queue;
use crate::registry::{Context, DeleteOptions, Propagation, Registry, rfc3339};
use crate::resource::{ResourceDef, stored, table};
use crate::status::ApiError;
use crate::store::Object;

/// How many objects are deleted at once.
const AT_ONCE: usize = 64;

/// The finalizer in `spec.finalizers` that holds a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";

/// Empties namespaces until the store is closed.
pub async fn run(registry: Registry) {
    let mut feed = Feed::new(registry.store(), "");
    let mut going: HashSet<String> = HashSet::new();
    let mut queue: Queue<String> = Queue::default();
    loop {
        // Both arms are cancel-safe: feed and queue lose nothing when the other is taken.
        tokio::select! {
            news = feed.next() => {
                let Some(news) = news else { return };
                learn(&news, &mut going, &mut queue);
            }
            namespace = queue.next() => {
                match empty(&registry, &namespace).await {
                    // Whatever remains wakes us when it goes.
                    Ok(()) => queue.succeeded(&namespace),
                    Err(error) => {
                        tracing::warn!(namespace, %error, "cannot empty the namespace");
                        queue.retry(namespace);
                    }
                }
            }
        }
    }
}

fn learn(news: &News, going: &mut HashSet<String>, queue: &mut Queue<String>) {
    let mut see = |object: &Object, going: &mut HashSet<String>| {
        if object.key.starts_with("namespaces/") {
            if Meta::of(object).is_terminating() && going.insert(object.name().to_owned()) {
                queue.add(object.name().to_owned());
            }
        } else if going.contains(object.namespace()) {
            queue.add(object.namespace().to_owned());
        }
    };
    match news {
        News::All(objects) => {
            going.clear();
            for object in objects {
                if object.key.starts_with("namespaces/") {
                    see(object, going);
                }
            }
        }
        // An object that was admitted just before its namespace went must go too; what is
        // already on its way wakes us again when it is gone.
        News::Put(event)
            if event.previous.is_some() && !event.object.key.starts_with("namespaces/") => {}
        News::Put(event) => see(&event.object, going),
        News::Deleted(event) if event.object.key.starts_with("namespaces/") => {
            going.remove(event.object.name());
        }
        News::Deleted(event) => see(&event.object, going),
    }
}

/// Deletes what can be deleted now, and lets the namespace go when nothing is left.
async fn empty(registry: &Registry, namespace: &str) -> Result<(), ApiError> {
    let namespaces = stored("", "namespaces");
    let Ok(object) = registry.get(namespaces, "", namespace) else {
        return Ok(());
    };
    let meta = Meta::of(&object);
    if !meta.is_terminating() {
        return Ok(());
    }
    let context = Context::system("system:namespace-controller");
    let pods = stored("", "pods");
    delete_all(registry, &context, pods, namespace).await?;
    let mut left = remaining(registry, pods, namespace);
    if left.is_empty() {
        let others: Vec<&'static ResourceDef> = table()
            .stored()
            .filter(|def| def.namespaced && !std::ptr::eq(*def, pods))
            .collect();
        for def in &others {
            delete_all(registry, &context, def, namespace).await?;
        }
        for def in others.into_iter().chain([pods]) {
            left.extend(remaining(registry, def, namespace));
        }
    }
    if !left.is_empty() {
        return report(registry, &context, namespace, &left).await;
    }
    let finalized = registry
        .modify(&context, namespaces, "", namespace, "finalize", |object| {
            if let Some(finalizers) = object
                .pointer_mut("/spec/finalizers")
                .and_then(Value::as_array_mut)
            {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            Ok(())
        })
        .await;
    unless_gone(finalized)?;
    let mut options = DeleteOptions::now(&meta.uid);
    options.grace_period_seconds = None;
    let deleted = registry
        .delete(&context, namespaces, "", namespace, &options)
        .await;
    match deleted {
        Err(error) if error.is_conflict() => Ok(()),
        other => unless_gone(other),
    }
}

fn unless_gone<T>(outcome: Result<T, ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

async fn delete_all(
    registry: &Registry,
    context: &Context,
    def: &'static ResourceDef,
    namespace: &str,
) -> Result<(), ApiError> {
    let options = DeleteOptions {
        propagation: Some(Propagation::Background),
        ..DeleteOptions::default()
    };
    let objects = registry.store().list(&def.key_prefix(namespace)).objects;
    let outcomes: Vec<Result<(), ApiError>> = stream::iter(objects)
        .filter(|object| std::future::ready(!Meta::of(object).is_terminating()))
        .map(|object| {
            let options = &options;
            async move {
                let deleted = registry
                    .delete(context, def, namespace, object.name(), options)
                    .await;
                unless_gone(deleted)
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

/// What is left of one resource.
#[derive(Debug)]
struct Left {
    resource: String,
    finalizers: Vec<String>,
}

fn remaining(registry: &Registry, def: &'static ResourceDef, namespace: &str) -> Vec<Left> {
    let objects = registry.store().list(&def.key_prefix(namespace)).objects;
    objects
        .iter()
        .map(|object| Left {
            resource: crate::status::group_resource(def.group, def.plural),
            finalizers: Meta::of(object).finalizers.unwrap_or_default(),
        })
        .collect()
}

/// The conditions of a namespace that still has content, worded as the real controller does.
fn conditions(left: &[Left]) -> [(&'static str, &'static str, &'static str, String); 5] {
    let mut resources: BTreeMap<&str, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for one in left {
        *resources.entry(&one.resource).or_default() += 1;
        for finalizer in &one.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let list = |counts: &BTreeMap<&str, usize>, what: &str| {
        counts
            .iter()
            .map(|(name, count)| format!("{name} {what} {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let held = if finalizers.is_empty() {
        (
            "NamespaceFinalizersRemaining",
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        (
            "NamespaceFinalizersRemaining",
            "True",
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                list(&finalizers, "in")
            ),
        )
    };
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!(
                "Some resources are remaining: {}",
                list(&resources, "has").replace(" has ", ". has ")
            ),
        ),
        held,
    ]
}

async fn report(
    registry: &Registry,
    context: &Context,
    namespace: &str,
    left: &[Left],
) -> Result<(), ApiError> {
    let wanted = conditions(left);
    let now = rfc3339(Timestamp::now());
    let written = registry
        .modify(
            context,
            stored("", "namespaces"),
            "",
            namespace,
            "status",
            |object| {
                set_conditions(&mut object["status"], &wanted, &now);
                Ok(())
            },
        )
        .await;
    unless_gone(written)
}

fn set_conditions(status: &mut Value, wanted: &[(&str, &str, &str, String)], now: &str) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(present) = status["conditions"].as_array_mut() else {
        return;
    };
    for (kind, state, reason, message) in wanted {
        let mut condition = json!({
            "type": kind, "status": state, "reason": reason, "message": message,
            "lastTransitionTime": now,
        });
        match present.iter_mut().find(|old| old["type"] == *kind) {
            Some(old) => {
                if old["status"] == *state {
                    condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
                }
                *old = condition;
            }
            None => present.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eventually, registry};
    use super::*;

    async fn create(registry: &Registry, plural: &str, object: Value) {
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        registry
            .create(
                &Context::system("test"),
                stored("", plural),
                &namespace,
                object,
            )
            .await
            .unwrap();
    }

    async fn delete_namespace(registry: &Registry, name: &str) {
        let options = DeleteOptions::default();
        registry
            .delete(
                &Context::system("test"),
                stored("", "namespaces"),
                "",
                name,
                &options,
            )
            .await
            .unwrap();
    }

    fn object(kind: &str, name: &str, finalizers: &[&str]) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "a", "finalizers": finalizers}})
    }

    #[tokio::test]
    async fn a_namespace_goes_with_its_content_and_another_stays() {
        let (_dir, registry) = registry();
        for name in ["a", "b"] {
            create(
                &registry,
                "namespaces",
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            )
            .await;
            let mut map = object("ConfigMap", "m", &[]);
            map["metadata"]["namespace"] = json!(name);
            create(&registry, "configmaps", map).await;
        }
        create(&registry, "secrets", object("Secret", "s", &[])).await;
        delete_namespace(&registry, "a").await;
        // Begun before the controller runs: a start after a crash does it all the same.
        let task = tokio::spawn(run(registry.clone()));
        eventually(&registry, || {
            registry
                .get(stored("", "namespaces"), "", "a")
                .is_err()
                .then_some(())
        })
        .await;
        assert!(registry.get(stored("", "secrets"), "a", "s").is_err());
        registry.get(stored("", "configmaps"), "b", "m").unwrap();
        registry.store().close().await;
        task.await.unwrap();
    }

    #[tokio::test]
    async fn content_that_a_finalizer_holds_is_reported_and_waited_for() {
        let (_dir, registry) = registry();
        let task = tokio::spawn(run(registry.clone()));
        create(
            &registry,
            "namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        )
        .await;
        create(
            &registry,
            "configmaps",
            object("ConfigMap", "held", &["example.com/hold"]),
        )
        .await;
        create(&registry, "secrets", object("Secret", "s", &[])).await;
        delete_namespace(&registry, "a").await;
        let conditions = eventually(&registry, || {
            let namespace = registry
                .get(stored("", "namespaces"), "", "a")
                .ok()?
                .value();
            namespace["status"]["conditions"].as_array().cloned()
        })
        .await;
        assert_eq!(
            conditions[3]["message"],
            "Some resources are remaining: configmaps. has 1 resource instances"
        );
        assert_eq!(
            conditions[4]["message"],
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        registry
            .modify(
                &Context::system("test"),
                stored("", "configmaps"),
                "a",
                "held",
                "",
                |map| {
                    map["metadata"]["finalizers"] = json!([]);
                    Ok(())
                },
            )
            .await
            .unwrap();
        eventually(&registry, || {
            registry
                .get(stored("", "namespaces"), "", "a")
                .is_err()
                .then_some(())
        })
        .await;
        registry.store().close().await;
        task.await.unwrap();
    }
}
