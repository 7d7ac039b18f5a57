//! Events: what happened to pods and the node, for `kubectl describe`.
//!
//! One task sends them. Equal ones become one object with a count, they are sent at a
//! bounded rate, and a burst that is too much is dropped and counted: events are
//! advice, statuses are the record, and the first must never slow the second.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use http::Method;
use jiff::Timestamp;
use kube::Client;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::pod::api::{ApiProblem, send};

/// Events that wait to be sent.
const QUEUE: usize = 4096;
/// Events per second in the long run, and how many may go out at once: the kubelet's.
const RATE: f64 = 50.0;
const BURST: f64 = 100.0;
/// Events that are remembered, so that their repetitions are counted.
const REMEMBERED: usize = 4096;
/// How long what is queued may take to go out once the agent ends.
const FAREWELL: Duration = Duration::from_secs(2);
const COMPONENT: &str = "vk-cmd";

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// `Pod` or `Node`.
    pub kind: &'static str,
    /// Empty for a node, whose events lie in `default`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// `spec.containers{c}`, where it is about one container.
    pub field: Option<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// What it is about.
    pub subject: Subject,
    /// Whether something is wrong.
    pub warning: bool,
    /// A word in CamelCase.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
}

/// Takes events; cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<(Event, Timestamp)>,
}

impl Recorder {
    /// Queues an event; drops it where too many wait.
    pub fn publish(&self, event: Event, now: Timestamp) {
        if let Err(error) = self.queue.try_send((event, now)) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

/// Makes a recorder and the task that sends its events, which ends with `stop` once
/// what is queued went out, or with the last recorder.
pub fn recorder(
    client: Client,
    host: String,
    stop: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send) {
    let (queue, events) = mpsc::channel(QUEUE);
    let sender = Sender {
        client,
        host,
        known: HashMap::new(),
        order: VecDeque::new(),
        hasher: RandomState::new(),
    };
    (Recorder { queue }, sender.run(events, stop))
}

struct Sender {
    client: Client,
    host: String,
    /// By the hash of the event: thousands are known, and each is mostly names.
    known: HashMap<u64, Known>,
    order: VecDeque<u64>,
    hasher: RandomState,
}

struct Known {
    name: String,
    count: u32,
}

impl Sender {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<(Event, Timestamp)>,
        stop: CancellationToken,
    ) {
        let mut budget = Budget::new(Instant::now());
        loop {
            let next = tokio::select! {
                // Cancel-safe per docs on `recv`.
                next = events.recv() => next,
                () = stop.cancelled() => break,
            };
            let Some((event, at)) = next else { return };
            let ready = budget.take(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(ready) => {}
                () = stop.cancelled() => {}
            }
            self.send(event, at).await;
        }
        let rest = async {
            while let Ok((event, at)) = events.try_recv() {
                self.send(event, at).await;
            }
        };
        if tokio::time::timeout(FAREWELL, rest).await.is_err() {
            tracing::debug!("events were left behind at the end");
        }
    }

    async fn send(&mut self, event: Event, at: Timestamp) {
        let namespace = match event.subject.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let base = format!("/api/v1/namespaces/{namespace}/events");
        let stamp = format!("{at:.0}");
        let key = self.hasher.hash_one(&event);
        if let Some(known) = self.known.get_mut(&key) {
            known.count += 1;
            let patch = json!({"count": known.count, "lastTimestamp": stamp});
            let uri = format!("{base}/{}", known.name);
            let kind = "application/merge-patch+json";
            match send::<IgnoredAny>(&self.client, Method::PATCH, &uri, kind, &patch).await {
                // Its time is over: it starts anew.
                Err(ApiProblem::NotFound) => {}
                Err(problem) => return tracing::debug!(%problem, "an event was not counted"),
                Ok(_) => return,
            }
        }
        let name = format!("{}.{:x}", event.subject.name, at.as_nanosecond());
        let body = self.body(&event, &name, namespace, &stamp);
        let sent =
            send::<IgnoredAny>(&self.client, Method::POST, &base, "application/json", &body).await;
        match sent {
            Ok(_) => self.remember(key, name),
            Err(problem) => {
                tracing::debug!(%problem, reason = %event.reason, "an event was not sent")
            }
        }
    }

    fn body(&self, event: &Event, name: &str, namespace: &str, stamp: &str) -> Value {
        let subject = &event.subject;
        let mut involved = json!({
            "apiVersion": "v1", "kind": subject.kind, "name": subject.name, "uid": subject.uid,
        });
        if !subject.namespace.is_empty() {
            involved["namespace"] = json!(subject.namespace);
        }
        if let Some(field) = &subject.field {
            involved["fieldPath"] = json!(field);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "type": if event.warning { "Warning" } else { "Normal" },
            "reason": event.reason,
            "message": clip(&event.message),
            "source": {"component": COMPONENT, "host": self.host},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.host,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        })
    }

    fn remember(&mut self, key: u64, name: String) {
        if self.known.insert(key, Known { name, count: 1 }).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// The API takes 1024 bytes of a message.
fn clip(message: &str) -> &str {
    let mut end = message.len().min(1024);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// A token bucket.
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
        }
    }

    /// When the next event may go out.
    fn take(&mut self, now: Instant) -> Instant {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * RATE;
        self.left = (self.left + earned).min(BURST) - 1.0;
        self.at = now.max(self.at);
        if self.left >= 0.0 {
            now
        } else {
            now + Duration::from_secs_f64(-self.left / RATE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    fn event(message: &str) -> Event {
        let subject = Subject {
            kind: "Pod",
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            field: None,
        };
        Event {
            subject,
            warning: true,
            reason: "Failed".into(),
            message: message.into(),
        }
    }

    #[tokio::test]
    async fn equal_events_become_one_with_a_count() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let log = log.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                log.lock()
                    .unwrap()
                    .push((method, body["message"].clone(), body["count"].clone()));
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(b"{}".to_vec())))
            }
        });
        let stop = CancellationToken::new();
        let client = Client::new(service, "default");
        let (recorder, task) = recorder(client, "node".into(), stop.clone());
        for message in ["a", "a", "b", "a"] {
            recorder.publish(event(message), Timestamp::now());
        }
        stop.cancel();
        task.await;
        assert_eq!(
            *seen.lock().unwrap(),
            [
                (Method::POST, json!("a"), json!(1)),
                (Method::PATCH, Value::Null, json!(2)),
                (Method::POST, json!("b"), json!(1)),
                (Method::PATCH, Value::Null, json!(3)),
            ]
        );
    }

    #[test]
    fn the_rate_is_bounded() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..100 {
            assert_eq!(budget.take(start), start);
        }
        assert!(budget.take(start) > start);
        let later = start + Duration::from_secs(10);
        assert_eq!(budget.take(later), later);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = "ä".repeat(600);
        assert_eq!(clip(&text).len(), 1024);
        assert_eq!(clip(&format!("a{text}")).len(), 1023);
    }
}
