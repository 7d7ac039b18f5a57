use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..User::default()
    }
}

fn policies(objects: &[(Kind, &str, &str, Value)]) -> Policies {
    let mut policies = Policies::default();
    for (kind, namespace, name, value) in objects {
        policies.put(*kind, namespace, name, value.to_string().as_bytes());
    }
    policies.settle();
    policies
}

fn ask(policies: &Policies, user: &User, verb: &str, resource: &str, namespace: &str) -> Decision {
    policies.authorize(&Attributes {
        namespace,
        ..Attributes::of_resource(user, verb, "", resource)
    })
}

fn pods_reader() -> Value {
    json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]})
}

fn binding(kind: &str, role: &str, subjects: Value) -> Value {
    json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subjects})
}

#[test]
fn a_role_binding_gives_a_cluster_role_in_its_namespace_alone() {
    let policies = policies(&[
        (Kind::ClusterRole, "", "reader", pods_reader()),
        (
            Kind::RoleBinding,
            "a",
            "b",
            binding(
                "ClusterRole",
                "reader",
                json!([{"kind": "ServiceAccount", "name": "s"}]),
            ),
        ),
    ]);
    let account = user("system:serviceaccount:a:s", &[]);
    assert_eq!(
        ask(&policies, &account, "list", "pods", "a"),
        Decision::Allow {
            reason: r#"RBAC: allowed by RoleBinding "b/a" of ClusterRole "reader" to ServiceAccount "s/a""#
                .to_owned()
        }
    );
    assert!(!ask(&policies, &account, "list", "pods", "c").is_allowed());
    assert!(!ask(&policies, &account, "list", "pods", "").is_allowed());
    assert!(!ask(&policies, &account, "delete", "pods", "a").is_allowed());
    assert!(
        !ask(
            &policies,
            &user("system:serviceaccount:c:s", &[]),
            "list",
            "pods",
            "a"
        )
        .is_allowed()
    );
}

#[test]
fn roles_that_are_missing_are_named_in_the_refusal() {
    let bob = json!([{"kind": "User", "name": "bob"}]);
    let mut objects = vec![(
        Kind::RoleBinding,
        "a",
        "one",
        binding("ClusterRole", "nope", bob.clone()),
    )];
    let refusal = |objects: &[_]| ask(&policies(objects), &user("bob", &[]), "get", "pods", "a");
    assert_eq!(
        refusal(&objects),
        Decision::Deny {
            reason: r#"RBAC: clusterrole.rbac.authorization.k8s.io "nope" not found"#.to_owned()
        }
    );
    objects.push((Kind::RoleBinding, "a", "two", binding("Role", "nope", bob)));
    assert_eq!(
        refusal(&objects),
        Decision::Deny {
            reason: "RBAC: [clusterrole.rbac.authorization.k8s.io \"nope\" not found, \
                     role.rbac.authorization.k8s.io \"nope\" not found]"
                .to_owned()
        }
    );
}

#[test]
fn aggregation_follows_labels_through_several_roles_and_ends_in_circles() {
    let aggregate = |label: &str, own: &str| {
        json!({
            "metadata": {"labels": {own: "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]},
        })
    };
    let mut leaf = pods_reader();
    leaf["metadata"] = json!({"labels": {"to-view": "true"}});
    let mut policies = policies(&[
        (
            Kind::ClusterRole,
            "",
            "edit",
            aggregate("to-edit", "to-view"),
        ),
        (
            Kind::ClusterRole,
            "",
            "view",
            aggregate("to-view", "to-edit"),
        ),
        (Kind::ClusterRole, "", "leaf", leaf),
        (
            Kind::ClusterRoleBinding,
            "",
            "b",
            binding(
                "ClusterRole",
                "edit",
                json!([{"kind": "Group", "name": "g"}]),
            ),
        ),
    ]);
    let member = user("x", &["g"]);
    assert!(ask(&policies, &member, "get", "pods", "a").is_allowed());
    assert_eq!(policies.aggregated("edit").unwrap().len(), 1);
    assert_eq!(policies.aggregated("leaf"), None);
    policies.remove(Kind::ClusterRole, "", "leaf");
    policies.settle();
    assert!(!ask(&policies, &member, "get", "pods", "a").is_allowed());
}

#[test]
fn a_malformed_object_gives_no_rights() {
    let mut policies = policies(&[
        (Kind::ClusterRole, "", "reader", pods_reader()),
        (
            Kind::ClusterRoleBinding,
            "",
            "b",
            binding(
                "ClusterRole",
                "reader",
                json!([{"kind": "User", "name": "x"}]),
            ),
        ),
    ]);
    let x = user("x", &[]);
    assert!(ask(&policies, &x, "get", "pods", "").is_allowed());
    policies.put(Kind::ClusterRoleBinding, "", "b", br#"{"subjects": 7}"#);
    assert!(!ask(&policies, &x, "get", "pods", "").is_allowed());
}

#[test]
fn a_label_selector_matches_as_kubernetes_does() {
    let selector: LabelSelector = serde_json::from_value(json!({
        "matchLabels": {"a": "1"},
        "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]},
            {"key": "c", "operator": "DoesNotExist"},
            {"key": "d", "operator": "NotIn", "values": ["z"]},
        ],
    }))
    .unwrap();
    let labels = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    assert!(selector.matches(&labels(&[("a", "1"), ("b", "y")])));
    assert!(!selector.matches(&labels(&[("a", "1"), ("b", "z")])));
    assert!(!selector.matches(&labels(&[("a", "1"), ("b", "y"), ("c", "")])));
    assert!(!selector.matches(&labels(&[("a", "1"), ("b", "y"), ("d", "z")])));
    assert!(LabelSelector::default().matches(&labels(&[])));
}

proptest! {
    /// The index against the definition: a request is allowed exactly where some binding whose
    /// subject is the user, in reach of the namespace, names an existing role with a rule for it.
    #[test]
    fn decisions_are_those_of_the_definition(
        roles in proptest::collection::vec(
            (proptest::sample::select(&["", "a", "b"][..]), 0..3_u8, proptest::sample::select(&["pods", "nodes"][..])),
            0..6,
        ),
        bindings in proptest::collection::vec(
            (proptest::sample::select(&["", "a", "b"][..]), any::<bool>(), 0..3_u8, 0..2_u8),
            0..6,
        ),
        removed in proptest::collection::vec(0..6_usize, 0..3),
        namespace in proptest::sample::select(&["", "a", "b"][..]),
        resource in proptest::sample::select(&["pods", "nodes"][..]),
    ) {
        let mut policies = Policies::default();
        let mut stored_roles = BTreeMap::new();
        for (at, name, gives) in &roles {
            let kind = if at.is_empty() { Kind::ClusterRole } else { Kind::Role };
            let role = json!({"rules": [{"apiGroups": [""], "resources": [gives], "verbs": ["get"]}]});
            policies.put(kind, at, &format!("r{name}"), role.to_string().as_bytes());
            stored_roles.insert((*at, *name), *gives);
        }
        let mut stored_bindings: Vec<Option<_>> = Vec::new();
        for (index, (at, to_cluster_role, role, subject)) in bindings.iter().enumerate() {
            let to_cluster_role = *to_cluster_role || at.is_empty();
            let kind = if at.is_empty() { Kind::ClusterRoleBinding } else { Kind::RoleBinding };
            let role_kind = if to_cluster_role { "ClusterRole" } else { "Role" };
            let value = binding(role_kind, &format!("r{role}"), json!([{"kind": "User", "name": format!("u{subject}")}]));
            policies.put(kind, at, &format!("b{index}"), value.to_string().as_bytes());
            let role_at = if to_cluster_role { "" } else { *at };
            stored_bindings.push(Some((*at, role_at, *role, *subject)));
        }
        for index in removed {
            if let Some(Some((at, ..))) = stored_bindings.get(index) {
                let kind = if at.is_empty() { Kind::ClusterRoleBinding } else { Kind::RoleBinding };
                policies.remove(kind, at, &format!("b{index}"));
                stored_bindings[index] = None;
            }
        }
        policies.settle();
        let expected = stored_bindings.iter().flatten().any(|(at, role_at, role, subject)| {
            *subject == 0
                && (at.is_empty() || *at == namespace)
                && stored_roles.get(&(*role_at, *role)) == Some(&resource)
        });
        prop_assert_eq!(ask(&policies, &user("u0", &[]), "get", resource, namespace).is_allowed(), expected);
    }
}
