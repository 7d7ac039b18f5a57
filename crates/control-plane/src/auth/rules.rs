//! Policy rules: matching a request against them, and whether one set covers another.

use serde::{Deserialize, Serialize};

use super::Attributes;

/// A rule of a Role or ClusterRole (`rbac.authorization.k8s.io/v1` PolicyRule).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// API groups, or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Paths, with `*` at the end for prefixes.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Names of single objects; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
}

impl PolicyRule {
    /// Whether this rule allows what is asked.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if attributes.resource.is_empty() {
            return holds(&self.verbs, attributes.verb)
                && self
                    .non_resource_urls
                    .iter()
                    .any(|pattern| path_matches(pattern, attributes.path));
        }
        holds(&self.verbs, attributes.verb)
            && holds(&self.api_groups, attributes.group)
            && self
                .resources
                .iter()
                .any(|rule| resource_matches(rule, attributes.resource, attributes.subresource))
            && (self.resource_names.is_empty()
                || self
                    .resource_names
                    .iter()
                    .any(|name| name == attributes.name))
    }

    /// The rule as the real server prints it in a refusal:
    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        let mut part = |name: &str, values: &[String]| {
            if !values.is_empty() {
                let list: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
                parts.push(format!("{name}:[{}]", list.join(" ")));
            }
        };
        part("APIGroups", &self.api_groups);
        part("Resources", &self.resources);
        part("NonResourceURLs", &self.non_resource_urls);
        part("ResourceNames", &self.resource_names);
        part("Verbs", &self.verbs);
        format!("{{{}}}", parts.join(", "))
    }

    /// The rule taken apart into rules of one verb on one resource (or path) each.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = Self {
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        verbs: vec![verb.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(base);
                        continue;
                    }
                    atoms.extend(self.resource_names.iter().map(|name| Self {
                        resource_names: vec![name.clone()],
                        ..base.clone()
                    }));
                }
            }
            atoms.extend(self.non_resource_urls.iter().map(|url| Self {
                non_resource_urls: vec![url.clone()],
                verbs: vec![verb.clone()],
                ..Self::default()
            }));
        }
        atoms
    }

    /// Whether everything that `atom` (made by [`Self::atoms`]) allows, this rule allows too.
    fn covers_atom(&self, atom: &Self) -> bool {
        let covers = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|one| one == "*") || theirs.iter().all(|one| mine.contains(one))
        };
        if !covers(&self.verbs, &atom.verbs) {
            return false;
        }
        if let [url] = atom.non_resource_urls.as_slice() {
            return self
                .non_resource_urls
                .iter()
                .any(|pattern| path_matches(pattern, url));
        }
        covers(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(|resource| {
                self.resources.iter().any(|mine| {
                    mine == "*"
                        || mine == resource
                        || matches!(
                            (mine.strip_prefix("*/"), resource.split_once('/')),
                            (Some(mine), Some((_, sub))) if mine == sub
                        )
                })
            })
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom
                        .resource_names
                        .iter()
                        .all(|name| self.resource_names.contains(name))))
    }
}

/// What of `wanted` no rule of `held` covers, in rules of one verb on one resource each; empty
/// where all is covered.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted
        .iter()
        .flat_map(PolicyRule::atoms)
        .filter(|atom| !held.iter().any(|rule| rule.covers_atom(atom)))
        .collect()
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((main, sub)) => {
            !subresource.is_empty() && sub == subresource && (main == "*" || main == resource)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::User;
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        PolicyRule {
            api_groups: own(groups),
            resources: own(resources),
            verbs: own(verbs),
            resource_names: own(names),
            ..PolicyRule::default()
        }
    }

    fn allows(rule: &PolicyRule, verb: &str, resource: &str, sub: &str, name: &str) -> bool {
        let user = User::anonymous();
        rule.allows(&Attributes {
            subresource: sub,
            name,
            ..Attributes::of_resource(&user, verb, "", resource)
        })
    }

    #[test]
    fn a_resource_does_not_include_its_subresources_and_a_star_does() {
        let pods = rule(&[""], &["pods"], &["get"], &[]);
        assert!(allows(&pods, "get", "pods", "", "p"));
        assert!(!allows(&pods, "get", "pods", "log", "p"));
        assert!(!allows(&pods, "list", "pods", "", ""));
        let scales = rule(&[""], &["*/scale"], &["*"], &[]);
        assert!(allows(
            &scales,
            "update",
            "replicationcontrollers",
            "scale",
            "r"
        ));
        assert!(!allows(
            &scales,
            "update",
            "replicationcontrollers",
            "",
            "r"
        ));
        let all = rule(&[""], &["*"], &["*"], &[]);
        assert!(allows(&all, "get", "pods", "log", "p"));
        let named = rule(&[""], &["pods"], &["get", "list"], &["a"]);
        assert!(allows(&named, "get", "pods", "", "a"));
        assert!(!allows(&named, "get", "pods", "", "b"));
        assert!(!allows(&named, "list", "pods", "", ""));
    }

    #[test]
    fn paths_match_by_prefix_where_the_rule_ends_in_a_star() {
        let user = User::anonymous();
        let rule = PolicyRule {
            non_resource_urls: vec!["/healthz".to_owned(), "/apis/*".to_owned()],
            verbs: vec!["get".to_owned()],
            ..PolicyRule::default()
        };
        let allows = |verb, path| rule.allows(&Attributes::of_path(&user, verb, path));
        assert!(allows("get", "/healthz"));
        assert!(allows("get", "/apis/apps/v1"));
        assert!(!allows("get", "/healthz/x"));
        assert!(!allows("post", "/healthz"));
    }

    #[test]
    fn a_missing_permission_is_named_as_the_real_server_names_it() {
        let held = [rule(&[""], &["pods"], &["get"], &[])];
        let wanted = [rule(&[""], &["pods", "pods/log"], &["get"], &[])];
        let missing = uncovered(&held, &wanted);
        assert_eq!(missing.len(), 1);
        assert_eq!(
            missing[0].compact(),
            r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}"#
        );
    }

    fn any_rule() -> impl Strategy<Value = PolicyRule> {
        let list = |from: &'static [&'static str], least| {
            proptest::collection::vec(proptest::sample::select(from), least..3)
        };
        (
            list(&["", "apps", "*"], 1),
            list(&["pods", "pods/log", "*/log", "nodes", "*"], 1),
            list(&["get", "list", "*"], 1),
            list(&["a", "b"], 0),
        )
            .prop_map(|(groups, resources, verbs, names)| rule(&groups, &resources, &verbs, &names))
    }

    proptest! {
        /// The invariant of the escalation check: with covered rules nobody gains anything.
        #[test]
        fn covered_rules_allow_nothing_that_the_holder_lacks(
            held in proptest::collection::vec(any_rule(), 0..4),
            wanted in any_rule(),
            verb in proptest::sample::select(&["get", "list", "delete"][..]),
            group in proptest::sample::select(&["", "apps", "batch"][..]),
            resource in proptest::sample::select(&["pods", "nodes", "jobs"][..]),
            sub in proptest::sample::select(&["", "log", "status"][..]),
            name in proptest::sample::select(&["", "a", "b", "c"][..]),
        ) {
            let user = User::anonymous();
            let attributes = Attributes {
                subresource: sub,
                name,
                ..Attributes::of_resource(&user, verb, group, resource)
            };
            if uncovered(&held, std::slice::from_ref(&wanted)).is_empty() && wanted.allows(&attributes) {
                prop_assert!(held.iter().any(|rule| rule.allows(&attributes)));
            }
        }

        #[test]
        fn every_rule_covers_itself(rule in any_rule()) {
            prop_assert!(uncovered(std::slice::from_ref(&rule), std::slice::from_ref(&rule)).is_empty());
        }
    }
}
