//! The language of the scenarios.
//!
//! ```text
//! # A comment. A line that begins with a space goes on with the line before.
//! let pod = {apiVersion: v1, kind: Pod, …}        a name for a value, for this file
//! == title                                        a scenario, in a namespace of its own, $ns
//! POST v1:pods pod + {metadata: {name: a}}        a request: method, path, body
//! Accept: application/json                        a header of it
//! > uid = /metadata/uid                           take $uid from the answer
//! ~ /metadata/labels/*                            do not compare this
//! | /metadata /status                             compare these alone
//! ? 200                                           send it again until the status is 200
//! ```
//!
//! Paths that begin with `/` are sent as they stand; `apps/v1:deployments/x` is one in `$ns`.
//! Methods beside HTTP's: `MERGE`, `STRATEGIC`, `JSON` and `APPLY` are `PATCH` with the content type;
//! `WATCHn` is a `GET` that reads n lines; `ANONYMOUS` is a `GET` without a client certificate.
//! A body is YAML that is sent as JSON, joined from names and values by merge patches; `raw:` is sent
//! as it stands (`\n` is a line feed), `size:N` is a config map of N bytes, and
//! `proto: v1 ConfigMap {1: {1: name}}` is Kubernetes' protobuf with field numbers for keys.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A list of requests that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// The file's name without its end.
    pub(crate) file: String,
    pub(crate) title: String,
    /// Names of the file.
    pub(crate) lets: BTreeMap<String, Value>,
    pub(crate) steps: Vec<Step>,
}

/// One request, and what to do with its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    /// Unique within the scenario: method and path as written, and a number where they repeat.
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The number of lines to read of a watch.
    pub(crate) lines: Option<usize>,
    pub(crate) anonymous: bool,
    pub(crate) captures: Vec<(String, String)>,
    pub(crate) ignore: Vec<String>,
    pub(crate) only: Vec<String>,
    pub(crate) until: Option<u16>,
}

/// Reads a file of scenarios.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Scenario>> {
    let mut lets = BTreeMap::new();
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (number, line) in logical_lines(text) {
        parse_line(file, &line, &mut lets, &mut scenarios)
            .with_context(|| format!("{file}:{number}: {line}"))?;
    }
    Ok(scenarios)
}

fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match lines.last_mut() {
            Some((_, last)) if line.starts_with(' ') => {
                last.push('\n');
                last.push_str(line.trim());
            }
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => lines.push((index + 1, line.trim_end().to_owned())),
        }
    }
    lines
}

fn parse_line(
    file: &str,
    line: &str,
    lets: &mut BTreeMap<String, Value>,
    scenarios: &mut Vec<Scenario>,
) -> Result<()> {
    if let Some(rest) = line.strip_prefix("let ") {
        let (name, value) = rest.split_once(" = ").context("let NAME = VALUE")?;
        let value = evaluate(value, lets)?;
        lets.insert(name.to_owned(), value);
        return Ok(());
    }
    if let Some(title) = line.strip_prefix("== ") {
        ensure!(
            scenarios.iter().all(|other| other.title != title),
            "the title repeats"
        );
        scenarios.push(Scenario {
            file: file.to_owned(),
            title: title.to_owned(),
            lets: lets.clone(),
            steps: Vec::new(),
        });
        return Ok(());
    }
    let scenario = scenarios.last_mut().context("no scenario yet")?;
    let (word, rest) = line.split_once(' ').context("one word alone")?;
    if let Some(header) = word.strip_suffix(':') {
        let step = scenario.steps.last_mut().context("no request yet")?;
        step.headers.push((header.to_owned(), rest.to_owned()));
        return Ok(());
    }
    if word.len() == 1 {
        let step = scenario.steps.last_mut().context("no request yet")?;
        match word {
            ">" => {
                let (name, at) = rest.split_once(" = ").context("> NAME = POINTER")?;
                step.captures.push((name.to_owned(), at.to_owned()));
            }
            "~" => step.ignore.extend(rest.split(' ').map(str::to_owned)),
            "|" => step.only.extend(rest.split(' ').map(str::to_owned)),
            "?" => step.until = Some(rest.parse()?),
            _ => bail!("no such sign"),
        }
        return Ok(());
    }
    let (path, body) = rest.split_once([' ', '\n']).unwrap_or((rest, ""));
    let mut step = request(word, path, body)?;
    let same = |other: &&Step| {
        other.name == step.name || other.name.starts_with(&format!("{} #", step.name))
    };
    let before = scenario.steps.iter().filter(same).count();
    if before > 0 {
        step.name = format!("{} #{}", step.name, before + 1);
    }
    scenario.steps.push(step);
    Ok(())
}

fn request(word: &str, path: &str, body: &str) -> Result<Step> {
    let mut step = Step {
        name: format!("{word} {path}"),
        method: "PATCH".to_owned(),
        path: path.to_owned(),
        body: body.to_owned(),
        ..Step::default()
    };
    let patch = match word {
        "MERGE" => Some("application/merge-patch+json"),
        "STRATEGIC" => Some("application/strategic-merge-patch+json"),
        "JSON" => Some("application/json-patch+json"),
        "APPLY" => Some("application/apply-patch+yaml"),
        _ => None,
    };
    if let Some(kind) = patch {
        step.headers
            .push(("Content-Type".to_owned(), kind.to_owned()));
    } else if let Some(lines) = word.strip_prefix("WATCH") {
        step.lines = Some(lines.parse()?);
        step.method = "GET".to_owned();
    } else if word == "ANONYMOUS" {
        step.anonymous = true;
        step.method = "GET".to_owned();
    } else {
        let known = [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
        ];
        ensure!(known.contains(&word), "no such method");
        step.method = word.to_owned();
    }
    Ok(step)
}

/// The value of `NAME + {…} + {…}`.
pub(crate) fn evaluate(text: &str, lets: &BTreeMap<String, Value>) -> Result<Value> {
    let mut result = None;
    for term in terms(text) {
        let term = term.trim();
        let value = match lets.get(term) {
            Some(value) => value.clone(),
            None => serde_norway::from_str(term).with_context(|| term.to_owned())?,
        };
        match &mut result {
            None => result = Some(value),
            Some(target) => merge(target, value),
        }
    }
    result.context("no value")
}

fn terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'+' if depth == 0
                && text[..at].ends_with([' ', '\n'])
                && text[at + 1..].starts_with([' ', '\n']) =>
            {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
