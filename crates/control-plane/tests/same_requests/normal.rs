//! Takes out of an answer what differs between any two runs of the same server.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use testkit::Response;

/// An answer as it is compared: `status`, `headers`, `body`.
pub(crate) fn answer(response: &Response, known: &[(String, String)]) -> Value {
    let mut headers = Map::new();
    for name in ["content-type", "retry-after", "warning"] {
        let mut values: Vec<_> = response
            .header(name)
            .map(|value| text(value, known))
            .collect();
        if !values.is_empty() {
            values.sort();
            headers.insert(name.to_owned(), json!(values));
        }
    }
    let (mut objects, mut failed) = (Vec::new(), false);
    for value in serde_json::Deserializer::from_slice(&response.body).into_iter() {
        match value {
            Ok(value) => objects.push(value),
            Err(_) => failed = true,
        }
    }
    // A watch's answer is many objects, also where it is but one.
    let watch = objects
        .first()
        .is_some_and(|first: &Value| first.get("object").is_some() && first.get("type").is_some());
    let mut body = match objects.len() {
        _ if failed => json!(text(&String::from_utf8_lossy(&response.body), known)),
        0 => json!(""),
        1 if !watch => objects.remove(0),
        _ => Value::Array(objects),
    };
    normalise(&mut body, "", known);
    json!({"status": response.status, "headers": headers, "body": body})
}

/// What stands at a JSON pointer of the body, as text.
pub(crate) fn capture(response: &Response, at: &str) -> Option<String> {
    let mut values = serde_json::Deserializer::from_slice(&response.body).into_iter::<Value>();
    match values.next()?.ok()?.pointer(at)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn normalise(value: &mut Value, key: &str, known: &[(String, String)]) {
    match value {
        Value::String(string) => {
            if let Some(token) = token(string, known) {
                *value = token;
                return;
            }
            *string = match key {
                "resourceVersion" | "continue" | "storageVersionHash" | "hash"
                    if !string.is_empty() && string != "0" =>
                {
                    format!("<{key}>")
                }
                "gitVersion" | "gitCommit" | "buildDate" | "goVersion" | "platform"
                | "compiler" => {
                    format!("<{key}>")
                }
                "cells" if is_age(string) => "<age>".to_owned(),
                _ => text(string, known),
            };
        }
        Value::Number(_)
            if matches!(
                key,
                "nodePort" | "healthCheckNodePort" | "exp" | "iat" | "nbf" | "warnafter"
            ) =>
        {
            *value = json!(format!("<{key}>"));
        }
        Value::Array(items) => {
            items
                .iter_mut()
                .for_each(|item| normalise(item, key, known));
            if key == "managedFields" {
                // They are in the order of their times, which are whole seconds.
                items.sort_by_key(|item| {
                    ["manager", "operation", "subresource"]
                        .map(|key| item[key].as_str().unwrap_or_default().to_owned())
                });
            }
            if key == "nonResourceURLs" {
                // What a user may do has no order.
                items.sort_by_key(Value::to_string);
            }
            if key == "nonResourceRules" || key == "resourceRules" {
                items.sort_by_key(Value::to_string);
                items.dedup();
            }
            if key == "resources" || key == "subresources" {
                // Clients do not see an order here; that of groups and versions they do.
                items.sort_by_key(|item| {
                    ["resource", "name", "subresource"]
                        .map(|key| item[key].as_str().unwrap_or_default().to_owned())
                });
            }
        }
        Value::Object(map) => {
            if let (Some(Value::String(prefix)), Some(Value::String(name))) =
                (map.get("generateName"), map.get("name"))
                && name.len() == prefix.len() + 5
                && name.starts_with(prefix.as_str())
            {
                let name = format!("{prefix}<suffix>");
                map.insert("name".to_owned(), json!(name));
            }
            // Field sets hold UIDs in keys.
            *map = std::mem::take(map)
                .into_iter()
                .map(|(key, mut value)| {
                    normalise(&mut value, &key, known);
                    (text(&key, known), value)
                })
                .collect();
        }
        _ => {}
    }
}

/// Replaces times, UIDs, ports, random suffixes, and what earlier answers gave.
fn text(string: &str, known: &[(String, String)]) -> String {
    let mut out = string.to_owned();
    for (name, value) in known {
        // Revisions are short: "1" stands in too many places.
        if value.len() > 4 && !value.bytes().all(|byte| byte.is_ascii_digit()) {
            out = out.replace(value, &format!("<{name}>"));
        }
    }
    if out.starts_with("RBAC: allowed by ") {
        // Which of several bindings is found first is chance.
        out = "RBAC: allowed by <binding>".to_owned();
    }
    for (shape, placeholder) in SHAPES {
        out = replace_shape(&out, shape, placeholder);
    }
    if let Some((head, tail)) = out.split_once("resource version") {
        out = format!("{head}resource version{}", digits(tail));
    }
    let mut parts = out.split("resourceVersion");
    let first = parts.next().unwrap_or_default().to_owned();
    out = parts.fold(first, |done, part| {
        done + "resourceVersion" + &first_digits(part)
    });
    if let Some((head, _)) = out.split_once("?hash=") {
        out = format!("{head}?hash=<hash>");
    }
    if let Some(rest) = out.strip_prefix("10.96.")
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        out = "<cluster-ip>".to_owned();
    }
    out
}

/// `9` is a digit, `x` a hexadecimal one, `a` one of a random suffix; the rest stands for itself.
const SHAPES: &[(&str, &str)] = &[
    ("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "<uid>"),
    ("9999-99-99T99:99:99.999999Z", "<microtime>"),
    ("9999-99-99T99:99:99Z", "<time>"),
    (
        "X509SHA256=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "<certificate>",
    ),
    ("kube-api-access-aaaaa", "kube-api-access-<suffix>"),
    (":99999/TCP", ":<nodePort>/TCP"),
    ("127.0.0.1:99999", "<server>"),
    ("127.0.0.1:9999", "<server>"),
];

fn replace_shape(string: &str, shape: &str, placeholder: &str) -> String {
    let fits = |window: &str| {
        window
            .bytes()
            .zip(shape.bytes())
            .all(|(byte, shape)| match shape {
                b'9' => byte.is_ascii_digit(),
                b'x' if placeholder != "<microtime>" => byte.is_ascii_hexdigit(),
                b'a' if placeholder.ends_with("<suffix>") => byte.is_ascii_alphanumeric(),
                _ => byte == shape,
            })
    };
    let (mut out, mut rest) = (String::new(), string);
    while let Some(first) = rest.chars().next() {
        if let Some(window) = rest.get(..shape.len()).filter(|window| fits(window)) {
            out.push_str(placeholder);
            rest = &rest[window.len()..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn digits(string: &str) -> String {
    let mut out = String::new();
    for part in string.chars() {
        if !part.is_ascii_digit() {
            out.push(part);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

/// Replaces the number that follows at once, whatever the quotes around it.
fn first_digits(string: &str) -> String {
    let start = string
        .find(|part: char| !r#"\": "#.contains(part))
        .unwrap_or(0);
    let end = string[start..]
        .find(|part: char| !part.is_ascii_digit())
        .map_or(string.len(), |end| start + end);
    if start == end {
        string.to_owned()
    } else {
        format!("{}#{}", &string[..start], &string[end..])
    }
}

fn is_age(cell: &str) -> bool {
    let units = cell.bytes().filter(|byte| b"smhdy".contains(byte)).count();
    let numbers = cell.bytes().filter(u8::is_ascii_digit).count();
    units > 0
        && numbers > 0
        && units + numbers == cell.len()
        && cell.starts_with(|first: char| first.is_ascii_digit())
}

/// What a JSON web token says; who signs it, and with which key, is the server's own affair.
fn token(string: &str, known: &[(String, String)]) -> Option<Value> {
    let mut parts = string.split('.');
    let (_, claims, _) = (
        parts.next().filter(|head| head.starts_with("eyJ"))?,
        parts.next()?,
        parts.next()?,
    );
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    normalise(&mut claims, "", known);
    Some(json!({"token": claims}))
}
