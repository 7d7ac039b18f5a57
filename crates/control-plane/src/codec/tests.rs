use serde_json::json;

use super::*;

fn gvk(api_version: &str, kind: &str) -> Gvk {
    Gvk::from_api_version(api_version, kind)
}

fn pod() -> Gvk {
    gvk("v1", "Pod")
}

fn refusal(body: &str, encoding: Encoding, expect: &Gvk) -> String {
    match decode(body.as_bytes(), encoding, Some(expect)) {
        Ok(decoded) => panic!("decoded {decoded:?}"),
        Err(error) => error.to_string(),
    }
}

fn problems(body: &str, encoding: Encoding, expect: &Gvk) -> Vec<String> {
    let decoded = decode(body.as_bytes(), encoding, Some(expect)).expect("valid");
    decoded.problems.iter().map(ToString::to_string).collect()
}

/// Bodies and the answers of kube-apiserver v1.34.
#[test]
fn malformed_bodies_are_refused_in_the_words_of_the_server() {
    let map = gvk("v1", "ConfigMap");
    for (body, words) in [
        (
            r#"{"kind": "ConfigMap",}"#,
            r#"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character '}' looking for beginning of object key string ({"kind": "ConfigMap",})"#,
        ),
        (
            "[]",
            r#"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b5d)"#,
        ),
        (
            "",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
        ),
        (
            r#"{"kind":5}"#,
            r#"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string ({"kind":5})"#,
        ),
        (
            r#"{"kind":"ConfigMap","apiVersion":"a/b/c"}"#,
            r#"the object provided is unrecognized (must be of type ConfigMap): unexpected GroupVersion string: a/b/c ({"kind":"ConfigMap","apiVersio ...)"#,
        ),
        (
            r#"{"kind":"Secret","apiVersion":"v1"}"#,
            r#"Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"#,
        ),
        (
            r#"{"kind":"Nonsense","apiVersion":"v1"}"#,
            r#"Nonsense in version "v1" cannot be handled as a ConfigMap: no kind "Nonsense" is registered for version "v1" in scheme "pkg/runtime/scheme.go:110""#,
        ),
        (
            r#"{"metadata":{"name":5}}"#,
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string"#,
        ),
    ] {
        assert_eq!(refusal(body, Encoding::Json, &map), words, "{body}");
    }
    for (body, words) in [
        (
            "metadata: {name: y1\ndata: \"abc",
            "the object provided is unrecognized (must be of type ConfigMap): yaml: line 1: did not find expected ',' or '}' (6d657461646174613a207b6e616d653a2079310a646174613a2022616263)",
        ),
        (
            "metadata: {name: *a}",
            "the object provided is unrecognized (must be of type ConfigMap): yaml: unknown anchor 'a' referenced (6d657461646174613a207b6e616d653a202a617d)",
        ),
        (
            "metadata: {name: y1}\ndata: {a: yes, b: 0644}",
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ConfigMap.data of type string"#,
        ),
    ] {
        assert_eq!(refusal(body, Encoding::Yaml, &map), words, "{body}");
    }
    for (body, words) in [
        (
            "",
            "the object provided is unrecognized (must be of type ConfigMap): empty data (<empty>)",
        ),
        (
            "abc",
            "the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (616263)",
        ),
    ] {
        assert_eq!(refusal(body, Encoding::Protobuf, &map), words, "{body}");
    }
}

/// Bodies and the answers of kube-apiserver v1.34.
#[test]
fn wrong_types_are_refused_in_the_words_of_the_server() {
    for (body, words) in [
        (
            r#"{"spec":{"containers":[{"image":5}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            r#"{"spec":{"containers":"a"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"volumes":[{"emptyDir":[]}]}}"#,
            "json: cannot unmarshal array into Go struct field Volume.spec.volumes.emptyDir of type v1.EmptyDirVolumeSource",
        ),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"abc"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
        ),
        (
            r#"{"metadata":{"creationTimestamp":5}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            r#"{"metadata":{"labels":[1]}}"#,
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"terminationGracePeriodSeconds":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            r#"{"spec":{"containers":[{"imagePullPolicy":1}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":true}}}]}}"#,
            "json: cannot unmarshal bool into Go struct field HTTPGetAction.spec.containers.livenessProbe.httpGet.port of type int32",
        ),
        (
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":"x"}}]}}"#,
            "json: cannot unmarshal string into Go struct field Probe.spec.containers.livenessProbe.httpGet of type v1.HTTPGetAction",
        ),
    ] {
        let expected = format!("Pod in version \"v1\" cannot be handled as a Pod: {words}");
        assert_eq!(refusal(body, Encoding::Json, &pod()), expected, "{body}");
    }
    for (data, words) in [
        (json!("b*"), "illegal base64 data at input byte 1"),
        (json!("abc"), "illegal base64 data at input byte 0"),
        (json!("abcde"), "illegal base64 data at input byte 4"),
        (
            json!(5),
            "json: cannot unmarshal number into Go struct field Secret.data of type []uint8",
        ),
    ] {
        let body = json!({"data": {"a": data}}).to_string();
        let expected = format!("Secret in version \"v1\" cannot be handled as a Secret: {words}");
        assert_eq!(
            refusal(&body, Encoding::Json, &gvk("v1", "Secret")),
            expected
        );
    }
}

#[test]
fn unknown_and_duplicate_fields_are_found_in_the_order_of_the_text() {
    let body = r#"{"metadata":{"name":"x1","name":"x2"},"spec":{"containers":[{"name":"a","image":"b","foo":1,"env":[{"nam":1,"name":"a"}]}],"bar":{"z":1,"z":2}}}"#;
    let decoded = decode(body.as_bytes(), Encoding::Json, Some(&pod())).expect("valid");
    let refusal = decoded.refuse_problems("Pod").expect_err("problems");
    assert_eq!(
        refusal.to_value()["message"],
        json!(
            r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "metadata.name", unknown field "spec.containers[0].foo", unknown field "spec.containers[0].env[0].nam", unknown field "spec.bar""#
        )
    );
    assert_eq!(decoded.value["spec"].get("bar"), None);
    assert_eq!(decoded.value["metadata"]["name"], json!("x2"));
    let labels = r#"{"metadata":{"labels":{"a":"1","a":"2"}},"Kind":"Pod"}"#;
    assert_eq!(
        problems(labels, Encoding::Json, &pod()),
        [
            r#"duplicate field "metadata.labels.a""#,
            r#"unknown field "Kind""#
        ]
    );
    let yaml = "metadata: {name: y1}\ndata: {a: b, a: c}\ndata: {e: f}\nfoo: bar";
    assert_eq!(
        problems(yaml, Encoding::Yaml, &gvk("v1", "ConfigMap")),
        [
            "yaml: unmarshal errors:\n  line 2: key \"a\" already set in map\n  line 3: key \"data\" already set in map",
            "unknown field \"foo\""
        ]
    );
}

#[test]
fn objects_get_the_form_of_the_go_round_trip() {
    let body = json!({
        "metadata": {
            "name": "p", "creationTimestamp": null, "labels": {}, "finalizers": [],
            "annotations": {"a": null}, "resourceVersion": "", "generation": 0,
        },
        "spec": {
            "containers": [{
                "name": "c", "image": null, "args": [], "tty": false, "env": [{"value": ""}],
                "resources": {"limits": {"cpu": "1000m", "memory": "0.5Gi", "x": 2}},
                "volumeMounts": null, "securityContext": {},
            }],
            "terminationGracePeriodSeconds": 0,
            "priority": null,
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": null}],
            "hostNetwork": false,
            "unknown": {"a": 1},
        },
    });
    let decoded = decode(body.to_string().as_bytes(), Encoding::Json, Some(&pod())).expect("valid");
    assert_eq!(
        decoded.value,
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"a": ""}},
            "spec": {
                "containers": [{
                    "name": "c", "env": [{"name": ""}],
                    "resources": {"limits": {"cpu": "1", "memory": "512Mi", "x": "2"}},
                    "securityContext": {},
                }],
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w"}],
            },
            "status": {},
        })
    );
}

#[test]
fn fields_without_omitempty_stay() {
    let role = gvk("rbac.authorization.k8s.io/v1", "Role");
    let decoded = decode(br#"{"rules":[]}"#, Encoding::Json, Some(&role)).expect("valid");
    assert_eq!(decoded.value["rules"], json!(null));
    let deployment = gvk("apps/v1", "Deployment");
    let decoded = decode(b"{\"spec\":{}}", Encoding::Json, Some(&deployment)).expect("valid");
    assert_eq!(
        decoded.value,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
            "spec": {
                "selector": null, "strategy": {},
                "template": {"metadata": {}, "spec": {"containers": null}},
            },
            "status": {},
        })
    );
}

#[test]
fn other_versions_and_custom_kinds() {
    let body = br#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#;
    let error = decode(body, Encoding::Json, Some(&gvk("apps/v1", "Deployment")));
    assert_eq!(
        error.map_err(|error| error.to_string()),
        Err("the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)".to_owned())
    );
    let custom = gvk("example.com/v1", "Thing");
    let body = br#"{"spec":{"a":null,"a":1}}"#;
    let decoded = decode(body, Encoding::Json, Some(&custom)).expect("valid");
    assert_eq!(
        decoded.value,
        json!({"apiVersion": "example.com/v1", "kind": "Thing", "spec": {"a": 1}})
    );
    assert_eq!(
        decoded.problems,
        [StrictProblem::Duplicate("spec.a".to_owned())]
    );
}

#[test]
fn options_are_taken_in_any_version() {
    let options = gvk("v1", "DeleteOptions");
    for api_version in ["v1", "meta.k8s.io/v1", "apps/v1", "policy/v1beta1"] {
        let body = json!({
            "apiVersion": api_version, "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        });
        let decoded = decode(body.to_string().as_bytes(), Encoding::Json, Some(&options));
        assert_eq!(decoded.map(|decoded| decoded.value), Ok(body));
    }
}

#[test]
fn protobuf_bodies_are_read_and_written() {
    let value = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
        "data": {"a": "AAEC"}, "type": "Opaque",
    });
    let secret = gvk("v1", "Secret");
    let bytes = encode_protobuf(&value, &secret).expect("known");
    assert_eq!(
        decode_protobuf(&bytes, None),
        Ok((secret.clone(), value.clone()))
    );
    let decoded = decode(&bytes, Encoding::Protobuf, Some(&secret)).expect("valid");
    assert_eq!(decoded.value, value);
    for end in 0..bytes.len() {
        // Every cut is refused or read as less; none panics.
        let _ = decode(&bytes[..end], Encoding::Protobuf, Some(&secret));
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
    let words = refusal(&deep, Encoding::Json, &pod());
    assert!(words.contains("exceeded max depth"), "{words}");
    // A schema that negates a schema that negates …
    let schema_type = schema()
        .type_by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        .expect("a schema");
    let not = schema().get(schema_type).field("not").expect("not").number;
    let mut raw = Vec::new();
    for _ in 0..3000 {
        let mut outer = Vec::new();
        wire::put_bytes(&mut outer, not, &raw);
        raw = outer;
    }
    let result = protobuf::decode(&raw, schema_type, &Gvk::default(), Scope::Served);
    assert!(result.is_err());
}

#[test]
fn streams_of_documents_are_read() {
    assert_eq!(
        documents(b"---\na: 1\n---\n# nothing\n---\nb: 2\n"),
        Ok(vec![json!({"a": 1}), json!({"b": 2})])
    );
    assert_eq!(
        documents(b"{\"a\":1}\n{\"b\":2}"),
        Ok(vec![json!({"a": 1}), json!({"b": 2})])
    );
    assert_eq!(documents(b"{a: 1}"), Ok(vec![json!({"a": 1})]));
    assert!(documents(b"a: 1\na: 2\n").is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
            let _ = decode(&bytes, encoding, Some(&pod()));
        }
        let mut body = protobuf::MAGIC.to_vec();
        body.extend_from_slice(&bytes);
        let _ = decode(&body, Encoding::Protobuf, Some(&pod()));
        let type_id = schema().type_of("", "v1", "Pod").expect("Pod");
        let _ = protobuf::decode(&bytes, type_id, &pod(), Scope::All);
    }

    #[test]
    fn coercion_is_idempotent(value in object()) {
        for kind in ["Pod", "ConfigMap", "Secret", "Service", "Node"] {
            let id = schema().type_of("", "v1", kind).expect(kind);
            let mut once = value.clone();
            if coerce(&mut once, id).is_ok() {
                let mut twice = once.clone();
                coerce(&mut twice, id).expect("still valid");
                proptest::prop_assert_eq!(&once, &twice);
                // What is stored survives protobuf.
                let gvk = gvk("v1", kind);
                name(&mut once, &gvk);
                let bytes = encode_protobuf(&once, &gvk).expect("known");
                let (_, back) = decode_protobuf(&bytes, None).expect("own bytes");
                proptest::prop_assert_eq!(once, back);
            }
        }
    }
}

/// Objects with the names of real fields and values of any type.
fn object() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        prop_oneof![
            Just(""),
            Just("a"),
            Just("1.5"),
            Just("2Gi"),
            Just("YQ=="),
            Just("2026-01-02T03:04:05Z")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, |inner| {
        let name = prop_oneof![
            Just("metadata"),
            Just("spec"),
            Just("status"),
            Just("containers"),
            Just("name"),
            Just("labels"),
            Just("data"),
            Just("resources"),
            Just("limits"),
            Just("ports"),
            Just("port"),
            Just("targetPort"),
            Just("volumes"),
            Just("emptyDir"),
            Just("creationTimestamp"),
            Just("deletionTimestamp"),
            Just("tty"),
            Just("env"),
            Just("nonsense"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name, inner, 0..5).prop_map(|members| {
                members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect()
            }),
        ]
    })
}
