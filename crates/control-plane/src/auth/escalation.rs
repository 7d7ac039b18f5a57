//! Nobody gives away rights that he does not have: the checks on writes of roles and bindings
//! (kubernetes/kubernetes, pkg/registry/rbac/*/policybased).

use serde_json::Value;

use super::authz::Authorizer;
use super::rbac::{GROUP, RoleRef};
use super::rules::{PolicyRule, uncovered};
use super::{Attributes, GROUP_MASTERS, User};
use crate::status::ApiError;

/// Checks the write of a Role (`resource` is `roles`) or ClusterRole (`clusterroles`).
///
/// # Errors
/// 403 where it holds rules that `user` does not have, and `user` may not `escalate` it.
pub fn check_role(
    authorizer: &Authorizer,
    user: &User,
    resource: &str,
    namespace: &str,
    name: &str,
    role: &Value,
) -> Result<(), ApiError> {
    let escalate = Attributes {
        version: "v1",
        namespace,
        name,
        ..Attributes::of_resource(user, "escalate", GROUP, resource)
    };
    if user.in_group(GROUP_MASTERS) || authorizer.authorize(&escalate).is_allowed() {
        return Ok(());
    }
    let rules = parse_rules(role)?;
    let (held, _) = authorizer.rules_for(user, namespace);
    if role
        .get("aggregationRule")
        .is_some_and(|rule| !rule.is_null())
        && !uncovered(&held, &everything()).is_empty()
    {
        return Err(ApiError::forbidden(
            GROUP,
            resource,
            name,
            "must have cluster-admin privileges to use the aggregationRule",
        ));
    }
    confirm(user, &held, &rules).map_err(|why| ApiError::forbidden(GROUP, resource, name, why))
}

/// Checks the write of a RoleBinding (`rolebindings`) or ClusterRoleBinding
/// (`clusterrolebindings`).
///
/// # Errors
/// 403 where the role holds rules that `user` does not have, and `user` may not `bind` it; 404
/// where the role is missing.
pub fn check_binding(
    authorizer: &Authorizer,
    user: &User,
    resource: &str,
    namespace: &str,
    name: &str,
    binding: &Value,
) -> Result<(), ApiError> {
    if user.in_group(GROUP_MASTERS) {
        return Ok(());
    }
    let role_ref: RoleRef =
        serde_json::from_value(binding.get("roleRef").cloned().unwrap_or_default())
            .map_err(|error| ApiError::bad_request(format!("roleRef: {error}")))?;
    let bind = Attributes {
        version: "v1",
        namespace,
        name: &role_ref.name,
        ..Attributes::of_resource(
            user,
            "bind",
            GROUP,
            if role_ref.kind == "Role" {
                "roles"
            } else {
                "clusterroles"
            },
        )
    };
    if authorizer.authorize(&bind).is_allowed() {
        return Ok(());
    }
    let rules = authorizer
        .with_policies(|policies| policies.resolve(&role_ref, namespace))
        .map_err(|_| ApiError::not_found(GROUP, resource, &role_ref.name))?;
    let wanted: Vec<PolicyRule> = rules
        .iter()
        .flat_map(|rules| rules.iter())
        .cloned()
        .collect();
    let (held, _) = authorizer.rules_for(user, namespace);
    confirm(user, &held, &wanted).map_err(|why| ApiError::forbidden(GROUP, resource, name, why))
}

fn parse_rules(role: &Value) -> Result<Vec<PolicyRule>, ApiError> {
    match role.get("rules") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(rules) => serde_json::from_value(rules.clone())
            .map_err(|error| ApiError::bad_request(format!("rules: {error}"))),
    }
}

fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule {
            api_groups: all(),
            resources: all(),
            verbs: all(),
            ..PolicyRule::default()
        },
        PolicyRule {
            non_resource_urls: all(),
            verbs: all(),
            ..PolicyRule::default()
        },
    ]
}

fn confirm(user: &User, held: &[PolicyRule], wanted: &[PolicyRule]) -> Result<(), String> {
    let missing = uncovered(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user
        .groups
        .iter()
        .map(|group| format!("{group:?}"))
        .collect();
    let mut lines: Vec<String> = merge_verbs(missing)
        .iter()
        .map(PolicyRule::compact)
        .collect();
    lines.sort();
    Err(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        lines.join("\n")
    ))
}

/// Rules that differ in their verbs alone become one.
fn merge_verbs(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut merged: Vec<PolicyRule> = Vec::new();
    for mut rule in rules {
        let same = merged.iter_mut().find(|other| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls == rule.non_resource_urls
        });
        match same {
            Some(other) => {
                for verb in rule.verbs.drain(..) {
                    if !other.verbs.contains(&verb) {
                        other.verbs.push(verb);
                    }
                }
            }
            None => merged.push(rule),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_worded_as_the_real_server_words_it() {
        let user = User {
            name: "carol".to_owned(),
            groups: vec!["g1".to_owned(), "system:authenticated".to_owned()],
            ..User::default()
        };
        let wanted: Vec<PolicyRule> = serde_json::from_value(serde_json::json!([
            {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list"]},
        ]))
        .unwrap();
        let held: Vec<PolicyRule> = serde_json::from_value(serde_json::json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]},
        ]))
        .unwrap();
        assert_eq!(
            confirm(&user, &held, &wanted).unwrap_err(),
            "user \"carol\" (groups=[\"g1\" \"system:authenticated\"]) is attempting to grant RBAC \
             permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}"
        );
        assert_eq!(
            confirm(&user, &held, &everything())
                .unwrap_err()
                .lines()
                .skip(1)
                .collect::<Vec<_>>(),
            [
                r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#,
                r#"{NonResourceURLs:["*"], Verbs:["*"]}"#
            ]
        );
    }
}
