use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;

fn deployments() -> ServedResource {
    let verbs = vec![
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    ServedResource {
        group: "apps".to_owned(),
        version: "v1".to_owned(),
        kind: "Deployment".to_owned(),
        plural: "deployments".to_owned(),
        namespaced: true,
        verbs,
        subresources: vec![
            ServedSubresource {
                name: "status".to_owned(),
                group: "apps".to_owned(),
                version: "v1".to_owned(),
                kind: "Deployment".to_owned(),
                verbs: vec!["get", "patch", "update"],
            },
            ServedSubresource {
                name: "scale".to_owned(),
                group: "autoscaling".to_owned(),
                version: "v1".to_owned(),
                kind: "Scale".to_owned(),
                verbs: vec!["get", "patch", "update"],
            },
        ],
    }
}

fn document() -> Value {
    let api = OpenApi::new(vec![deployments()]);
    let (body, _) = api.document("apis/apps/v1").expect("apps/v1");
    serde_json::from_slice(&body).expect("JSON")
}

#[test]
fn the_index_names_each_document_with_its_hash() {
    let api = OpenApi::new(vec![deployments()]);
    let (_, hash) = api.document("apis/apps/v1").expect("apps/v1");
    assert_eq!(
        api.index(),
        json!({"paths": {"apis/apps/v1": {
            "serverRelativeURL": format!("/openapi/v3/apis/apps/v1?hash={hash}")
        }}})
    );
    assert!(api.document("apis/batch/v1").is_none());
    let fewer = ServedResource {
        subresources: Vec::new(),
        ..deployments()
    };
    assert_ne!(OpenApi::new(vec![fewer]).index(), api.index());
}

#[test]
fn patches_tell_that_they_validate_fields() {
    let document = document();
    let item = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = &document["paths"][item]["patch"];
    let names: Vec<_> = patch["parameters"]
        .as_array()
        .expect("parameters")
        .iter()
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    assert_eq!(
        names,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    assert_eq!(
        patch["operationId"],
        json!("patchAppsV1NamespacedDeployment")
    );
    let scale = &document["paths"][format!("{item}/scale")]["put"];
    assert_eq!(
        scale["x-kubernetes-group-version-kind"],
        json!({"group": "autoscaling", "kind": "Scale", "version": "v1"})
    );
    assert!(document["paths"].get("/apis/apps/v1/deployments").is_some());
}

#[test]
fn every_reference_has_its_component_and_every_operation_its_name() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members
                    .values()
                    .for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let name = reference
            .strip_prefix("#/components/schemas/")
            .expect("a component");
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{name}"
        );
    }
    let mut ids = std::collections::BTreeSet::new();
    for path in document["paths"].as_object().expect("paths").values() {
        for operation in path.as_object().expect("operations").values() {
            if let Some(id) = operation["operationId"].as_str() {
                assert!(ids.insert(id.to_owned()), "{id} twice");
            }
        }
    }
}

/// Documents of the real server, in files named after the group version.
fn published() -> Vec<PathBuf> {
    let dir = std::env::var_os("VK_CMD_KUBERNETES_OPENAPI").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/openapi-v3"),
        PathBuf::from,
    );
    let Ok(entries) = std::fs::read_dir(&dir) else {
        // Past the capture of the test runner: a test that is skipped says so.
        let words = "SKIPPED: no OpenAPI documents; set VK_CMD_KUBERNETES_OPENAPI to a directory";
        writeln!(std::io::stderr(), "{words}").expect("standard error");
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    files
}

/// A schema without what we leave out: descriptions, and rules that validation knows.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            if let Some([only]) = members
                .get("allOf")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                && members
                    .keys()
                    .all(|key| key == "allOf" || key == "description")
            {
                return comparable(only);
            }
            members
                .iter()
                .filter(|(name, _)| {
                    let left_out = [
                        "description",
                        "x-kubernetes-unions",
                        "x-kubernetes-validations",
                    ];
                    !left_out.contains(&name.as_str())
                })
                .map(|(name, member)| match (name.as_str(), member) {
                    ("required", Value::Array(names)) => {
                        let mut names = names.clone();
                        names.sort_by_key(ToString::to_string);
                        (name.clone(), Value::Array(names))
                    }
                    _ => (name.clone(), comparable(member)),
                })
                .collect()
        }
        Value::Array(items) => items.iter().map(comparable).collect(),
        other => other.clone(),
    }
}

#[test]
fn schemas_agree_with_the_published_ones() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for path in published() {
        let text = std::fs::read(&path).expect("a document");
        let theirs: Value = serde_json::from_slice(&text).expect("JSON");
        let Some(schemas) = theirs["components"]["schemas"].as_object() else {
            continue;
        };
        // The server of the release that we serve says so; other documents are older and have less.
        let same = theirs["info"]["version"]
            .as_str()
            .is_some_and(|version| version.trim_start_matches('v').starts_with("1.34"));
        for (name, theirs) in schemas {
            // In the first two every group is listed, served or not; patches are made by hand,
            // and the version is no object of the API.
            let skipped = [
                "meta.v1.DeleteOptions",
                "meta.v1.WatchEvent",
                "meta.v1.Patch",
                "pkg.version.Info",
            ];
            if skipped.iter().any(|end| name.ends_with(end)) {
                continue;
            }
            let Some(id) = crate::schema::schema().type_by_name(name) else {
                if same {
                    failures.push(format!("{name}: no such type"));
                }
                continue;
            };
            compared += 1;
            let ours = schemas::components(BTreeSet::from([id]));
            let ours = comparable(&ours[name]);
            let theirs = comparable(theirs);
            if !same {
                // Its key had a merge strategy once.
                if !name.ends_with("LabelSelectorRequirement") {
                    missing(name, &ours, &theirs, &mut failures);
                }
                continue;
            }
            // Types that another version only renames lose their values on the way to the
            // published documents.
            let renamed = |difference: &String| {
                name.contains("admissionregistration.v1.")
                    && difference.contains(" enum: ")
                    && difference.ends_with("is ours alone")
            };
            failures.extend(difference(name, &ours, &theirs).filter(|found| !renamed(found)));
        }
    }
    failures.sort();
    failures.dedup();
    assert!(
        failures.is_empty(),
        "{} differences in {compared} schemas:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What an older document says of how fields merge, and ours does not. Fields may have gone since,
/// and defaults of references have.
fn missing(path: &str, ours: &Value, theirs: &Value, failures: &mut Vec<String>) {
    let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) else {
        return;
    };
    for (name, theirs) in theirs {
        let path = format!("{path} {name}");
        match (name.as_str(), ours.get(name)) {
            ("type" | "format" | "enum", Some(ours)) if !theirs.is_object() => {
                failures.extend(difference(&path, ours, theirs));
            }
            (name, ours) if name.starts_with("x-kubernetes-") && name != GVK => {
                failures.extend(difference(&path, ours.unwrap_or(&Value::Null), theirs));
            }
            (_, Some(ours)) => missing(&path, ours, theirs, failures),
            _ => {}
        }
    }
}

const GVK: &str = "x-kubernetes-group-version-kind";

fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(left), Value::Object(right)) => {
            let more = right.keys().filter(|key| !left.contains_key(*key));
            left.keys().chain(more).find_map(|key| {
                let path = format!("{path} {key}");
                match (left.get(key), right.get(key)) {
                    (Some(ours), Some(theirs)) => difference(&path, ours, theirs),
                    (Some(ours), None) => Some(format!("{path}: {ours} is ours alone")),
                    (_, theirs) => Some(format!("{path}: {theirs:?} is missing")),
                }
            })
        }
        _ if ours == theirs => None,
        _ => Some(format!("{path}: {ours} and not {theirs}")),
    }
}
