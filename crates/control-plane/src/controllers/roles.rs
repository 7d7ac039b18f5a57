//! Aggregated ClusterRoles: their rules are those of the ClusterRoles that their selectors choose.
//!
//! The authorizer does not need the written rules, it aggregates for itself; people who look at
//! the role do.

use serde_json::{Value, json};

use super::feed::Feed;
use super::queue::Queue;
use crate::auth::authz::Authorizer;
use crate::auth::rbac::GROUP;
use crate::registry::{Context, Registry};
use crate::resource::stored;

/// Writes rules until the store is closed.
pub async fn run(registry: Registry, authorizer: Authorizer) {
    let roles = stored(GROUP, "clusterroles");
    let mut feed = Feed::new(registry.store(), roles.key_prefix(""));
    let mut queue: Queue<String> = Queue::default();
    let context = Context::system("system:clusterrole-aggregation-controller");
    loop {
        // Both arms are cancel-safe: feed and queue lose nothing when the other is taken.
        tokio::select! {
            news = feed.next() => {
                if news.is_none() {
                    return;
                }
                authorizer.with_policies(|policies| {
                    for name in policies.aggregating() {
                        queue.add(name.to_owned());
                    }
                });
            }
            name = queue.next() => {
                let Some(rules) = authorizer.with_policies(|policies| policies.aggregated(&name))
                else {
                    continue;
                };
                let rules = json!(rules);
                let present = registry.get(roles, "", &name).map(|role| role.value());
                if present.is_ok_and(|role| same_rules(&role["rules"], &rules)) {
                    continue;
                }
                let written = registry
                    .modify(&context, roles, "", &name, "", |role| {
                        role["rules"] = rules.clone();
                        Ok(())
                    })
                    .await;
                match written {
                    Err(error) if !error.is_not_found() => {
                        tracing::warn!(name, %error, "cannot write the rules of the role");
                        queue.retry(name);
                    }
                    _ => queue.succeeded(&name),
                }
            }
        }
    }
}

fn same_rules(present: &Value, wanted: &Value) -> bool {
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    present == wanted || (empty(present) && empty(wanted))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eventually, registry};
    use super::*;

    fn role(name: &str, extra: Value) -> Value {
        let mut role = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [],
        });
        for (key, value) in extra.as_object().unwrap() {
            if key == "labels" {
                role["metadata"]["labels"] = value.clone();
            } else {
                role[key] = value.clone();
            }
        }
        role
    }

    #[tokio::test]
    async fn an_aggregated_role_shows_the_rules_of_its_parts() {
        let (_dir, registry) = registry();
        let authorizer = Authorizer::new(registry.store().clone());
        let task = tokio::spawn(run(registry.clone(), authorizer));
        let roles = stored(GROUP, "clusterroles");
        let context = Context::system("test");
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        for object in [
            role(
                "all",
                json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}}),
            ),
            role("part", json!({"labels": {"part": "yes"}, "rules": rules})),
        ] {
            registry.create(&context, roles, "", object).await.unwrap();
        }
        let shown = |wanted: Value| {
            let registry = registry.clone();
            async move {
                eventually(&registry, || {
                    let role = registry.get(roles, "", "all").ok()?.value();
                    same_rules(&role["rules"], &wanted).then_some(())
                })
                .await;
            }
        };
        shown(rules).await;
        registry
            .delete(
                &context,
                roles,
                "",
                "part",
                &crate::registry::DeleteOptions::default(),
            )
            .await
            .unwrap();
        shown(json!([])).await;
        registry.store().close().await;
        task.await.unwrap();
    }
}
