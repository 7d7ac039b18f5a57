//! What the scheduler has to know of a pod, read once.

use std::sync::Arc;

use serde_json::Value;

use super::resources::{Resources, pod_requests, pod_requests_for_scoring};
use super::selector::{LabelSelector, Labels, NodeTerm, Requirement, labels};
use super::taint::Toleration;

/// The scheduler that this one is.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// A pod as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The key in the store.
    pub(super) key: Arc<str>,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    pub(super) generation: Option<i64>,
    pub(super) resource_version: Box<str>,
    pub(super) labels: Labels,
    /// The node it is bound to.
    pub(super) node: Option<Box<str>>,
    /// Whether this scheduler is to place it.
    pub(super) ours: bool,
    pub(super) priority: i64,
    pub(super) never_preempts: bool,
    pub(super) gated: bool,
    /// Whether it is being deleted.
    pub(super) terminating: bool,
    /// Whether it has ended: it takes nothing of its node any more.
    pub(super) ended: bool,
    pub(super) requests: Resources,
    pub(super) requests_for_scoring: Resources,
    pub(super) ports: Vec<HostPort>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_selector: Labels,
    /// Required node affinity: one of the terms has to match.
    pub(super) node_affinity: Option<Vec<NodeTerm>>,
    pub(super) preferred_nodes: Vec<(i64, NodeTerm)>,
    pub(super) affinity: Vec<PodTerm>,
    pub(super) anti_affinity: Vec<PodTerm>,
    pub(super) preferred_affinity: Vec<(i64, PodTerm)>,
    pub(super) spread: Vec<Spread>,
    /// Reason and message of the condition `PodScheduled` where that is false.
    pub(super) unscheduled: Option<(Box<str>, Box<str>)>,
}

/// A port of the node that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    address: Box<str>,
    protocol: Box<str>,
    port: i64,
}

const ANY_ADDRESS: &str = "0.0.0.0";

impl HostPort {
    fn parse(value: &Value) -> Option<Self> {
        let text = |field: &str, default: &str| -> Box<str> {
            match value[field].as_str() {
                Some(text) if !text.is_empty() => text.into(),
                _ => default.into(),
            }
        };
        let port = value["hostPort"].as_i64().filter(|port| *port > 0)?;
        Some(Self {
            address: text("hostIP", ANY_ADDRESS),
            protocol: text("protocol", "TCP"),
            port,
        })
    }

    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address
                || &*self.address == ANY_ADDRESS
                || &*other.address == ANY_ADDRESS)
    }
}

/// One term of inter-pod affinity: pods that match, and what counts as beside them.
#[derive(Debug, Clone)]
pub(super) struct PodTerm {
    selector: Option<LabelSelector>,
    namespaces: Vec<Box<str>>,
    namespace_selector: Option<LabelSelector>,
    pub(super) topology_key: Box<str>,
}

impl PodTerm {
    fn parse(value: &Value, own_namespace: &str, own_labels: &Labels) -> Self {
        let listed = value["namespaces"].as_array().into_iter().flatten();
        let mut namespaces: Vec<Box<str>> =
            listed.filter_map(Value::as_str).map(Into::into).collect();
        let namespace_selector = LabelSelector::parse(&value["namespaceSelector"]);
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(own_namespace.into());
        }
        Self {
            selector: selector_with_keys(value, own_labels),
            namespaces,
            namespace_selector,
            topology_key: value["topologyKey"].as_str().unwrap_or_default().into(),
        }
    }

    /// Whether the term means this pod, whose namespace has these labels.
    pub(super) fn matches(&self, pod: &Pod, namespace_labels: &Labels) -> bool {
        let namespace = self.namespaces.contains(&pod.namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.matches(namespace_labels));
        namespace
            && self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(&pod.labels))
    }
}

/// A required topology spread constraint.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    pub(super) max_skew: i64,
    pub(super) min_domains: i64,
    pub(super) topology_key: Box<str>,
    selector: Option<LabelSelector>,
    /// Whether nodes that the pod's node affinity excludes do not count.
    pub(super) honors_affinity: bool,
    /// Whether nodes whose taints the pod does not tolerate do not count.
    pub(super) honors_taints: bool,
}

impl Spread {
    fn parse(value: &Value, own_labels: &Labels) -> Self {
        Self {
            max_skew: value["maxSkew"].as_i64().unwrap_or(1),
            min_domains: value["minDomains"].as_i64().unwrap_or(1),
            topology_key: value["topologyKey"].as_str().unwrap_or_default().into(),
            selector: selector_with_keys(value, own_labels),
            honors_affinity: value["nodeAffinityPolicy"] != "Ignore",
            honors_taints: value["nodeTaintsPolicy"] == "Honor",
        }
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.matches(labels))
    }
}

/// The selector, and for each of `matchLabelKeys` the pod's own value of that label.
fn selector_with_keys(value: &Value, own_labels: &Labels) -> Option<LabelSelector> {
    let mut selector = LabelSelector::parse(&value["labelSelector"])?;
    for key in value["matchLabelKeys"].as_array().into_iter().flatten() {
        if let Some((key, own)) = key.as_str().and_then(|key| own_labels.get_key_value(key)) {
            selector.also(Requirement::is(key, own));
        }
    }
    Some(selector)
}

impl Pod {
    /// Reads a pod that is stored under `key`.
    pub fn parse(key: Arc<str>, pod: &Value) -> Self {
        let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
        let text = |value: &Value| -> Box<str> { value.as_str().unwrap_or_default().into() };
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let namespace = text(&metadata["namespace"]);
        let own_labels = labels(&metadata["labels"]);
        let affinity = &spec["affinity"];
        let terms = |value: &Value| -> Vec<PodTerm> {
            let terms = value["requiredDuringSchedulingIgnoredDuringExecution"].as_array();
            terms
                .into_iter()
                .flatten()
                .map(|term| PodTerm::parse(term, &namespace, &own_labels))
                .collect()
        };
        let preferred = |value: &Value, sign: i64| -> Vec<(i64, PodTerm)> {
            let terms = value["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
            terms
                .into_iter()
                .flatten()
                .map(|term| {
                    let weight = sign * term["weight"].as_i64().unwrap_or_default();
                    let term = PodTerm::parse(&term["podAffinityTerm"], &namespace, &own_labels);
                    (weight, term)
                })
                .collect()
        };
        let mut preferred_affinity = preferred(&affinity["podAffinity"], 1);
        preferred_affinity.extend(preferred(&affinity["podAntiAffinity"], -1));
        let required_nodes =
            &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let preferred_nodes =
            &affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        let spread = list(&spec["topologySpreadConstraints"]);
        let scheduled = list(&status["conditions"])
            .into_iter()
            .find(|condition| condition["type"] == "PodScheduled");
        Self {
            uid: text(&metadata["uid"]),
            name: text(&metadata["name"]),
            generation: metadata["generation"].as_i64(),
            resource_version: text(&metadata["resourceVersion"]),
            node: Some(text(&spec["nodeName"])).filter(|name| !name.is_empty()),
            ours: spec["schedulerName"] == SCHEDULER_NAME,
            priority: spec["priority"].as_i64().unwrap_or_default(),
            never_preempts: spec["preemptionPolicy"] == "Never",
            gated: !list(&spec["schedulingGates"]).is_empty(),
            terminating: metadata["deletionTimestamp"].is_string(),
            ended: status["phase"] == "Succeeded" || status["phase"] == "Failed",
            requests: pod_requests(spec),
            requests_for_scoring: pod_requests_for_scoring(spec),
            ports: host_ports(spec),
            tolerations: list(&spec["tolerations"])
                .iter()
                .map(Toleration::parse)
                .collect(),
            node_selector: labels(&spec["nodeSelector"]),
            node_affinity: required_nodes.is_object().then(|| {
                let terms = list(&required_nodes["nodeSelectorTerms"]);
                terms.iter().map(NodeTerm::parse).collect()
            }),
            preferred_nodes: list(preferred_nodes)
                .iter()
                .map(|term| {
                    let weight = term["weight"].as_i64().unwrap_or_default();
                    (weight, NodeTerm::parse(&term["preference"]))
                })
                .collect(),
            affinity: terms(&affinity["podAffinity"]),
            anti_affinity: terms(&affinity["podAntiAffinity"]),
            preferred_affinity,
            spread: spread
                .iter()
                .filter(|constraint| constraint["whenUnsatisfiable"] != "ScheduleAnyway")
                .map(|constraint| Spread::parse(constraint, &own_labels))
                .collect(),
            unscheduled: scheduled
                .filter(|condition| condition["status"] == "False")
                .map(|condition| (text(&condition["reason"]), text(&condition["message"]))),
            labels: own_labels,
            namespace,
            key,
        }
    }

    /// Whether it waits for a place that this scheduler has to find.
    pub(super) fn is_waiting(&self) -> bool {
        self.ours && self.node.is_none() && !self.terminating && !self.ended
    }

    /// Whether it takes something of a node.
    pub(super) fn is_placed(&self) -> bool {
        self.node.is_some() && !self.ended
    }

    /// Whether where other pods are decides where it may be.
    pub(super) fn looks_at_others(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.spread.is_empty())
    }

    /// Whether a pod that was placed elsewhere may give it a place.
    pub(super) fn follows_others(&self) -> bool {
        !(self.affinity.is_empty() && self.spread.is_empty())
    }

    /// Whether `new` has to be placed by the same rules, so that a failed attempt stays failed.
    pub(super) fn asks_the_same(&self, new: &Self) -> bool {
        self.uid == new.uid
            && self.generation == new.generation
            && self.labels == new.labels
            && self.gated == new.gated
            && self.requests == new.requests
            && self.tolerations == new.tolerations
    }
}

fn host_ports(spec: &Value) -> Vec<HostPort> {
    let containers = |field: &str| spec[field].as_array().into_iter().flatten();
    let sidecars =
        containers("initContainers").filter(|container| container["restartPolicy"] == "Always");
    containers("containers")
        .chain(sidecars)
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter_map(HostPort::parse)
        .collect()
}
