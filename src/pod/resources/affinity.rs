//! Whether a node's labels are what a pod asks for: `nodeSelector` and the required terms of
//! `nodeAffinity`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

type Labels = BTreeMap<String, String>;

/// Whether a pod asks for anything of its node.
pub fn asks(spec: &PodSpec) -> bool {
    spec.node_selector.as_ref().is_some_and(|it| !it.is_empty()) || required(spec).is_some()
}

/// Whether the node is what the pod asks for.
pub fn matches(spec: &PodSpec, name: &str, labels: &Labels) -> bool {
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    // One of the terms is enough; no term, or an empty one, is met by no node.
    selected && required(spec).is_none_or(|terms| any_term(terms, name, labels))
}

/// Whether a node of that name and labels is what one of the terms asks for.
pub fn any_term(terms: &[NodeSelectorTerm], name: &str, labels: &Labels) -> bool {
    terms.iter().any(|it| term(it, name, labels))
}

fn required(spec: &PodSpec) -> Option<&[NodeSelectorTerm]> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let selector = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    Some(&selector.node_selector_terms)
}

fn term(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let of_labels =
        |it: &NodeSelectorRequirement| meets(it, labels.get(&it.key).map(String::as_str));
    let of_fields =
        |it: &NodeSelectorRequirement| it.key == "metadata.name" && meets(it, Some(name));
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(of_labels)
        && fields.iter().all(of_fields)
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|it| it == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = |good: fn(i64, i64) -> bool| {
        let [bound] = values else { return false };
        let pair = value.and_then(number).zip(number(bound));
        pair.is_some_and(|(value, bound)| good(value, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        // An operator of a newer API: nobody knows what it asks for.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn on(spec: Value) -> bool {
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let labels = [("a", "1"), ("b", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert!(asks(&spec));
        matches(&spec, "n", &Labels::from(labels))
    }

    fn terms(terms: Value) -> Value {
        json!({"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn a_selector_wants_all_of_its_labels() {
        assert!(on(
            json!({"containers": [], "nodeSelector": {"a": "1", "b": "x"}})
        ));
        assert!(!on(
            json!({"containers": [], "nodeSelector": {"a": "1", "c": ""}})
        ));
        assert!(!asks(&PodSpec::default()));
    }

    #[test]
    fn each_operator_is_its_own() {
        for (key, operator, values, met) in [
            ("b", "In", json!(["x", "y"]), true),
            ("b", "NotIn", json!(["x"]), false),
            ("c", "NotIn", json!(["x"]), true),
            ("c", "Exists", json!([]), false),
            ("c", "DoesNotExist", json!([]), true),
            ("a", "Gt", json!(["0"]), true),
            ("a", "Gt", json!(["1"]), false),
            ("a", "Lt", json!(["2"]), true),
            ("b", "Lt", json!(["2"]), false),
            ("a", "Like", json!(["1"]), false),
        ] {
            let expression = json!({"key": key, "operator": operator, "values": values});
            let spec = terms(json!([{"matchExpressions": [expression]}]));
            assert_eq!(on(spec), met, "{key} {operator} {values}");
        }
    }

    #[test]
    fn one_term_is_enough_and_an_empty_one_is_none() {
        let name = |name| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert!(on(terms(json!([name("other"), name("n")]))));
        assert!(!on(terms(json!([name("other")]))));
        assert!(!on(terms(json!([{}]))));
    }
}
