//! Create, read, update, patch, delete, list.

use http::StatusCode;
use serde_json::{Value, json};

use super::plane::{JSON, MAPS, Plane, config, config_map, json};
use control_plane::{ControlPlane, StartError};

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a resourceVersion")
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let (status, created) = client.post(MAPS, &config_map("a", "1")).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    assert!(created["metadata"]["uid"].is_string());
    let path = format!("{MAPS}/a");
    assert_eq!(client.get(&path).await.1, created);

    // The same again changes nothing, not even the version.
    let (status, same) = client.put(&path, &created).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(version(&same), version(&created));

    let mut changed = created.clone();
    changed["data"]["key"] = "2".into();
    let (_, changed) = client.put(&path, &changed).await;
    assert!(version(&changed) > version(&created));

    // The old version is stale now.
    let (status, refused) = client.put(&path, &created).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        refused["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let patch = r#"{"data": {"key": null, "other": "3"}}"#;
    let (status, patched) = client
        .call("PATCH", &path, "application/merge-patch+json", patch)
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(patched["data"], json!({"other": "3"}));

    let (status, deleted) = client.delete(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(deleted["status"], "Success");
    assert_eq!(client.get(&path).await.0, StatusCode::NOT_FOUND);
    plane.stop().await;
}

#[tokio::test]
async fn objects_survive_a_restart_and_a_second_plane_is_refused() {
    let Plane { plane, dir } = Plane::start().await;
    let again = ControlPlane::start(config(&dir, false)).await;
    assert!(
        matches!(again, Err(StartError::Store(_))),
        "a state directory belongs to one control plane"
    );
    let running = Plane { plane, dir };
    let mut client = running.admin().await;
    let (_, created) = client.post(MAPS, &config_map("a", "1")).await;
    running.plane.shutdown().await;
    let Plane { dir, .. } = running;
    let plane = ControlPlane::start(config(&dir, false))
        .await
        .expect("it starts again");
    let running = Plane { plane, dir };
    let mut client = running.admin().await;
    assert_eq!(client.get(&format!("{MAPS}/a")).await.1, created);
    running.stop().await;
}

#[tokio::test]
async fn a_generated_name_is_appended_to() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let object = json!({"metadata": {"generateName": "gen-"}});
    let mut names = Vec::new();
    for _ in 0..3 {
        let (status, created) = client.post(MAPS, &object).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        names.push(
            created["metadata"]["name"]
                .as_str()
                .expect("a name")
                .to_owned(),
        );
    }
    assert!(
        names
            .iter()
            .all(|name| name.len() == 9 && name.starts_with("gen-"))
    );
    names.dedup();
    assert_eq!(names.len(), 3);
    plane.stop().await;
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let before = plane.plane.registry().store().revision();
    let (status, _) = client
        .post(&format!("{MAPS}?dryRun=All"), &config_map("a", "1"))
        .await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(
        client.get(&format!("{MAPS}/a")).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(plane.plane.registry().store().revision(), before);
    plane.stop().await;
}

#[tokio::test]
async fn pages_hold_one_revision_whatever_happens_between() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    for name in ["p1", "p2", "p3", "p4", "p5"] {
        let object = json!({"metadata": {"name": name, "labels": {"page": "yes"}}});
        client.post(MAPS, &object).await;
    }
    let list = format!("{MAPS}?labelSelector=page%3Dyes&limit=2");
    let (_, first) = client.get(&list).await;
    let revision = first["metadata"]["resourceVersion"].clone();
    let mut names: Vec<String> = Vec::new();
    let mut page = first;
    loop {
        for item in page["items"].as_array().expect("items") {
            names.push(
                item["metadata"]["name"]
                    .as_str()
                    .expect("a name")
                    .to_owned(),
            );
        }
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        let Some(token) = page["metadata"]["continue"].as_str() else {
            break;
        };
        // Neither a delete nor a create shows in later pages.
        client.delete(&format!("{MAPS}/p5")).await;
        let late = json!({"metadata": {"name": "p9", "labels": {"page": "yes"}}});
        client.post(MAPS, &late).await;
        page = client.get(&format!("{list}&continue={token}")).await.1;
    }
    assert_eq!(names, ["p1", "p2", "p3", "p4", "p5"]);
    plane.stop().await;
}

#[tokio::test]
async fn lists_come_as_tables_and_as_metadata() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    client.post(MAPS, &config_map("a", "1")).await;
    let table = client
        .send(
            "GET",
            &format!("{MAPS}?fieldSelector=metadata.name%3Da"),
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            "",
        )
        .await;
    let table = json(table).await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][1]["name"], "Data");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["cells"][1], 1);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let list = client
        .send(
            "GET",
            MAPS,
            &[(
                "accept",
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            )],
            "",
        )
        .await;
    let list = json(list).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0]["data"].is_null());
    plane.stop().await;
}

#[tokio::test]
async fn an_event_is_one_object_in_two_groups() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Tested", "note": "hello", "type": "Normal", "action": "Test",
        "eventTime": "2026-01-02T03:04:05.000006Z",
        "reportingController": "example.com/test", "reportingInstance": "here",
    });
    let (status, created) = client
        .post("/apis/events.k8s.io/v1/namespaces/default/events", &event)
        .await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    assert_eq!(created["apiVersion"], "events.k8s.io/v1");
    let core = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    let (_, list) = client.get(core).await;
    assert_eq!(list["items"][0]["message"], "hello");
    let new = "/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp";
    let (_, list) = client.get(new).await;
    assert_eq!(list["items"][0]["note"], "hello");
    assert_eq!(list["items"][0]["apiVersion"], "events.k8s.io/v1");
    plane.stop().await;
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let object = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    client.post(MAPS, &object).await;
    let path = format!("{MAPS}/held");
    let (status, marked) = client.delete(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        marked["metadata"]["deletionTimestamp"].is_string(),
        "{marked}"
    );
    let patch = r#"{"metadata": {"finalizers": null}}"#;
    client
        .call("PATCH", &path, "application/merge-patch+json", patch)
        .await;
    assert_eq!(client.get(&path).await.0, StatusCode::NOT_FOUND);
    plane.stop().await;
}

#[tokio::test]
async fn a_pod_that_runs_gets_its_grace_period() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "containers": [{"name": "c", "image": "i"}]}});
    let (status, created) = client.post(pods, &pod).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let path = format!("{pods}/p");
    let (_, marked) = client.delete(&path).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(client.get(&path).await.0, StatusCode::OK);
    let uid = marked["metadata"]["uid"].as_str().expect("a uid");
    let wrong = r#"{"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}}"#;
    let (status, _) = client.call("DELETE", &path, JSON, wrong).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let right = format!(r#"{{"gracePeriodSeconds": 0, "preconditions": {{"uid": "{uid}"}}}}"#);
    let (status, _) = client.call("DELETE", &path, JSON, &right).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(client.get(&path).await.0, StatusCode::NOT_FOUND);
    plane.stop().await;
}

#[tokio::test]
async fn a_budget_holds_evictions_back() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "x"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    client.post(pods, &pod).await;
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, answer) = client
        .call(
            "PATCH",
            &format!("{pods}/p/status"),
            "application/merge-patch+json",
            &status.to_string(),
        )
        .await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    let budget = json!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    client.post(budgets, &budget).await;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let path = format!("{pods}/p/eviction");
    let (code, refused) = client.post(&path, &eviction).await;
    assert_eq!(code, StatusCode::TOO_MANY_REQUESTS, "{refused}");
    assert_eq!(
        refused["details"]["causes"][0]["reason"],
        "DisruptionBudget"
    );
    client.delete(&format!("{budgets}/b")).await;
    let (code, _) = client.post(&path, &eviction).await;
    assert_eq!(code, StatusCode::CREATED);
    plane.stop().await;
}

#[tokio::test]
async fn replicas_change_through_scale() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({"metadata": {"name": "s"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}},
                     "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (status, created) = client.post(sets, &set).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let path = format!("{sets}/s/scale");
    let (_, scale) = client.get(&path).await;
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "app=x");
    let merge = "application/merge-patch+json";
    let (status, scale) = client
        .call("PATCH", &path, merge, r#"{"spec": {"replicas": 5}}"#)
        .await;
    assert_eq!(
        (status, &scale["spec"]["replicas"]),
        (StatusCode::OK, &json!(5))
    );
    let (status, _) = client
        .call("PATCH", &path, merge, r#"{"spec": {"replicas": -1}}"#)
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        client.get(&format!("{sets}/s")).await.1["spec"]["replicas"],
        5
    );
    plane.stop().await;
}
