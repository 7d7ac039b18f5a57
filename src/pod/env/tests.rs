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
    resolve(
        &pod,
        &container,
        &Host::for_tests(),
        &Services::default(),
        objects,
    )
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

#[test]
fn circles_end_in_what_was_written() {
    let resolved = resolve_it(
        json!({"env": [
            {"name": "A", "value": "a$(B)"},
            {"name": "B", "value": "b$(A)"},
            {"name": "C", "value": "$(C)"},
            {"name": "A", "value": "$(A)+"},
        ]}),
        &Objects::default(),
    )
    .unwrap();
    let get = |name: &str| resolved.own[name].as_str();
    assert_eq!((get("A"), get("B"), get("C")), ("a$(B)+", "ba$(B)", "$(C)"));
}

#[test]
fn later_sources_win_and_services_come_first() {
    let mut services = Services::default();
    services.put(
        &serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "k"},
            "spec": {"clusterIP": "10.1.2.3", "ports": [{"port": 80}]}}))
        .unwrap(),
    );
    let pod = |links: bool| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [], "enableServiceLinks": links}}))
        .unwrap()
    };
    let container: Container = serde_json::from_value(json!({"name": "c",
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
        "env": [{"name": "URL", "value": "$(K_PORT)"}, {"name": "K_SERVICE_PORT", "value": "1"},
                {"name": "API", "value": "$(KUBERNETES_PORT)"}]}))
    .unwrap();
    let host = Host::for_tests();
    let with = resolve(&pod(true), &container, &host, &services, &objects()).unwrap();
    assert_eq!(with.own["k"], "secret", "the later envFrom wins");
    assert_eq!(with.own["URL"], "tcp://10.1.2.3:80");
    assert_eq!(with.own["K_SERVICE_PORT"], "1");
    assert_eq!(with.own["API"], "tcp://api.example:6443");
    let without = resolve(&pod(false), &container, &host, &services, &objects()).unwrap();
    assert_eq!(without.own["URL"], "$(K_PORT)");
    assert_eq!(without.own["KUBERNETES_SERVICE_HOST"], "api.example");
}

#[test]
fn amounts_of_resources() {
    let resolved = resolve_it(
        json!({"resources": {"limits": {"cpu": "1500m"}}, "env": [
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}},
        ]}),
        &Objects::default(),
    )
    .unwrap();
    assert_eq!((&*resolved.own["CPU"], &*resolved.own["MEM"]), ("2", "16"));
    let bad = json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.x"}}}]});
    let problem = resolve_it(bad, &Objects::default()).unwrap_err();
    assert_eq!(problem.message, "unsupported container resource : limits.x");
}

#[test]
fn values_that_are_no_text_are_refused_and_never_changed() {
    for (bytes, what) in [(&b"a\xff"[..], "valid UTF-8"), (&b"a\0b"[..], "NUL byte")] {
        let mut objects = Objects::default();
        let reference = Reference {
            kind: Kind::Secret,
            name: "s".into(),
        };
        let data = Data::new([("k".to_owned(), bytes.to_vec())]);
        objects.insert(reference, Some(data));
        for container in [
            json!({"envFrom": [{"secretRef": {"name": "s"}}]}),
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
        ] {
            let problem = resolve_it(container, &objects).unwrap_err();
            assert_eq!(problem.reason, "CreateContainerError");
            assert!(problem.message.contains(what), "{}", problem.message);
        }
    }
}

#[test]
fn binary_data_is_for_volumes() {
    let map: k8s_openapi::api::core::v1::ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "cm", "resourceVersion": "5"}, "immutable": true,
        "data": {"text": "t"}, "binaryData": {"bytes": "AAA="}}))
    .unwrap();
    let data = Data::from(map);
    assert_eq!(data.iter().count(), 2);
    assert_eq!(Vec::from_iter(data.variables()), [("text", &b"t"[..])]);
    assert_eq!(data.variable("bytes"), None);
    assert_eq!((data.version(), data.immutable()), (Some("5"), true));
}
