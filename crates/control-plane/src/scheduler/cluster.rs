//! What the scheduler knows of the cluster: nodes, what runs on them, namespaces. No IO.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::pod::Pod;
use super::resources::Resources;
use super::selector::{Labels, labels};
use super::taint::Taint;

/// A node object, read once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NodeFacts {
    pub(super) labels: Labels,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Resources,
}

impl NodeFacts {
    fn parse(node: &Value) -> Self {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        Self {
            labels: labels(&node["metadata"]["labels"]),
            taints: taints.filter_map(Taint::parse).collect(),
            unschedulable: node["spec"]["unschedulable"] == true,
            allocatable: Resources::parse(&node["status"]["allocatable"]),
        }
    }
}

/// A node and what it carries.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// `None` where pods name a node that does not exist (yet).
    facts: Option<NodeFacts>,
    pub(super) pods: BTreeMap<Arc<str>, Arc<Pod>>,
    pub(super) used: Resources,
    pub(super) used_for_scoring: Resources,
}

/// A node that exists, as a choice for a pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a str,
    pub(super) facts: &'a NodeFacts,
    pub(super) node: &'a Node,
}

/// All nodes, placed pods and namespaces.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<Box<str>, Node>,
    pods: HashMap<Arc<str>, Arc<Pod>>,
    namespaces: HashMap<Box<str>, Labels>,
    /// Where pods were placed whose binding has not come back in a watch yet.
    assumed: HashMap<Arc<str>, Box<str>>,
    /// The placed pods that keep others away.
    repelling: BTreeSet<Arc<str>>,
}

impl Cluster {
    /// Adds or changes a node; true where that may make room for a pod.
    pub fn set_node(&mut self, name: &str, node: &Value) -> bool {
        let facts = Some(NodeFacts::parse(node));
        let entry = self.nodes.entry(name.into()).or_default();
        let changed = entry.facts != facts;
        entry.facts = facts;
        changed
    }

    /// Forgets a node; pods that are bound to it stay known.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.facts = None;
            if node.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Notes the labels of a namespace; true where they changed.
    pub fn set_namespace(&mut self, name: &str, namespace: &Value) -> bool {
        let labels = labels(&namespace["metadata"]["labels"]);
        self.namespaces.insert(name.into(), labels.clone()) != Some(labels)
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Adds or changes a pod. One that was [assumed](Self::assume) stays where it was placed until
    /// its own node is known.
    pub fn set_pod(&mut self, mut pod: Pod) -> Arc<Pod> {
        let key = pod.key.clone();
        self.displace(&key);
        if pod.node.is_some() || !self.is_same(&pod) {
            self.assumed.remove(&key);
        } else if let Some(node) = self.assumed.get(&key) {
            pod.node = Some(node.clone());
        }
        self.insert(pod)
    }

    fn is_same(&self, pod: &Pod) -> bool {
        self.pods
            .get(&pod.key)
            .is_some_and(|known| known.uid == pod.uid)
    }

    fn insert(&mut self, pod: Pod) -> Arc<Pod> {
        let pod = Arc::new(pod);
        if let (true, Some(name)) = (pod.is_placed(), &pod.node) {
            let node = self.nodes.entry(name.clone()).or_default();
            node.used.add(&pod.requests);
            node.used_for_scoring.add(&pod.requests_for_scoring);
            node.pods.insert(pod.key.clone(), pod.clone());
            if !pod.anti_affinity.is_empty() {
                self.repelling.insert(pod.key.clone());
            }
        }
        self.pods.insert(pod.key.clone(), pod.clone());
        pod
    }

    /// Takes a pod off its node.
    fn displace(&mut self, key: &str) {
        let Some(name) = self.pods.get(key).and_then(|pod| pod.node.clone()) else {
            return;
        };
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        if let Some(pod) = node.pods.remove(key) {
            node.used.subtract(&pod.requests);
            node.used_for_scoring.subtract(&pod.requests_for_scoring);
            self.repelling.remove(key);
        }
        if node.facts.is_none() && node.pods.is_empty() {
            self.nodes.remove(&name);
        }
    }

    /// Forgets a pod; gives what was known.
    pub fn remove_pod(&mut self, key: &str) -> Option<Arc<Pod>> {
        self.displace(key);
        self.assumed.remove(key);
        self.pods.remove(key)
    }

    /// The pod stored under a key.
    pub fn pod(&self, key: &str) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// Counts a pod as being on a node while its binding is on the way.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        self.displace(&pod.key);
        self.assumed.insert(pod.key.clone(), node.into());
        self.insert(Pod {
            node: Some(node.into()),
            ..pod.clone()
        });
    }

    /// Undoes [`Self::assume`] where the binding failed; gives the pod if it has to be placed again.
    pub fn unassume(&mut self, key: &str) -> Option<Arc<Pod>> {
        self.assumed.remove(key)?;
        self.displace(key);
        let pod = Pod {
            node: None,
            ..Pod::clone(self.pods.get(key)?)
        };
        Some(self.insert(pod))
    }

    /// Starts again from nothing but the pods that were assumed.
    pub fn clear(&mut self) {
        let assumed = std::mem::take(&mut self.assumed);
        let pods: Vec<Pod> = assumed
            .keys()
            .filter_map(|key| self.pods.get(key).map(|pod| Pod::clone(pod)))
            .collect();
        *self = Self {
            assumed,
            ..Self::default()
        };
        for pod in pods {
            self.insert(pod);
        }
    }

    pub(super) fn is_assumed(&self, key: &str) -> bool {
        self.assumed.contains_key(key)
    }

    pub(super) fn assumed(&self) -> Vec<Arc<str>> {
        self.assumed.keys().cloned().collect()
    }

    /// The nodes that exist, in the order of their names.
    pub(super) fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        self.nodes.iter().filter_map(|(name, node)| {
            let facts = node.facts.as_ref()?;
            Some(Candidate { name, facts, node })
        })
    }

    /// The node that carries a pod, if it exists.
    pub(super) fn node_of(&self, pod: &Pod) -> Option<&NodeFacts> {
        self.nodes.get(pod.node.as_deref()?)?.facts.as_ref()
    }

    pub(super) fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    pub(super) fn repelling_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.repelling.iter().filter_map(|key| self.pods.get(key))
    }

    #[cfg(test)]
    pub(super) fn nodes(&self) -> &BTreeMap<Box<str>, Node> {
        &self.nodes
    }
}
