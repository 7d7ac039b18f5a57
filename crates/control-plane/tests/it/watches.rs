//! Watches.

use bytes::BytesMut;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::plane::{MAPS, Plane, config_map};

/// The events of a watch, one by one.
struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    fn of(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
        }
    }

    /// The next event; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = self.body.frame().await?.expect("a whole watch");
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("an event");
        assert_eq!(event["type"], kind, "{event}");
        assert_eq!(event["object"]["metadata"]["name"], name, "{event}");
        event["object"].clone()
    }
}

#[tokio::test]
async fn a_watch_shows_what_its_selector_sees() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let mut writer = plane.admin().await;
    let target = format!("{MAPS}?watch=true&labelSelector=in%3Dyes");
    let mut events = Events::of(client.send("GET", &target, &[], "").await);
    let path = format!("{MAPS}/a");
    let labelled = |value: &str, data: &str| json!({"metadata": {"name": "a", "labels": {"in": value}}, "data": {"key": data}});
    writer.post(MAPS, &labelled("no", "1")).await;
    writer.put(&path, &labelled("yes", "1")).await;
    events.expect("ADDED", "a").await;
    writer.put(&path, &labelled("yes", "2")).await;
    events.expect("MODIFIED", "a").await;
    let (_, left) = writer.put(&path, &labelled("no", "3")).await;
    let last = events.expect("DELETED", "a").await;
    // What the client knew, at the revision of the change.
    assert_eq!(last["data"]["key"], "2");
    assert_eq!(
        last["metadata"]["resourceVersion"],
        left["metadata"]["resourceVersion"]
    );
    writer.put(&path, &labelled("yes", "4")).await;
    events.expect("ADDED", "a").await;
    writer.delete(&path).await;
    events.expect("DELETED", "a").await;
    plane.stop().await;
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let mut writer = plane.admin().await;
    writer.post(MAPS, &config_map("a", "1")).await;
    let target = format!(
        "{MAPS}?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da"
    );
    let mut events = Events::of(client.send("GET", &target, &[], "").await);
    events.expect("ADDED", "a").await;
    let bookmark = events.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    writer.delete(&format!("{MAPS}/a")).await;
    events.expect("DELETED", "a").await;
    plane.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let mut writer = plane.admin().await;
    writer.post(MAPS, &config_map("before", "1")).await;
    let (_, list) = writer.get(MAPS).await;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision");
    writer.post(MAPS, &config_map("after", "1")).await;
    let target = format!("{MAPS}?watch=true&resourceVersion={revision}&timeoutSeconds=1");
    let mut events = Events::of(client.send("GET", &target, &[], "").await);
    events.expect("ADDED", "after").await;
    assert_eq!(events.next().await, None, "the watch ends in time");
    plane.stop().await;
}

#[tokio::test]
async fn the_heading_of_a_watched_table_comes_once() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let mut writer = plane.admin().await;
    for name in ["a", "b"] {
        let object = json!({"metadata": {"name": name, "labels": {"t": "1"}}});
        writer.post(MAPS, &object).await;
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let target = format!("{MAPS}?watch=true&labelSelector=t");
    let mut events = Events::of(client.send("GET", &target, &table, "").await);
    let first = events.next().await.expect("an event");
    let second = events.next().await.expect("an event");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    plane.stop().await;
}

#[tokio::test]
async fn a_revision_that_was_compacted_is_gone() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let mut writer = plane.admin().await;
    // More changes than the history keeps.
    writer.post(MAPS, &config_map("busy", "0")).await;
    let store = plane.plane.registry().store().clone();
    let registry = plane.plane.registry().clone();
    let context = control_plane::registry::Context::system("system:test");
    let maps = control_plane::resource::stored("", "configmaps");
    let large = "x".repeat(64 << 10);
    let mut count = 0u64;
    while store.oldest_revision() <= 3 {
        count += 1;
        registry
            .modify(&context, maps, "default", "busy", "", |object| {
                object["data"]["key"] = format!("{count}{large}").into();
                Ok(())
            })
            .await
            .expect("a change");
    }
    let target = format!("{MAPS}?watch=true&resourceVersion=2");
    let mut events = Events::of(client.send("GET", &target, &[], "").await);
    let event = events.next().await.expect("an event");
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    let (status, refused) = writer
        .get(&format!(
            "{MAPS}?resourceVersion=2&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(status, StatusCode::GONE);
    assert_eq!(refused["reason"], "Expired");
    plane.stop().await;
}
