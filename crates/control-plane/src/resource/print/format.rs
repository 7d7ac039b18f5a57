//! How cells are worded.

use jiff::Timestamp;
use serde_json::{Map, Value};

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// A duration as kubectl shows it: `5s`, `3m20s`, `4h`, `12d`. Negative ones of a second or more
/// are clocks that disagree.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |large: i64, large_unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(hours / 24, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// The time since a timestamp of the API.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    match timestamp(time) {
        Some(then) => human_duration((now - then).get_seconds()),
        None => UNKNOWN.to_owned(),
    }
}

pub(super) fn timestamp(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

pub(super) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// A text, or `otherwise` where it is absent or empty.
pub(super) fn text_or<'a>(value: &'a Value, otherwise: &'a str) -> &'a str {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .unwrap_or(otherwise)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

pub(super) fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or_default()
}

/// The items of an array; none where it is absent.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// How many entries an array or a map has.
pub(super) fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(entries) => entries.len(),
        _ => 0,
    }
}

/// The strings at `field` of each item, joined.
pub(super) fn joined(list: &Value, field: &str, separator: &str) -> String {
    items(list)
        .iter()
        .map(|item| text(&item[field]))
        .collect::<Vec<_>>()
        .join(separator)
}

/// The strings of an array, joined.
pub(super) fn joined_texts(list: &Value, separator: &str) -> String {
    items(list)
        .iter()
        .map(text)
        .collect::<Vec<_>>()
        .join(separator)
}

/// `a=1,b=2` of a map of labels.
pub(super) fn labels(map: &Value) -> String {
    match map.as_object() {
        Some(map) if !map.is_empty() => pairs(map),
        _ => NONE.to_owned(),
    }
}

fn pairs(map: &Map<String, Value>) -> String {
    map.iter()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect::<Vec<_>>()
        .join(",")
}

/// A label selector object, as kubectl would take it.
pub(super) fn label_selector(selector: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(map) = selector["matchLabels"].as_object()
        && !map.is_empty()
    {
        parts.push(pairs(map));
    }
    for expression in items(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let values = joined_texts(&expression["values"], ",");
        parts.push(match text(&expression["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => format!("{key} {other} ({values})"),
        });
    }
    if parts.is_empty() {
        NONE.to_owned()
    } else {
        parts.join(",")
    }
}

/// A number or a text, as it stands in the object; `otherwise` where it is absent.
pub(super) fn number_or_text(value: &Value, otherwise: &str) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => otherwise.to_owned(),
    }
}

/// Whether a condition of that type is True.
pub(super) fn condition_is_true(conditions: &Value, kind: &str) -> bool {
    items(conditions)
        .iter()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// `True`, `False` or `<unset>`.
pub(super) fn optional_truth(value: &Value) -> String {
    match value.as_bool() {
        Some(true) => "True".to_owned(),
        Some(false) => "False".to_owned(),
        None => UNSET.to_owned(),
    }
}

/// Names and images of the containers of a pod template.
pub(super) fn containers(template: &Value) -> (Value, Value) {
    let list = &template["spec"]["containers"];
    (
        joined(list, "name", ",").into(),
        joined(list, "image", ",").into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_lose_precision_as_they_grow() {
        for (seconds, shown) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (8 * 86400, "8d"),
            (2 * 365 * 86400, "2y"),
            (366 * 2 * 86400, "2y2d"),
            (10 * 365 * 86400, "10y"),
        ] {
            assert_eq!(human_duration(seconds), shown, "{seconds} seconds");
        }
    }

    #[test]
    fn a_selector_reads_as_kubectl_takes_it() {
        let selector = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [
            {"key": "k", "operator": "In", "values": ["x", "y"]},
            {"key": "gone", "operator": "DoesNotExist"}]});
        assert_eq!(label_selector(&selector), "a=1,b=2,k in (x,y),!gone");
        assert_eq!(label_selector(&json!({})), NONE);
    }
}
