use serde_json::json;

use super::*;
use crate::pod::objects::Data;

fn resolve_it(container: serde_json::Value, objects: &Objects) -> Result<Resolved, Waiting> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
        "spec": {"containers": []},
    }))
    .unwrap();
    let mut container = container;
    container["name"] = json!("c");
    let container: Container = serde_json::from_value(container).unwrap();
    resolve(&pod, &container, &Host::for_tests(), objects)
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    let data = |pairs: &[(&str, &str)]| {
        Data::new(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())),
        )
    };
    let reference = |kind, name: &str| Reference {
        kind,
        name: name.into(),
    };
    objects.insert(
        reference(Kind::ConfigMap, "cm"),
        Some(data(&[("k", "v"), ("a=b", "no")])),
    );
    objects.insert(reference(Kind::Secret, "s"), Some(data(&[("k", "secret")])));
    objects.insert(reference(Kind::ConfigMap, "none"), None);
    objects.insert(reference(Kind::Secret, "none"), None);
    objects
}

#[test]
fn literals_see_what_came_before_them() {
    let resolved = resolve_it(
        json!({"env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)$(C)"},
            {"name": "C", "value": "$$(A)"},
            {"name": "D"},
            {"name": "E", "value": "~/x"},
            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        ]}),
        &Objects::default(),
    )
    .unwrap();
    let get = |name: &str| resolved.own[name].as_str();
    assert_eq!(get("B"), "1$(C)");
    assert_eq!(get("C"), "$(A)");
    assert_eq!(get("D"), "");
    assert_eq!(get("E"), "/home/user/x");
    assert_eq!(get("F"), "x");
    assert_eq!(get("KUBERNETES_SERVICE_HOST"), "api.example");
}

#[test]
fn objects_are_referred_to() {
    let resolved = resolve_it(
        json!({
            "envFrom": [
                {"prefix": "P_", "configMapRef": {"name": "cm"}},
                {"secretRef": {"name": "none", "optional": true}},
            ],
            "env": [
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "x", "optional": true}}},
                {"name": "T", "value": "$(S)-$(P_k)"},
            ],
        }),
        &objects(),
    )
    .unwrap();
    assert_eq!(resolved.own["T"], "secret-v");
    assert!(!resolved.own.contains_key("O"));
    assert_eq!(resolved.skipped, ["P_a=b"]);
}

#[test]
fn what_is_missing_is_said_in_the_words_of_the_kubelet() {
    for (env, message) in [
        (
            json!({"configMapKeyRef": {"name": "none", "key": "k"}}),
            r#"configmap "none" not found"#,
        ),
        (
            json!({"secretKeyRef": {"name": "none", "key": "k"}}),
            r#"secret "none" not found"#,
        ),
        (
            json!({"configMapKeyRef": {"name": "cm", "key": "x"}}),
            "couldn't find key x in ConfigMap ns/cm",
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "x"}}),
            "couldn't find key x in Secret ns/s",
        ),
    ] {
        let env = json!({"env": [{"name": "A", "valueFrom": env}]});
        let problem = resolve_it(env, &objects()).unwrap_err();
        assert_eq!(problem.reason, "CreateContainerConfigError");
        assert_eq!(problem.message, message);
    }
    let from = json!({"envFrom": [{"configMapRef": {"name": "none"}}]});
    assert_eq!(
        resolve_it(from, &objects()).unwrap_err().message,
        r#"configmap "none" not found"#
    );
}

#[test]
fn what_is_inherited_gives_way() {
    let host = Host::for_tests();
    let own = BTreeMap::from([("PATH".to_owned(), "/mine".to_owned())]);
    let merged = merged(&host, own);
    assert_eq!(merged.iter().filter(|it| it.0 == "PATH").count(), 1);
    assert!(merged.contains(&("PATH".into(), "/mine".into())));
    assert!(merged.contains(&("HOME".into(), "/home/user".into())));
}
