//! `pods/NAME/eviction`: a delete that asks the disruption budgets first.
//!
//! Where a controller keeps the status of a budget, that decides; where none does, the budget is
//! worked out from the pods at the moment of the eviction. Either way an eviction is noted in the
//! budget's status, by compare-and-swap, before the pod is deleted: of two evictions at once the
//! second one sees the first.

use http::Response;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::body::Body;
use super::handler::Call;
use super::resources::read_delete_options;
use super::subresources::{admit_create, done};
use crate::registry::selector::LabelSelector;
use crate::registry::{Context, DeleteOptions, ListOptions};
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
    ask_budget(call, &context, &pod.value()).await?;
    registry
        .delete(&context, call.def, &path.namespace, &path.name, &options)
        .await?;
    Ok(done(call))
}

/// How long an eviction that was allowed counts although its pod still looks healthy
/// (`DeletionTimeout` of the disruption controller).
const NOTED: SignedDuration = SignedDuration::from_mins(2);

async fn ask_budget(call: &Call, context: &Context, pod: &Value) -> Result<(), ApiError> {
    if !disrupts(pod) {
        return Ok(());
    }
    let namespace = &call.path.namespace;
    let registry = &call.api.registry;
    let def = stored("policy", "poddisruptionbudgets");
    let list = |def| registry.list(def, namespace, &ListOptions::default());
    let budgets: Vec<Value> = list(def)?
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
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    // The status is the server's to write, whoever evicts.
    let mut system = Context::system("system:apiserver");
    system.dry_run = context.dry_run;
    let noted = registry
        .modify(&system, def, namespace, name, "status", |budget| {
            let pods: Vec<Value> = list(call.def)?
                .objects
                .iter()
                .map(|pod| pod.value())
                .filter(|pod| selects(&budget["spec"]["selector"], pod))
                .collect();
            take(budget, pod, &pods, Timestamp::now())
        })
        .await;
    match noted {
        // A budget that went meanwhile holds nothing back.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Takes one disruption out of a budget, if it has one left for this pod. `pods` are those that
/// the budget selects.
fn take(budget: &mut Value, pod: &Value, pods: &[Value], now: Timestamp) -> Result<(), ApiError> {
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    let kept = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
    let maintained = kept > 0;
    if maintained && kept < generation {
        return Err(ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            10,
        )
        .cause(
            "DisruptionBudget",
            format!(
                "The disruption budget {} is still being processed by the server.",
                budget["metadata"]["name"].as_str().unwrap_or_default()
            ),
            "",
        ));
    }
    if !maintained {
        forget(budget, pods, now);
    }
    let state = if maintained {
        let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        Budget {
            wanted: number("desiredHealthy"),
            healthy: number("currentHealthy"),
            left: number("disruptionsAllowed"),
        }
    } else {
        Budget::of(budget, pods)
    };
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !is_ready(pod) && (always || state.healthy >= state.wanted && state.wanted > 0) {
        return Ok(());
    }
    if state.left <= 0 {
        return Err(ApiError::too_many_requests(
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
        ));
    }
    let status = &mut budget["status"];
    if maintained {
        status["disruptionsAllowed"] = json!(state.left - 1);
    }
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    status["disruptedPods"][name] = json!(seconds(now));
    Ok(())
}

/// Drops notes of evictions that came to their end, or to nothing.
fn forget(budget: &mut Value, pods: &[Value], now: Timestamp) {
    let Some(noted) = budget["status"]["disruptedPods"].as_object_mut() else {
        return;
    };
    noted.retain(|name, time| {
        let recent = time
            .as_str()
            .and_then(|time| time.parse::<Timestamp>().ok())
            .is_some_and(|time| now.duration_since(time) < NOTED);
        recent
            && pods.iter().any(|pod| {
                pod["metadata"]["name"] == name.as_str()
                    && pod["metadata"]["deletionTimestamp"].is_null()
            })
    });
}

/// A `Time` of the API has whole seconds.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
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
    /// How many may go.
    left: i64,
}

impl Budget {
    /// The state of a budget over the pods that it selects.
    fn of(budget: &Value, pods: &[Value]) -> Self {
        let alive = |pod: &&Value| {
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            !matches!(phase, "Succeeded" | "Failed")
        };
        let expected = i64::try_from(pods.iter().filter(alive).count()).unwrap_or(i64::MAX);
        let going = |pod: &Value| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            !pod["metadata"]["deletionTimestamp"].is_null()
                || !budget["status"]["disruptedPods"][name].is_null()
        };
        let healthy = pods.iter().filter(|pod| is_ready(pod) && !going(pod));
        let healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
        let spec = &budget["spec"];
        let wanted = if spec["maxUnavailable"].is_null() {
            share(&spec["minAvailable"], expected)
        } else {
            (expected - share(&spec["maxUnavailable"], expected)).max(0)
        };
        Self {
            wanted,
            healthy,
            left: healthy - wanted,
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
            let left = 2 - wanted;
            assert_eq!(
                state,
                Budget {
                    wanted,
                    healthy: 2,
                    left
                },
                "{spec}"
            );
        }
    }

    fn pod(name: &str) -> Value {
        json!({"metadata": {"name": name},
               "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    #[test]
    fn an_eviction_counts_before_its_pod_is_gone() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let pods = [pod("a"), pod("b"), pod("c")];
        let mut budget =
            json!({"metadata": {"name": "x", "generation": 1}, "spec": {"minAvailable": 2}});
        take(&mut budget, &pods[0], &pods, now).expect("one may go");
        assert_eq!(
            budget["status"]["disruptedPods"]["a"],
            "2026-01-02T03:04:05Z"
        );
        let refused = take(&mut budget, &pods[1], &pods, now).expect_err("and no other one");
        assert_eq!(refused.code, http::StatusCode::TOO_MANY_REQUESTS);
        // It never went: after a while it counts again.
        let later = now + NOTED;
        take(&mut budget, &pods[1], &pods, later).expect("one may go");
        let noted = budget["status"]["disruptedPods"]
            .as_object()
            .expect("notes");
        assert_eq!(noted.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn the_status_that_a_controller_keeps_decides() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let pods = [pod("a")];
        let budget = |observed: i64, allowed: i64| {
            json!({"metadata": {"name": "x", "generation": 2}, "spec": {"minAvailable": 1},
                   "status": {"observedGeneration": observed, "disruptionsAllowed": allowed,
                              "currentHealthy": 1, "desiredHealthy": 1}})
        };
        let mut allows = budget(2, 1);
        take(&mut allows, &pods[0], &pods, now).expect("allowed");
        assert_eq!(allows["status"]["disruptionsAllowed"], 0);
        assert!(take(&mut allows, &pods[0], &pods, now).is_err());
        assert!(
            take(&mut budget(1, 1), &pods[0], &pods, now).is_err(),
            "not seen yet"
        );
    }
}
