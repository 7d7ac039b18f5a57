//! ConfigMaps and Secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::names;
use super::report::{IMMUTABLE, Path, Report, flag, map, text};

/// All values of a ConfigMap or Secret together.
const DATA_LIMIT: usize = 1024 * 1024;

pub(super) fn config_map(report: &mut Report, object: &Value) {
    let data = Path::root("data");
    let binary = object.get("binaryData");
    let mut size = 0;
    for (key, value) in map(object, "data") {
        report.problems(&data.key(key), key, names::config_key(key));
        if binary.is_some_and(|binary| binary.get(key).is_some()) {
            report.invalid(
                &data.key(key),
                key.as_str(),
                "duplicate of key present in binaryData",
            );
        }
        size += value.as_str().map_or(0, str::len);
    }
    let data = Path::root("binaryData");
    for (key, value) in map(object, "binaryData") {
        report.problems(&data.key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > DATA_LIMIT {
        report.too_long(&Path::root(""), DATA_LIMIT);
    }
}

pub(super) fn config_map_update(report: &mut Report, object: &Value, old: &Value) {
    immutable(report, object, old, &["data", "binaryData"]);
}

/// The length of bytes that stand in base64.
fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count()
}

fn immutable(report: &mut Report, object: &Value, old: &Value, fields: &[&str]) {
    const WORDS: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(object, "immutable") {
        report.forbidden(&Path::root("immutable"), WORDS);
    }
    for field in fields {
        if object.get(field) != old.get(field) {
            report.forbidden(&Path::root(field), WORDS);
        }
    }
}

pub(super) fn secret(report: &mut Report, object: &Value) {
    let data = Path::root("data");
    let mut size = 0;
    for (key, value) in map(object, "data") {
        report.problems(&data.key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > DATA_LIMIT {
        report.too_long(&data, DATA_LIMIT);
    }
    let has = |key: &str| object.get("data").and_then(|data| data.get(key));
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let name = object
                .get("metadata")
                .and_then(|metadata| metadata.get("annotations"))
                .map_or("", |annotations| text(annotations, ACCOUNT));
            if name.is_empty() {
                let metadata = Path::root("metadata");
                report.required(&metadata.child("annotations").key(ACCOUNT), "");
            }
        }
        "kubernetes.io/dockercfg" => json_member(report, has(".dockercfg"), ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => {
            json_member(report, has(".dockerconfigjson"), ".dockerconfigjson");
        }
        "kubernetes.io/basic-auth" if has("username").is_none() && has("password").is_none() => {
            report.required(&data.key("username"), "");
            report.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" => {
            let empty = has("ssh-privatekey")
                .and_then(Value::as_str)
                .is_none_or(str::is_empty);
            if empty {
                report.required(&data.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if has(key).is_none() {
                    report.required(&data.key(key), "");
                }
            }
        }
        _ => {}
    }
}

/// A value that must be a JSON object; what it holds is not told.
fn json_member(report: &mut Report, value: Option<&Value>, key: &str) {
    let data = Path::root("data");
    let Some(value) = value else {
        report.required(&data.key(key), "");
        return;
    };
    let bytes = STANDARD
        .decode(value.as_str().unwrap_or_default())
        .unwrap_or_default();
    let problem = match crate::codec::json(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(_) => "json: cannot unmarshal into Go value of type map[string]interface {}".to_owned(),
        Err(error) => error.to_string(),
    };
    report.invalid(&data.key(key), "<secret contents redacted>", problem);
}

pub(super) fn secret_update(report: &mut Report, object: &Value, old: &Value) {
    if text(object, "type") != text(old, "type") {
        report.invalid(&Path::root("type"), text(object, "type"), IMMUTABLE);
    }
    immutable(report, object, old, &["data"]);
}
