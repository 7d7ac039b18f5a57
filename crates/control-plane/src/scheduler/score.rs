//! Which of the nodes that a pod may be on is the best.
//!
//! The parts and their weights are those of the default profile of kube-scheduler 1.34. Left out
//! are those that say nothing here (images) or little (balance of resources, preferred spread,
//! the preferences of other pods).

use super::cluster::Candidate;
use super::pod::Pod;
use super::resources::{CPU, MEMORY};
use super::taint::{Effect, tolerated};
use super::topology::Topology;

/// The best score of a part.
const FULL: i64 = 100;
const TAINTS: i64 = 3;
const NODE_PREFERENCES: i64 = 2;
const POD_PREFERENCES: i64 = 2;

/// Chooses among the nodes that passed the filters; `None` where there are none.
///
/// Of equals the one with the fewest pods is chosen, then the first by name.
pub(super) fn best<'a>(
    pod: &Pod,
    nodes: &[Candidate<'a>],
    topology: &Topology<'_>,
) -> Option<&'a str> {
    // Most pods have no preferences, and most nodes no such taints.
    let spurned = normalized(nodes, |node| intolerable(pod, node));
    let nodes_wanted = normalized(nodes, |node| node_preference(pod, node));
    let pods_wanted = spread_out(nodes, |node| topology.preference(node));
    nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let score = left_free(pod, *node)
                + TAINTS * (FULL - spurned[index])
                + NODE_PREFERENCES * nodes_wanted[index]
                + POD_PREFERENCES * pods_wanted[index];
            let pods = std::cmp::Reverse(node.node.pods.len());
            ((score, pods, std::cmp::Reverse(node.name)), node.name)
        })
        .max()
        .map(|(_, name)| name)
}

/// Scores as a share of the greatest.
fn normalized<'a>(nodes: &[Candidate<'a>], score: impl Fn(Candidate<'a>) -> i64) -> Vec<i64> {
    let mut scores: Vec<i64> = nodes.iter().map(|node| score(*node)).collect();
    let greatest = scores.iter().copied().max().unwrap_or_default().max(1);
    for score in &mut scores {
        *score = *score * FULL / greatest;
    }
    scores
}

/// Scores by where they lie between the least and the greatest.
fn spread_out<'a>(nodes: &[Candidate<'a>], score: impl Fn(Candidate<'a>) -> i64) -> Vec<i64> {
    let mut scores: Vec<i64> = nodes.iter().map(|node| score(*node)).collect();
    let least = scores.iter().copied().min().unwrap_or_default();
    let width = scores.iter().copied().max().unwrap_or_default() - least;
    for score in &mut scores {
        *score = (*score - least) * FULL / width.max(1);
    }
    scores
}

fn intolerable(pod: &Pod, node: Candidate<'_>) -> i64 {
    let taints = node.facts.taints.iter().filter(|taint| {
        taint.effect == Effect::PreferNoSchedule && !tolerated(taint, &pod.tolerations)
    });
    i64::try_from(taints.count()).unwrap_or(i64::MAX / FULL)
}

fn node_preference(pod: &Pod, node: Candidate<'_>) -> i64 {
    let met = pod
        .preferred_nodes
        .iter()
        .filter(|(_, term)| term.matches(node.name, &node.facts.labels));
    met.map(|(weight, _)| weight).sum()
}

/// The share of cpu and memory that would stay free, on average.
fn left_free(pod: &Pod, node: Candidate<'_>) -> i64 {
    let shares = [CPU, MEMORY].into_iter().filter_map(|name| {
        let all = node.facts.allocatable.get(name).millis();
        if all <= 0 {
            return None;
        }
        let used = node.node.used_for_scoring.get(name).millis()
            + pod.requests_for_scoring.get(name).millis();
        let free = (all - used).max(0) * i128::from(FULL) / all;
        i64::try_from(free).ok()
    });
    let (sum, count) = shares.fold((0, 0), |(sum, count), share| (sum + share, count + 1));
    sum / count.max(1)
}
