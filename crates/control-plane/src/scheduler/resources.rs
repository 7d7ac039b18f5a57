//! What pods request and what nodes have.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

pub(super) const CPU: &str = "cpu";
pub(super) const MEMORY: &str = "memory";
pub(super) const PODS: &str = "pods";

/// Amounts by the name of the resource; an absent one is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resources(BTreeMap<Box<str>, Quantity>);

impl Resources {
    /// Reads a `ResourceList`. What is not a quantity, which the API never stores, is left out.
    pub(super) fn parse(value: &Value) -> Self {
        let entries = value.as_object().into_iter().flatten();
        Self(
            entries
                .filter_map(|(name, amount)| Some((name.as_str().into(), quantity(amount)?)))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Quantity {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Quantity)> {
        self.0.iter().map(|(name, amount)| (&**name, *amount))
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() += *amount;
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let left = self.get(name) - *amount;
            if left == Quantity::ZERO {
                self.0.remove(name);
            } else {
                self.0.insert(name.clone(), left);
            }
        }
    }

    /// Of each resource the greater amount.
    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let greater = self.get(name).max(*amount);
            self.0.insert(name.clone(), greater);
        }
    }

    /// Of some resources another amount.
    fn replace(&mut self, other: &Self, chosen: impl Fn(&str) -> bool) {
        for (name, amount) in &other.0 {
            if chosen(name) {
                self.0.insert(name.clone(), *amount);
            }
        }
    }
}

/// A quantity as it stands in JSON: text, or a plain number.
fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a pod takes of a node, by the rules of `resource.PodRequests` in k8s.io/component-helpers.
///
/// Ordinary init containers run one after the other before the rest, beside the sidecars (init
/// containers that restart always) that started before them; so the pod needs the largest of these
/// moments. A request of the pod itself replaces the sum for the resources it may name; the
/// overhead of the runtime class comes on top.
pub(super) fn pod_requests(spec: &Value) -> Resources {
    pod_requests_with(spec, requests_of)
}

/// As [`pod_requests`], where a container without a request for cpu or memory counts as a small
/// one. Used to compare nodes, never to refuse one.
pub(super) fn pod_requests_for_scoring(spec: &Value) -> Resources {
    pod_requests_with(spec, |container| {
        let mut requests = requests_of(container);
        // The amounts of the real scheduler: a tenth of a core and 200 MiB.
        let defaults = [
            (CPU, Quantity::from_millis(100)),
            (MEMORY, Quantity::from_units(200 << 20)),
        ];
        for (name, amount) in defaults {
            requests.0.entry(name.into()).or_insert(amount);
        }
        requests
    })
}

fn requests_of(container: &Value) -> Resources {
    Resources::parse(&container["resources"]["requests"])
}

fn pod_requests_with(spec: &Value, requests: impl Fn(&Value) -> Resources) -> Resources {
    let containers = |field: &str| spec[field].as_array().into_iter().flatten();
    let mut total = Resources::default();
    for container in containers("containers") {
        total.add(&requests(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in containers("initContainers") {
        let mut moment = requests(container);
        if container["restartPolicy"] == "Always" {
            total.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        starting.raise_to(&moment);
    }
    total.raise_to(&starting);
    let of_the_pod = Resources::parse(&spec["resources"]["requests"]);
    total.replace(&of_the_pod, |name| {
        name == CPU || name == MEMORY || name.starts_with("hugepages-")
    });
    total.add(&Resources::parse(&spec["overhead"]));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(requests: Value) -> Value {
        json!({"resources": {"requests": requests}})
    }

    fn sidecar(requests: Value) -> Value {
        json!({"restartPolicy": "Always", "resources": {"requests": requests}})
    }

    #[test]
    fn containers_add_up_exactly() {
        let spec = json!({"containers": [
            container(json!({"cpu": "100m", "memory": "1Gi", "example.com/gpu": 1})),
            container(json!({"cpu": "0.0005", "memory": "1G", "example.com/gpu": "2"})),
        ]});
        let expected = json!({"cpu": "100500u", "memory": "2073741824", "example.com/gpu": "3"});
        assert_eq!(pod_requests(&spec), Resources::parse(&expected));
    }

    #[test]
    fn init_containers_count_by_the_largest_moment() {
        let spec = json!({
            "containers": [container(json!({"cpu": "2", "memory": "1Gi"}))],
            "initContainers": [
                container(json!({"cpu": "3"})),
                sidecar(json!({"cpu": "1"})),
                container(json!({"cpu": "2500m", "memory": "3Gi"})),
            ],
        });
        // With the sidecar the containers need 3, the last init container 3.5.
        let expected = json!({"cpu": "3500m", "memory": "3Gi"});
        assert_eq!(pod_requests(&spec), Resources::parse(&expected));
    }

    #[test]
    fn sidecars_run_beside_the_containers() {
        let spec = json!({
            "containers": [container(json!({"cpu": "2"}))],
            "initContainers": [sidecar(json!({"cpu": "1"})), sidecar(json!({"cpu": "1"}))],
        });
        assert_eq!(pod_requests(&spec), Resources::parse(&json!({"cpu": "4"})));
    }

    #[test]
    fn the_pods_own_request_replaces_the_sum_and_overhead_comes_on_top() {
        let spec = json!({
            "containers": [container(json!({"cpu": "2", "ephemeral-storage": "1Gi"}))],
            "resources": {"requests": {"cpu": "3", "ephemeral-storage": "9Gi"}},
            "overhead": {"cpu": "250m"},
        });
        let expected = json!({"cpu": "3250m", "ephemeral-storage": "1Gi"});
        assert_eq!(pod_requests(&spec), Resources::parse(&expected));
    }

    #[test]
    fn a_container_without_requests_still_weighs_in_a_comparison() {
        let spec = json!({"containers": [container(json!({"cpu": "1"})), {}]});
        let expected = json!({"cpu": "1100m", "memory": "400Mi"});
        assert_eq!(pod_requests_for_scoring(&spec), Resources::parse(&expected));
    }
}
