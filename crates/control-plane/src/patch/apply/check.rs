//! An applied configuration must fit the schema before it is merged.

use serde_json::Value;

use super::fieldset::FieldSet;
use super::shape::Shape;
use crate::patch::gofmt::{go_type, go_value};
use crate::schema::{Kind, Special, TypeId, schema};

const NUMERIC: &str = "numeric (int or float)";

/// What is wrong with the configuration, as the real server words it; empty where nothing is.
pub(super) fn problems(applied: &Value, kind: Option<TypeId>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(id) = kind {
        structure(applied, id, "", &mut problems);
    }
    problems
}

fn structure(value: &Value, id: TypeId, path: &str, problems: &mut Vec<String>) {
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return,
        other => {
            problems.push(expected("map", other, path));
            return;
        }
    };
    for (key, value) in map {
        let path = format!("{path}.{key}");
        match schema().get(id).field(key) {
            Some(field) => {
                let shape = Shape::Struct(id).member(key).0;
                any(value, field.kind, shape, &path, problems);
            }
            None => problems.push(format!("{path}: field not declared in schema")),
        }
    }
}

fn any(value: &Value, kind: Kind, shape: Shape, path: &str, problems: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match schema().resolve(kind) {
        Kind::String | Kind::Bytes => {
            if !value.is_string() {
                problems.push(expected("string", value, path));
            }
        }
        Kind::Bool => {
            if !value.is_boolean() {
                problems.push(expected("boolean", value, path));
            }
        }
        Kind::Int32 | Kind::Int64 | Kind::Float64 => {
            if !value.is_number() {
                problems.push(expected(NUMERIC, value, path));
            }
        }
        Kind::Named(id) => match schema().get(id).special() {
            None => structure(value, id, path, problems),
            Some(Special::Time | Special::MicroTime | Special::Duration) if !value.is_string() => {
                problems.push(expected("string", value, path));
            }
            Some(_) => {}
        },
        Kind::Map(kind) => match value {
            Value::Object(map) => {
                for (key, value) in map {
                    any(
                        value,
                        *kind,
                        Shape::of_kind(*kind),
                        &format!("{path}.{key}"),
                        problems,
                    );
                }
            }
            other => problems.push(expected("map", other, path)),
        },
        Kind::List(kind) => match value {
            Value::Array(items) => list(items, *kind, shape, path, problems),
            other => problems.push(expected("list", other, path)),
        },
    }
}

fn list(items: &[Value], kind: Kind, shape: Shape, path: &str, problems: &mut Vec<String>) {
    let mut seen: Vec<String> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let mut item_path = format!("{path}[{index}]");
        match (shape, shape.element(item)) {
            (Shape::Set | Shape::Keyed { .. }, Some(element)) => {
                let mut set = FieldSet::default();
                set.insert(&[&element]);
                let shown = set.paths().concat();
                if seen.contains(&element) {
                    problems.push(format!("{path}: duplicate entries for key {shown}"));
                }
                item_path = format!("{path}{shown}");
                seen.push(element);
            }
            (Shape::Keyed { keys, .. }, None) if item.is_object() => {
                problems.push(format!(
                    "{path}: element {index}: associative list with keys has an element that omits all key fields {} (and doesn't have default values for any key fields)",
                    quoted(keys)
                ));
                continue;
            }
            (Shape::Keyed { .. }, None) => {
                let what = if item.is_null() {
                    "may not have a null element"
                } else {
                    "may not have non-map elements"
                };
                problems.push(format!(
                    "{path}: element {index}: associative list with keys {what}"
                ));
                continue;
            }
            (Shape::Set, None) => {
                problems.push(format!(
                    "{path}: element {index}: associative list without keys has an element that's a map type"
                ));
                continue;
            }
            _ => {}
        }
        any(item, kind, Shape::of_kind(kind), &item_path, problems);
    }
}

/// `["name"]`, as Go prints a list of strings with `%q`.
fn quoted(keys: &[&str]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    format!("[{}]", keys.join(" "))
}

/// What was expected, and what was found in the form that Go prints it.
fn expected(what: &str, value: &Value, path: &str) -> String {
    let found = match what {
        "string" => format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value)),
        NUMERIC => go_type(value).to_owned(),
        _ => format!("&{{{}}}", go_value(value)),
    };
    format!("{path}: expected {what}, got {found}")
}

/// A value as Go source.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let members: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key:?}:{}", go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}
