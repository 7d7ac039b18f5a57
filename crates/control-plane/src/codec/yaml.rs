//! YAML to JSON as sigs.k8s.io/yaml does it on top of go-yaml 2: YAML 1.1 scalars (`yes` is true,
//! `0644` is octal), keys become strings, merge keys are applied in the order they stand in, only
//! duplicate keys are worth a complaint.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::libyaml::{Event, Parser};
use super::{DecodeError, MAX_DEPTH};

/// Nodes that aliases may add up to before a document counts as an attack.
const MAX_ALIASED: usize = 400_000;

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    pub(super) value: Value,
    /// What stands twice: `line 2: key "a" already set in map`.
    pub(super) duplicates: Vec<String>,
}

/// All documents of a text; `first` stops after one.
pub(super) fn documents(text: &[u8], first: bool) -> Result<Vec<Document>, DecodeError> {
    let mut builder = Builder {
        parser: Parser::new(text),
        anchors: HashMap::new(),
        duplicates: Vec::new(),
        aliased: 0,
    };
    let mut documents = Vec::new();
    loop {
        match builder.next()?.0 {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart => {
                builder.anchors.clear();
                let (event, line) = builder.next()?;
                let value = builder.node(event, line, 0)?;
                documents.push(Document {
                    value: value.into_json()?,
                    duplicates: std::mem::take(&mut builder.duplicates),
                });
                if first {
                    return Ok(documents);
                }
            }
            _ => {}
        }
    }
}

fn malformed(words: impl std::fmt::Display) -> DecodeError {
    DecodeError::Malformed(format!("yaml: {words}"))
}

/// A node: JSON, or a number that JSON does not have.
#[derive(Debug, Clone)]
enum Node {
    Json(Value),
    NotFinite(f64),
}

impl Node {
    fn into_json(self) -> Result<Value, DecodeError> {
        match self {
            Self::Json(value) => Ok(value),
            Self::NotFinite(number) => {
                let word = match number {
                    number if number.is_nan() => "NaN",
                    number if number > 0.0 => "+Inf",
                    _ => "-Inf",
                };
                Err(DecodeError::Malformed(format!(
                    "json: unsupported value: {word}"
                )))
            }
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a>,
    anchors: HashMap<String, Option<Value>>,
    duplicates: Vec<String>,
    aliased: usize,
}

impl Builder<'_> {
    /// The next event and the line it starts in, counted from 1.
    fn next(&mut self) -> Result<(Event, u64), DecodeError> {
        self.parser.next().map_err(|problem| match problem.line {
            None => malformed(problem.words),
            Some(line) => malformed(format_args!("line {line}: {}", problem.words)),
        })
    }

    fn node(&mut self, event: Event, line: u64, depth: usize) -> Result<Node, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(malformed("exceeded max depth"));
        }
        match event {
            Event::Alias(anchor) => self.alias(&anchor).map(Node::Json),
            Event::Scalar {
                anchor,
                tag,
                value,
                plain,
            } => {
                let node = scalar(tag.as_deref(), value, plain)?;
                if let (Some(anchor), Node::Json(value)) = (anchor, &node) {
                    self.anchors.insert(anchor, Some(value.clone()));
                }
                Ok(node)
            }
            Event::SequenceStart { anchor } => {
                self.open(anchor.as_ref());
                let mut items = Vec::new();
                loop {
                    let (event, line) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(event, line, depth + 1)?.into_json()?);
                }
                Ok(self.close(anchor, Value::Array(items)))
            }
            Event::MappingStart { anchor } => {
                self.open(anchor.as_ref());
                let members = self.mapping(depth)?;
                Ok(self.close(anchor, Value::Object(members)))
            }
            _ => Err(malformed(format_args!(
                "line {line}: did not find expected node content"
            ))),
        }
    }

    /// A name whose value is not known yet: an alias in it would contain itself.
    fn open(&mut self, anchor: Option<&String>) {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor.clone(), None);
        }
    }

    fn close(&mut self, anchor: Option<String>, value: Value) -> Node {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, Some(value.clone()));
        }
        Node::Json(value)
    }

    fn alias(&mut self, anchor: &str) -> Result<Value, DecodeError> {
        match self.anchors.get(anchor) {
            None => Err(malformed(format_args!(
                "unknown anchor '{anchor}' referenced"
            ))),
            Some(None) => Err(malformed(format_args!(
                "anchor '{anchor}' value contains itself"
            ))),
            Some(Some(value)) => {
                self.aliased += size(value);
                if self.aliased > MAX_ALIASED {
                    return Err(malformed("document contains excessive aliasing"));
                }
                Ok(value.clone())
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Map<String, Value>, DecodeError> {
        let mut members = Map::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(members);
            }
            let merge = matches!(&event, Event::Scalar { value, plain: true, .. } if value == "<<");
            let key = self.node(event, line, depth + 1)?;
            let (event, line) = self.next()?;
            let value = self.node(event, line, depth + 1)?.into_json()?;
            if merge {
                self.merge(&mut members, value, line)?;
            } else {
                self.set(&mut members, key, value, line)?;
            }
        }
    }

    fn merge(
        &mut self,
        members: &mut Map<String, Value>,
        value: Value,
        line: u64,
    ) -> Result<(), DecodeError> {
        let wanted = || malformed("map merge requires map or sequence of maps as the value");
        match value {
            Value::Object(merged) => {
                for (key, value) in merged {
                    self.set(members, Node::Json(Value::String(key)), value, line)?;
                }
                Ok(())
            }
            // The first of a list has the last word.
            Value::Array(items) => items.into_iter().rev().try_for_each(|item| match item {
                Value::Object(_) => self.merge(members, item, line),
                _ => Err(wanted()),
            }),
            _ => Err(wanted()),
        }
    }

    fn set(
        &mut self,
        members: &mut Map<String, Value>,
        key: Node,
        value: Value,
        line: u64,
    ) -> Result<(), DecodeError> {
        let (shown, key) = match key {
            Node::NotFinite(number) => {
                let word = match number {
                    number if number.is_nan() => ".nan",
                    number if number > 0.0 => ".inf",
                    _ => "-.inf",
                };
                (word.to_owned(), word.to_owned())
            }
            Node::Json(Value::String(text)) => (Value::from(text.as_str()).to_string(), text),
            Node::Json(key @ (Value::Number(_) | Value::Bool(_))) => {
                (key.to_string(), key.to_string())
            }
            Node::Json(Value::Null) => {
                return Err(DecodeError::Malformed(
                    "unsupported map key of type: %!s(<nil>)".to_owned(),
                ));
            }
            Node::Json(_) => return Err(malformed("invalid map key")),
        };
        if members.insert(key, value).is_some() {
            self.duplicates
                .push(format!("line {line}: key {shown} already set in map"));
        }
        Ok(())
    }
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum::<usize>(),
        _ => 0,
    }
}

fn scalar(tag: Option<&str>, text: String, plain: bool) -> Result<Node, DecodeError> {
    let short = tag.map(|tag| tag.strip_prefix("tag:yaml.org,2002:").unwrap_or(tag));
    let wanted = match short {
        None if plain => return Ok(resolve(text)),
        None | Some("str" | "!") => return Ok(Node::Json(Value::String(text))),
        Some("binary") => {
            use base64::Engine as _;
            let compact: String = text.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(compact)
                .map_err(|_| malformed("!!binary value contains invalid base64 data"))?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Ok(Node::Json(Value::String(text)));
        }
        Some(wanted @ ("int" | "float" | "bool" | "null")) => wanted,
        Some(_) => return Ok(Node::Json(Value::String(text))),
    };
    let node = resolve(text.clone());
    let found = match &node {
        Node::NotFinite(_) => "float",
        Node::Json(Value::Null) => "null",
        Node::Json(Value::Bool(_)) => "bool",
        Node::Json(Value::Number(number)) if !number.is_f64() => "int",
        Node::Json(Value::Number(_)) => "float",
        Node::Json(_) => "str",
    };
    // A whole number is a float too, and JSON writes both alike.
    let fits = found == wanted
        || wanted == "float" && found == "int"
        || found == "float" && wanted == "int";
    if fits {
        Ok(node)
    } else {
        Err(malformed(format_args!(
            "cannot decode !!{found} `{text}` as a !!{wanted}"
        )))
    }
}

/// What a plain scalar means.
fn resolve(text: String) -> Node {
    let value = match text.as_str() {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        ".nan" | ".NaN" | ".NAN" => return Node::NotFinite(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Node::NotFinite(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Node::NotFinite(f64::NEG_INFINITY),
        _ => match text.as_bytes()[0] {
            b'0'..=b'9' | b'+' | b'-' | b'.' => match number(&text) {
                Some(number) if number.is_finite() => number.value,
                Some(number) => return Node::NotFinite(number.float),
                None => Value::String(text),
            },
            _ => Value::String(text),
        },
    };
    Node::Json(value)
}

struct Number {
    value: Value,
    float: f64,
}

impl Number {
    fn is_finite(&self) -> bool {
        self.float.is_finite()
    }

    fn whole(value: impl Into<Value>) -> Self {
        Self {
            value: value.into(),
            float: 0.0,
        }
    }
}

fn number(text: &str) -> Option<Number> {
    let plain = text.replace('_', "");
    if !text.starts_with('.') {
        let (negative, digits) = match plain.as_bytes() {
            [b'-', ..] => (true, &plain[1..]),
            [b'+', ..] => (false, &plain[1..]),
            _ => (false, plain.as_str()),
        };
        let lower = digits.to_ascii_lowercase();
        let (digits, radix) = match lower.as_bytes() {
            [b'0', b'x', ..] => (&lower[2..], 16),
            [b'0', b'o', ..] => (&lower[2..], 8),
            [b'0', b'b', ..] => (&lower[2..], 2),
            [b'0', _, ..] => (&lower[1..], 8),
            _ => (lower.as_str(), 10),
        };
        let unsigned = Some(digits)
            .filter(|digits| !digits.starts_with(['+', '-']))
            .and_then(|digits| u64::from_str_radix(digits, radix).ok());
        match (unsigned, negative) {
            (Some(number), false) => return Some(Number::whole(number)),
            (Some(number), true) if number <= i64::MIN.unsigned_abs() => {
                return Some(Number::whole((number as i64).wrapping_neg()));
            }
            _ => {}
        }
    }
    if !looks_like_float(&plain) {
        return None;
    }
    let float: f64 = plain.parse().ok()?;
    Some(Number {
        value: super::protobuf::float(float),
        float,
    })
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn looks_like_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = digits(text);
    let mut rest = &text[whole..];
    if let Some(after) = rest.strip_prefix('.') {
        let fraction = digits(after);
        if whole + fraction == 0 {
            return false;
        }
        rest = &after[fraction..];
    } else if whole == 0 {
        return false;
    }
    match rest.strip_prefix(['e', 'E']) {
        None => rest.is_empty(),
        Some(power) => {
            let power = power.strip_prefix(['-', '+']).unwrap_or(power);
            !power.is_empty() && digits(power) == power.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        documents(text.as_bytes(), true)
            .map(|documents| {
                documents
                    .into_iter()
                    .next()
                    .map_or(Value::Null, |first| first.value)
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("\"yes\"", json!("yes")),
            ("!!str yes", json!("yes")),
            ("~", json!(null)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("09", json!(9)),
            ("1_000", json!(1000)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("1.50", json!(1.5)),
            (".5", json!(0.5)),
            (
                "18446744073709551615",
                json!(18_446_744_073_709_551_615_u64),
            ),
            ("1.2.3", json!("1.2.3")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("2026-01-02", json!("2026-01-02")),
            ("100m", json!("100m")),
            ("-", json!([null])),
            ("+", json!("+")),
            ("0x", json!("0x")),
        ] {
            assert_eq!(read(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let text = "a: &x {k: 1, l: 2}\nb: *x\nc:\n  <<: *x\n  k: 3\n";
        assert_eq!(
            read(text),
            Ok(json!({"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 2}, "c": {"k": 3, "l": 2}}))
        );
        assert_eq!(
            read("{<<: [{a: 1}, {a: 2, b: 2}]}"),
            Ok(json!({"a": 1, "b": 2}))
        );
        assert_eq!(
            read("{1: a, true: b, 1.5: c}"),
            Ok(json!({"1": "a", "true": "b", "1.5": "c"}))
        );
    }

    #[test]
    fn what_is_no_yaml_is_refused_in_the_words_of_the_server() {
        for (text, words) in [
            (
                "a: {b: c\nd: \"e",
                "yaml: line 1: did not find expected ',' or '}'",
            ),
            (
                "a:\n  b: c\n d: e",
                "yaml: line 2: did not find expected key",
            ),
            ("a: *b", "yaml: unknown anchor 'b' referenced"),
            ("a: &b [*b]", "yaml: anchor 'b' value contains itself"),
            ("a: .nan", "json: unsupported value: NaN"),
            (
                "\ta: b",
                "yaml: found character that cannot start any token",
            ),
        ] {
            assert_eq!(read(text), Err(words.to_owned()), "{text}");
        }
    }

    #[test]
    fn duplicates_are_found_and_the_last_one_wins() {
        let text = b"a: 1\nb: {c: 1, c: 2}\na: 3\n";
        let document = documents(text, true).expect("valid").remove(0);
        assert_eq!(document.value, json!({"a": 3, "b": {"c": 2}}));
        assert_eq!(
            document.duplicates,
            [
                "line 2: key \"c\" already set in map",
                "line 3: key \"a\" already set in map"
            ]
        );
    }

    #[test]
    fn attacks_are_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..20 {
            let before = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                [before.as_str(); 9].join(",")
            ));
        }
        assert_eq!(
            read(&bomb),
            Err("yaml: document contains excessive aliasing".to_owned())
        );
        assert!(read(&"[".repeat(5000)).is_err());
        assert!(read(&"- ".repeat(5000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = documents(&bytes, false);
        }

        #[test]
        fn no_yaml_like_text_panics(text in "[-a-c: \\n\\[\\]{}&*<!|>'\"#%@0-9.,?~]{0,60}") {
            let _ = documents(text.as_bytes(), false);
        }

        #[test]
        fn json_is_yaml(text in "[a-z ]{0,12}", number: i64, flag: bool) {
            let value = json!({"text": text, "number": number, "list": [flag, null]});
            proptest::prop_assert_eq!(read(&value.to_string()), Ok(value));
        }
    }
}
