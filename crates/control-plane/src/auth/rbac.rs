//! The stored Roles, ClusterRoles and bindings as an index, and decisions from it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Deserialize;

use super::rules::PolicyRule;
use super::{Attributes, Decision, SERVICE_ACCOUNT_USER_PREFIX, User};

/// The API group of the objects that this index is made of.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The kinds that the index is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `clusterroles`
    ClusterRole,
    /// `roles`
    Role,
    /// `clusterrolebindings`
    ClusterRoleBinding,
    /// `rolebindings`
    RoleBinding,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::ClusterRole,
        Self::Role,
        Self::ClusterRoleBinding,
        Self::RoleBinding,
    ];

    /// The plural resource.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ClusterRole => "clusterroles",
            Self::Role => "roles",
            Self::ClusterRoleBinding => "clusterrolebindings",
            Self::RoleBinding => "rolebindings",
        }
    }
}

/// Whom a binding is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace of a service account; empty for the binding's own.
    #[serde(default)]
    pub namespace: String,
}

impl Subject {
    fn is(&self, user: &User, binding_namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => user.name == self.name,
            "Group" => user.in_group(&self.name),
            "ServiceAccount" => {
                let namespace = self.namespace_or(binding_namespace);
                !namespace.is_empty()
                    && user
                        .name
                        .strip_prefix(SERVICE_ACCOUNT_USER_PREFIX)
                        .and_then(|rest| rest.split_once(':'))
                        == Some((namespace, &self.name))
            }
            _ => false,
        }
    }

    fn namespace_or<'a>(&'a self, other: &'a str) -> &'a str {
        if self.namespace.is_empty() {
            other
        } else {
            &self.namespace
        }
    }

    fn describe(&self, binding_namespace: &str) -> String {
        if self.kind == "ServiceAccount" {
            format!(
                "ServiceAccount \"{}/{}\"",
                self.name,
                self.namespace_or(binding_namespace)
            )
        } else {
            format!("{} {:?}", self.kind, self.name)
        }
    }
}

/// The role that a binding gives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The name.
    pub name: String,
}

#[derive(Debug, Deserialize)]
struct Binding {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    #[serde(rename = "roleRef")]
    role_ref: RoleRef,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRole {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    rules: Option<Vec<PolicyRule>>,
    #[serde(default)]
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AggregationRule {
    #[serde(default)]
    cluster_role_selectors: Option<Vec<LabelSelector>>,
}

/// A label selector of an object (`metav1.LabelSelector`).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(default)]
    match_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Option<Vec<String>>,
}

impl LabelSelector {
    /// Whether `labels` fit; an empty selector fits all, an unknown operator nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let values = |requirement: &Requirement, value: &String| {
            requirement
                .values
                .as_ref()
                .is_some_and(|values| values.contains(value))
        };
        self.match_labels
            .iter()
            .flatten()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().flatten().all(|requirement| {
                let label = labels.get(&requirement.key);
                match requirement.operator.as_str() {
                    "In" => label.is_some_and(|label| values(requirement, label)),
                    "NotIn" => label.is_none_or(|label| !values(requirement, label)),
                    "Exists" => label.is_some(),
                    "DoesNotExist" => label.is_none(),
                    _ => false,
                }
            })
    }
}

#[derive(Debug)]
struct ClusterRole {
    rules: Vec<PolicyRule>,
    labels: BTreeMap<String, String>,
    aggregation: Option<Vec<LabelSelector>>,
}

/// What one binding gives to a user.
#[derive(Debug)]
pub struct Grant<'a> {
    /// The rules of the role.
    pub rules: &'a [Arc<[PolicyRule]>],
    namespace: &'a str,
    binding: &'a str,
    role_ref: &'a RoleRef,
    subject: &'a Subject,
}

impl Grant<'_> {
    /// As the real server describes it in the reason of an allowed `SubjectAccessReview`.
    fn describe(&self) -> String {
        let RoleRef { kind, name } = self.role_ref;
        let subject = self.subject.describe(self.namespace);
        if self.namespace.is_empty() {
            format!(
                "ClusterRoleBinding {:?} of {kind} {name:?} to {subject}",
                self.binding
            )
        } else {
            format!(
                "RoleBinding \"{}/{}\" of {kind} {name:?} to {subject}",
                self.binding, self.namespace
            )
        }
    }
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Policies {
    cluster_roles: BTreeMap<String, ClusterRole>,
    roles: HashMap<(String, String), Arc<[PolicyRule]>>,
    cluster_bindings: BTreeMap<String, Binding>,
    bindings: HashMap<String, BTreeMap<String, Binding>>,
    /// The rules of each ClusterRole with what aggregation adds; made anew when one changes.
    effective: HashMap<String, Vec<Arc<[PolicyRule]>>>,
    stale: bool,
}

impl Policies {
    /// Takes in the JSON text of an object. One that does not parse counts as absent, so that it
    /// gives no rights.
    pub fn put(&mut self, kind: Kind, namespace: &str, name: &str, json: &[u8]) {
        let outcome = match kind {
            Kind::ClusterRole => serde_json::from_slice(json).map(|role: StoredRole| {
                self.stale = true;
                self.cluster_roles.insert(
                    name.to_owned(),
                    ClusterRole {
                        rules: role.rules.unwrap_or_default(),
                        labels: role.metadata.labels.unwrap_or_default(),
                        aggregation: role
                            .aggregation_rule
                            .map(|rule| rule.cluster_role_selectors.unwrap_or_default()),
                    },
                );
            }),
            Kind::Role => serde_json::from_slice(json).map(|role: StoredRole| {
                self.roles.insert(
                    (namespace.to_owned(), name.to_owned()),
                    role.rules.unwrap_or_default().into(),
                );
            }),
            Kind::ClusterRoleBinding => serde_json::from_slice(json).map(|binding| {
                self.cluster_bindings.insert(name.to_owned(), binding);
            }),
            Kind::RoleBinding => serde_json::from_slice(json).map(|binding| {
                self.bindings
                    .entry(namespace.to_owned())
                    .or_default()
                    .insert(name.to_owned(), binding);
            }),
        };
        if let Err(error) = outcome {
            tracing::warn!(kind = kind.plural(), namespace, name, %error, "ignoring a malformed policy object");
            self.remove(kind, namespace, name);
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            Kind::ClusterRole => {
                self.stale = true;
                self.cluster_roles.remove(name);
            }
            Kind::Role => {
                self.roles.remove(&(namespace.to_owned(), name.to_owned()));
            }
            Kind::ClusterRoleBinding => {
                self.cluster_bindings.remove(name);
            }
            Kind::RoleBinding => {
                if let Some(bindings) = self.bindings.get_mut(namespace) {
                    bindings.remove(name);
                    if bindings.is_empty() {
                        self.bindings.remove(namespace);
                    }
                }
            }
        }
    }

    /// Forgets all objects of a kind.
    pub fn clear(&mut self, kind: Kind) {
        match kind {
            Kind::ClusterRole => {
                self.stale = true;
                self.cluster_roles.clear();
            }
            Kind::Role => self.roles.clear(),
            Kind::ClusterRoleBinding => self.cluster_bindings.clear(),
            Kind::RoleBinding => self.bindings.clear(),
        }
    }

    /// Brings aggregated ClusterRoles up to date; to be called after the last of a series of
    /// changes and before any question.
    pub fn settle(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let own: HashMap<&str, Arc<[PolicyRule]>> = self
            .cluster_roles
            .iter()
            .map(|(name, role)| (name.as_str(), role.rules.as_slice().into()))
            .collect();
        self.effective = self
            .cluster_roles
            .keys()
            .map(|name| {
                let mut members = Vec::new();
                self.collect_members(name, &mut members, &mut HashSet::new());
                let rules = members
                    .iter()
                    .map(|member| Arc::clone(&own[member]))
                    .collect();
                (name.clone(), rules)
            })
            .collect();
    }

    /// `name` and all ClusterRoles that it aggregates, each once, circles included.
    fn collect_members<'a>(
        &'a self,
        name: &'a str,
        members: &mut Vec<&'a str>,
        seen: &mut HashSet<&'a str>,
    ) {
        if !seen.insert(name) {
            return;
        }
        members.push(name);
        let Some(selectors) = self
            .cluster_roles
            .get(name)
            .and_then(|role| role.aggregation.as_ref())
        else {
            return;
        };
        for (other, role) in &self.cluster_roles {
            if selectors
                .iter()
                .any(|selector| selector.matches(&role.labels))
            {
                self.collect_members(other, members, seen);
            }
        }
    }

    /// The rules that aggregation gives to a ClusterRole, in the order of the names of the roles
    /// they come from and without repetition; `None` where it has no aggregation rule.
    pub fn aggregated(&self, name: &str) -> Option<Vec<PolicyRule>> {
        let role = self.cluster_roles.get(name)?;
        role.aggregation.as_ref()?;
        let mut members = Vec::new();
        self.collect_members(name, &mut members, &mut HashSet::new());
        members.retain(|member| *member != name);
        members.sort_unstable();
        let mut rules: Vec<PolicyRule> = Vec::new();
        for member in members {
            let Some(role) = self.cluster_roles.get(member) else {
                continue;
            };
            for rule in &role.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        Some(rules)
    }

    /// The names of the ClusterRoles that have an aggregation rule.
    pub fn aggregating(&self) -> impl Iterator<Item = &str> {
        self.cluster_roles
            .iter()
            .filter(|(_, role)| role.aggregation.is_some())
            .map(|(name, _)| name.as_str())
    }

    /// The rules of the role that `role_ref` means in `namespace`, or what is missing, worded as
    /// the real server does.
    pub fn resolve(
        &self,
        role_ref: &RoleRef,
        namespace: &str,
    ) -> Result<Vec<Arc<[PolicyRule]>>, String> {
        let RoleRef { kind, name } = role_ref;
        match kind.as_str() {
            "ClusterRole" => self
                .effective
                .get(name)
                .cloned()
                .ok_or_else(|| format!("clusterrole.{GROUP} {name:?} not found")),
            "Role" => self
                .roles
                .get(&(namespace.to_owned(), name.clone()))
                .map(|rules| vec![Arc::clone(rules)])
                .ok_or_else(|| format!("role.{GROUP} {name:?} not found")),
            other => Err(format!("unsupported role reference kind: {other:?}")),
        }
    }

    /// Shows `visit` what each binding gives to `user` in `namespace` (empty: only what holds
    /// everywhere) until it breaks. Returns what could not be resolved on the way.
    pub fn visit<'a>(
        &'a self,
        user: &User,
        namespace: &'a str,
        mut visit: impl FnMut(&Grant<'_>) -> ControlFlow<()>,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let everywhere = self
            .cluster_bindings
            .iter()
            .map(|(name, binding)| ("", name, binding));
        let here = self
            .bindings
            .get(namespace)
            .filter(|_| !namespace.is_empty())
            .into_iter()
            .flatten()
            .map(|(name, binding)| (namespace, name, binding));
        for (namespace, name, binding) in everywhere.chain(here) {
            let Some(subject) = binding
                .subjects
                .iter()
                .flatten()
                .find(|subject| subject.is(user, namespace))
            else {
                continue;
            };
            let role_ref = &binding.role_ref;
            let rules = match self.resolve(role_ref, namespace) {
                Ok(rules) => rules,
                Err(problem) => {
                    missing.push(problem);
                    continue;
                }
            };
            let grant = Grant {
                rules: &rules,
                namespace,
                binding: name,
                role_ref,
                subject,
            };
            if visit(&grant).is_break() {
                break;
            }
        }
        missing
    }

    /// Decides a request.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut allowed = None;
        let missing = self.visit(attributes.user, attributes.namespace, |grant| {
            let hit = grant
                .rules
                .iter()
                .flat_map(|rules| rules.iter())
                .any(|rule| rule.allows(attributes));
            if hit {
                allowed = Some(format!("RBAC: allowed by {}", grant.describe()));
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match (allowed, missing.as_slice()) {
            (Some(reason), _) => Decision::Allow { reason },
            (None, []) => Decision::Deny {
                reason: String::new(),
            },
            (None, [one]) => Decision::Deny {
                reason: format!("RBAC: {one}"),
            },
            (None, many) => Decision::Deny {
                reason: format!("RBAC: [{}]", many.join(", ")),
            },
        }
    }

    /// All rules that hold for `user` in `namespace`, and what could not be resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let mut rules = Vec::new();
        let missing = self.visit(user, namespace, |grant| {
            rules.extend(grant.rules.iter().flat_map(|rules| rules.iter()).cloned());
            ControlFlow::Continue(())
        });
        (rules, missing)
    }
}

#[cfg(test)]
mod tests;
