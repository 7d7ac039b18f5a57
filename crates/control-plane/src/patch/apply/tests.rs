use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T03:04:06Z";

fn kind(api_version: &str, kind: &str) -> Option<TypeId> {
    let id = schema().type_of_gvk(&Gvk::from_api_version(api_version, kind));
    assert!(id.is_some(), "{api_version} {kind} is not in the table");
    id
}

fn writer<'a>(manager: &'a str, object: &Value, time: &str) -> Writer<'a> {
    Writer {
        manager,
        subresource: "",
        kind: kind(
            object["apiVersion"].as_str().expect("an apiVersion"),
            object["kind"].as_str().expect("a kind"),
        ),
        now: time.parse().expect("a time"),
    }
}

fn created(manager: &str, mut object: Value) -> Value {
    let writer = writer(manager, &object, NOW);
    update_managed_fields(None, &mut object, &writer);
    object
}

fn updated(manager: &str, live: &Value, mut object: Value, subresource: &str) -> Value {
    let writer = Writer {
        subresource,
        ..writer(manager, live, LATER)
    };
    update_managed_fields(Some(live), &mut object, &writer);
    object
}

fn applied(manager: &str, live: Option<&Value>, config: &Value) -> Value {
    apply(live, config, false, &writer(manager, config, LATER))
        .unwrap_or_else(|error| panic!("{manager}: {error}"))
}

fn refused(manager: &str, live: &Value, config: &Value) -> ApiError {
    apply(Some(live), config, false, &writer(manager, config, LATER))
        .expect_err("a conflict")
        .into()
}

fn entries(object: &Value) -> &Value {
    &object["metadata"]["managedFields"]
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
           "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "labels": {"app": "d"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
                {"name": "c", "image": "one", "resources": {},
                 "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}})
}

// What the real server (v1.34.4) records for the same bodies.
#[test]
fn a_create_owns_what_it_set() {
    let pod = created(
        "kubectl-run",
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"run": "p"},
                "finalizers": ["x.io/a"], "creationTimestamp": NOW,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "o", "uid": "1"}]},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {},
                    "env": [{"name": "E", "value": "v"}],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "command": ["a", "b"]}],
                "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}],
                "restartPolicy": "Never", "securityContext": {}},
            "status": {"phase": "Pending"}}),
    );
    assert_eq!(
        *entries(&pod),
        json!([{"manager": "kubectl-run", "operation": "Update", "apiVersion": "v1", "time": NOW,
            "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {
                    "f:finalizers": {".": {}, "v:\"x.io/a\"": {}},
                    "f:labels": {".": {}, "f:run": {}},
                    "f:ownerReferences": {".": {}, "k:{\"uid\":\"1\"}": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:command": {}, "f:env": {".": {}, "k:{\"name\":\"E\"}": {
                            ".": {}, "f:name": {}, "f:value": {}}},
                        "f:image": {}, "f:name": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                            ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                        "f:resources": {}}},
                    "f:nodeSelector": {},
                    "f:restartPolicy": {}, "f:securityContext": {}, "f:tolerations": {}}}}])
    );
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = created("a", config_map(json!({"x": "1", "y": "1"})));
    let mut new = live.clone();
    new["data"] = json!({"x": "2", "z": "1"});
    let new = updated("b", &live, new, "");
    assert_eq!(
        *entries(&new),
        json!([
            {"manager": "a", "operation": "Update", "apiVersion": "v1", "time": NOW,
             "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}},
            {"manager": "b", "operation": "Update", "apiVersion": "v1", "time": LATER,
             "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:x": {}, "f:z": {}}}},
        ])
    );
}

#[test]
fn a_write_that_changes_nothing_changes_no_entry() {
    let live = created("a", config_map(json!({"x": "1"})));
    assert_eq!(updated("b", &live, live.clone(), ""), live);
    let mut without = live.clone();
    take_managed_fields(&mut without);
    assert_eq!(updated("b", &live, without, ""), live);
}

#[test]
fn an_entry_names_its_sub_resource() {
    let live = created(
        "a",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
               "spec": {"containers": []}, "status": {}}),
    );
    let mut new = live.clone();
    new["status"] =
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let new = updated("agent", &live, new, "status");
    assert_eq!(
        entries(&new)[1],
        json!({"manager": "agent", "operation": "Update", "apiVersion": "v1", "time": LATER,
            "fieldsType": "FieldsV1", "subresource": "status", "fieldsV1": {"f:status": {
                "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {
                    ".": {}, "f:status": {}, "f:type": {}}}, "f:phase": {}}}})
    );
}

#[test]
fn an_empty_entry_drops_all_and_nothing_is_tracked_until_an_apply() {
    let live = created("a", config_map(json!({"x": "1"})));
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    let reset = updated("b", &live, new, "");
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let mut new = reset.clone();
    new["data"]["x"] = "2".into();
    let untracked = updated("b", &reset, new, "");
    assert_eq!(untracked["metadata"].get("managedFields"), None);
    let config = config_map(json!({"y": "1"}));
    let tracked = applied("c", Some(&untracked), &config);
    assert_eq!(entries(&tracked)[0]["manager"], "c");
    assert_eq!(entries(&tracked)[1]["manager"], "before-first-apply");
    assert_eq!(
        entries(&tracked)[1]["fieldsV1"],
        json!({"f:data": {".": {}, "f:x": {}}})
    );
}

#[test]
fn a_client_may_write_the_entries() {
    let live = created("a", config_map(json!({"x": "1"})));
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["manager"] = "other".into();
    assert_eq!(
        entries(&updated("b", &live, new, ""))[0]["manager"],
        "other"
    );
}

#[test]
fn an_apply_creates_and_removes_what_it_no_longer_names() {
    let live = applied("me", None, &config_map(json!({"x": "1", "y": "1"})));
    assert_eq!(live["data"], json!({"x": "1", "y": "1"}));
    assert_eq!(
        *entries(&live),
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "v1", "time": LATER,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:x": {}, "f:y": {}}}}])
    );
    let next = applied("me", Some(&live), &config_map(json!({"x": "1"})));
    assert_eq!(next["data"], json!({"x": "1"}));
}

#[test]
fn what_another_owns_stays() {
    let live = applied("me", None, &config_map(json!({"x": "1", "y": "1"})));
    let both = applied("you", Some(&live), &config_map(json!({"y": "1"})));
    assert_eq!(entries(&both).as_array().map(Vec::len), Some(2));
    let left = applied("me", Some(&both), &config_map(json!({"x": "1"})));
    assert_eq!(left["data"], json!({"x": "1", "y": "1"}));
    let gone = applied("you", Some(&left), &config_map(json!({})));
    assert_eq!(gone["data"], json!({"x": "1"}));
}

#[test]
fn a_conflict_names_the_manager_and_the_field() {
    let live = created("kubectl-client-side-apply", deployment());
    let mut config = deployment();
    config["spec"]["replicas"] = 3.into();
    let error = refused("me", &live, &config);
    assert_eq!(error.code.as_u16(), 409);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        error.to_value()["details"],
        json!({"causes": [{"reason": "FieldManagerConflict",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1",
            "field": ".spec.replicas"}]})
    );
    config["spec"]["template"]["spec"]["containers"][0]["image"] = "two".into();
    assert_eq!(
        refused("me", &live, &config).message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image"
    );
}

#[test]
fn force_takes_the_field() {
    let live = created("a", config_map(json!({"x": "1", "y": "1"})));
    let config = config_map(json!({"x": "2"}));
    let new = apply(Some(&live), &config, true, &writer("b", &config, LATER)).expect("forced");
    assert_eq!(new["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(entries(&new)[0]["fieldsV1"], json!({"f:data": {"f:x": {}}}));
    assert_eq!(
        entries(&new)[1]["fieldsV1"],
        json!({"f:data": {".": {}, "f:y": {}}})
    );
}

#[test]
fn ports_are_known_by_number_and_defaulted_protocol() {
    let mut config = deployment();
    let port = |config: &mut Value, port: Value| {
        config["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([port]);
    };
    port(&mut config, json!({"containerPort": 80}));
    let mut live = applied("me", None, &config);
    // What defaulting makes of it.
    live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
    port(&mut config, json!({"containerPort": 80, "name": "web"}));
    let new = applied("me", Some(&live), &config);
    assert_eq!(
        new["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "web"}])
    );
    port(&mut config, json!({"containerPort": 81}));
    let new = applied("me", Some(&new), &config);
    assert_eq!(
        new["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 81}])
    );
}

#[test]
fn a_container_leaves_with_its_last_owner() {
    let mut config = deployment();
    let containers = |config: &mut Value, names: &[&str]| {
        config["spec"]["template"]["spec"]["containers"] = names
            .iter()
            .map(|name| json!({"name": name, "image": "i"}))
            .collect();
    };
    containers(&mut config, &["a", "b"]);
    let live = applied("me", None, &config);
    containers(&mut config, &["b", "c"]);
    let new = applied("me", Some(&live), &config);
    assert_eq!(
        new["spec"]["template"]["spec"]["containers"],
        json!([{"name": "b", "image": "i"}, {"name": "c", "image": "i"}])
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_on_its_own_side() {
    let last = config_map(json!({"x": "1", "y": "1"}));
    let mut object = last.clone();
    object["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
    let live = created("kubectl-client-side-apply", object);
    let config = config_map(json!({"x": "2", "y": "1"}));
    let new = applied("kubectl", Some(&live), &config);
    assert_eq!(new["data"]["x"], "2");
    assert_eq!(
        new["metadata"]["annotations"][LAST_APPLIED],
        format!("{config}\n")
    );
    // What somebody changed since then is a conflict.
    let mut changed = live.clone();
    changed["data"]["x"] = "3".into();
    let changed = updated("someone", &live, changed, "");
    assert_eq!(
        refused("kubectl", &changed, &config).message,
        "Apply failed with 1 conflict: conflict with \"someone\" using v1: .data.x"
    );
}

#[test]
fn what_does_not_fit_the_schema_is_refused() {
    let words = |config: Value| {
        apply(None, &config, false, &writer("me", &config, NOW))
            .expect_err("a wrong configuration")
            .to_string()
    };
    let mut config = config_map(json!({}));
    config["nope"] = 1.into();
    assert_eq!(
        words(config),
        "failed to create typed patch object (n/c; /v1, Kind=ConfigMap): .nope: field not declared in schema"
    );
    let mut config = deployment();
    config["spec"]["replicas"] = "three".into();
    assert_eq!(
        words(config),
        "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.replicas: expected numeric (int or float), got string"
    );
    let mut config = deployment();
    config["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}, {"name": "c"}]);
    assert_eq!(
        words(config),
        "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"c\"]"
    );
    let mut config = config_map(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    assert_eq!(words(config), "metadata.managedFields must be nil");
}

#[test]
fn custom_resources_merge_by_key_and_replace_lists() {
    let writer = |manager| Writer {
        manager,
        subresource: "",
        kind: None,
        now: LATER.parse().expect("a time"),
    };
    let config = json!({"apiVersion": "x.io/v1", "kind": "X",
        "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {"deep": {"a": 1}, "list": [1, 2]}});
    let live = apply(None, &config, false, &writer("me")).expect("applies");
    assert_eq!(
        entries(&live)[0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {"f:a": {}}},
               "f:spec": {".": {}, "f:deep": {".": {}, "f:a": {}}, "f:list": {}}})
    );
    let mut next = config;
    next["spec"] = json!({"list": [3]});
    let new = apply(Some(&live), &next, false, &writer("me")).expect("applies");
    assert_eq!(new["spec"], json!({"list": [3]}));
}

#[test]
fn old_updates_fold_into_one() {
    let mut live = created("m0", config_map(json!({"k0": "v"})));
    for number in 1..15 {
        let mut new = live.clone();
        new["data"][format!("k{number}")] = "v".into();
        live = updated(&format!("m{number}"), &live, new, "");
    }
    let managers: Vec<&str> = entries(&live)
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|entry| entry["manager"].as_str())
        .collect();
    assert_eq!(managers.len(), 10);
    assert!(managers.contains(&"ancient-changes"), "{managers:?}");
}

#[test]
fn times_alone_are_no_change() {
    let config = config_map(json!({"x": "1"}));
    let live = applied("me", None, &config);
    let mut again = live.clone();
    again["metadata"]["managedFields"][0]["time"] = NOW.into();
    keep_times_if_unchanged(&live, &mut again);
    assert_eq!(again, live);
}

fn any_data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", "[x-z]", 0..4).prop_map(|data| json!(data))
}

fn any_containers() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(
        "[a-d]",
        ("[x-z]", prop::collection::btree_set(1..4i64, 0..3)),
        1..4,
    )
    .prop_map(|containers| {
        containers
            .into_iter()
            .map(|(name, (image, ports))| {
                let ports: Vec<Value> = ports
                    .into_iter()
                    .map(|port| json!({"containerPort": port}))
                    .collect();
                {
                    let mut container = json!({"name": name, "image": image});
                    // An empty list of items is owned by nobody, and does not stay.
                    if !ports.is_empty() {
                        container["ports"] = ports.into();
                    }
                    container
                }
            })
            .collect()
    })
}

fn pod_of(containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
           "spec": {"containers": containers}})
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in any_data(), config in any_data()) {
        let live = created("a", config_map(live));
        let config = config_map(config);
        let writer = writer("b", &config, LATER);
        let once = apply(Some(&live), &config, true, &writer).expect("forced");
        let twice = apply(Some(&once), &config, false, &writer).expect("own fields");
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn applied_fields_are_there_and_owned(live in any_data(), first in any_data(), config in any_data()) {
        let live = created("a", config_map(live));
        let first = config_map(first);
        let live = apply(Some(&live), &first, true, &writer("b", &first, NOW)).expect("forced");
        let config = config_map(config);
        let new = apply(Some(&live), &config, true, &writer("b", &config, LATER)).expect("forced");
        for (key, value) in config["data"].as_object().expect("an object") {
            prop_assert_eq!(&new["data"][key], value);
        }
        // What b dropped and a does not own is gone.
        for key in new["data"].as_object().into_iter().flat_map(|data| data.keys()) {
            let owned = entries(&new).as_array().expect("entries").iter().any(|entry| {
                entry["fieldsV1"]["f:data"].get(format!("f:{key}")).is_some()
            });
            prop_assert!(owned, "{} is nobody's", key);
        }
    }

    #[test]
    fn containers_follow_the_configuration(first in any_containers(), second in any_containers()) {
        let first = pod_of(first);
        let second = pod_of(second);
        let live = applied("me", None, &first);
        let new = applied("me", Some(&live), &second);
        let names = |pod: &Value| {
            let mut names: Vec<String> = pod["spec"]["containers"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|container| container.to_string())
                .collect();
            names.sort();
            names
        };
        prop_assert_eq!(names(&new), names(&second));
        prop_assert_eq!(applied("me", Some(&new), &second), new);
    }

    #[test]
    fn the_paths_of_an_object_are_what_a_create_adds(containers in any_containers()) {
        let pod = pod_of(containers);
        let writer = writer("me", &pod, NOW);
        let shape = writer.shape();
        let paths = paths_of(&pod, shape);
        let added = compare(Some(&shape::zero(writer.kind)), Some(&pod), shape).set();
        let missing = paths.difference(&added).paths();
        // All but what the zero value of the type has too.
        prop_assert!(missing.iter().all(|path| path == ".spec.containers"), "{missing:?}");
    }
}
