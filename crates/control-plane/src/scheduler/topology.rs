//! Where other pods are: inter-pod affinity and topology spread.

use std::collections::{HashMap, HashSet};

use super::cluster::{Candidate, Cluster};
use super::filter::matches_node_affinity;
use super::pod::{Pod, PodTerm, Spread};
use super::selector::Labels;
use super::taint::{Effect, tolerated};

/// A topology key and the value of that label: the nodes that share it are one domain.
type Domain<'a> = (&'a str, &'a str);

/// What one pod has to know of where the others are, computed once for all nodes.
pub(super) struct Topology<'a> {
    pod: &'a Pod,
    /// Domains in which some pod does not want this one.
    repelled: HashSet<Domain<'a>>,
    /// Domains that hold a pod which matches all terms of this pod's affinity.
    attracting: HashSet<Domain<'a>>,
    /// Domains that hold a pod which a term of this pod's anti-affinity names.
    avoided: HashSet<Domain<'a>>,
    /// Whether this pod matches its own affinity, and may so be the first of its group.
    matches_itself: bool,
    spread: Vec<Counted<'a>>,
    /// The preferences' weight for each domain.
    preferred: HashMap<Domain<'a>, i64>,
}

/// A spread constraint and how many matching pods each value of its key has.
struct Counted<'a> {
    constraint: &'a Spread,
    counts: HashMap<&'a str, i64>,
    least: i64,
    own: i64,
}

/// Why where other pods are rules a node out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misplaced {
    SpreadLabel,
    Spread,
    Affinity,
    AntiAffinity,
    ExistingAntiAffinity,
}

impl<'a> Topology<'a> {
    pub(super) fn new(pod: &'a Pod, cluster: &'a Cluster) -> Self {
        let namespace = cluster.namespace_labels(&pod.namespace);
        let mut topology = Self {
            pod,
            repelled: HashSet::new(),
            attracting: HashSet::new(),
            avoided: HashSet::new(),
            matches_itself: pod.affinity.iter().all(|term| term.matches(pod, namespace)),
            spread: Vec::new(),
            preferred: HashMap::new(),
        };
        for other in cluster.repelling_pods() {
            if let Some(node) = cluster.node_of(other) {
                for term in &other.anti_affinity {
                    if term.matches(pod, namespace) {
                        topology.repelled.extend(domain(term, &node.labels));
                    }
                }
            }
        }
        if !(pod.affinity.is_empty()
            && pod.anti_affinity.is_empty()
            && pod.preferred_affinity.is_empty())
        {
            topology.look_at_placed_pods(cluster);
        }
        topology.spread = pod
            .spread
            .iter()
            .map(|constraint| count(pod, constraint, cluster))
            .collect();
        topology
    }

    fn look_at_placed_pods(&mut self, cluster: &'a Cluster) {
        let pod = self.pod;
        for candidate in cluster.candidates() {
            let labels = &candidate.facts.labels;
            for other in candidate.node.pods.values() {
                let namespace = cluster.namespace_labels(&other.namespace);
                let all = !pod.affinity.is_empty()
                    && pod
                        .affinity
                        .iter()
                        .all(|term| term.matches(other, namespace));
                if all {
                    let domains = pod.affinity.iter().filter_map(|term| domain(term, labels));
                    self.attracting.extend(domains);
                }
                for term in &pod.anti_affinity {
                    if term.matches(other, namespace) {
                        self.avoided.extend(domain(term, labels));
                    }
                }
                for (weight, term) in &pod.preferred_affinity {
                    if term.matches(other, namespace)
                        && let Some(domain) = domain(term, labels)
                    {
                        *self.preferred.entry(domain).or_default() += weight;
                    }
                }
            }
        }
    }

    /// Checks a node in the order of the real scheduler.
    pub(super) fn check(&self, node: Candidate<'_>) -> Result<(), Misplaced> {
        let labels = &node.facts.labels;
        for counted in &self.spread {
            let Some(value) = labels.get(&counted.constraint.topology_key) else {
                return Err(Misplaced::SpreadLabel);
            };
            let here = counted.counts.get(&**value).copied().unwrap_or_default();
            if here + counted.own - counted.least > counted.constraint.max_skew {
                return Err(Misplaced::Spread);
            }
        }
        if !self.satisfies_affinity(labels) {
            return Err(Misplaced::Affinity);
        }
        let avoids = |term: &PodTerm| {
            labels
                .get(&term.topology_key)
                .is_some_and(|value| self.avoided.contains(&(&*term.topology_key, &**value)))
        };
        if self.pod.anti_affinity.iter().any(avoids) {
            return Err(Misplaced::AntiAffinity);
        }
        let repelled =
            |(key, value): &Domain<'_>| labels.get(*key).is_some_and(|found| **found == **value);
        if self.repelled.iter().any(repelled) {
            return Err(Misplaced::ExistingAntiAffinity);
        }
        Ok(())
    }

    fn satisfies_affinity(&self, labels: &Labels) -> bool {
        let mut beside = true;
        for term in &self.pod.affinity {
            let Some(value) = labels.get(&term.topology_key) else {
                return false;
            };
            beside &= self.attracting.contains(&(&*term.topology_key, &**value));
        }
        beside || (self.attracting.is_empty() && self.matches_itself)
    }

    /// The sum of the weights of the preferences that a node meets.
    pub(super) fn preference(&self, node: Candidate<'_>) -> i64 {
        let met = self.preferred.iter().filter(|((key, value), _)| {
            node.facts
                .labels
                .get(*key)
                .is_some_and(|found| **found == **value)
        });
        met.map(|(_, weight)| weight).sum()
    }
}

fn domain<'a>(term: &'a PodTerm, labels: &'a Labels) -> Option<Domain<'a>> {
    let value = labels.get(&term.topology_key)?;
    Some((&term.topology_key, value))
}

fn count<'a>(pod: &'a Pod, constraint: &'a Spread, cluster: &'a Cluster) -> Counted<'a> {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    for candidate in cluster.candidates() {
        let labels = &candidate.facts.labels;
        // A node counts only if it has the keys of all constraints.
        let has_keys = pod
            .spread
            .iter()
            .all(|constraint| labels.contains_key(&constraint.topology_key));
        let Some(value) = labels.get(&constraint.topology_key) else {
            continue;
        };
        if !has_keys
            || constraint.honors_affinity && !matches_node_affinity(pod, candidate)
            || constraint.honors_taints && !tolerates_all(pod, candidate)
        {
            continue;
        }
        let matching = candidate.node.pods.values().filter(|other| {
            other.namespace == pod.namespace
                && !other.terminating
                && constraint.matches(&other.labels)
        });
        *counts.entry(value).or_default() += i64::try_from(matching.count()).unwrap_or(i64::MAX);
    }
    let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
    let least = if domains < constraint.min_domains {
        0
    } else {
        counts.values().min().copied().unwrap_or_default()
    };
    Counted {
        constraint,
        own: i64::from(constraint.matches(&pod.labels)),
        counts,
        least,
    }
}

fn tolerates_all(pod: &Pod, node: Candidate<'_>) -> bool {
    node.facts
        .taints
        .iter()
        .filter(|taint| taint.effect != Effect::PreferNoSchedule)
        .all(|taint| tolerated(taint, &pod.tolerations))
}
