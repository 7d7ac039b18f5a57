//! Whether a pod may be on a node, and the real scheduler's words where it may not.
//!
//! The filters run in the order of the default profile of kube-scheduler 1.34, and the first that
//! refuses decides.

use super::cluster::Candidate;
use super::pod::Pod;
use super::resources::PODS;
use super::taint::{Effect, Taint, tolerated};
use super::topology::{Misplaced, Topology};
use crate::quantity::Quantity;

/// Why a pod may not be on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reasons: Vec<String>,
    /// Whether it would help if other pods left the node.
    pub(super) curable: bool,
}

impl Refusal {
    fn lasting(reason: &str) -> Self {
        Self {
            reasons: vec![reason.into()],
            curable: false,
        }
    }

    fn curable(reason: &str) -> Self {
        Self {
            curable: true,
            ..Self::lasting(reason)
        }
    }

    /// A node that node affinity leaves out by its name.
    pub(super) fn not_named() -> Self {
        Self::lasting("node(s) didn't satisfy plugin(s) [NodeAffinity]")
    }
}

pub(super) fn filter(
    pod: &Pod,
    node: Candidate<'_>,
    topology: &Topology<'_>,
) -> Result<(), Refusal> {
    let facts = node.facts;
    if facts.unschedulable && !tolerated(&Taint::unschedulable(), &pod.tolerations) {
        return Err(Refusal::lasting("node(s) were unschedulable"));
    }
    let repels = |taint: &&Taint| {
        taint.effect != Effect::PreferNoSchedule && !tolerated(taint, &pod.tolerations)
    };
    if facts.taints.iter().any(|taint| repels(&taint)) {
        return Err(Refusal::lasting("node(s) had untolerated taint(s)"));
    }
    if !matches_node_affinity(pod, node) {
        return Err(Refusal::lasting(
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    let taken = |other: &Pod| {
        let mut ports = other.ports.iter();
        ports.any(|taken| pod.ports.iter().any(|port| port.conflicts(taken)))
    };
    if !pod.ports.is_empty() && node.node.pods.values().any(|other| taken(other)) {
        return Err(Refusal::curable(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    fits(pod, node)?;
    topology.check(node).map_err(|misplaced| match misplaced {
        Misplaced::SpreadLabel => Refusal::lasting(
            "node(s) didn't match pod topology spread constraints (missing required label)",
        ),
        Misplaced::Spread => {
            Refusal::curable("node(s) didn't match pod topology spread constraints")
        }
        Misplaced::Affinity => Refusal::lasting("node(s) didn't match pod affinity rules"),
        Misplaced::AntiAffinity => Refusal::curable("node(s) didn't match pod anti-affinity rules"),
        Misplaced::ExistingAntiAffinity => {
            Refusal::curable("node(s) didn't satisfy existing pods anti-affinity rules")
        }
    })
}

/// The pod's node selector and its required node affinity.
pub(super) fn matches_node_affinity(pod: &Pod, node: Candidate<'_>) -> bool {
    let labels = &node.facts.labels;
    let mut selector = pod.node_selector.iter();
    selector.all(|(key, value)| labels.get(key) == Some(value))
        && pod
            .node_affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term.matches(node.name, labels)))
}

fn fits(pod: &Pod, node: Candidate<'_>) -> Result<(), Refusal> {
    let allocatable = &node.facts.allocatable;
    let mut refusal = Refusal {
        reasons: Vec::new(),
        curable: true,
    };
    let pods = i64::try_from(node.node.pods.len()).unwrap_or(i64::MAX);
    if Quantity::from_units(pods.saturating_add(1)) > allocatable.get(PODS) {
        refusal.reasons.push("Too many pods".into());
    }
    for (name, requested) in pod.requests.iter() {
        let has = allocatable.get(name);
        if requested > Quantity::ZERO && requested > has - node.node.used.get(name) {
            refusal.reasons.push(format!("Insufficient {name}"));
            refusal.curable &= requested <= has;
        }
    }
    if refusal.reasons.is_empty() {
        Ok(())
    } else {
        Err(refusal)
    }
}
