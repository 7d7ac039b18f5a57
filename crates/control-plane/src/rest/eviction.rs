//! `pods/NAME/eviction`: a delete that asks the disruption budgets first.
//!
//! No controller keeps the status of budgets here, so the budget is worked out from the pods at
//! the moment of the eviction.

use http::Response;
use hyper::body::Incoming;
use serde_json::Value;

use super::body::Body;
use super::handler::Call;
use super::resources::read_delete_options;
use super::subresources::{admit_create, done};
use crate::registry::selector::LabelSelector;
use crate::registry::{DeleteOptions, ListOptions};
use crate::resource::stored;
use crate::schema::Gvk;
use crate::status::ApiError;

pub(super) async fn answer(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let mut context = call.context("CreateOptions")?;
    let expected = Gvk::new("policy", "v1", "Eviction");
    let mut eviction = call.object(&context, &expected, body).await?;
    let (path, registry) = (&call.path, &call.api.registry);
    let own = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if own != path.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    admit_create(call, &mut eviction)?;
    let options = match &eviction["deleteOptions"] {
        Value::Null => DeleteOptions::default(),
        options => read_delete_options(options, &mut context)?,
    };
    let pod = registry.get(call.def, &path.namespace, &path.name)?;
    check_budgets(call, &pod.value())?;
    registry
        .delete(&context, call.def, &path.namespace, &path.name, &options)
        .await?;
    Ok(done(call))
}

fn check_budgets(call: &Call, pod: &Value) -> Result<(), ApiError> {
    if !disrupts(pod) {
        return Ok(());
    }
    let namespace = &call.path.namespace;
    let registry = &call.api.registry;
    let list = |def| registry.list(def, namespace, &ListOptions::default());
    let budgets = list(stored("policy", "poddisruptionbudgets"))?;
    let budgets: Vec<Value> = budgets
        .objects
        .iter()
        .map(|budget| budget.value())
        .filter(|budget| selects(&budget["spec"]["selector"], pod))
        .collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [budget] => budget,
        _ => {
            return Err(ApiError::new(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let pods: Vec<Value> = list(call.def)?
        .objects
        .iter()
        .map(|pod| pod.value())
        .filter(|pod| selects(&budget["spec"]["selector"], pod))
        .collect();
    let state = Budget::of(budget, &pods);
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !is_ready(pod) && (always || state.healthy >= state.wanted && state.wanted > 0) {
        return Ok(());
    }
    if state.healthy > state.wanted {
        return Ok(());
    }
    Err(ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        0,
    )
    .cause(
        "DisruptionBudget",
        format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            budget["metadata"]["name"].as_str().unwrap_or_default(),
            state.wanted,
            state.healthy
        ),
        "",
    ))
}

/// Whether the end of the pod is a loss at all.
fn disrupts(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending")
        && pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn selects(selector: &Value, pod: &Value) -> bool {
    LabelSelector::parse(&LabelSelector::text_of(selector))
        .is_ok_and(|selector| selector.matches_object(pod))
}

#[derive(Debug, PartialEq, Eq)]
struct Budget {
    /// How many pods must be healthy.
    wanted: i64,
    /// How many are.
    healthy: i64,
}

impl Budget {
    /// The state of a budget over the pods that it selects.
    fn of(budget: &Value, pods: &[Value]) -> Self {
        let alive = |pod: &&Value| {
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            !matches!(phase, "Succeeded" | "Failed")
        };
        let expected = i64::try_from(pods.iter().filter(alive).count()).unwrap_or(i64::MAX);
        let healthy = pods
            .iter()
            .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
            .count();
        let spec = &budget["spec"];
        let wanted = if spec["maxUnavailable"].is_null() {
            share(&spec["minAvailable"], expected)
        } else {
            (expected - share(&spec["maxUnavailable"], expected)).max(0)
        };
        Self {
            wanted,
            healthy: i64::try_from(healthy).unwrap_or(i64::MAX),
        }
    }
}

/// A number, or a percentage of `whole` rounded up.
fn share(value: &Value, whole: i64) -> i64 {
    match value {
        Value::String(percent) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            (whole * percent + 99) / 100
        }
        other => other.as_i64().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn budgets_count_what_is_alive_and_what_is_ready() {
        let pod = |phase: &str, ready: &str| {
            json!({"metadata": {}, "status": {"phase": phase,
                   "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let pods = [
            pod("Running", "True"),
            pod("Running", "True"),
            pod("Running", "False"),
            pod("Succeeded", "False"),
        ];
        for (spec, wanted) in [
            (json!({"minAvailable": 2}), 2),
            (json!({"minAvailable": "50%"}), 2),
            (json!({"maxUnavailable": 1}), 2),
            (json!({"maxUnavailable": "100%"}), 0),
        ] {
            let state = Budget::of(&json!({"spec": spec}), &pods);
            assert_eq!(state, Budget { wanted, healthy: 2 }, "{spec}");
        }
    }
}
