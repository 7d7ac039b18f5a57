//! Transcoding of the pairs that kubernetes/api publishes: for each type the same object as JSON
//! and as protobuf.
//!
//! They are looked for in `VK_CMD_KUBERNETES_TESTDATA` and beside the repository (pairs of the
//! newest release that the table knows), and in the Go module cache, where those of the served
//! release may be too: then they are read as the server reads them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::zero::Scope;
use super::{coerce, encode, protobuf};
use crate::schema::{Gvk, TypeId, schema};

/// One object in both forms.
struct Pair {
    /// File and release, for the report.
    name: String,
    scope: Scope,
    gvk: Gvk,
    type_id: TypeId,
    json: Value,
    bytes: Vec<u8>,
}

/// The version of a module that a line of the table's head names.
fn version(line: &str) -> Option<&'static str> {
    let head = include_str!("../../data/schema.txt").lines().take(3);
    let modules = head.into_iter().find_map(|head| head.strip_prefix(line))?;
    let module = modules
        .split(", ")
        .find_map(|module| module.trim().strip_prefix("k8s.io/api "))?;
    Some(module)
}

/// Directories of pairs, and which fields their release has.
fn testdata() -> Vec<(PathBuf, Scope)> {
    let mut found = Vec::new();
    let beside =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kubernetes-api-testdata");
    match std::env::var_os("VK_CMD_KUBERNETES_TESTDATA") {
        Some(dir) => found.push((dir.into(), Scope::All)),
        None => found.push((beside, Scope::All)),
    }
    let cache = Command::new("go").args(["env", "GOMODCACHE"]).output();
    let cache = cache
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    for (line, scope) in [("# newest: ", Scope::All), ("# served: ", Scope::Served)] {
        if let (Some(cache), Some(version)) = (&cache, version(line)) {
            let module = format!("{}/k8s.io/api@{version}/testdata/HEAD", cache.trim());
            found.push((module.into(), scope));
        }
    }
    found.retain(|(dir, _)| dir.is_dir());
    found
}

/// All pairs.
fn pairs() -> Vec<Pair> {
    let found = testdata();
    if found.is_empty() {
        // Past the capture of the test runner: a test that is skipped says so.
        let words = "SKIPPED: no Kubernetes test data; set VK_CMD_KUBERNETES_TESTDATA to \
                     testdata/HEAD of the Go module k8s.io/api";
        writeln!(std::io::stderr(), "{words}").expect("standard error");
    }
    let mut pairs = Vec::new();
    for (dir, scope) in found {
        let before = pairs.len();
        for entry in std::fs::read_dir(&dir).expect("the directory of the test data") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "pb") {
                pairs.push(pair(&path, scope));
            }
        }
        assert!(pairs.len() > before, "no pairs in {}", dir.display());
    }
    pairs
}

fn pair(path: &Path, scope: Scope) -> Pair {
    let name = path.display().to_string();
    let text = std::fs::read(path.with_extension("json")).expect("the JSON of a pair");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let (gvk, type_id) = gvk_of(&json);
    Pair {
        type_id: type_id.unwrap_or_else(|| panic!("{name}: no such type")),
        name,
        scope,
        gvk,
        bytes: std::fs::read(path).expect("the protobuf of a pair"),
        json,
    }
}

/// What a pair is; events of a watch do not say it themselves.
fn gvk_of(json: &Value) -> (Gvk, Option<TypeId>) {
    let text = |name: &str| json[name].as_str().unwrap_or_default();
    let gvk = Gvk::from_api_version(text("apiVersion"), text("kind"));
    let type_id = if gvk.kind.is_empty() {
        schema().type_of("", "v1", "WatchEvent")
    } else {
        schema().type_of_gvk(&gvk)
    };
    (gvk, type_id)
}

/// The first place where two values differ.
fn difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = left
                .keys()
                .chain(right.keys().filter(|key| !left.contains_key(*key)));
            keys.into_iter()
                .find_map(|key| match (left.get(key), right.get(key)) {
                    (Some(a), Some(b)) => difference(&format!("{path}.{key}"), a, b),
                    (a, b) => Some(format!("{path}.{key}: {a:?} and {b:?}")),
                })
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => left
            .iter()
            .zip(right)
            .enumerate()
            .find_map(|(at, (a, b))| difference(&format!("{path}[{at}]"), a, b)),
        _ if a == b => None,
        _ => Some(format!("{path}: {a} and {b}")),
    }
}

fn report(failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{} pairs differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn protobuf_becomes_the_json_of_the_pair() {
    let mut failures = Vec::new();
    for pair in pairs() {
        let decoded = protobuf::open(&pair.bytes).and_then(|envelope| {
            protobuf::decode(envelope.raw, pair.type_id, &pair.gvk, pair.scope)
        });
        match decoded {
            Ok(value) => failures.extend(difference(&pair.name, &value, &pair.json)),
            Err(error) => failures.push(format!("{}: {error}", pair.name)),
        }
    }
    report(&failures);
}

#[test]
fn json_becomes_the_protobuf_of_the_pair() {
    let mut failures = Vec::new();
    for pair in pairs() {
        if encode::encode(&pair.json, pair.type_id, &pair.gvk, pair.scope) != pair.bytes {
            failures.push(pair.name);
        }
    }
    report(&failures);
}

#[test]
fn the_json_of_a_pair_is_already_what_go_makes_of_it() {
    let mut failures = Vec::new();
    for pair in pairs() {
        let mut value = pair.json.clone();
        match coerce::coerce(&mut value, pair.type_id, pair.scope) {
            Ok(()) => failures.extend(difference(&pair.name, &value, &pair.json)),
            Err(error) => failures.push(format!("{}: {error}", pair.name)),
        }
    }
    report(&failures);
}
