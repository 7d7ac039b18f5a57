//! Waiting on objects, by watches alone.

use futures::StreamExt;
use serde_json::Value;

use super::discovery::Kind;
use super::requests::Connection;

/// How a pod settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All containers ended well, or (where they are to run for ever) all are ready.
    Good,
    /// The pod failed, with the first exit code that was not zero, where there is one.
    Failed {
        /// The container's exit code; 1 where the pod failed without one.
        code: u8,
        /// Why, as the pod's status says it.
        why: String,
    },
    /// The pod was deleted meanwhile.
    Gone,
}

/// Waits until no object of that name is left.
///
/// # Errors
/// Those of the requests; a watch that the server ends is begun anew.
pub async fn until_gone(
    connection: &Connection,
    kind: &Kind,
    namespace: Option<&str>,
    name: &str,
    uid: &str,
) -> Result<(), kube::Error> {
    let path = kind.path(namespace, Some(name));
    let collection = kind.path(namespace, None);
    loop {
        let object = match connection.get(&path).await {
            Ok(object) if object["metadata"]["uid"] == uid => object,
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut events = Box::pin(follow(connection, &collection, name, &object).await?);
        while let Some(Ok(event)) = events.next().await {
            match event["type"].as_str() {
                Some("DELETED") => return Ok(()),
                Some("ERROR") => break,
                _ => {}
            }
        }
    }
}

/// Waits until a pod has ended, or, where its containers restart for ever, until it is ready.
/// `tell` hears what holds the pod up, each thing once.
///
/// # Errors
/// Those of the requests.
pub async fn until_settled(
    connection: &Connection,
    kind: &Kind,
    namespace: &str,
    name: &str,
    mut tell: impl FnMut(&str),
) -> Result<Outcome, kube::Error> {
    let mut told = String::new();
    let look = |pod: &Value| {
        let outcome = settled(pod);
        if outcome.is_none()
            && let Some(obstacle) = obstacle(pod)
            && obstacle != told
        {
            tell(&obstacle);
            told = obstacle;
        }
        outcome
    };
    let found = until(connection, kind, namespace, name, look).await?;
    Ok(found.unwrap_or(Outcome::Gone))
}

/// Waits until every container of a pod has a log, or never will; the names of those that have.
///
/// # Errors
/// Those of the requests.
pub async fn until_started(
    connection: &Connection,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<Vec<String>, kube::Error> {
    let found = until(connection, kind, namespace, name, started).await?;
    Ok(found.unwrap_or_default())
}

/// Waits until `look` finds something in the pod; none where the pod is deleted before.
async fn until<T>(
    connection: &Connection,
    kind: &Kind,
    namespace: &str,
    name: &str,
    mut look: impl FnMut(&Value) -> Option<T>,
) -> Result<Option<T>, kube::Error> {
    let path = kind.path(Some(namespace), Some(name));
    let collection = kind.path(Some(namespace), None);
    loop {
        let pod = match connection.get(&path).await {
            Ok(pod) => pod,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(found) = look(&pod) {
            return Ok(Some(found));
        }
        let mut events = Box::pin(follow(connection, &collection, name, &pod).await?);
        while let Some(Ok(event)) = events.next().await {
            match event["type"].as_str() {
                Some("DELETED") => return Ok(None),
                Some("ERROR") => break,
                _ => {}
            }
            if let Some(found) = look(&event["object"]) {
                return Ok(Some(found));
            }
        }
    }
}

async fn follow(
    connection: &Connection,
    collection: &str,
    name: &str,
    seen: &Value,
) -> Result<impl futures::Stream<Item = std::io::Result<Value>> + use<>, kube::Error> {
    let version = seen["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    let pairs = [
        ("fieldSelector", format!("metadata.name={name}")),
        ("resourceVersion", version.to_owned()),
    ];
    connection.watch(collection, &pairs).await
}

/// The containers that have begun, once all have or the pod is over.
fn started(pod: &Value) -> Option<Vec<String>> {
    let status = &pod["status"];
    let begun: Vec<String> = status["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|container| {
            let state = &container["state"];
            state["running"].is_object() || state["terminated"]["startedAt"].is_string()
        })
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect();
    let wanted = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let over = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    (over || begun.len() == wanted).then_some(begun)
}

/// Whether a pod has come to rest, and how.
fn settled(pod: &Value) -> Option<Outcome> {
    let status = &pod["status"];
    match status["phase"].as_str()? {
        "Succeeded" => Some(Outcome::Good),
        "Failed" => Some(failure(status)),
        "Running" if pod["spec"]["restartPolicy"] == "Always" => {
            let ready = status["conditions"]
                .as_array()?
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            ready.then_some(Outcome::Good)
        }
        _ => None,
    }
}

/// What a pod waits for that will not come by itself: a place, or a container's configuration.
fn obstacle(pod: &Value) -> Option<String> {
    let status = &pod["status"];
    let unscheduled = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|it| it["type"] == "PodScheduled" && it["status"] == "False")
        .and_then(|it| it["message"].as_str())
        .map(|message| format!("no node takes it: {message}"));
    let waiting = || {
        let waits = |container: &Value| {
            let waiting = &container["state"]["waiting"];
            let reason = waiting["reason"].as_str()?;
            if matches!(reason, "ContainerCreating" | "PodInitializing") {
                return None;
            }
            let name = container["name"].as_str().unwrap_or("?");
            let text = format!("container {name} waits: {reason}");
            Some(match waiting["message"].as_str() {
                // The pause grows in it, and it says nothing else.
                Some(message) if reason != "CrashLoopBackOff" => format!("{text}: {message}"),
                _ => text,
            })
        };
        ["initContainerStatuses", "containerStatuses"]
            .into_iter()
            .filter_map(|list| status[list].as_array())
            .flatten()
            .find_map(waits)
    };
    unscheduled.or_else(waiting)
}

fn failure(status: &Value) -> Outcome {
    let mut why = status["message"]
        .as_str()
        .or(status["reason"].as_str())
        .unwrap_or("the pod failed")
        .to_owned();
    let ended = ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .filter_map(|list| status[list].as_array())
        .flatten()
        .find(|container| {
            container["state"]["terminated"]["exitCode"]
                .as_i64()
                .is_some_and(|code| code != 0)
        });
    let mut code = 1;
    if let Some(container) = ended {
        let terminated = &container["state"]["terminated"];
        code = terminated["exitCode"]
            .as_i64()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1);
        why = format!(
            "container {} ended with exit code {code} ({})",
            container["name"].as_str().unwrap_or("?"),
            terminated["reason"].as_str().unwrap_or("Error"),
        );
    }
    Outcome::Failed { code, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_settles_by_its_phase_and_policy() {
        let pod = |policy: &str, phase: &str, ready: &str| {
            json!({"spec": {"restartPolicy": policy},
                   "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert_eq!(settled(&pod("Never", "Running", "True")), None);
        assert_eq!(settled(&pod("Always", "Running", "False")), None);
        assert_eq!(
            settled(&pod("Always", "Running", "True")),
            Some(Outcome::Good)
        );
        assert_eq!(
            settled(&pod("Never", "Succeeded", "False")),
            Some(Outcome::Good)
        );
        assert_eq!(settled(&json!({"status": {}})), None);
    }

    #[test]
    fn what_holds_a_pod_up_is_named() {
        let of = |status: Value| obstacle(&json!({"status": status}));
        let condition = json!({"type": "PodScheduled", "status": "False", "message": "0/1 nodes"});
        assert_eq!(
            of(json!({"conditions": [condition]})).as_deref(),
            Some("no node takes it: 0/1 nodes")
        );
        let waits = |reason: &str| {
            of(json!({"containerStatuses": [{"name": "c",
                "state": {"waiting": {"reason": reason, "message": "m"}}}]}))
        };
        assert_eq!(waits("ContainerCreating"), None);
        assert_eq!(
            waits("CreateContainerConfigError").as_deref(),
            Some("container c waits: CreateContainerConfigError: m")
        );
        assert_eq!(
            waits("CrashLoopBackOff").as_deref(),
            Some("container c waits: CrashLoopBackOff")
        );
    }

    #[test]
    fn a_failure_carries_the_first_code_that_is_not_zero() {
        let status = json!({"phase": "Failed", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"exitCode": 0}}},
            {"name": "b", "state": {"terminated": {"exitCode": 7, "reason": "Error"}}}]});
        let why = "container b ended with exit code 7 (Error)".to_owned();
        assert_eq!(
            settled(&json!({"status": status})),
            Some(Outcome::Failed { code: 7, why })
        );
    }
}
