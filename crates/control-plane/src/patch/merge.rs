//! JSON merge patch (RFC 7386).

use serde_json::{Map, Value};

use super::PatchError;
use super::gofmt::json_kind;

/// Parses the body of a merge patch, which must be an object.
///
/// # Errors
/// [`PatchError::Malformed`] with the message of the real server.
pub fn parse_merge(body: &[u8]) -> Result<Value, PatchError> {
    parse_object(body, "error decoding patch: ")
}

/// Parses a patch that must be an object; `prefix` stands before the message.
pub(super) fn parse_object(body: &[u8], prefix: &str) -> Result<Value, PatchError> {
    match crate::codec::json(body) {
        // The real decoder takes `null` for an empty map.
        Ok(Value::Null) => Ok(Value::Object(Map::new())),
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => Err(PatchError::Malformed(format!(
            "{prefix}json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            json_kind(&other)
        ))),
        Err(error) => Err(PatchError::Malformed(format!("{prefix}{error}"))),
    }
}

/// The document with the patch applied: `null` removes, objects merge, all else replaces.
pub fn merge(document: &Value, patch: &Value) -> Value {
    let mut result = document.clone();
    merge_into(&mut result, patch);
    result
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge_into(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::testing::any_json;

    // The examples of RFC 7386, appendix A.
    #[test]
    fn the_examples_of_the_standard_hold() {
        for (document, patch, expected) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            assert_eq!(merge(&document, &patch), expected, "{document} + {patch}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_in_the_words_of_the_server() {
        for (body, words) in [
            (
                "[]",
                "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
            ("{", "error decoding patch: unexpected end of JSON input"),
        ] {
            let error = parse_merge(body.as_bytes()).expect_err(body);
            assert_eq!(error.to_string(), words);
        }
    }

    proptest! {
        #[test]
        fn twice_is_once(document in any_json(), patch in any_json()) {
            let once = merge(&document, &patch);
            prop_assert_eq!(merge(&once, &patch), once);
        }

        #[test]
        fn an_empty_patch_changes_no_object(document in any_json()) {
            prop_assume!(document.is_object());
            prop_assert_eq!(merge(&document, &json!({})), document);
        }
    }
}
