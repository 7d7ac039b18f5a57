//! JSON patch (RFC 6902), with the freedoms that the real server takes: `replace` of a missing
//! member adds it, an operation without `value` means `null`, negative indices count from the end.

use serde::Deserialize;
use serde_json::Value;

use super::gofmt::json_kind;
use super::{MAX_COPIED, MAX_OPERATIONS, PatchError};
use crate::codec::MAX_DEPTH;

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
    let mut limits = Limits {
        copied: 0,
        deepest: depth(&result),
    };
    for operation in operations {
        perform(&mut result, operation, &mut limits).map_err(PatchError::Unfit)?;
    }
    Ok(result)
}

/// What a patch has used up of what it may. Operations can make a document far larger and deeper than the patch is.
struct Limits {
    /// Bytes of JSON that `copy` has added.
    copied: usize,
    /// The document is nowhere deeper than this.
    deepest: usize,
}

impl Limits {
    fn copy(&mut self, value: &Value) -> Result<(), String> {
        self.copied = self.copied.saturating_add(json_size(value));
        if self.copied > MAX_COPIED {
            return Err(format!(
                "copies of {} bytes, of {MAX_COPIED} that are allowed",
                self.copied
            ));
        }
        Ok(())
    }

    /// Takes note of a value at `path` that is `levels` deep.
    fn place(&mut self, path: &Pointer, levels: usize) -> Result<(), String> {
        let deep = path.tokens.len() + levels;
        if deep > MAX_DEPTH {
            return Err(format!("{} would be nested too deeply", path.text));
        }
        self.deepest = self.deepest.max(deep);
        Ok(())
    }

    /// Takes note of a value that was at `from`. To look at it costs time, so that is done only where it could be
    /// too deep.
    fn place_moved(&mut self, path: &Pointer, from: &Pointer, value: &Value) -> Result<(), String> {
        let bound = self.deepest.saturating_sub(from.tokens.len());
        if path.tokens.len() + bound > MAX_DEPTH {
            return self.place(path, depth(value));
        }
        self.place(path, bound)
    }
}

/// How many levels of objects and lists there are: none in a number, one in `{}`.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The length of a value as JSON.
fn json_size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
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

fn perform(document: &mut Value, operation: Operation, limits: &mut Limits) -> Result<(), String> {
    let Operation {
        op,
        path,
        from,
        value,
    } = operation;
    let path = path.ok_or("an operation has no path")?;
    let path = Pointer::parse(&path)?;
    match op.as_str() {
        "add" => {
            limits.place(&path, depth(&value))?;
            add(document, &path, value)
        }
        "replace" => {
            limits.place(&path, depth(&value))?;
            replace(document, &path, value)
        }
        "remove" => remove(document, &path).map(drop),
        "move" => {
            let from = Pointer::parse(&from)?;
            let value = remove(document, &from)?;
            limits.place_moved(&path, &from, &value)?;
            add(document, &path, value)
        }
        "copy" => {
            let value = find(document, &Pointer::parse(&from)?)?;
            limits.copy(value)?;
            limits.place(&path, depth(value))?;
            let value = value.clone();
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

    /// Refused, and neither the answer nor the refusal overflows the stack of a thread of the server.
    fn is_unfit(patch: Vec<Value>, words: &'static str) {
        let small = std::thread::Builder::new().stack_size(1 << 20);
        let thread = small.spawn(move || match apply(value!({}), Value::Array(patch)) {
            Err(PatchError::Unfit(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{:?} is no refusal", other.map(|result| depth(&result))),
        });
        thread.expect("a thread").join().expect("no overflow");
    }

    #[test]
    fn what_nests_again_and_again_is_refused() {
        const DEEP: &str = "nested too deeply";
        is_unfit(
            vec![value!({"op": "copy", "from": "", "path": "/a"}); MAX_OPERATIONS],
            DEEP,
        );
        // Without a copy.
        let wrap = [
            value!({"op": "add", "path": "/b", "value": {}}),
            value!({"op": "move", "from": "/a", "path": "/b/c"}),
            value!({"op": "move", "from": "/b", "path": "/a"}),
        ];
        let mut patch = vec![value!({"op": "add", "path": "/a", "value": {}})];
        patch.extend(wrap.iter().cycle().take(9_999).cloned());
        is_unfit(patch, DEEP);
        let mut deep = value!(1);
        for _ in 0..100 {
            deep = value!({"a": deep});
        }
        is_unfit(
            vec![
                value!({"op": "add", "path": "/a", "value": deep}),
                value!({"op": "replace", "path": "/a".repeat(100), "value": deep}),
            ],
            DEEP,
        );
    }

    #[test]
    fn moves_to_and_fro_nest_nothing() {
        let moves = [
            value!({"op": "move", "from": "/a", "path": "/b/c"}),
            value!({"op": "move", "from": "/b/c", "path": "/a"}),
        ];
        let document = value!({"a": {"x": [1]}, "b": {}});
        let patch = moves.iter().cycle().take(MAX_OPERATIONS).cloned().collect();
        assert_eq!(apply(document.clone(), Value::Array(patch)), Ok(document));
    }

    #[test]
    fn copies_have_a_budget() {
        let text = "x".repeat(MAX_COPIED / 4 - 2);
        let copy = value!({"op": "copy", "from": "/a", "path": "/b"});
        let document = value!({"a": text});
        let four = Value::Array(vec![copy.clone(); 4]);
        assert_eq!(
            apply(document.clone(), four),
            Ok(value!({"a": text, "b": text}))
        );
        let five = Value::Array(vec![copy; 5]);
        assert!(matches!(apply(document, five), Err(PatchError::Unfit(_))));
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
