//! The rules against `cases.json`: wrong objects of our own making, and the words in which
//! kube-apiserver v1.34.4 refused each of them.

use serde_json::{Value, json};

use super::*;
use crate::defaults::{self, strategy};
use crate::schema::schema;

fn cases() -> Value {
    serde_json::from_str(include_str!("cases.json")).expect("a table of cases")
}

/// Sets members by JSON pointer, making the objects on the way.
fn with(base: &Value, changes: &Value) -> Value {
    let mut object = base.clone();
    for (pointer, value) in changes.as_object().expect("pointers") {
        let mut place = &mut object;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            place = match place {
                Value::Array(items) => {
                    let index: usize = token.parse().expect("an index");
                    &mut items[index]
                }
                other => &mut other[token.as_str()],
            };
        }
        *place = value.clone();
    }
    object
}

fn gvk_of(object: &Value) -> Gvk {
    Gvk::from_api_version(
        object["apiVersion"].as_str().expect("an apiVersion"),
        object["kind"].as_str().expect("a kind"),
    )
}

fn namespaced(gvk: &Gvk) -> bool {
    !matches!(
        gvk.kind.as_str(),
        "Namespace" | "Node" | "PriorityClass" | "ClusterRole"
    )
}

/// What the server has made of a body by the time it is validated.
fn prepared(mut object: Value) -> Value {
    let gvk = gvk_of(&object);
    if namespaced(&gvk) {
        object["metadata"]["namespace"] = "cases".into();
    }
    object["metadata"]["uid"] = "0".into();
    decoded(&gvk, &mut object);
    if gvk.kind == "Pod" {
        object["spec"]["serviceAccountName"] = json!("default");
    }
    strategy::prepare_for_create(&gvk, &mut object);
    if gvk.kind == "Service" && object["spec"]["type"] == "ClusterIP" {
        object["spec"]["clusterIP"] = json!("10.96.0.7");
        object["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    }
    object
}

fn decoded(gvk: &Gvk, object: &mut Value) {
    let kind = schema().type_of_gvk(gvk).expect("a known kind");
    crate::codec::coerce(object, kind).expect("an object of its kind");
    defaults::apply(gvk, object);
}

fn shown(errors: Vec<FieldError>) -> Vec<String> {
    let mut lines: Vec<String> = errors
        .iter()
        .map(|error| {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        })
        .collect();
    lines.sort();
    lines
}

fn compare(case: &Value, got: Vec<FieldError>, wrong: &mut Vec<String>) {
    let mut expected: Vec<String> = case["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|line| line.as_str().map(str::to_owned))
        .collect();
    expected.sort();
    let got = shown(got);
    if got != expected {
        wrong.push(format!(
            "{} {}\n  expected {expected:#?}\n  got {got:#?}",
            case["base"], case["set"]
        ));
    }
}

#[test]
fn new_objects_are_refused_as_the_real_server_refuses_them() {
    let table = cases();
    let mut wrong = Vec::new();
    for case in table["create"].as_array().expect("a list") {
        let base = &table["bases"][case["base"].as_str().expect("a name")];
        let object = prepared(with(base, &case["set"]));
        let gvk = gvk_of(&object);
        compare(case, create(&gvk, namespaced(&gvk), &object), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn changes_are_refused_as_the_real_server_refuses_them() {
    let table = cases();
    let mut wrong = Vec::new();
    for case in table["update"].as_array().expect("a list") {
        let base = &table["bases"][case["base"].as_str().expect("a name")];
        let mut old = prepared(base.clone());
        old["metadata"]["resourceVersion"] = "1".into();
        let gvk = gvk_of(&old);
        let subresource = case["subresource"].as_str().expect("a text");
        let mut new = with(&old, &case["set"]);
        decoded(&gvk, &mut new);
        strategy::prepare_for_update(&gvk, &mut new, &old, subresource);
        compare(
            case,
            update(&gvk, namespaced(&gvk), &new, &old, subresource),
            &mut wrong,
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
