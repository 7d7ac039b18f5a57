//! The API calls that pods need. Every one is bounded in time and in number at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::header::RETRY_AFTER;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::client::Body;
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    objects::{Data, Kind, Reference},
    volumes::TokenRequest,
};

/// No single answer is waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Look-ups at once. Small, so that look-ups of one object that many pods need meet in
/// the queue and are made once.
const LOOKUPS: usize = 4;
/// A busy server is left alone for this long at least.
const SHORTEST: Duration = Duration::from_millis(100);
/// Writes at once; each holds a connection.
const WRITES: usize = 16;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiProblem {
    /// There is no such object.
    #[error("not found")]
    NotFound,
    /// A precondition does not hold, another writer was faster, or it exists already.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The server answers and will not do it.
    #[error("the API server refused with {code}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The server cannot be reached or is in trouble; worth another try.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
}

impl From<kube::Error> for ApiProblem {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::NotFound,
                409 => Self::Conflict(status.message),
                code @ (408 | 429 | 500..) => {
                    Self::Unreachable(format!("{code} {}", status.message))
                }
                code => Self::Refused {
                    code,
                    message: status.message,
                },
            },
            other => Self::Unreachable(chain(&other)),
        }
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

type Lookup = Shared<BoxFuture<'static, Result<Option<Data>, ApiProblem>>>;

/// A `resourceVersion`: of two of one object the greater one is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u64);

impl Version {
    /// None where the server's versions are no numbers.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// A client with bounds.
pub(crate) struct PodApi {
    client: Client,
    lookups: Arc<Semaphore>,
    writes: Semaphore,
    /// Until when this agent speaks for the node.
    mandate: watch::Receiver<Instant>,
    /// Look-ups that are queued and not begun: whoever comes before one begins may share it.
    queued: Arc<Mutex<HashMap<(String, Reference), Lookup>>>,
}

#[derive(serde::Deserialize)]
struct PartialObject {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

impl PodApi {
    /// Wraps a client. Statuses and deletes wait for the `mandate`: after a silence another agent may speak for
    /// this node, and only the lease tells.
    pub(crate) fn new(client: Client, mandate: watch::Receiver<Instant>) -> Self {
        Self {
            client,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            writes: Semaphore::new(WRITES),
            mandate,
            queued: Arc::default(),
        }
    }

    /// The labels of an object.
    pub(crate) async fn labels(&self, path: &str) -> Result<BTreeMap<String, String>, ApiProblem> {
        let object: PartialObject = get(&self.client, path).await?;
        Ok(object.metadata.labels.unwrap_or_default())
    }

    /// A config map or secret as it is now; none where it does not exist. The answer is
    /// never older than the question, so what a user changed before a pod is what the
    /// pod gets; questions that wait for their turn together are asked once.
    pub(crate) async fn object(
        &self,
        namespace: &str,
        reference: Reference,
    ) -> Result<Option<Data>, ApiProblem> {
        let key = (namespace.to_owned(), reference);
        let lookup = {
            let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
            queued
                .entry(key.clone())
                .or_insert_with(|| self.lookup(key))
                .clone()
        };
        lookup.await
    }

    fn lookup(&self, key: (String, Reference)) -> Lookup {
        let (client, lookups, queued) = (
            self.client.clone(),
            self.lookups.clone(),
            self.queued.clone(),
        );
        async move {
            // Never closed.
            let _turn = lookups.acquire().await;
            queued
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
            let (namespace, Reference { kind, name }) = key;
            let uri = format!("/api/v1/namespaces/{namespace}/{}/{name}", kind.plural());
            let found = match kind {
                Kind::ConfigMap => get::<ConfigMap>(&client, &uri).await.map(Data::from),
                Kind::Secret => get::<Secret>(&client, &uri).await.map(Data::from),
            };
            match found {
                Ok(data) => Ok(Some(data)),
                Err(ApiProblem::NotFound) => Ok(None),
                Err(problem) => Err(problem),
            }
        }
        .boxed()
        .shared()
    }

    /// A token of a service account, bound to a pod.
    pub(crate) async fn token(
        &self,
        namespace: &str,
        account: &str,
        pod: (&str, &str),
        wanted: &TokenRequest,
    ) -> Result<Token, ApiProblem> {
        #[derive(Deserialize)]
        struct Answer {
            status: Token,
        }
        let audiences: Vec<_> = [&wanted.audience]
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect();
        let (name, uid) = pod;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": wanted.expiration,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid},
            },
        });
        let uri = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer: Answer = self
            .write(Method::POST, &uri, "application/json", &body)
            .await?;
        Ok(answer.status)
    }

    /// Reads one object of any kind.
    pub(crate) async fn read<T: DeserializeOwned>(&self, uri: &str) -> Result<T, ApiProblem> {
        // Never closed.
        let _turn = self.lookups.acquire().await;
        get(&self.client, uri).await
    }

    /// Writes a pod's status; tells the version that the object has since.
    pub(crate) async fn patch_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Option<Version>, ApiProblem> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        struct Metadata {
            #[serde(default, rename = "resourceVersion")]
            version: String,
        }
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}/status?fieldManager=vk-cmd");
        let kind = "application/strategic-merge-patch+json";
        let answer: Answer = self.write(Method::PATCH, &uri, kind, patch).await?;
        Ok(Version::parse(&answer.metadata.version))
    }

    /// Waits until this agent speaks for the node. Cancel-safe.
    async fn mandated(&self) {
        let mut mandate = self.mandate.clone();
        // Without a keeper nothing is written at all: the agent ends.
        if mandate
            .wait_for(|until| Instant::now() < *until)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Deletes a pod for good, if it is still the one we mean.
    pub(crate) async fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), ApiProblem> {
        let body = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        });
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        self.write::<IgnoredAny>(Method::DELETE, &uri, "application/json", &body)
            .await
            .map(drop)
    }

    async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<T, ApiProblem> {
        let _turn = self.writes.acquire().await;
        // Not before there is a turn: the wait for it may outlast the lease.
        self.mandated().await;
        send(&self.client, method, uri, content_type, body).await
    }
}

/// An issued token.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    /// The token.
    pub(crate) token: String,
    /// When it ends.
    pub(crate) expiration_timestamp: jiff::Timestamp,
}

/// Reads one object.
pub(crate) async fn get<T: DeserializeOwned>(client: &Client, uri: &str) -> Result<T, ApiProblem> {
    let request = Request::get(uri).body(Vec::new());
    request_in_time(client, request).await
}

/// Writes one object.
pub(crate) async fn send<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    uri: &str,
    content_type: &str,
    body: &Value,
) -> Result<T, ApiProblem> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", content_type);
    request_in_time(client, request.body(body)).await
}

async fn request_in_time<T: DeserializeOwned>(
    client: &Client,
    request: Result<Request<Vec<u8>>, http::Error>,
) -> Result<T, ApiProblem> {
    let request = request.map_err(|error| ApiProblem::Refused {
        code: 0,
        message: chain(&error),
    })?;
    match tokio::time::timeout(PATIENCE, ask(client, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiProblem::Unreachable(format!(
            "no answer within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// Asks, and asks again when a server that is too busy says when.
async fn ask<T: DeserializeOwned>(
    client: &Client,
    request: Request<Vec<u8>>,
) -> Result<T, ApiProblem> {
    loop {
        let answer = client.send(request.clone().map(Body::from)).await?;
        let busy = matches!(answer.status().as_u16(), 429 | 503);
        let pause = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs)
            .filter(|_| busy);
        match pause {
            // A server that says so has done nothing.
            Some(pause) => tokio::time::sleep(pause.max(SHORTEST)).await,
            None => return read(answer).await,
        }
    }
}

async fn read<T: DeserializeOwned>(answer: Response<Body>) -> Result<T, ApiProblem> {
    let code = answer.status();
    let body = answer.into_body().collect().await;
    let body = body
        .map_err(|error| ApiProblem::Unreachable(chain(&error)))?
        .to_bytes();
    if code.is_success() {
        return serde_json::from_slice(&body).map_err(|error| {
            ApiProblem::Unreachable(format!("an answer that cannot be read: {error}"))
        });
    }
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        // Not from the API server itself, or from a part of it that does not speak of objects.
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        kube::core::Status::failure(&text, "").with_code(code.as_u16())
    });
    Err(kube::Error::Api(Box::new(status)).into())
}

/// Pauses between tries of something that has to succeed in the end: doubling, with
/// jitter, so that a thousand pods do not come back at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    /// The pause after one more failure.
    pub(crate) fn failed(&mut self) -> Duration {
        let pause = (Self::FIRST * (1 << self.failures.min(10))).min(Self::LONGEST);
        self.failures += 1;
        pause.mul_f64(jitter())
    }

    /// It worked.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Between a half and one.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u16;
    0.5 + f64::from(random) / f64::from(u16::MAX) / 2.0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn fake(answer: impl Fn(&str) -> (u16, Value) + Clone + Send + Sync + 'static) -> PodApi {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (code, body) = answer(request.uri().path());
            async move {
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(body).unwrap(),
                )
            }
        });
        let (_, mandate) = watch::channel(Instant::now() + Duration::from_secs(60));
        PodApi::new(Client::new(service, "default"), mandate)
    }

    fn status(code: u16) -> (u16, Value) {
        (
            code,
            json!({"kind": "Status", "status": "Failure", "code": code, "message": "m", "reason": "r"}),
        )
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let api = fake(|path| match path.rsplit('/').next().unwrap() {
            "there" => (200, json!({"data": {"k": "v"}})),
            "gone" => status(404),
            "forbidden" => status(403),
            _ => status(503),
        });
        let find = |name: &str| {
            api.object(
                "ns",
                Reference {
                    kind: Kind::ConfigMap,
                    name: name.to_owned(),
                },
            )
        };
        assert_eq!(
            find("there").await.unwrap().unwrap().bytes("k"),
            Some(&b"v"[..])
        );
        assert_eq!(find("gone").await.unwrap(), None);
        assert!(matches!(
            find("forbidden").await,
            Err(ApiProblem::Refused { code: 403, .. })
        ));
        assert!(matches!(
            find("busy").await,
            Err(ApiProblem::Unreachable(_))
        ));
    }

    #[tokio::test]
    async fn questions_that_wait_together_are_asked_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let api = fake(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            (200, json!({}))
        });
        let one = || {
            api.object(
                "ns",
                Reference {
                    kind: Kind::Secret,
                    name: "s".into(),
                },
            )
        };
        futures::future::join_all((0..100).map(|_| one())).await;
        let together = asked.load(Ordering::Relaxed);
        assert!(together <= LOOKUPS + 1, "{together} questions");
        one().await.unwrap();
        let later = asked.load(Ordering::Relaxed);
        assert_eq!(later, together + 1, "a later question is asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_is_asked_again_when_it_says() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            let busy = count.fetch_add(1, Ordering::Relaxed) < 2;
            let (code, body) = if busy {
                (429, &b"busy"[..])
            } else {
                (200, &b"{}"[..])
            };
            let answer = Response::builder().status(code).header(RETRY_AFTER, "7");
            let answer = answer.body(Body::from(body.to_vec())).unwrap();
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let began = Instant::now();
        let client = Client::new(service, "default");
        get::<Value>(&client, "/x").await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        assert!(began.elapsed() >= Duration::from_secs(14));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut retry = Retry::default();
        let pauses: Vec<_> = (0..12).map(|_| retry.failed()).collect();
        assert!(pauses[0] >= Retry::FIRST / 2 && pauses[0] <= Retry::FIRST);
        assert!(pauses[11] >= Retry::LONGEST / 2 && pauses[11] <= Retry::LONGEST);
        retry.succeeded();
        assert!(retry.failed() <= Retry::FIRST);
    }
}
