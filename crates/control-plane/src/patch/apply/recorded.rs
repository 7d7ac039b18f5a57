//! Writes of our own making (`cases.json`), and what kube-apiserver v1.34.4 answered to each: the
//! object, its managed fields, or the refusal.

use serde_json::{Value, json};

use super::*;
use crate::defaults::{self, strategy};
use crate::patch::{self, PatchError};
use crate::validation;

const NOW: &str = "2026-01-02T03:04:05Z";

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn decoded(gvk: &Gvk, object: &mut Value) {
    let kind = schema().type_of_gvk(gvk).expect("a known kind");
    crate::codec::coerce(object, kind).expect("an object of its kind");
    defaults::apply(gvk, object);
}

/// Performs one write as the server does, without admission and store.
fn write(step: &Value, gvk: &Gvk, live: Option<&Value>) -> Result<Value, ApiError> {
    let body = &step["body"];
    let kind = schema().type_of_gvk(gvk).expect("a known kind");
    let subresource = text(step, "subresource");
    let writer = Writer {
        manager: text(step, "manager"),
        subresource,
        kind: Some(kind),
        now: NOW.parse().expect("a time"),
    };
    let mut object = match (text(step, "op"), live) {
        ("create", _) => body.clone(),
        ("apply", live) => {
            let force = step["force"].as_bool().unwrap_or(false);
            apply(live, body, force, &writer)?
        }
        ("merge", Some(live)) => patch::merge(live, body),
        ("strategic", Some(live)) => patch::strategic(live, body, kind)?,
        ("json", Some(live)) => patch::json(live, body.to_string().as_bytes())?,
        (op, _) => panic!("{op} on nothing"),
    };
    keep_reset(&mut object);
    decoded(gvk, &mut object);
    if text(step, "op") == "apply" {
        if let Some(live) = live {
            keep_times_if_unchanged(live, &mut object);
        }
    } else {
        update_managed_fields(live, &mut object, &writer);
    }
    match live {
        None => strategy::prepare_for_create(gvk, &mut object),
        Some(live) => strategy::prepare_for_update(gvk, &mut object, live, subresource),
    }
    object["metadata"]["uid"] = "0".into();
    object["metadata"]["namespace"] = "cases".into();
    object["metadata"]["resourceVersion"] = "1".into();
    let errors = match live {
        None => validation::create(gvk, true, &object),
        Some(live) => validation::update(gvk, true, &object, live, subresource),
    };
    if errors.is_empty() {
        Ok(object)
    } else {
        let name = text(&object["metadata"], "name");
        Err(ApiError::invalid(&gvk.group, &gvk.kind, name, &errors))
    }
}

/// What of an object is recorded.
fn recorded(object: &Value, expected: &Value) -> Value {
    let mut object = object.clone();
    let mut fields = take_managed_fields(&mut object).unwrap_or(json!([]));
    for entry in fields.as_array_mut().into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("time");
        }
    }
    let sort = |fields: &mut Value| {
        if let Some(entries) = fields.as_array_mut() {
            entries.sort_by_key(ToString::to_string);
        }
    };
    sort(&mut fields);
    let mut result = json!({"managedFields": fields});
    if expected.get("object").is_some() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for key in ["uid", "namespace", "resourceVersion"] {
                metadata.remove(key);
            }
        }
        result["object"] = object;
    }
    result
}

#[test]
fn writes_are_answered_as_the_real_server_answers_them() {
    let cases: Value = serde_json::from_str(include_str!("cases.json")).expect("a table of cases");
    let mut wrong = Vec::new();
    for case in cases.as_array().expect("a list") {
        let mut live: Option<Value> = None;
        let mut gvk = Gvk::default();
        for (number, step) in case["steps"].as_array().expect("a list").iter().enumerate() {
            let body = &step["body"];
            if body.get("kind").is_some() {
                let named = Gvk::from_api_version(text(body, "apiVersion"), text(body, "kind"));
                if named != gvk {
                    live = None;
                    gvk = named;
                }
            }
            let expected = &step["expect"];
            let got = match write(step, &gvk, live.as_ref()) {
                Ok(object) => {
                    let got = recorded(&object, expected);
                    live = Some(object);
                    got
                }
                Err(error) => json!({
                    "code": error.code.as_u16(),
                    "message": error.message,
                    "causes": error.causes.iter()
                        .map(|cause| format!("{}: {}", cause.field, cause.message))
                        .collect::<Vec<_>>(),
                }),
            };
            let mut expected = expected.clone();
            if let Some(entries) = expected["managedFields"].as_array_mut() {
                entries.sort_by_key(ToString::to_string);
            } else if let Some(expected) = expected.as_object_mut() {
                expected.remove("managedFields");
            }
            if got != expected {
                wrong.push(format!(
                    "{} step {number} {}\n  expected {expected}\n  got      {got}",
                    case["name"], step["body"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_patch_error_keeps_its_words() {
    let error = ApiError::from(PatchError::Rejected("words".to_owned()));
    assert_eq!(
        (error.code.as_u16(), error.message.as_str()),
        (500, "words")
    );
}
