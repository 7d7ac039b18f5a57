//! Transcoding of the pairs that kubernetes/api publishes: for each type the same object as JSON
//! and as protobuf. They are looked for in `VK_CMD_KUBERNETES_TESTDATA`, beside the repository,
//! and in the Go module cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::zero::Scope;
use super::{coerce, encode, protobuf};
use crate::schema::{Gvk, TypeId, schema};

fn testdata() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("VK_CMD_KUBERNETES_TESTDATA") {
        return Some(dir.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let beside = root.join("../shared/data/kubernetes-api-testdata");
    if beside.is_dir() {
        return Some(beside);
    }
    let output = Command::new("go")
        .args(["env", "GOMODCACHE"])
        .output()
        .ok()?;
    let cache = String::from_utf8(output.stdout).ok()?;
    let mut modules: Vec<PathBuf> = std::fs::read_dir(Path::new(cache.trim()).join("k8s.io"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("api@v0."))
        })
        .map(|path| path.join("testdata/HEAD"))
        .filter(|path| path.is_dir())
        .collect();
    modules.sort();
    modules.pop()
}

/// Each pair: its name, the JSON, the protobuf.
fn pairs() -> Vec<(String, Value, Vec<u8>)> {
    let Some(dir) = testdata() else {
        // A test that is skipped says so.
        #[expect(
            clippy::print_stderr,
            reason = "the only way a test can tell that it was skipped"
        )]
        {
            eprintln!(
                "SKIPPED: no Kubernetes test data; set VK_CMD_KUBERNETES_TESTDATA to \
                 testdata/HEAD of k8s.io/api"
            );
        }
        return Vec::new();
    };
    let mut pairs = Vec::new();
    for entry in std::fs::read_dir(&dir).expect("the directory of the test data") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "pb") {
            let text = std::fs::read(path.with_extension("json")).expect("the JSON of a pair");
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let json = serde_json::from_slice(&text).expect("JSON");
            pairs.push((
                name,
                json,
                std::fs::read(&path).expect("the protobuf of a pair"),
            ));
        }
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!pairs.is_empty(), "no pairs in {}", dir.display());
    pairs
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
    for (name, json, bytes) in pairs() {
        let (gvk, Some(type_id)) = gvk_of(&json) else {
            failures.push(format!("{name}: no such type"));
            continue;
        };
        let decoded = protobuf::open(&bytes)
            .and_then(|envelope| protobuf::decode(envelope.raw, type_id, &gvk, Scope::All));
        match decoded {
            Ok(value) => {
                failures.extend(difference(&name, &value, &json));
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    report(&failures);
}

#[test]
fn json_becomes_the_protobuf_of_the_pair() {
    let mut failures = Vec::new();
    for (name, json, bytes) in pairs() {
        let (gvk, Some(type_id)) = gvk_of(&json) else {
            failures.push(format!("{name}: no such type"));
            continue;
        };
        if encode::encode(&json, type_id, &gvk, Scope::All) != bytes {
            failures.push(name);
        }
    }
    report(&failures);
}

#[test]
fn the_json_of_a_pair_is_already_what_go_makes_of_it() {
    let mut failures = Vec::new();
    for (name, json, _) in pairs() {
        let (_, Some(type_id)) = gvk_of(&json) else {
            failures.push(format!("{name}: no such type"));
            continue;
        };
        let mut value = json.clone();
        match coerce::coerce(&mut value, type_id, Scope::All) {
            Ok(()) => failures.extend(difference(&name, &value, &json)),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    report(&failures);
}
