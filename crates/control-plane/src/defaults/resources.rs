//! Amounts of resources of a pod: sums of requests, and its quality-of-service class.

use serde_json::Value;

use super::edit::Object;
use crate::quantity::Quantity;

fn list<'a>(spec: &'a Object, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    spec.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn amount(container: &Value, part: &str, resource: &str) -> Option<Quantity> {
    Quantity::parse(
        container
            .pointer("/resources")?
            .get(part)?
            .get(resource)?
            .as_str()?,
    )
}

fn is_sidecar(container: &Value) -> bool {
    container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
}

/// What the containers of a pod ask for in all, in the API's notation: the containers and
/// sidecars together, or the largest init container with the sidecars before it, whichever is
/// more. `None` where no container asks for it.
pub(super) fn sum_of_requests(spec: &Object, resource: &str) -> Option<String> {
    let mut asked = false;
    let mut sum = Quantity::ZERO;
    for container in list(spec, "containers") {
        if let Some(amount) = amount(container, "requests", resource) {
            asked = true;
            sum += amount;
        }
    }
    let mut sidecars = Quantity::ZERO;
    let mut largest = Quantity::ZERO;
    for container in list(spec, "initContainers") {
        let Some(amount) = amount(container, "requests", resource) else {
            continue;
        };
        asked = true;
        if is_sidecar(container) {
            sidecars += amount;
            largest = largest.max(sidecars);
        } else {
            largest = largest.max(sidecars + amount);
        }
    }
    let total = (sum + sidecars).max(largest);
    asked.then(|| {
        if total.is_whole() {
            total.units().to_string()
        } else {
            format!("{}m", total.millis())
        }
    })
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from what the containers ask for and are limited to.
pub fn qos_class(pod: &Value) -> &'static str {
    let Some(spec) = pod.get("spec").and_then(Value::as_object) else {
        return "BestEffort";
    };
    let whole = spec
        .get("resources")
        .filter(|resources| has_amounts(resources));
    if let Some(resources) = whole {
        let pair = |part: &str, name: &str| {
            Quantity::parse(resources.get(part)?.get(name)?.as_str()?)
                .filter(|amount| *amount > Quantity::ZERO)
        };
        let guaranteed = ["cpu", "memory"].iter().all(|name| {
            pair("limits", name).is_some() && pair("requests", name) == pair("limits", name)
        });
        return if guaranteed {
            "Guaranteed"
        } else {
            "Burstable"
        };
    }
    let mut any = false;
    let mut guaranteed = true;
    for container in list(spec, "containers").chain(list(spec, "initContainers")) {
        for name in ["cpu", "memory"] {
            let positive = |part: &str| {
                amount(container, part, name).filter(|amount| *amount > Quantity::ZERO)
            };
            let (request, limit) = (positive("requests"), positive("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn has_amounts(resources: &Value) -> bool {
    ["requests", "limits"].iter().any(|part| {
        ["cpu", "memory"].iter().any(|name| {
            resources
                .get(part)
                .and_then(|amounts| amounts.get(name))
                .and_then(Value::as_str)
                .and_then(Quantity::parse)
                .is_some_and(|amount| amount > Quantity::ZERO)
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let pod = |containers: Value| json!({"spec": {"containers": containers}});
        let full = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"},
                                        "requests": {"cpu": "1000m", "memory": "1Gi"}}});
        let part = json!({"resources": {"requests": {"cpu": "1"}}});
        for (containers, class) in [
            (json!([{}]), "BestEffort"),
            (
                json!([{"resources": {"limits": {"example.com/gpu": "1"}}}]),
                "BestEffort",
            ),
            (
                json!([{"resources": {"requests": {"cpu": "0"}}}]),
                "BestEffort",
            ),
            (json!([full]), "Guaranteed"),
            (json!([full, part]), "Burstable"),
            (json!([full, {}]), "Burstable"),
        ] {
            assert_eq!(qos_class(&pod(containers.clone())), class, "{containers}");
        }
        let whole = json!({"spec": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "1", "memory": "1Gi"}}, "containers": [{}]}});
        assert_eq!(qos_class(&whole), "Guaranteed");
    }

    #[test]
    fn init_containers_ask_one_after_another() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "100m"}}}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"resources": {"requests": {"cpu": "1"}}},
            ],
        });
        let spec = spec.as_object().expect("an object");
        assert_eq!(sum_of_requests(spec, "cpu").as_deref(), Some("1050m"));
        assert_eq!(sum_of_requests(spec, "memory"), None);
    }
}
