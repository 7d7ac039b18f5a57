//! Values as Go's `%v` prints them, since messages of the real server contain them.

use std::fmt::Write as _;

use serde_json::Value;

/// `map[a:1 b:[x y]]`: what Go prints for a decoded JSON value with `%v`. Keys are sorted.
pub fn go_value(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("<nil>"),
        Value::String(string) => text.push_str(string),
        Value::Bool(_) | Value::Number(_) => {
            // Writing to a String cannot fail.
            let _ = write!(text, "{value}");
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push_str("map[");
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            for (index, (key, item)) in keys.into_iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(key);
                text.push(':');
                write_value(text, item);
            }
            text.push(']');
        }
    }
}

/// The name of the Go type that a JSON value is decoded to, as in "expected a … but received a …".
pub(in crate::patch) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The word of Go's decoder for the kind of a JSON value, as in `cannot unmarshal array into …`.
pub(super) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_go_prints_them() {
        assert_eq!(
            go_value(&json!({"b": [1, "x", null], "a": {"k": true}})),
            "map[a:map[k:true] b:[1 x <nil>]]"
        );
        assert_eq!(go_value(&json!({})), "map[]");
    }
}
