//! Where two answers differ.

use std::fmt::Write;

use serde_json::{Map, Value};

/// One place at which two answers differ.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// `file: title / step`.
    pub(crate) step: String,
    /// Pointer into the answer.
    pub(crate) at: String,
    pub(crate) real: Option<Value>,
    pub(crate) ours: Option<Value>,
}

impl Difference {
    /// What the patterns of the list of known differences are held against.
    pub(crate) fn line(&self) -> String {
        let shown =
            |value: Option<&Value>| value.map_or_else(|| "(nothing)".to_owned(), Value::to_string);
        let (real, ours) = (shown(self.real.as_ref()), shown(self.ours.as_ref()));
        format!("{} {}: {real} != {ours}", self.step, self.at)
    }
}

/// Compares two answers.
pub(crate) fn differences(step: &str, real: &Value, ours: &Value) -> Vec<Difference> {
    if real["status"] != ours["status"] {
        // The rest follows from it.
        let shown = |answer: &Value| {
            let message = answer["body"]["message"].as_str().unwrap_or_default();
            format!("{} {message}", answer["status"])
        };
        return vec![Difference {
            step: step.to_owned(),
            at: "/status".to_owned(),
            real: Some(shown(real).into()),
            ours: Some(shown(ours).into()),
        }];
    }
    let mut found = Vec::new();
    walk(step, "", Some(real), Some(ours), &mut found);
    found
}

fn walk(
    step: &str,
    at: &str,
    real: Option<&Value>,
    ours: Option<&Value>,
    found: &mut Vec<Difference>,
) {
    if real == ours {
        return;
    }
    match (real, ours) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            walk_maps(step, at, left, right, found);
            return;
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            if let (Some((names, left)), Some((others, right))) = (named(left), named(right)) {
                walk_maps(step, at, &left, &right, found);
                let of_both = |names: Vec<String>| -> Vec<String> {
                    names
                        .into_iter()
                        .filter(|name| left.contains_key(name) && right.contains_key(name))
                        .collect()
                };
                let (names, others) = (of_both(names), of_both(others));
                if names != others {
                    found.push(Difference {
                        step: step.to_owned(),
                        at: format!("{at}/(order)"),
                        real: Some(names.into()),
                        ours: Some(others.into()),
                    });
                }
            } else {
                for index in 0..left.len().max(right.len()) {
                    walk(
                        step,
                        &format!("{at}/{index}"),
                        left.get(index),
                        right.get(index),
                        found,
                    );
                }
            }
            return;
        }
        _ => {}
    }
    found.push(Difference {
        step: step.to_owned(),
        at: at.to_owned(),
        real: real.cloned(),
        ours: ours.cloned(),
    });
}

fn walk_maps(
    step: &str,
    at: &str,
    left: &Map<String, Value>,
    right: &Map<String, Value>,
    found: &mut Vec<Difference>,
) {
    let mut keys: Vec<_> = left.keys().chain(right.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        walk(
            step,
            &format!("{at}/{}", key.replace('/', "~1")),
            left.get(key),
            right.get(key),
            found,
        );
    }
}

/// The items of a list by their names, where each has one of its own.
fn named(items: &[Value]) -> Option<(Vec<String>, Map<String, Value>)> {
    for key in [
        "/name",
        "/type",
        "/resource",
        "/subresource",
        "/version",
        "/metadata/name",
        "/object/metadata/name",
        "/field",
    ] {
        let names: Option<Vec<String>> = items
            .iter()
            .map(|item| item.pointer(key)?.as_str().map(str::to_owned))
            .collect();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            continue;
        };
        let map: Map<_, _> = names.iter().cloned().zip(items.iter().cloned()).collect();
        if map.len() == items.len() {
            return Some((names, map));
        }
    }
    None
}

/// Drops what a step does not compare.
pub(crate) fn select(answer: &mut Value, only: &[String], ignore: &[String]) {
    if !only.is_empty() {
        let body = answer["body"].take();
        let kept: Map<_, _> = only
            .iter()
            .map(|at| (at.clone(), body.pointer(at).cloned().unwrap_or(Value::Null)))
            .collect();
        answer["body"] = Value::Object(kept);
    }
    for at in ignore {
        if at == "/" {
            answer["body"] = Value::Null;
        }
        let parts: Vec<_> = at.split('/').skip(1).collect();
        remove(&mut answer["body"], &parts);
    }
}

fn remove(value: &mut Value, parts: &[&str]) {
    let Some((first, rest)) = parts.split_first() else {
        return;
    };
    let first = first.replace("~1", "/");
    match value {
        Value::Object(map) if rest.is_empty() && first == "*" => map.clear(),
        Value::Object(map) if rest.is_empty() => {
            map.remove(&first);
        }
        Value::Object(map) if first == "*" => {
            map.values_mut().for_each(|value| remove(value, rest))
        }
        Value::Object(map) => {
            if let Some(value) = map.get_mut(&first) {
                remove(value, rest);
            }
        }
        Value::Array(items) if first == "*" => {
            items.iter_mut().for_each(|value| remove(value, rest))
        }
        Value::Array(items) => {
            if let Some(value) = first
                .parse()
                .ok()
                .and_then(|index: usize| items.get_mut(index))
            {
                remove(value, rest);
            }
        }
        _ => {}
    }
}

/// The list of known differences: patterns with `*` for `STEP POINTER: REAL != OURS`, under the reason
/// that they share.
#[derive(Debug)]
pub(crate) struct Known {
    /// Reason and patterns.
    pub(crate) reasons: Vec<(String, Vec<String>)>,
}

impl Known {
    /// Reads the list: `# ` begins a comment, `== ` a reason, and a pattern is any other line.
    pub(crate) fn parse(text: &str) -> Self {
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("# "))
        {
            if let Some(reason) = line.strip_prefix("== ") {
                reasons.push((reason.to_owned(), Vec::new()));
            } else {
                let (_, patterns) = reasons
                    .last_mut()
                    .expect("a reason stands before its patterns");
                patterns.push(line.to_owned());
            }
        }
        Self { reasons }
    }

    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.reasons
            .iter()
            .flat_map(|(_, patterns)| patterns.iter().map(String::as_str))
    }
}

/// Whether a pattern, in which `*` is any text, fits.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    if !pattern.contains('*') {
        return rest.is_empty();
    }
    let parts: Vec<_> = parts.collect();
    let (last, middle) = parts
        .split_last()
        .expect("split gives one part more than stars");
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The differences, a paragraph each, as people read them.
pub(crate) fn report(found: &[&Difference]) -> String {
    let (mut out, mut step) = (String::new(), "");
    for difference in found {
        if difference.step != step {
            step = &difference.step;
            let _ = writeln!(out, "\n{step}");
        }
        let _ = writeln!(out, "  {}", difference.at);
        let _ = writeln!(out, "    real {}", shown(difference.real.as_ref()));
        let _ = writeln!(out, "    ours {}", shown(difference.ours.as_ref()));
    }
    out
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "(nothing)".to_owned(), Value::to_string);
    match text.char_indices().nth(900) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}
