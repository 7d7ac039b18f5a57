//! Events go an hour after they were last written.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::feed::{Feed, News};
use super::queue::Queue;
use super::text;
use crate::registry::{Context, DeleteOptions, Preconditions, Registry};
use crate::resource::stored;
use crate::store::Object;

/// How long an event stays (the real server's `--event-ttl`).
const TTL: Duration = Duration::from_secs(3600);

/// Deletes events until the store is closed.
pub async fn run(registry: Registry) {
    let events = stored("", "events");
    let mut feed = Feed::new(registry.store(), events.key_prefix(""));
    let mut queue: Queue<Arc<str>> = Queue::default();
    let context = Context::system("system:apiserver");
    loop {
        // Both arms are cancel-safe: feed and queue lose nothing when the other is taken.
        tokio::select! {
            news = feed.next() => {
                let Some(news) = news else { return };
                learn(&news, &mut queue, Instant::now(), Timestamp::now());
            }
            key = queue.next() => {
                let Some(object) = registry.store().get(&key) else { continue };
                let options = DeleteOptions {
                    preconditions: Preconditions {
                        uid: None,
                        // One that was written again gets another hour.
                        resource_version: Some(object.revision.to_string()),
                    },
                    ..DeleteOptions::default()
                };
                let deleted = registry
                    .delete(&context, events, object.namespace(), object.name(), &options)
                    .await;
                match deleted {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => {
                        tracing::warn!(%key, %error, "cannot delete the old event");
                        queue.retry(key);
                    }
                    _ => queue.succeeded(&key),
                }
            }
        }
    }
}

fn learn(news: &News, queue: &mut Queue<Arc<str>>, now: Instant, wall: Timestamp) {
    match news {
        News::All(objects) => {
            for object in objects {
                let age = wall.duration_since(last_written(object).unwrap_or(wall));
                let age = Duration::try_from(age).unwrap_or_default();
                queue.set(object.key.clone(), now + TTL.saturating_sub(age));
            }
        }
        News::Put(event) => queue.set(event.object.key.clone(), now + TTL),
        News::Deleted(event) => queue.remove(&event.object.key),
    }
}

/// When the event was last written, as far as it tells.
fn last_written(event: &Object) -> Option<Timestamp> {
    let value = event.value();
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .iter()
    .filter_map(|pointer| text(&value, pointer).parse().ok())
    .max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Attributes;

    fn event(name: &str, times: serde_json::Value) -> Arc<Object> {
        Arc::new(Object {
            key: format!("events/default/{name}").into(),
            revision: 1,
            json: times.to_string().into(),
            attributes: Attributes::default(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_of_an_earlier_run_gets_what_is_left_of_its_hour() {
        let wall: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let created = json!({"creationTimestamp": "2026-01-01T10:00:00Z"});
        let mut queue = Queue::default();
        let start = Instant::now();
        let news = News::All(vec![
            event("old", json!({"metadata": created})),
            event(
                "again",
                json!({"metadata": created, "lastTimestamp": "2026-01-01T11:30:00Z"}),
            ),
            event(
                "series",
                json!({"metadata": created, "eventTime": null, "series": {"lastObservedTime": "2026-01-01T11:59:00.000000Z"}}),
            ),
            event("odd", json!({"metadata": {}})),
        ]);
        learn(&news, &mut queue, start, wall);
        let mut due = Vec::new();
        while !queue.is_empty() {
            let key = queue.next().await;
            due.push((
                key.rsplit('/').next().unwrap().to_owned(),
                start.elapsed().as_secs() / 60,
            ));
        }
        let expected = [("old", 0), ("again", 30), ("series", 59), ("odd", 60)];
        assert_eq!(
            due,
            expected.map(|(name, minutes)| (name.to_owned(), minutes))
        );
    }
}
