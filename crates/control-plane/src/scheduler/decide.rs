//! The decision about one pod: a pure function of the pod and the cluster.

use std::collections::BTreeMap;

use super::cluster::{Candidate, Cluster};
use super::filter::{Refusal, filter};
use super::pod::Pod;
use super::score::best;
use super::selector::nodes_by_name;
use super::topology::Topology;

/// What is to be done with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this node.
    Place {
        /// The name of the node.
        node: Box<str>,
    },
    /// There is no place for it now.
    Unschedulable {
        /// Why, in the words of kube-scheduler 1.34.
        message: String,
    },
}

/// Decides where a pod goes.
pub fn decide(pod: &Pod, cluster: &Cluster) -> Decision {
    let topology = Topology::new(pod, cluster);
    let named = pod.node_affinity.as_deref().and_then(nodes_by_name);
    let mut suitable = Vec::new();
    let mut refusals = Vec::new();
    for node in cluster.candidates() {
        let left_out = named
            .as_ref()
            .is_some_and(|names| !names.contains(&node.name));
        let verdict = if left_out {
            Err(Refusal::not_named())
        } else {
            filter(pod, node, &topology)
        };
        match verdict {
            Ok(()) => suitable.push(node),
            Err(refusal) => refusals.push((node, refusal)),
        }
    }
    match best(pod, &suitable, &topology) {
        Some(node) => Decision::Place { node: node.into() },
        None => Decision::Unschedulable {
            message: explain(pod, &refusals),
        },
    }
}

/// All reasons with the number of nodes that each holds for, and what became of preemption.
fn explain(pod: &Pod, refusals: &[(Candidate<'_>, Refusal)]) -> String {
    if refusals.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let reasons = refusals
        .iter()
        .flat_map(|(_, refusal)| refusal.reasons.iter().map(String::as_str));
    let preemption = if pod.never_preempts {
        "not eligible due to preemptionPolicy=Never.".into()
    } else {
        let outcomes = refusals.iter().map(|(node, refusal)| {
            let has_lesser = || {
                node.node
                    .pods
                    .values()
                    .any(|other| other.priority < pod.priority)
            };
            if !refusal.curable {
                "Preemption is not helpful for scheduling"
            } else if has_lesser() {
                "Preemption is not supported"
            } else {
                "No preemption victims found for incoming pod"
            }
        });
        none_of(refusals.len(), outcomes)
    };
    // The words about claims are said by the real scheduler of this version for every pod.
    format!(
        "{} no new claims to deallocate, preemption: {preemption}",
        none_of(refusals.len(), reasons)
    )
}

fn none_of<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    // As text, counts included, as the real one sorts them.
    lines.sort_unstable();
    format!("0/{nodes} nodes are available: {}.", lines.join(", "))
}
