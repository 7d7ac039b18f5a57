//! What a pod costs the API server, as the embedded one counts it: a real one counts what all tests ask of it, and
//! its controllers too. `scripts/bench-planes` has the writes on both.

use std::collections::BTreeMap;

use testkit::{Kubectl, Up, eventually, skip};

use crate::VK_CMD;

const PODS: usize = 20;

/// `(verb, resource)` to the number of requests so far, as the server counts them; the newest revision is
/// under `("", "revision")`.
fn counts(kubectl: &Kubectl) -> BTreeMap<(String, String), f64> {
    let text = kubectl.run("get --raw /metrics").ok();
    let label = |labels: &str, name: &str| -> String {
        let found = labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key == name).then(|| value.trim_matches('"').to_owned())
        });
        found.unwrap_or_default()
    };
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("apiserver_storage_revision ") {
            let key = (String::new(), "revision".to_owned());
            counts.insert(key, value.parse().expect("a number"));
        }
        let Some((labels, value)) = line
            .strip_prefix("apiserver_request_total{")
            .and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let key = (label(labels, "verb"), label(labels, "resource"));
        *counts.entry(key).or_default() += value.parse::<f64>().expect("a number");
    }
    counts
}

#[test]
fn the_api_writes_of_a_pod_stay_within_their_bounds() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let before = counts(&kubectl);
    let pods: String = (0..PODS)
        .map(|number| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nspec:\n  restartPolicy: Never\n  \
                 containers: [{{name: c, image: host, command: [sleep, \"1\"]}}]\n"
            )
        })
        .collect();
    kubectl.pipe("create -f -", &pods).ok();
    eventually("all pods have ended", || {
        let phases = kubectl
            .words(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"])
            .ok();
        let ended = phases.split(' ').filter(|phase| *phase == "Succeeded");
        if ended.count() == PODS {
            Ok(())
        } else {
            Err(phases)
        }
    });
    kubectl.run("delete pods --all").ok();
    let after = counts(&kubectl);
    let each = |verb: &str, resource: &str| {
        let key = (verb.to_owned(), resource.to_owned());
        let count = |counts: &BTreeMap<_, f64>| counts.get(&key).copied().unwrap_or_default();
        (count(&after) - count(&before)) / PODS as f64
    };
    testkit::within_bound("status patches of a pod's life", each("PATCH", "pods"));
    testkit::within_bound("events of a pod's life", each("CREATE", "events"));
    testkit::within_bound("revisions of a pod's life", each("", "revision"));
    // Its own create and the client's come as one request each.
    testkit::within_bound("deletes of a pod's life", each("DELETE", "pods"));
}
