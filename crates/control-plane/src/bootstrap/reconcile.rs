//! Roles and bindings that an earlier version made get what this one adds to them.
//!
//! Nothing is taken away: rules and subjects that are missing are appended, and labels and
//! annotations that are missing are set, as kube-apiserver does at its start. Who annotates a role
//! with `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps it as it is.

use serde_json::{Map, Value, json};

use super::roles::{self, Default};
use crate::auth::rbac::GROUP;
use crate::auth::rules::{PolicyRule, uncovered};
use crate::registry::{Context, Registry};
use crate::resource::stored;
use crate::status::ApiError;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Brings the roles and bindings of every cluster up to date.
///
/// # Errors
/// Those of the registry.
pub(super) async fn roles(registry: &Registry, context: &Context) -> Result<(), ApiError> {
    for wanted in roles::defaults() {
        let def = stored(GROUP, wanted.kind.plural());
        let Ok(found) = registry.get(def, &wanted.namespace, &wanted.name) else {
            continue;
        };
        let mut lacking = found.value();
        if !extend(&mut lacking, wanted) {
            continue;
        }
        let change = |object: &mut Value| {
            extend(object, wanted);
            Ok(())
        };
        registry
            .modify(context, def, &wanted.namespace, &wanted.name, "", change)
            .await?;
    }
    Ok(())
}

/// Adds what is missing; tells whether anything was.
fn extend(object: &mut Value, wanted: &Default) -> bool {
    let keeps = &object["metadata"]["annotations"][AUTOUPDATE];
    // Another role is bound: a binding cannot change it, and this one is somebody's own.
    let other = object.get("roleRef") != wanted.object.get("roleRef");
    if keeps == "false" || other {
        return false;
    }
    let mut changed = false;
    for map in ["labels", "annotations"] {
        let empty = Map::new();
        let missing = wanted.object["metadata"][map].as_object().unwrap_or(&empty);
        for (key, value) in missing {
            let here = &mut object["metadata"][map];
            if here.get(key).is_none() {
                here[key] = value.clone();
                changed = true;
            }
        }
    }
    // What a role collects from others is filled in by the controller that does so.
    if wanted.object.get("aggregationRule").is_none() {
        changed |= append(object, "rules", lacking_rules(object, &wanted.object));
    }
    changed | append(object, "subjects", lacking_subjects(object, &wanted.object))
}

fn append(object: &mut Value, key: &str, missing: Vec<Value>) -> bool {
    if missing.is_empty() {
        return false;
    }
    match object[key].as_array_mut() {
        Some(list) => list.extend(missing),
        None => object[key] = json!(missing),
    }
    true
}

fn lacking_rules(object: &Value, wanted: &Value) -> Vec<Value> {
    let rules = |object: &Value| -> Vec<PolicyRule> {
        let list = object["rules"].as_array();
        let read = |rule: &Value| serde_json::from_value(rule.clone()).ok();
        list.into_iter().flatten().filter_map(read).collect()
    };
    let held = rules(object);
    let lacks = |rule: &PolicyRule| !uncovered(&held, std::slice::from_ref(rule)).is_empty();
    let missing = rules(wanted).into_iter().filter(lacks);
    missing.map(|rule| json!(rule)).collect()
}

fn lacking_subjects(object: &Value, wanted: &Value) -> Vec<Value> {
    let of = |object: &Value| object["subjects"].as_array().cloned().unwrap_or_default();
    let held = of(object);
    let missing = of(wanted).into_iter().filter(|it| !held.contains(it));
    missing.collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, ensure};
    use super::*;
    use crate::controllers::testing::registry;

    async fn upgraded(name: &str, edit: impl Fn(&mut Value) + Send + Sync) -> Value {
        let (_dir, registry) = registry();
        let facts = Facts {
            address: [10, 0, 0, 1].into(),
            port: 6443,
            ca_pem: "PEM".to_owned(),
        };
        ensure(&registry, &facts).await.unwrap();
        let def = stored(GROUP, "clusterroles");
        let context = Context::system("test");
        let change = |object: &mut Value| {
            edit(object);
            Ok(())
        };
        registry
            .modify(&context, def, "", name, "", change)
            .await
            .unwrap();
        ensure(&registry, &facts).await.unwrap();
        registry.get(def, "", name).unwrap().value()
    }

    #[tokio::test]
    async fn a_role_gets_the_rules_and_labels_that_it_lacks_and_keeps_its_own() {
        let own = json!({"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]});
        let role = upgraded("system:discovery", |role| {
            role["rules"] = json!([own]);
            role["metadata"]["labels"] = json!({"mine": "yes"});
        })
        .await;
        let rules = role["rules"].as_array().unwrap();
        assert_eq!(rules[0], own);
        assert_eq!(rules.len(), 2);
        assert_eq!(role["metadata"]["labels"]["mine"], "yes");
        let label = &role["metadata"]["labels"]["kubernetes.io/bootstrapping"];
        assert_eq!(label, "rbac-defaults");
    }

    #[tokio::test]
    async fn a_role_that_is_to_be_left_alone_is() {
        let role = upgraded("system:discovery", |role| {
            role["rules"] = json!([]);
            role["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        })
        .await;
        assert_eq!(role["rules"], json!([]));
    }

    #[tokio::test]
    async fn a_wider_rule_is_left_as_it_is() {
        let all = json!([{"nonResourceURLs": ["*"], "verbs": ["*"]}]);
        let role = upgraded("system:discovery", |role| role["rules"] = all.clone()).await;
        assert_eq!(role["rules"], all);
    }
}
