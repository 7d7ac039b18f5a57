//! Small steps on JSON objects. A member of the wrong type counts as absent and is left alone:
//! types are checked before.

use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// The member, if it is an object.
pub(crate) fn child<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    object.get_mut(key)?.as_object_mut()
}

/// The member, made an empty object where it is absent.
pub(crate) fn child_or_new<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    if missing(object, key) {
        object.insert(key.to_owned(), Value::Object(Map::new()));
    }
    child(object, key)
}

/// The objects in a list member.
pub(crate) fn items<'a>(
    object: &'a mut Object,
    key: &str,
) -> impl Iterator<Item = &'a mut Object> + use<'a> {
    object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// True where the member is absent or null.
pub(crate) fn missing(object: &Object, key: &str) -> bool {
    object.get(key).is_none_or(Value::is_null)
}

/// The text of a member; empty where it has none.
pub(crate) fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a member that is absent.
pub(crate) fn set_missing(object: &mut Object, key: &str, value: impl Into<Value>) {
    if missing(object, key) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets a text that is absent or empty.
pub(crate) fn set_text(object: &mut Object, key: &str, value: &str) {
    if matches!(object.get(key), None | Some(Value::Null))
        || object.get(key).and_then(Value::as_str) == Some("")
    {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets a number that is absent or zero.
pub(crate) fn set_number(object: &mut Object, key: &str, value: i64) {
    if matches!(object.get(key), None | Some(Value::Null))
        || object.get(key).and_then(Value::as_i64) == Some(0)
    {
        object.insert(key.to_owned(), value.into());
    }
}

/// True where a list or object member is absent or empty.
pub(crate) fn empty(object: &Object, key: &str) -> bool {
    match object.get(key) {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Null) | None => true,
        Some(_) => false,
    }
}
