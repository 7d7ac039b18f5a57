//! Values of the pod that containers may ask for: fields by path (`fieldRef`), and amounts of
//! resources ([`mod@resource`]).

pub mod resource;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::Host;

const PLAIN: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Whether [`value`] knows the path.
pub fn known(path: &str) -> bool {
    PLAIN.contains(&path)
        || matches!(path, "metadata.labels" | "metadata.annotations")
        || key(path).is_some()
}

/// `metadata.labels['key']` and `metadata.annotations['key']`.
fn key(path: &str) -> Option<(bool, &str)> {
    let (labels, rest) = match path.strip_prefix("metadata.labels[") {
        Some(rest) => (true, rest),
        None => (false, path.strip_prefix("metadata.annotations[")?),
    };
    let key = rest.strip_suffix(']')?;
    let quoted = |mark| {
        key.strip_prefix(mark)
            .and_then(|key| key.strip_suffix(mark))
    };
    Some((labels, quoted('\'').or_else(|| quoted('"'))?))
}

/// The value at a path; none for a path that is not [`known`]. A label that is not
/// there is empty, as the kubelet has it.
pub fn value(pod: &Pod, host: &Host, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let address = || host.address.to_string();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Some(match path {
        "metadata.name" => text(metadata.name.as_ref()),
        "metadata.namespace" => text(metadata.namespace.as_ref()),
        "metadata.uid" => text(metadata.uid.as_ref()),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => address(),
        _ => {
            let (labels, key) = key(path)?;
            let map = if labels {
                &metadata.labels
            } else {
                &metadata.annotations
            };
            text(map.as_ref().and_then(|map| map.get(key)))
        }
    })
}

/// `key="value"` lines, sorted, with the quoting of a Go string.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quoted(value));
    map.into_iter()
        .flatten()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// As Go's `%q` has it, which is what readers of these files parse.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for it in text.chars() {
        match it {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' ' => out.push(' '),
            it if it.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(it))),
            it if it.is_control() || it.is_whitespace() || it == '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(it)));
            }
            it => out.push(it),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_pod_says_of_itself() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                         "labels": {"a": "1", "b/c": "x\"y"}, "annotations": {"k": "v"}},
            "spec": {"nodeName": "node", "containers": []},
        }))
        .unwrap();
        let host = Host::for_tests();
        let get = |path| value(&pod, &host, path);
        assert_eq!(get("metadata.name").as_deref(), Some("p"));
        assert_eq!(get("metadata.labels['b/c']").as_deref(), Some("x\"y"));
        assert_eq!(get("metadata.annotations[\"k\"]").as_deref(), Some("v"));
        assert_eq!(get("metadata.labels['missing']").as_deref(), Some(""));
        assert_eq!(
            get("metadata.labels").as_deref(),
            Some("a=\"1\"\nb/c=\"x\\\"y\"")
        );
        assert_eq!(get("status.podIP").as_deref(), Some("10.0.0.7"));
        for path in [
            "metadata.labels[x]",
            "spec.containers",
            "metadata.labels['a'",
        ] {
            assert!(!known(path));
            assert_eq!(get(path), None);
        }
    }

    #[test]
    fn values_are_quoted_as_go_does() {
        for (text, shown) in [
            ("plain ä", "\"plain ä\""),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("l1\nl2\tx", r#""l1\nl2\tx""#),
            ("\u{0}\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
            ("\u{85}\u{a0}", r#""\u0085\u00a0""#),
        ] {
            assert_eq!(quoted(text), shown);
        }
    }
}
