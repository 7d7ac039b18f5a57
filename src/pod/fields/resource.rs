//! Amounts of resources that a container may ask for (`resourceFieldRef`).
//!
//! What has no limit may use the node: its limit is that of the pod, else what the node has to give.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::{pod::Host, quantity::Quantity};

/// What the node has to give, for containers without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// CPUs.
    pub cpu: Quantity,
    /// Bytes of memory.
    pub memory: Quantity,
    /// Bytes of disk.
    pub storage: Quantity,
}

/// The value that a selector asks for; `own` is the container that asks, where one does.
///
/// # Errors
/// In the kubelet's words, for a resource or a container that is not there.
pub fn value(
    pod: &Pod,
    own: Option<&Container>,
    host: &Host,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().unwrap_or_default();
    let container = if named.is_empty() {
        own.ok_or_else(|| format!("container {named} not found"))?
    } else {
        let spec = pod.spec.iter();
        let mut all = spec.flat_map(|it| {
            it.containers
                .iter()
                .chain(it.init_containers.iter().flatten())
        });
        all.find(|it| it.name == named)
            .ok_or_else(|| format!("container {named} not found"))?
    };
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("hugepages-");
    if !known || !matches!(side, "limits" | "requests") {
        return Err(unsupported());
    }
    let amount = amount(pod, container, host, side == "limits", resource);
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|it| Quantity::parse(&it.0))
        .filter(|it| it.is_positive())
        .unwrap_or(Quantity::units(1));
    // Both sides are whole thousandths of a CPU, or whole bytes, before the division.
    let (amount, divisor) = if resource == "cpu" {
        (amount.to_millis(), divisor.to_millis())
    } else {
        (amount.to_units(), divisor.to_units())
    };
    let (amount, divisor) = (amount.unwrap_or(u64::MAX), divisor.unwrap_or(1).max(1));
    Ok(amount.div_ceil(divisor).to_string())
}

fn amount(pod: &Pod, container: &Container, host: &Host, limit: bool, resource: &str) -> Quantity {
    let resources = container.resources.as_ref();
    let of = |map: Option<&std::collections::BTreeMap<String, _>>| {
        let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
            map?.get(resource)?;
        Quantity::parse(&quantity.0)
    };
    if !limit {
        return of(resources.and_then(|it| it.requests.as_ref())).unwrap_or_default();
    }
    let own = of(resources.and_then(|it| it.limits.as_ref()));
    if let Some(own) = own.filter(|it| it.is_positive()) {
        return own;
    }
    let whole = pod.spec.as_ref().and_then(|it| it.resources.as_ref());
    let whole = of(whole.and_then(|it| it.limits.as_ref())).filter(|it| it.is_positive());
    match resource {
        "cpu" => whole.unwrap_or(host.allocatable.cpu),
        "memory" => whole.unwrap_or(host.allocatable.memory),
        "ephemeral-storage" => host.allocatable.storage,
        // Huge pages are never overcommitted: no limit, no pages.
        _ => own.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn get(resource: &str, divisor: &str, named: &str) -> Result<String, String> {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [
                {"name": "a", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"},
                                            "requests": {"cpu": "250m", "memory": "1e6"}}},
                {"name": "b"},
            ],
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "2"}}}],
        }}))
        .unwrap();
        let own = pod.spec.as_ref().unwrap().containers[1].clone();
        let selector = serde_json::from_value(json!({
            "resource": resource, "divisor": divisor, "containerName": named}))
        .unwrap();
        value(&pod, Some(&own), &Host::for_tests(), &selector)
    }

    #[test]
    fn amounts_are_divided_and_rounded_up() {
        for (resource, divisor, value) in [
            ("limits.cpu", "0", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "1", "1"),
            ("limits.memory", "1", "67108864"),
            ("limits.memory", "1Mi", "64"),
            ("requests.memory", "1Ki", "977"),
            ("limits.hugepages-2Mi", "1Mi", "4"),
            ("requests.hugepages-2Mi", "1Mi", "0"),
            ("requests.ephemeral-storage", "1", "0"),
        ] {
            assert_eq!(
                get(resource, divisor, "a").as_deref(),
                Ok(value),
                "{resource}"
            );
        }
        assert_eq!(get("limits.cpu", "1", "i").as_deref(), Ok("2"));
    }

    #[test]
    fn without_a_limit_the_node_is_the_limit() {
        let host = Host::for_tests();
        for (resource, amount) in [
            ("limits.cpu", host.allocatable.cpu),
            ("limits.memory", host.allocatable.memory),
            ("limits.ephemeral-storage", host.allocatable.storage),
        ] {
            let expected = amount.to_units().unwrap().to_string();
            assert_eq!(get(resource, "1", ""), Ok(expected), "{resource}");
        }
        assert_eq!(get("requests.cpu", "1m", "").as_deref(), Ok("0"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(
            get("limits.gpu", "1", "a").unwrap_err(),
            "unsupported container resource : limits.gpu"
        );
        assert_eq!(
            get("limits.cpu", "1", "x").unwrap_err(),
            "container x not found"
        );
    }
}
