//! Structured selectors: requirements on labels, and the terms of node affinity.

use std::collections::BTreeMap;

use serde_json::Value;

/// Labels of an object.
pub(super) type Labels = BTreeMap<Box<str>, Box<str>>;

/// Reads a map of strings; anything else in it is left out.
pub(super) fn labels(value: &Value) -> Labels {
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
        .collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// The label and the value are whole numbers, and the label is the greater one.
    Greater,
    Less,
    /// One that we do not know: nothing matches it.
    Unknown,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    key: Box<str>,
    operator: Operator,
    values: Box<[Box<str>]>,
}

impl Requirement {
    fn parse(value: &Value) -> Self {
        let values = value["values"].as_array().into_iter().flatten();
        Self {
            key: value["key"].as_str().unwrap_or_default().into(),
            operator: match value["operator"].as_str() {
                Some("In") => Operator::In,
                Some("NotIn") => Operator::NotIn,
                Some("Exists") => Operator::Exists,
                Some("DoesNotExist") => Operator::DoesNotExist,
                Some("Gt") => Operator::Greater,
                Some("Lt") => Operator::Less,
                _ => Operator::Unknown,
            },
            values: values.filter_map(Value::as_str).map(Into::into).collect(),
        }
    }

    pub(super) fn is(key: &str, value: &str) -> Self {
        Self {
            key: key.into(),
            operator: Operator::In,
            values: Box::new([value.into()]),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|other| &**other == value)
    }

    fn matches(&self, found: Option<&str>) -> bool {
        match self.operator {
            Operator::In => found.is_some_and(|value| self.has(value)),
            // An absent label is in no set.
            Operator::NotIn => !found.is_some_and(|value| self.has(value)),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::Greater => self
                .numbers(found)
                .is_some_and(|(label, value)| label > value),
            Operator::Less => self
                .numbers(found)
                .is_some_and(|(label, value)| label < value),
            Operator::Unknown => false,
        }
    }

    /// The label and the one value as 64-bit whole numbers; anything else matches nothing.
    fn numbers(&self, found: Option<&str>) -> Option<(i64, i64)> {
        match &*self.values {
            [value] => Some((found?.parse().ok()?, value.parse().ok()?)),
            _ => None,
        }
    }
}

fn requirements(value: &Value) -> impl Iterator<Item = Requirement> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(Requirement::parse)
}

/// A `LabelSelector`: all its requirements hold. Without any it matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// `None` where there is no selector, which matches nothing.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        value.as_object()?;
        let mut all: Vec<Requirement> = labels(&value["matchLabels"])
            .iter()
            .map(|(key, value)| Requirement::is(key, value))
            .collect();
        all.extend(requirements(&value["matchExpressions"]));
        Some(Self { requirements: all })
    }

    pub(super) fn also(&mut self, requirement: Requirement) {
        self.requirements.push(requirement);
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels.get(&requirement.key).map(|v| &**v)))
    }
}

/// One term of node affinity: all its requirements hold, on labels and on fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeTerm {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    pub(super) fn parse(value: &Value) -> Self {
        Self {
            expressions: requirements(&value["matchExpressions"]).collect(),
            fields: requirements(&value["matchFields"]).collect(),
        }
    }

    /// A term without requirements matches nothing.
    pub(super) fn matches(&self, name: &str, labels: &Labels) -> bool {
        let label = |requirement: &Requirement| {
            requirement.matches(labels.get(&requirement.key).map(|value| &**value))
        };
        // The one field that nodes can be chosen by.
        let field = |requirement: &Requirement| {
            &*requirement.key == "metadata.name" && requirement.matches(Some(name))
        };
        !(self.expressions.is_empty() && self.fields.is_empty())
            && self.expressions.iter().all(label)
            && self.fields.iter().all(field)
    }

    /// Whether the fields of this term choose nodes by their names, and which.
    fn names(&self) -> Option<Vec<&str>> {
        let mut names: Option<Vec<&str>> = None;
        for field in &self.fields {
            if &*field.key == "metadata.name" && field.operator == Operator::In {
                let values = field.values.iter().map(|value| &**value);
                names = Some(match names {
                    None => values.collect(),
                    Some(before) => values.filter(|value| before.contains(value)).collect(),
                });
            }
        }
        names
    }
}

/// The nodes that required node affinity chooses by name alone; `None` where it does not.
pub(super) fn nodes_by_name(terms: &[NodeTerm]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for term in terms {
        names.extend(term.names()?);
    }
    (!terms.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn term(expressions: Value) -> NodeTerm {
        NodeTerm::parse(&json!({ "matchExpressions": expressions }))
    }

    #[test]
    fn operators_read_labels_as_the_scheduler_does() {
        let found = labels(&json!({"n": "5", "word": "x", "empty": ""}));
        let cases = [
            (
                json!({"key": "n", "operator": "In", "values": ["4", "5"]}),
                true,
            ),
            (json!({"key": "n", "operator": "In", "values": []}), false),
            (
                json!({"key": "absent", "operator": "In", "values": [""]}),
                false,
            ),
            (
                json!({"key": "empty", "operator": "In", "values": [""]}),
                true,
            ),
            (
                json!({"key": "n", "operator": "NotIn", "values": ["5"]}),
                false,
            ),
            (
                json!({"key": "absent", "operator": "NotIn", "values": ["5"]}),
                true,
            ),
            (json!({"key": "empty", "operator": "Exists"}), true),
            (json!({"key": "absent", "operator": "Exists"}), false),
            (json!({"key": "absent", "operator": "DoesNotExist"}), true),
            (json!({"key": "n", "operator": "DoesNotExist"}), false),
            (json!({"key": "n", "operator": "Gt", "values": ["4"]}), true),
            (
                json!({"key": "n", "operator": "Gt", "values": ["5"]}),
                false,
            ),
            (json!({"key": "n", "operator": "Lt", "values": ["6"]}), true),
            (
                json!({"key": "n", "operator": "Lt", "values": ["5"]}),
                false,
            ),
            (
                json!({"key": "n", "operator": "Gt", "values": ["-1"]}),
                true,
            ),
            (
                json!({"key": "word", "operator": "Gt", "values": ["0"]}),
                false,
            ),
            (
                json!({"key": "absent", "operator": "Lt", "values": ["9"]}),
                false,
            ),
            (
                json!({"key": "n", "operator": "Gt", "values": ["1", "2"]}),
                false,
            ),
            (
                json!({"key": "n", "operator": "gt", "values": ["1"]}),
                false,
            ),
        ];
        for (requirement, expected) in cases {
            let term = term(json!([requirement]));
            assert_eq!(term.matches("node", &found), expected, "{requirement}");
        }
    }

    #[test]
    fn an_empty_term_matches_no_node_and_an_empty_selector_every_object() {
        assert!(!term(json!([])).matches("node", &Labels::new()));
        let everything = LabelSelector::parse(&json!({})).expect("a selector");
        assert!(everything.matches(&Labels::new()));
        assert_eq!(LabelSelector::parse(&Value::Null), None);
    }

    #[test]
    fn nodes_are_chosen_by_name_only_if_every_term_does() {
        let field = |names: Value| {
            let fields = json!([{"key": "metadata.name", "operator": "In", "values": names}]);
            NodeTerm::parse(&json!({ "matchFields": fields }))
        };
        let by_name = [field(json!(["a", "b"])), field(json!(["c"]))];
        assert_eq!(nodes_by_name(&by_name), Some(vec!["a", "b", "c"]));
        let mixed = [
            field(json!(["a"])),
            term(json!([{"key": "x", "operator": "Exists"}])),
        ];
        assert_eq!(nodes_by_name(&mixed), None);
        assert_eq!(nodes_by_name(&[]), None);
        assert!(field(json!(["a"])).matches("a", &Labels::new()));
        assert!(!field(json!(["a"])).matches("b", &Labels::new()));
    }
}
