//! JSON patch (RFC 6902), with the freedoms that the real server takes: `replace` of a missing
//! member adds it, an operation without `value` means `null`, negative indices count from the end.

use serde::Deserialize;
use serde_json::Value;

use super::gofmt::json_kind;
use super::{MAX_OPERATIONS, PatchError};

#[derive(Debug, Deserialize)]
struct Operation {
    #[serde(default)]
    op: String,
    path: Option<String>,
    #[serde(default)]
    from: String,
    #[serde(default)]
    value: Value,
}

/// The document with the operations of `patch` applied in order; the document stays as it was
/// when one of them fails.
///
/// # Errors
/// [`PatchError::Malformed`] where `patch` is not a list of operations,
/// [`PatchError::Unfit`] where one of them fails, [`PatchError::TooManyOperations`].
pub fn json(document: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations = parse(patch)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut result = document.clone();
    for operation in operations {
        perform(&mut result, operation).map_err(PatchError::Unfit)?;
    }
    Ok(result)
}

fn parse(patch: &[u8]) -> Result<Vec<Operation>, PatchError> {
    let malformed = |words: String| PatchError::Malformed(format!("error decoding patch: {words}"));
    let value = crate::codec::json(patch).map_err(|error| malformed(error.to_string()))?;
    let Value::Array(items) = value else {
        return Err(malformed(format!(
            "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            json_kind(&value)
        )));
    };
    items
        .into_iter()
        .map(|item| {
            if !item.is_object() {
                return Err(malformed(format!(
                    "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                    json_kind(&item)
                )));
            }
            for field in ["op", "path", "from"] {
                match item.get(field) {
                    None | Some(Value::String(_) | Value::Null) => {}
                    Some(other) => {
                        return Err(malformed(format!(
                            "json: cannot unmarshal {} into Go struct field jsonPatchOp.{field} of type string",
                            json_kind(other)
                        )));
                    }
                }
            }
            Operation::deserialize(item).map_err(|error| malformed(error.to_string()))
        })
        .collect()
}

fn perform(document: &mut Value, operation: Operation) -> Result<(), String> {
    let Operation {
        op,
        path,
        from,
        value,
    } = operation;
    let path = path.ok_or("an operation has no path")?;
    let path = Pointer::parse(&path)?;
    match op.as_str() {
        "add" => add(document, &path, value),
        "replace" => replace(document, &path, value),
        "remove" => remove(document, &path).map(drop),
        "move" => {
            let value = remove(document, &Pointer::parse(&from)?)?;
            add(document, &path, value)
        }
        "copy" => {
            let value = find(document, &Pointer::parse(&from)?)?.clone();
            add(document, &path, value)
        }
        "test" => {
            let found = find(document, &path)?;
            if equal(found, &value) {
                Ok(())
            } else {
                Err(format!("testing {} failed", path.text))
            }
        }
        other => Err(format!("{other:?} is no operation")),
    }
}

/// A JSON pointer (RFC 6901), split and unescaped.
struct Pointer {
    text: String,
    tokens: Vec<String>,
}

impl Pointer {
    fn parse(text: &str) -> Result<Self, String> {
        let tokens = match text.strip_prefix('/') {
            Some(rest) => rest
                .split('/')
                .map(|token| token.replace("~1", "/").replace("~0", "~"))
                .collect(),
            None if text.is_empty() => Vec::new(),
            None => return Err(format!("path {text:?} does not begin with a slash")),
        };
        Ok(Self {
            text: text.to_owned(),
            tokens,
        })
    }

    fn missing(&self) -> String {
        format!("there is nothing at {}", self.text)
    }
}

/// The place of an item in a list of `length` places; negative numbers count from the end.
fn place(token: &str, length: usize) -> Option<usize> {
    let index: i64 = token.parse().ok()?;
    let index = if index < 0 {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    (index < length).then_some(index)
}

fn child<'a>(value: &'a mut Value, token: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(token),
        Value::Array(items) => {
            let index = place(token, items.len())?;
            items.get_mut(index)
        }
        _ => None,
    }
}

fn find<'a>(document: &'a mut Value, path: &Pointer) -> Result<&'a mut Value, String> {
    path.tokens
        .iter()
        .try_fold(document, |value, token| child(value, token))
        .ok_or_else(|| path.missing())
}

/// The container that the last token names a place in, and that token.
fn parent<'a, 'p>(
    document: &'a mut Value,
    path: &'p Pointer,
) -> Result<Option<(&'a mut Value, &'p str)>, String> {
    let Some((last, front)) = path.tokens.split_last() else {
        return Ok(None);
    };
    front
        .iter()
        .try_fold(document, |value, token| child(value, token))
        .map(|value| Some((value, last.as_str())))
        .ok_or_else(|| path.missing())
}

fn add(document: &mut Value, path: &Pointer, value: Value) -> Result<(), String> {
    let Some((container, token)) = parent(document, path)? else {
        *document = value;
        return Ok(());
    };
    match container {
        Value::Object(map) => {
            map.insert(token.to_owned(), value);
            Ok(())
        }
        Value::Array(items) => {
            let index = if token == "-" {
                items.len()
            } else {
                place(token, items.len() + 1).ok_or_else(|| path.missing())?
            };
            items.insert(index, value);
            Ok(())
        }
        _ => Err(path.missing()),
    }
}

fn replace(document: &mut Value, path: &Pointer, value: Value) -> Result<(), String> {
    let Some((container, token)) = parent(document, path)? else {
        *document = value;
        return Ok(());
    };
    match container {
        Value::Object(map) => {
            map.insert(token.to_owned(), value);
            Ok(())
        }
        Value::Array(items) => {
            let index = place(token, items.len()).ok_or_else(|| path.missing())?;
            items[index] = value;
            Ok(())
        }
        _ => Err(path.missing()),
    }
}

fn remove(document: &mut Value, path: &Pointer) -> Result<Value, String> {
    let (container, token) =
        parent(document, path)?.ok_or("the whole document cannot be removed")?;
    match container {
        Value::Object(map) => map.remove(token).ok_or_else(|| path.missing()),
        Value::Array(items) => {
            let index = place(token, items.len()).ok_or_else(|| path.missing())?;
            Ok(items.remove(index))
        }
        _ => Err(path.missing()),
    }
}

/// Equality of JSON values: numbers by value, so that `1` and `1.0` are equal.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right || left.as_f64() == right.as_f64()
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| equal(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, l)| right.get(key).is_some_and(|r| equal(l, r)))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json as value;

    use super::*;
    use crate::patch::testing::any_json;
    use crate::status::ApiError;

    fn apply(document: Value, patch: Value) -> Result<Value, PatchError> {
        json(&document, patch.to_string().as_bytes())
    }

    #[test]
    fn operations_change_members_and_items() {
        for (document, patch, expected) in [
            (value!({}), value!([]), value!({})),
            (
                value!({"a": 1}),
                value!([{"op": "add", "path": "/b", "value": 2}]),
                value!({"a": 1, "b": 2}),
            ),
            (
                value!({"a": 1}),
                value!([{"op": "replace", "path": "/b", "value": 2}]),
                value!({"a": 1, "b": 2}),
            ),
            (
                value!({"a": [1, 2]}),
                value!([{"op": "add", "path": "/a/-", "value": 3}]),
                value!({"a": [1, 2, 3]}),
            ),
            (
                value!({"a": [1, 2]}),
                value!([{"op": "add", "path": "/a/-1", "value": 3}]),
                value!({"a": [1, 2, 3]}),
            ),
            (
                value!({"a": [1, 2]}),
                value!([{"op": "remove", "path": "/a/-1"}]),
                value!({"a": [1]}),
            ),
            (
                value!({"a": [1, 2]}),
                value!([{"op": "add", "path": "/a/0", "value": 0}]),
                value!({"a": [0, 1, 2]}),
            ),
            (
                value!({"a": {"b": 1}}),
                value!([{"op": "move", "from": "/a/b", "path": "/c"}]),
                value!({"a": {}, "c": 1}),
            ),
            (
                value!({"a": {"b": 1}}),
                value!([{"op": "copy", "from": "/a", "path": "/c"}]),
                value!({"a": {"b": 1}, "c": {"b": 1}}),
            ),
            (
                value!({"a/b": 1, "m~n": 2}),
                value!([{"op": "remove", "path": "/a~1b"}, {"op": "test", "path": "/m~0n", "value": 2.0}]),
                value!({"m~n": 2}),
            ),
            (
                value!({"a": 1}),
                value!([{"op": "add", "path": "/b"}]),
                value!({"a": 1, "b": null}),
            ),
            (
                value!({"a": 1}),
                value!([{"op": "replace", "path": "", "value": {}}]),
                value!({}),
            ),
        ] {
            assert_eq!(apply(document, patch.clone()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn what_does_not_fit_is_422_without_details() {
        for operation in [
            value!({"op": "test", "path": "/a", "value": 2}),
            value!({"op": "test", "path": "/none", "value": null}),
            value!({"op": "remove", "path": "/none"}),
            value!({"op": "frob", "path": "/a"}),
            value!({"op": "add", "value": 1}),
            value!({"op": "add", "path": "a", "value": 1}),
            value!({"op": "add", "path": "/none/x/y", "value": 1}),
            value!({"op": "add", "path": "/list/7", "value": 1}),
            value!({"op": "replace", "path": "/list/1", "value": 1}),
            value!({"op": "remove", "path": "/list/-2"}),
            value!({"op": "move", "from": "/none", "path": "/b"}),
        ] {
            let document = value!({"a": 1, "list": [0]});
            let error = apply(document, value!([operation])).expect_err("fits");
            assert!(
                matches!(error, PatchError::Unfit(_)),
                "{operation}: {error}"
            );
            let error = ApiError::from(error);
            assert_eq!(error.code.as_u16(), 422);
            assert_eq!(
                error.message,
                "the server rejected our request due to an error in our request"
            );
        }
    }

    #[test]
    fn what_is_no_patch_is_400() {
        for (body, words) in [
            ("{", "error decoding patch: unexpected end of JSON input"),
            (
                "{}",
                "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
            ),
            (
                "[1]",
                "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp",
            ),
        ] {
            let error = json(&value!({}), body.as_bytes()).expect_err(body);
            assert_eq!(error, PatchError::Malformed(words.to_owned()));
        }
    }

    #[test]
    fn too_many_operations_are_refused() {
        let patch = vec![value!({"op": "test", "path": "", "value": {}}); MAX_OPERATIONS + 1];
        assert_eq!(
            apply(value!({}), Value::Array(patch)),
            Err(PatchError::TooManyOperations(MAX_OPERATIONS + 1))
        );
    }

    proptest! {
        #[test]
        fn what_was_added_tests_true_and_can_be_removed(document in any_json(), key in "[a-d~/]{0,3}", item in any_json()) {
            prop_assume!(document.is_object());
            let path = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            let added = apply(document.clone(), value!([
                {"op": "add", "path": path, "value": item},
                {"op": "test", "path": path, "value": item},
            ])).expect("adds");
            let removed = apply(added, value!([{"op": "remove", "path": path}])).expect("removes");
            let mut expected = document;
            expected.as_object_mut().expect("an object").remove(&key);
            prop_assert_eq!(removed, expected);
        }

        #[test]
        fn any_body_ends_in_an_answer(document in any_json(), patch in any_json()) {
            let _ = apply(document.clone(), patch.clone());
            let _ = apply(document, value!([{"op": "add", "path": "/a/0/b", "value": patch}]));
        }
    }
}
