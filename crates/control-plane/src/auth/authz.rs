//! The authorizer: privileged group, then Node, then RBAC, over the store.

use std::sync::{Arc, Mutex, MutexGuard};

use serde::Deserialize;

use super::follow::{Change, Follower};
use super::graph::{NodeGraph, RefKind};
use super::node::{self, Reach};
use super::rbac::{GROUP, Kind, Policies};
use super::rules::PolicyRule;
use super::{Attributes, Decision, GROUP_MASTERS, User};
use crate::store::{Object, Store};

/// Decides what users may do. Clones share the indices.
#[derive(Debug, Clone)]
pub struct Authorizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    node_rules: Vec<PolicyRule>,
    policies: Mutex<FollowedPolicies>,
    graph: Mutex<FollowedGraph>,
}

#[derive(Debug)]
struct FollowedPolicies {
    followers: [(Kind, Follower); 4],
    policies: Policies,
}

#[derive(Debug)]
struct FollowedGraph {
    follower: Follower,
    graph: NodeGraph,
}

/// What a read lock guards is only ever changed by whole objects, so it is sound after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Authorizer {
    /// An authorizer over the objects in `store`.
    pub fn new(store: Store) -> Self {
        let policies = FollowedPolicies {
            followers: Kind::ALL
                .map(|kind| (kind, Follower::new(format!("{}.{GROUP}/", kind.plural())))),
            policies: Policies::default(),
        };
        let graph = FollowedGraph {
            follower: Follower::new("pods/"),
            graph: NodeGraph::default(),
        };
        Self {
            inner: Arc::new(Inner {
                store,
                node_rules: crate::bootstrap::roles::node_rules(),
                policies: Mutex::new(policies),
                graph: Mutex::new(graph),
            }),
        }
    }

    /// Whether the request may be done. Never blocks on anything but other decisions, which take
    /// microseconds; all writes that were acknowledged before are seen.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(GROUP_MASTERS) {
            return Decision::Allow {
                reason: String::new(),
            };
        }
        let by_node = node::authorize(self, &self.inner.node_rules, attributes);
        if let Some(decision @ Decision::Allow { .. }) = by_node {
            return decision;
        }
        let by_rbac = self.with_policies(|policies| policies.authorize(attributes));
        match (by_node, by_rbac) {
            (Some(Decision::Deny { reason: first }), Decision::Deny { reason: second }) => {
                let reason = [first, second]
                    .into_iter()
                    .filter(|reason| !reason.is_empty())
                    .collect::<Vec<_>>()
                    .join("\n");
                Decision::Deny { reason }
            }
            (_, decision) => decision,
        }
    }

    /// All rules that hold for `user` in `namespace`, and what could not be found out.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut problems) =
            self.with_policies(|policies| policies.rules_for(user, namespace));
        let all = || vec!["*".to_owned()];
        if user.in_group(GROUP_MASTERS) {
            rules.push(PolicyRule {
                api_groups: all(),
                resources: all(),
                verbs: all(),
                ..PolicyRule::default()
            });
            rules.push(PolicyRule {
                non_resource_urls: all(),
                verbs: all(),
                ..PolicyRule::default()
            });
        } else if user.node_name().is_some() {
            problems.push("node authorizer does not support user rule resolution".to_owned());
        }
        (rules, problems)
    }

    /// Reads the present roles and bindings.
    pub fn with_policies<T>(&self, read: impl FnOnce(&Policies) -> T) -> T {
        let mut guard = lock(&self.inner.policies);
        let FollowedPolicies {
            followers,
            policies,
        } = &mut *guard;
        for (kind, follower) in followers {
            let kind = *kind;
            follower.drain(&self.inner.store, |change| match change {
                Change::Reset => policies.clear(kind),
                Change::Put(object) => {
                    policies.put(kind, object.namespace(), object.name(), &object.json);
                }
                Change::Delete(object) => policies.remove(kind, object.namespace(), object.name()),
            });
        }
        policies.settle();
        read(policies)
    }

    fn with_graph<T>(&self, read: impl FnOnce(&NodeGraph) -> T) -> T {
        let mut guard = lock(&self.inner.graph);
        let FollowedGraph { follower, graph } = &mut *guard;
        follower.drain(&self.inner.store, |change| match change {
            Change::Reset => *graph = NodeGraph::default(),
            Change::Put(object) => take_in_pod(graph, object),
            Change::Delete(object) => graph.remove(object.namespace(), object.name()),
        });
        read(graph)
    }
}

/// A bound pod is parsed once: what it refers to does not change any more, but for ephemeral
/// containers.
fn take_in_pod(graph: &mut NodeGraph, object: &Object) {
    let (namespace, name) = (object.namespace(), object.name());
    let may_have_grown = || {
        let needle = b"\"ephemeralContainers\"";
        object
            .json
            .windows(needle.len())
            .any(|window| window == needle)
    };
    if !graph.knows(namespace, name) || may_have_grown() {
        graph.put(namespace, name, &object.value());
    }
}

#[derive(Deserialize)]
struct Volume {
    spec: VolumeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    claim_ref: Option<ClaimRef>,
}

#[derive(Deserialize)]
struct ClaimRef {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

impl Reach for Authorizer {
    fn reaches(&self, node: &str, kind: RefKind, namespace: &str, name: &str) -> bool {
        self.with_graph(|graph| graph.reaches(node, kind, namespace, name))
    }

    fn reaches_volume(&self, node: &str, volume: &str) -> bool {
        let Some(object) = self
            .inner
            .store
            .get(&format!("persistentvolumes//{volume}"))
        else {
            return false;
        };
        let claim = serde_json::from_slice::<Volume>(&object.json)
            .ok()
            .and_then(|volume| volume.spec.claim_ref);
        claim.is_some_and(|claim| {
            self.reaches(
                node,
                RefKind::PersistentVolumeClaim,
                &claim.namespace,
                &claim.name,
            )
        })
    }
}
