//! The roles and bindings that clients and components expect in every cluster.
//!
//! What they are is data: `roles.table`, which says itself how it is written.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::auth::rbac::{GROUP, Kind, Policies};
use crate::auth::rules::PolicyRule;

const TABLE: &str = include_str!("roles.table");
const AGGREGATE_LABEL: &str = "rbac.authorization.k8s.io/aggregate-to-";
const READ: [&str; 3] = ["get", "list", "watch"];

/// An object of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Default {
    /// The kind.
    pub kind: Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

/// All roles and bindings, aggregated ClusterRoles with their rules filled in.
pub fn defaults() -> &'static [Default] {
    static DEFAULTS: LazyLock<Vec<Default>> = LazyLock::new(|| {
        let mut defaults = parse(TABLE);
        fill_in_aggregates(&mut defaults);
        defaults
    });
    &DEFAULTS
}

/// The rules of the ClusterRole `system:node`, which the Node authorizer applies to every node.
pub fn node_rules() -> Vec<PolicyRule> {
    rules_of("system:node")
}

fn rules_of(cluster_role: &str) -> Vec<PolicyRule> {
    defaults()
        .iter()
        .find(|default| default.kind == Kind::ClusterRole && default.name == cluster_role)
        .and_then(|default| default.object.get("rules"))
        .and_then(|rules| serde_json::from_value(rules.clone()).ok())
        .unwrap_or_default()
}

fn fill_in_aggregates(defaults: &mut [Default]) {
    let mut policies = Policies::default();
    for default in defaults.iter() {
        policies.put(
            default.kind,
            &default.namespace,
            &default.name,
            default.object.to_string().as_bytes(),
        );
    }
    for default in defaults {
        if default.kind == Kind::ClusterRole
            && let Some(rules) = policies.aggregated(&default.name)
        {
            default.object["rules"] = json!(rules);
        }
    }
}

fn parse(table: &str) -> Vec<Default> {
    let mut defaults: Vec<Default> = Vec::new();
    let mut role = 0;
    for line in table.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((first, rest)) = words.split_first() else {
            continue;
        };
        if line.starts_with(' ') {
            if let Some(rules) = defaults[role].object["rules"].as_array_mut() {
                rules.push(parse_rule(first, rest));
            }
            continue;
        }
        let (name, options) = rest.split_first().unwrap_or((&"", &[]));
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) if *first != "clusterrole" => (namespace, name),
            _ => ("", *name),
        };
        let (role_kind, binding_kind) = if *first == "clusterrole" {
            (Kind::ClusterRole, Kind::ClusterRoleBinding)
        } else {
            (Kind::Role, Kind::RoleBinding)
        };
        let option = |key: &str| {
            options
                .iter()
                .find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
        };
        if *first != "binding" {
            role = defaults.len();
            let mut object = skeleton(role_kind, namespace, name);
            object["rules"] = json!([]);
            if let Some(part) = option("part-of") {
                object["metadata"]["labels"][format!("{AGGREGATE_LABEL}{part}")] = json!("true");
            }
            if let Some(label) = option("collects") {
                object["aggregationRule"] = json!({
                    "clusterRoleSelectors": [
                        {"matchLabels": {format!("{AGGREGATE_LABEL}{label}"): "true"}}
                    ]
                });
            }
            defaults.push(Default {
                kind: role_kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                object,
            });
        }
        if let Some(subjects) = option("to") {
            let mut object = skeleton(binding_kind, namespace, name);
            object["roleRef"] = json!({
                "apiGroup": GROUP,
                "kind": kind_name(role_kind),
                "name": option("role").unwrap_or(name),
            });
            let subjects: Vec<Value> = subjects.split(',').filter_map(parse_subject).collect();
            if !subjects.is_empty() {
                object["subjects"] = json!(subjects);
            }
            defaults.push(Default {
                kind: binding_kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                object,
            });
        }
    }
    defaults
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterRole => "ClusterRole",
        Kind::Role => "Role",
        Kind::ClusterRoleBinding => "ClusterRoleBinding",
        Kind::RoleBinding => "RoleBinding",
    }
}

fn skeleton(kind: Kind, namespace: &str, name: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    if !namespace.is_empty() {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    metadata.insert(
        "labels".to_owned(),
        json!({"kubernetes.io/bootstrapping": "rbac-defaults"}),
    );
    metadata.insert(
        "annotations".to_owned(),
        json!({"rbac.authorization.kubernetes.io/autoupdate": "true"}),
    );
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind_name(kind),
        "metadata": metadata,
    })
}

/// `Group:NAME`, `User:NAME`, `ServiceAccount:NAMESPACE/NAME`; `-` for none.
fn parse_subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(':')?;
    Some(match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    })
}

fn parse_rule(verbs: &str, rest: &[&str]) -> Value {
    let list = |text: &&str| -> Vec<String> {
        text.split(',')
            .map(|word| if word == "-" { "" } else { word }.to_owned())
            .collect()
    };
    let mut verbs: Vec<String> = verbs
        .split(',')
        .flat_map(|verb| {
            if verb == "read" {
                READ.to_vec()
            } else {
                vec![verb]
            }
        })
        .map(str::to_owned)
        .collect();
    verbs.sort();
    let rule = match rest {
        ["url", paths] => PolicyRule {
            non_resource_urls: list(paths),
            verbs,
            ..PolicyRule::default()
        },
        [groups, resources, names @ ..] => PolicyRule {
            api_groups: list(groups),
            resources: list(resources),
            resource_names: names.first().map(list).unwrap_or_default(),
            verbs,
            ..PolicyRule::default()
        },
        _ => PolicyRule::default(),
    };
    json!(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Attributes, Decision, User};

    fn policies() -> Policies {
        let mut policies = Policies::default();
        for default in defaults() {
            policies.put(
                default.kind,
                &default.namespace,
                &default.name,
                default.object.to_string().as_bytes(),
            );
        }
        policies.settle();
        policies
    }

    fn user(name: &str, group: &str) -> User {
        User {
            name: name.to_owned(),
            groups: vec![group.to_owned()],
            ..User::default()
        }
    }

    #[test]
    fn every_line_of_the_table_is_understood() {
        let rule_lines = TABLE.lines().filter(|line| line.starts_with("  ")).count();
        let parsed: usize = parse(TABLE)
            .iter()
            .filter_map(|default| default.object["rules"].as_array())
            .flatten()
            .filter(|rule| {
                rule["verbs"]
                    .as_array()
                    .is_some_and(|verbs| !verbs.is_empty())
            })
            .count();
        assert_eq!(parsed, rule_lines);
        let names: std::collections::BTreeSet<_> = defaults()
            .iter()
            .map(|default| (default.kind.plural(), &default.namespace, &default.name))
            .collect();
        assert_eq!(names.len(), defaults().len(), "each stands once");
        let bound = defaults()
            .iter()
            .filter(|default| default.object.get("roleRef").is_some());
        for binding in bound {
            let role = &binding.object["roleRef"];
            let exists = defaults().iter().any(|default| {
                kind_name(default.kind) == role["kind"]
                    && default.name == role["name"]
                    && default.namespace == binding.namespace
            });
            assert!(exists, "{}", binding.name);
        }
    }

    #[test]
    fn anonymous_gets_nothing_but_health_and_version() {
        let policies = policies();
        let anonymous = User::anonymous();
        let may = |path| {
            policies
                .authorize(&Attributes::of_path(&anonymous, "get", path))
                .is_allowed()
        };
        for path in ["/healthz", "/livez", "/readyz", "/version"] {
            assert!(may(path), "{path}");
        }
        for path in [
            "/",
            "/api",
            "/apis",
            "/metrics",
            "/openapi/v3",
            "/openid/v1/jwks",
        ] {
            assert!(!may(path), "{path}");
        }
        let reviews = Attributes::of_resource(
            &anonymous,
            "create",
            "authentication.k8s.io",
            "selfsubjectreviews",
        );
        assert!(!policies.authorize(&reviews).is_allowed());
    }

    #[test]
    fn aggregated_roles_have_the_rules_of_their_parts() {
        for (role, rules) in [("view", 11), ("edit", 25), ("admin", 27)] {
            assert_eq!(rules_of(role).len(), rules, "{role}");
        }
        assert_eq!(node_rules().len(), 25);
    }

    #[test]
    fn masters_and_components_get_what_is_theirs() {
        let policies = policies();
        let master = user("x", "system:masters");
        assert_eq!(
            policies.authorize(&Attributes::of_resource(&master, "delete", "", "nodes")),
            Decision::Allow {
                reason: "RBAC: allowed by ClusterRoleBinding \"cluster-admin\" of ClusterRole \
                         \"cluster-admin\" to Group \"system:masters\""
                    .to_owned()
            }
        );
        let scheduler = user("system:kube-scheduler", "system:authenticated");
        let binding = Attributes {
            subresource: "binding",
            namespace: "default",
            ..Attributes::of_resource(&scheduler, "create", "", "pods")
        };
        assert!(policies.authorize(&binding).is_allowed());
        let node = user("system:node:n1", "system:nodes");
        let nodes = Attributes::of_resource(&node, "list", "", "nodes");
        assert!(!policies.authorize(&nodes).is_allowed());
    }
}
