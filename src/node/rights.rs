//! What an identity may do, asked before anything is done: what it lacks is named once, with what follows.
//!
//! Node identities are not asked about: the Node authorizer's rules depend on the pods that are bound, and what
//! they forbid is known (`docs/identities.md`).

use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::pod::api::{ApiProblem, send};

/// Questions at once.
const AT_ONCE: usize = 4;

/// A right, and what the agent is without it.
#[derive(Debug, Clone, Copy)]
struct Right {
    group: &'static str,
    /// With its sub-resource.
    resource: &'static str,
    verbs: &'static [&'static str],
    /// The namespace; none: all.
    namespace: &'static str,
    /// What does not work; none: nothing does.
    without: Option<&'static str>,
}

const fn core(
    resource: &'static str,
    verbs: &'static [&'static str],
    without: Option<&'static str>,
) -> Right {
    Right {
        group: "",
        resource,
        verbs,
        namespace: "",
        without,
    }
}

/// The rights of `deploy/rbac.yaml`.
const RIGHTS: &[Right] = &[
    core("nodes", &["create", "get"], None),
    core(
        "nodes",
        &["list", "watch"],
        Some("changes of the node are seen at heartbeats alone"),
    ),
    core(
        "nodes",
        &["patch"],
        Some("labels, taint and the end of the walltime are not shown on the node"),
    ),
    core(
        "nodes",
        &["delete"],
        Some("the node stays, NotReady, when the agent ends"),
    ),
    core("nodes/status", &["patch"], None),
    core("pods", &["list", "watch", "delete"], None),
    core(
        "pods",
        &["get"],
        Some("what others write about a pod is seen by the watch alone"),
    ),
    core("pods/status", &["patch"], None),
    core(
        "configmaps",
        &["get"],
        Some("pods that name a config map wait for it"),
    ),
    core(
        "configmaps",
        &["list", "watch"],
        Some("config maps in volumes stay as they were at the start"),
    ),
    core(
        "secrets",
        &["get"],
        Some("pods that name a secret wait for it"),
    ),
    core(
        "secrets",
        &["list", "watch"],
        Some("secrets in volumes stay as they were at the start"),
    ),
    core(
        "services",
        &["list", "watch"],
        Some("pods get no variables of services"),
    ),
    core(
        "persistentvolumeclaims",
        &["get"],
        Some("pods that name a claim wait for it"),
    ),
    core(
        "persistentvolumes",
        &["get"],
        Some("pods that name a claim wait for its volume"),
    ),
    core(
        "serviceaccounts/token",
        &["create"],
        Some("pods that mount a token wait for it"),
    ),
    core("events", &["create", "patch"], Some("events are not told")),
    Right {
        group: "authentication.k8s.io",
        resource: "tokenreviews",
        verbs: &["create"],
        namespace: "",
        without: Some("callers of the kubelet API are known by certificates alone"),
    },
    Right {
        group: "authorization.k8s.io",
        resource: "subjectaccessreviews",
        verbs: &["create"],
        namespace: "",
        without: Some("the kubelet API refuses its callers: no logs, no exec, no metrics"),
    },
    Right {
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["create", "get", "update"],
        namespace: "kube-node-lease",
        without: None,
    },
];

/// What an identity may not do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lacking {
    /// Without these there is no node.
    needed: Vec<String>,
    /// What is lacking, and what does not work.
    useful: Vec<(String, &'static str)>,
}

impl Lacking {
    /// Tells what works less well; then what cannot be done without, where there is any.
    pub(crate) fn tell(&self) -> Option<String> {
        for (right, without) in &self.useful {
            tracing::warn!("this identity may not {right}: {without} (rights: deploy/rbac.yaml)");
        }
        (!self.needed.is_empty()).then(|| self.needed.join(", "))
    }
}

fn words(right: &Right, verb: &str) -> String {
    let mut words = format!("{verb} {}", right.resource);
    if !right.group.is_empty() {
        words = format!("{words}.{}", right.group);
    }
    if !right.namespace.is_empty() {
        words = format!("{words} in {}", right.namespace);
    }
    words
}

fn question(right: &Right, verb: &str) -> Value {
    let (resource, sub) = right
        .resource
        .split_once('/')
        .unwrap_or((right.resource, ""));
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "group": right.group, "resource": resource, "subresource": sub, "verb": verb,
            "namespace": right.namespace,
        }},
    })
}

/// Of each right and verb in order, whether it is there.
fn sum_up(allowed: impl IntoIterator<Item = bool>) -> Lacking {
    let mut lacking = Lacking::default();
    let all = RIGHTS
        .iter()
        .flat_map(|right| right.verbs.iter().map(move |verb| (right, *verb)));
    for ((right, verb), allowed) in all.zip(allowed) {
        match right.without {
            _ if allowed => {}
            None => lacking.needed.push(words(right, verb)),
            Some(without) => lacking.useful.push((words(right, verb), without)),
        }
    }
    lacking
}

/// Asks the API server what this identity may do.
///
/// # Errors
/// Where the server cannot be asked.
pub(crate) async fn lacking(client: &Client) -> Result<Lacking, ApiProblem> {
    const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let questions: Vec<Value> = RIGHTS
        .iter()
        .flat_map(|right| right.verbs.iter().map(move |verb| question(right, verb)))
        .collect();
    let ask = async |question: Value| {
        let answer: Value = send(client, Method::POST, PATH, "application/json", &question).await?;
        Ok::<_, ApiProblem>(answer["status"]["allowed"] == true)
    };
    let answers: Vec<bool> = stream::iter(questions)
        .map(ask)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(sum_up(answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_that_lacks_is_named_with_what_follows() {
        let count: usize = RIGHTS.iter().map(|right| right.verbs.len()).sum();
        assert_eq!(sum_up(vec![true; count]), Lacking::default());
        for lost in 0..count {
            let lacking = sum_up((0..count).map(|it| it != lost));
            assert_eq!(lacking.needed.len() + lacking.useful.len(), 1);
        }
        let none = sum_up(vec![false; count]);
        assert!(none.needed.contains(&"patch pods/status".to_owned()));
        let lease = "update leases.coordination.k8s.io in kube-node-lease".to_owned();
        assert!(none.needed.contains(&lease));
        let names: Vec<_> = none
            .useful
            .iter()
            .map(|(right, _)| right.as_str())
            .collect();
        assert!(names.contains(&"create tokenreviews.authentication.k8s.io"));
    }

    #[test]
    fn the_rights_are_those_of_the_documents() {
        let text = include_str!("../../deploy/rbac.yaml");
        let mut documented = Vec::new();
        for part in text.split("\n---\n") {
            let object: Value = serde_norway::from_str(part).expect("YAML");
            for rule in object["rules"].as_array().into_iter().flatten() {
                for resource in rule["resources"].as_array().into_iter().flatten() {
                    for verb in rule["verbs"].as_array().into_iter().flatten() {
                        let right = [&rule["apiGroups"][0], resource, verb];
                        documented.push(right.map(|it| it.as_str().unwrap_or_default().to_owned()));
                    }
                }
            }
        }
        let mut asked: Vec<_> = RIGHTS
            .iter()
            .flat_map(|right| {
                let named = |verb: &&str| [right.group, right.resource, verb].map(str::to_owned);
                right.verbs.iter().map(named)
            })
            .collect();
        // The Service default/kubernetes tells clusters apart: who may not read it is told so when it is read.
        asked.push(["", "services", "get"].map(str::to_owned));
        documented.sort();
        asked.sort();
        assert_eq!(documented, asked);
    }
}
