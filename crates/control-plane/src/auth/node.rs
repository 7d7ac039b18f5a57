//! The Node authorizer: a node's identity reaches its own node and what its pods need.
//!
//! Rules and words are those of the real one
//! (kubernetes/kubernetes, plugin/pkg/auth/authorizer/node).

use super::graph::RefKind;
use super::rules::PolicyRule;
use super::{Attributes, Decision, GROUP_NODES, NODE_USER_PREFIX, User};

const NO_NAME: &str = "No Object name found";

/// What the authorizer must know of the pods that are bound.
pub trait Reach {
    /// Whether a pod of `node` leads to the object.
    fn reaches(&self, node: &str, kind: RefKind, namespace: &str, name: &str) -> bool;
    /// Whether a pod of `node` uses a claim that is bound to the PersistentVolume.
    fn reaches_volume(&self, node: &str, volume: &str) -> bool;
}

/// Whether the user claims to be a node: what the name says is checked later.
fn claims_to_be_a_node(user: &User) -> bool {
    user.in_group(GROUP_NODES) && user.name.starts_with(NODE_USER_PREFIX)
}

/// Decides a request of a node; `None` where the user is no node. `rules` are the fixed rules
/// (those of the ClusterRole `system:node`) for what the graph does not decide.
pub fn authorize(
    reach: &dyn Reach,
    rules: &[PolicyRule],
    attributes: &Attributes<'_>,
) -> Option<Decision> {
    let user = attributes.user;
    if !claims_to_be_a_node(user) {
        return None;
    }
    let Some(node) = user.node_name() else {
        return Some(deny(format!("unknown node for user {:?}", user.name)));
    };
    let request = Request {
        reach,
        rules,
        attributes,
        node,
    };
    Some(match (attributes.group, attributes.resource) {
        ("", "secrets") => request.read(RefKind::Secret),
        ("", "configmaps") => request.read(RefKind::ConfigMap),
        ("", "persistentvolumeclaims") => request.claim(),
        ("", "persistentvolumes") => request.volume(),
        ("", "serviceaccounts") => request.service_account(),
        ("", "nodes") => request.node_object(),
        ("", "pods") => request.pod(),
        ("coordination.k8s.io", "leases") => request.lease(),
        ("storage.k8s.io", "csinodes") => request.csi_node(),
        ("storage.k8s.io", "volumeattachments") => request.single(None),
        ("resource.k8s.io", "resourceclaims") => request.single(None),
        ("resource.k8s.io", "resourceslices") => request.resource_slice(),
        _ => request.by_rules(),
    })
}

fn deny(reason: impl Into<String>) -> Decision {
    Decision::Deny {
        reason: reason.into(),
    }
}

fn allow() -> Decision {
    Decision::Allow {
        reason: String::new(),
    }
}

struct Request<'a> {
    reach: &'a dyn Reach,
    rules: &'a [PolicyRule],
    attributes: &'a Attributes<'a>,
    node: &'a str,
}

impl Request<'_> {
    fn by_rules(&self) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(self.attributes)) {
            allow()
        } else {
            deny("")
        }
    }

    fn related(&self, kind: Option<RefKind>) -> Decision {
        let Attributes {
            namespace, name, ..
        } = *self.attributes;
        if name.is_empty() {
            return deny(NO_NAME);
        }
        if kind.is_some_and(|kind| self.reach.reaches(self.node, kind, namespace, name)) {
            return allow();
        }
        self.unrelated()
    }

    fn unrelated(&self) -> Decision {
        deny(format!(
            "no relationship found between node '{}' and this object",
            self.node
        ))
    }

    fn read(&self, kind: RefKind) -> Decision {
        let attributes = self.attributes;
        if !matches!(attributes.verb, "get" | "list" | "watch") {
            return deny("can only read resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return deny("cannot read subresource");
        }
        if attributes.namespace.is_empty() {
            return deny("can only read namespaced object of this type");
        }
        self.related(Some(kind))
    }

    fn single(&self, kind: Option<RefKind>) -> Decision {
        if self.attributes.verb != "get" {
            return deny("can only get individual resources of this type");
        }
        if !self.attributes.subresource.is_empty() {
            return deny("cannot get subresource");
        }
        self.related(kind)
    }

    fn claim(&self) -> Decision {
        if self.attributes.subresource == "status" {
            if !matches!(self.attributes.verb, "update" | "patch") {
                return deny("can only update or patch this type");
            }
            return self.related(Some(RefKind::PersistentVolumeClaim));
        }
        self.single(Some(RefKind::PersistentVolumeClaim))
    }

    fn volume(&self) -> Decision {
        let decision = self.single(None);
        let Attributes {
            verb,
            subresource,
            name,
            ..
        } = *self.attributes;
        if verb == "get"
            && subresource.is_empty()
            && !name.is_empty()
            && self.reach.reaches_volume(self.node, name)
        {
            return allow();
        }
        decision
    }

    fn service_account(&self) -> Decision {
        let Attributes {
            verb,
            name,
            subresource,
            ..
        } = *self.attributes;
        if verb == "get" && subresource.is_empty() {
            return self.related(Some(RefKind::ServiceAccount));
        }
        if verb != "create" || name.is_empty() {
            return deny("can only create tokens for individual service accounts");
        }
        if subresource != "token" {
            return deny("can only create token subresource of serviceaccount");
        }
        self.related(Some(RefKind::ServiceAccount))
    }

    fn lease(&self) -> Decision {
        let Attributes {
            verb,
            namespace,
            name,
            ..
        } = *self.attributes;
        if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
            return deny("can only get, create, update, patch, or delete a node lease");
        }
        if namespace != "kube-node-lease" {
            return deny("can only access leases in the \"kube-node-lease\" system namespace");
        }
        // The name of a lease to be created is only known to admission.
        if verb != "create" && name != self.node {
            return deny("can only access node lease with the same name as the requesting node");
        }
        allow()
    }

    fn csi_node(&self) -> Decision {
        let Attributes {
            verb,
            subresource,
            name,
            ..
        } = *self.attributes;
        if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
            return deny("can only get, create, update, patch, or delete a CSINode");
        }
        if !subresource.is_empty() {
            return deny("cannot authorize CSINode subresources");
        }
        if verb != "create" && name != self.node {
            return deny("can only access CSINode with the same name as the requesting node");
        }
        allow()
    }

    fn resource_slice(&self) -> Decision {
        let Attributes {
            verb, subresource, ..
        } = *self.attributes;
        if !subresource.is_empty() {
            return deny("cannot authorize ResourceSlice subresources");
        }
        match verb {
            "create" => allow(),
            "list" | "watch" | "deletecollection" if self.selects("spec.nodeName") => allow(),
            "list" | "watch" | "deletecollection" => deny(
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => deny("no relationship found between node and this object"),
        }
    }

    fn node_object(&self) -> Decision {
        let Attributes {
            verb,
            subresource,
            name,
            ..
        } = *self.attributes;
        match (subresource, verb) {
            // NodeRestriction sees to the name.
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
            ("", "get" | "list" | "watch") if name == self.node => allow(),
            ("", "get" | "list" | "watch") if name.is_empty() => deny(format!(
                "node '{}' cannot read all nodes, only its own Node object",
                self.node
            )),
            ("", "get" | "list" | "watch") => deny(format!(
                "node '{}' cannot read '{name}', only its own Node object",
                self.node
            )),
            _ => self.by_rules(),
        }
    }

    fn pod(&self) -> Decision {
        let Attributes {
            verb,
            subresource,
            name,
            ..
        } = *self.attributes;
        match (subresource, verb) {
            ("", "get") => self.related(Some(RefKind::Pod)),
            ("", "list" | "watch") if self.selects("spec.nodeName") => allow(),
            ("", "list" | "watch") if !name.is_empty() => self.related(Some(RefKind::Pod)),
            ("", "list" | "watch") => {
                deny("can only list/watch pods with spec.nodeName field selector")
            }
            // NodeRestriction narrows these down.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                allow()
            }
            _ => self.by_rules(),
        }
    }

    fn selects(&self, field: &str) -> bool {
        self.attributes
            .fields
            .iter()
            .any(|(key, value)| key == field && value == self.node)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::graph::NodeGraph;
    use super::*;

    struct Pods(NodeGraph);

    impl Reach for Pods {
        fn reaches(&self, node: &str, kind: RefKind, namespace: &str, name: &str) -> bool {
            self.0.reaches(node, kind, namespace, name)
        }

        fn reaches_volume(&self, node: &str, volume: &str) -> bool {
            node == "n1" && volume == "mine"
        }
    }

    fn check(asks: &[(&str, &str, &str, &str, Option<&str>)]) {
        let mut graph = NodeGraph::default();
        graph.put(
            "default",
            "p",
            &json!({"spec": {"nodeName": "n1", "serviceAccountName": "sa", "volumes": [
                {"name": "a", "secret": {"secretName": "s"}},
                {"name": "b", "configMap": {"name": "c"}},
            ]}}),
        );
        let pods = Pods(graph);
        let user = User {
            name: "system:node:n1".to_owned(),
            groups: vec![GROUP_NODES.to_owned()],
            ..User::default()
        };
        let rules = [PolicyRule {
            api_groups: vec![String::new()],
            resources: vec!["services".to_owned()],
            verbs: vec!["list".to_owned()],
            ..PolicyRule::default()
        }];
        for (verb, resource, namespace, name, expected) in asks {
            let (resource, selector) = resource.split_once('?').unwrap_or((resource, ""));
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let fields: Vec<_> = selector
                .split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into_iter()
                .collect();
            let attributes = Attributes {
                subresource,
                namespace,
                name,
                fields: &fields,
                ..Attributes::of_resource(&user, verb, group, resource)
            };
            let expected = match expected {
                None => allow(),
                Some(reason) => deny(*reason),
            };
            assert_eq!(
                authorize(&pods, &rules, &attributes),
                Some(expected),
                "{verb} {resource} {subresource} {namespace} {name}"
            );
        }
    }

    const UNRELATED: Option<&str> = Some("no relationship found between node 'n1' and this object");

    #[test]
    fn a_node_reads_what_its_pods_name_and_nothing_else() {
        check(&[
            ("get", "secrets", "default", "s", None),
            ("watch", "secrets", "default", "s", None),
            ("get", "secrets", "default", "other", UNRELATED),
            ("get", "secrets", "other", "s", UNRELATED),
            ("list", "secrets", "default", "", Some(NO_NAME)),
            (
                "list",
                "secrets",
                "",
                "",
                Some("can only read namespaced object of this type"),
            ),
            (
                "delete",
                "secrets",
                "default",
                "s",
                Some("can only read resources of this type"),
            ),
            ("get", "configmaps", "default", "c", None),
            ("get", "configmaps", "default", "s", UNRELATED),
            ("get", "persistentvolumes", "", "mine", None),
            ("get", "persistentvolumes", "", "other", UNRELATED),
            (
                "list",
                "persistentvolumes",
                "",
                "",
                Some("can only get individual resources of this type"),
            ),
            ("list", "services", "", "", None),
            ("list", "events", "", "", Some("")),
        ]);
    }

    #[test]
    fn a_node_sees_its_own_node_and_pods() {
        check(&[
            ("get", "nodes", "", "n1", None),
            (
                "get",
                "nodes",
                "",
                "n2",
                Some("node 'n1' cannot read 'n2', only its own Node object"),
            ),
            (
                "list",
                "nodes",
                "",
                "",
                Some("node 'n1' cannot read all nodes, only its own Node object"),
            ),
            ("patch", "nodes/status", "", "n1", None),
            ("delete", "nodes", "", "n1", Some("")),
            ("get", "pods", "default", "p", None),
            ("get", "pods", "default", "q", UNRELATED),
            ("list", "pods?spec.nodeName=n1", "", "", None),
            (
                "watch",
                "pods?spec.nodeName=n2",
                "",
                "",
                Some("can only list/watch pods with spec.nodeName field selector"),
            ),
            (
                "list",
                "pods",
                "",
                "",
                Some("can only list/watch pods with spec.nodeName field selector"),
            ),
            ("patch", "pods/status", "default", "p", None),
            ("get", "pods/status", "default", "p", Some("")),
            ("get", "pods/log", "default", "p", Some("")),
        ]);
    }

    #[test]
    fn a_node_asks_for_tokens_of_its_pods_accounts_and_renews_its_own_lease() {
        check(&[
            ("create", "serviceaccounts/token", "default", "sa", None),
            (
                "create",
                "serviceaccounts/token",
                "default",
                "admin",
                UNRELATED,
            ),
            (
                "create",
                "serviceaccounts",
                "default",
                "",
                Some("can only create tokens for individual service accounts"),
            ),
            (
                "update",
                "leases.coordination.k8s.io",
                "kube-node-lease",
                "n1",
                None,
            ),
            (
                "create",
                "leases.coordination.k8s.io",
                "kube-node-lease",
                "",
                None,
            ),
            (
                "update",
                "leases.coordination.k8s.io",
                "kube-node-lease",
                "n2",
                Some("can only access node lease with the same name as the requesting node"),
            ),
            (
                "update",
                "leases.coordination.k8s.io",
                "default",
                "n1",
                Some("can only access leases in the \"kube-node-lease\" system namespace"),
            ),
            (
                "list",
                "leases.coordination.k8s.io",
                "kube-node-lease",
                "",
                Some("can only get, create, update, patch, or delete a node lease"),
            ),
        ]);
    }

    #[test]
    fn only_members_of_the_nodes_group_are_nodes() {
        let pods = Pods(NodeGraph::default());
        let mut user = User {
            name: "system:node:n1".to_owned(),
            ..User::default()
        };
        let ask = |user: &User| {
            authorize(
                &pods,
                &[],
                &Attributes {
                    name: "n1",
                    ..Attributes::of_resource(user, "get", "", "nodes")
                },
            )
        };
        assert_eq!(ask(&user), None);
        user.groups.push(GROUP_NODES.to_owned());
        assert_eq!(ask(&user), Some(allow()));
        user.name = NODE_USER_PREFIX.to_owned();
        assert_eq!(
            ask(&user),
            Some(deny("unknown node for user \"system:node:\""))
        );
    }
}
