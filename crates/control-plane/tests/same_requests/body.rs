//! Bodies of requests.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::script;

/// The bytes of a body as it is written, and their content type.
pub(crate) fn encode(
    text: &str,
    lets: &BTreeMap<String, Value>,
) -> Result<(Vec<u8>, Option<&'static str>)> {
    const JSON: &str = "application/json";
    if text.is_empty() {
        return Ok((Vec::new(), None));
    }
    if let Some(raw) = text.strip_prefix("raw:") {
        return Ok((unescape(raw.trim_start()).into_bytes(), Some(JSON)));
    }
    if let Some(size) = text.strip_prefix("size:") {
        let filler = "x".repeat(size.trim().parse()?);
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"key": filler},
        });
        return Ok((map.to_string().into_bytes(), Some(JSON)));
    }
    if let Some(message) = text.strip_prefix("proto:") {
        return Ok((
            protobuf(message.trim())?,
            Some("application/vnd.kubernetes.protobuf"),
        ));
    }
    let value = script::evaluate(text, lets)?;
    Ok((value.to_string().into_bytes(), Some(JSON)))
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n")
        .replace("\\t", "\t")
        .replace("\\0", "\0")
}

/// The envelope (`runtime.Unknown`) with a message in it.
fn protobuf(text: &str) -> Result<Vec<u8>> {
    let mut words = text.splitn(3, ' ');
    let (version, kind) = (words.next(), words.next());
    let message: serde_norway::Value = serde_norway::from_str(words.next().context("no message")?)?;
    let mut types = Vec::new();
    bytes_field(1, version.context("no version")?.as_bytes(), &mut types);
    bytes_field(2, kind.context("no kind")?.as_bytes(), &mut types);
    let mut raw = Vec::new();
    encode_message(&message, &mut raw)?;
    let mut out = b"k8s\0".to_vec();
    bytes_field(1, &types, &mut out);
    bytes_field(2, &raw, &mut out);
    bytes_field(3, b"", &mut out);
    bytes_field(4, b"", &mut out);
    Ok(out)
}

fn encode_message(message: &serde_norway::Value, out: &mut Vec<u8>) -> Result<()> {
    let fields = message.as_mapping().context("a message is a map")?;
    for (key, value) in fields {
        let number = key.as_u64().context("keys are field numbers")?;
        match value.as_sequence() {
            Some(values) => values
                .iter()
                .try_for_each(|value| encode_field(number, value, out))?,
            None => encode_field(number, value, out)?,
        }
    }
    Ok(())
}

fn encode_field(number: u64, value: &serde_norway::Value, out: &mut Vec<u8>) -> Result<()> {
    use serde_norway::Value as Yaml;
    match value {
        Yaml::String(text) => bytes_field(number, text.as_bytes(), out),
        Yaml::Bool(flag) => {
            varint(number << 3, out);
            varint(u64::from(*flag), out);
        }
        Yaml::Number(value) => {
            varint(number << 3, out);
            let value = value.as_i64().context("an integer")?;
            varint(value.cast_unsigned(), out);
        }
        Yaml::Mapping(_) => {
            let mut inner = Vec::new();
            encode_message(value, &mut inner)?;
            bytes_field(number, &inner, out);
        }
        _ => bail!("no protobuf for {value:?}"),
    }
    Ok(())
}

fn bytes_field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
