//! `metrics.k8s.io/v1beta1`: what nodes and pods use, from the kubelets' `/metrics/resource`.
//!
//! A metrics server that is built in, so that `kubectl top` and horizontal autoscaling work without
//! one. Kubelets are asked only when somebody asks here. A rate takes two looks: the one before
//! serves where it is young enough, else a second one follows after a moment. All who ask meanwhile
//! wait for the same looks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use http::header::HeaderMap;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::accept::negotiate;
use super::body::{self, Body};
use super::kubelet::KubeletClient;
use super::query::Query;
use crate::registry::{ListOptions, Registry};
use crate::resource::{ResourceDef, stored};
use crate::status::ApiError;

/// The group.
pub(super) const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub(super) const VERSION: &str = "v1beta1";
const TARGET: &str = "/metrics/resource";
/// A look this young is served again.
const FRESH: Duration = Duration::from_secs(10);
/// A look this old is no start of a rate.
const STALE: Duration = Duration::from_secs(120);
/// Between two looks that follow each other.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long a node may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much a node may say: a line a container and family, a thousand containers.
const ANSWER_LIMIT: usize = 16 << 20;

/// What a path of the group names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePath {
    /// Nodes; else pods.
    pub nodes: bool,
    /// Empty for all.
    pub namespace: String,
    /// Empty for the collection.
    pub name: String,
}

impl UsagePath {
    /// Reads what follows `/apis/metrics.k8s.io/v1beta1`.
    pub fn parse(parts: &[&str]) -> Option<Self> {
        let path = |nodes, namespace: &str, name: &str| Self {
            nodes,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Some(match parts {
            ["nodes"] => path(true, "", ""),
            ["nodes", name] => path(true, "", name),
            ["pods"] => path(false, "", ""),
            ["namespaces", namespace, "pods"] => path(false, namespace, ""),
            ["namespaces", namespace, "pods", name] => path(false, namespace, name),
            _ => return None,
        })
    }

    /// The plural.
    pub fn plural(&self) -> &'static str {
        if self.nodes { "nodes" } else { "pods" }
    }

    fn def(&self) -> &'static ResourceDef {
        stored("", self.plural())
    }
}

/// What a node told at one time.
#[derive(Debug, Clone, Default, PartialEq)]
struct Told {
    node: Sample,
    /// By namespace, pod and container.
    containers: HashMap<(String, String, String), Sample>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sample {
    /// Seconds, and when they were counted, in milliseconds.
    cpu: Option<(f64, i64)>,
    /// Bytes.
    memory: Option<f64>,
    /// Seconds since 1970.
    start: Option<f64>,
}

/// A rate of CPU, and over which time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    nanocores: u64,
    window: Duration,
    at: Timestamp,
}

impl Sample {
    /// The rate since an earlier sample of the same container, or else since its start.
    fn rate(&self, before: Option<&Self>) -> Option<Rate> {
        let (cpu, at) = self.cpu?;
        let since = before
            .filter(|before| before.start == self.start)
            .and_then(|before| before.cpu)
            .filter(|(earlier, then)| *then < at && *earlier <= cpu);
        let (earlier, then) = match since {
            Some(since) => since,
            None => (0.0, (self.start? * 1000.0) as i64),
        };
        let window = Duration::from_millis(u64::try_from(at - then).ok()?);
        if window < Duration::from_millis(500) {
            return None;
        }
        Some(Rate {
            nanocores: ((cpu - earlier) / window.as_secs_f64() * 1e9) as u64,
            window,
            at: Timestamp::from_millisecond(at).ok()?,
        })
    }
}

/// Reads Prometheus' text format, as far as a kubelet uses it here.
fn read(text: &str) -> Told {
    let mut told = Told::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value, at)) = read_line(line) else {
            continue;
        };
        let (of, name) = name.split_once('_').unwrap_or_default();
        let sample = match of {
            "node" => &mut told.node,
            "container" => {
                let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
                let key = (label("namespace"), label("pod"), label("container"));
                told.containers.entry(key).or_default()
            }
            _ => continue,
        };
        match name {
            "cpu_usage_seconds_total" => sample.cpu = at.map(|at| (value, at)),
            "memory_working_set_bytes" => sample.memory = Some(value),
            "start_time_seconds" => sample.start = Some(value),
            _ => {}
        }
    }
    told
}

type Line<'a> = (&'a str, BTreeMap<&'a str, String>, f64, Option<i64>);

fn read_line(line: &str) -> Option<Line<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                match chars.next()? {
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (at, '"') => break at,
                    (_, other) => value.push(other),
                }
            };
            labels.insert(key.trim_start_matches(','), value);
            rest = &after[close + 1..];
        }
        rest = &rest[1..];
    }
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    let at = words.next().and_then(|it| it.parse().ok());
    Some((name, labels, value, at))
}

/// Two looks at all nodes.
#[derive(Debug, Clone)]
struct Looks {
    at: Instant,
    before: HashMap<String, Told>,
    last: HashMap<String, Told>,
}

type Looking = Shared<BoxFuture<'static, Arc<Looks>>>;

#[derive(Debug, Default)]
struct State {
    looks: Option<Arc<Looks>>,
    looking: Option<Looking>,
}

/// Asks kubelets what is used, and keeps the last answers.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    registry: Registry,
    kubelet: KubeletClient,
    state: Arc<Mutex<State>>,
}

impl Usage {
    pub(super) fn new(registry: Registry, kubelet: KubeletClient) -> Self {
        Self {
            registry,
            kubelet,
            state: Arc::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn looks(&self) -> Arc<Looks> {
        let looking = {
            let mut state = self.state();
            if let Some(looks) = &state.looks
                && looks.at.elapsed() < FRESH
            {
                return looks.clone();
            }
            let before = state.looks.clone();
            let usage = self.clone();
            state
                .looking
                .get_or_insert_with(|| usage.look_again(before).boxed().shared())
                .clone()
        };
        looking.await
    }

    async fn look_again(self, before: Option<Arc<Looks>>) -> Arc<Looks> {
        let before = before.filter(|looks| looks.at.elapsed() < STALE);
        let before = match before {
            Some(looks) => looks.last.clone(),
            None => {
                let first = self.look().await;
                tokio::time::sleep(BETWEEN).await;
                first
            }
        };
        let last = self.look().await;
        let looks = Arc::new(Looks {
            at: Instant::now(),
            before,
            last,
        });
        let mut state = self.state();
        state.looks = Some(looks.clone());
        state.looking = None;
        looks
    }

    /// What every node tells; one that does not answer tells nothing.
    async fn look(&self) -> HashMap<String, Told> {
        let all = ListOptions::default();
        let nodes = match self.registry.list(stored("", "nodes"), "", &all) {
            Ok(listed) => listed.objects,
            Err(error) => {
                tracing::warn!(?error, "nodes cannot be listed");
                return HashMap::new();
            }
        };
        let asked = nodes.iter().map(|node| async {
            let node = node.value();
            let name = node["metadata"]["name"].as_str()?.to_owned();
            match tokio::time::timeout(PATIENCE, self.ask(&node)).await {
                Ok(Ok(told)) => Some((name, told)),
                Ok(Err(problem)) => {
                    tracing::debug!(name, problem, "a node does not tell what it uses");
                    None
                }
                Err(_) => {
                    tracing::debug!(name, "a node does not tell what it uses in time");
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask(&self, node: &Value) -> Result<Told, String> {
        let response = self.kubelet.get(node, TARGET).await;
        let response = response.map_err(|error| error.message.clone())?;
        if response.status() != StatusCode::OK {
            return Err(format!("{TARGET} answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_LIMIT);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok(read(&String::from_utf8_lossy(&body.to_bytes())))
    }

    /// Answers a request that is allowed.
    pub(super) async fn answer(
        &self,
        path: &UsagePath,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        if !matches!(*method, Method::GET | Method::HEAD) || query.is_watch() {
            return Err(ApiError::method_not_allowed());
        }
        let form = negotiate(headers, query.get("pretty"))?;
        let wanted = self.wanted(path, query)?;
        let looks = self.looks().await;
        let mut items: Vec<Value> = wanted
            .iter()
            .filter_map(|object| {
                if path.nodes {
                    node_metrics(object, &looks)
                } else {
                    pod_metrics(object, &looks)
                }
            })
            .collect();
        let kind = if path.nodes {
            "NodeMetrics"
        } else {
            "PodMetrics"
        };
        let document = if path.name.is_empty() {
            let revision = self.registry.store().revision().to_string();
            json!({
                "kind": format!("{kind}List"),
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "metadata": {"resourceVersion": revision},
                "items": items,
            })
        } else {
            let found = items.pop();
            found.ok_or_else(|| ApiError::not_found(GROUP, path.plural(), &path.name))?
        };
        Ok(body::object(StatusCode::OK, form.encoding, &document))
    }

    /// The objects that are asked about.
    fn wanted(&self, path: &UsagePath, query: &Query) -> Result<Vec<Value>, ApiError> {
        if !path.name.is_empty() {
            let object = self.registry.get(path.def(), &path.namespace, &path.name);
            let object =
                object.map_err(|_| ApiError::not_found(GROUP, path.plural(), &path.name))?;
            return Ok(vec![object.value()]);
        }
        let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
        let options = ListOptions {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            ..ListOptions::default()
        };
        let listed = self.registry.list(path.def(), &path.namespace, &options)?;
        Ok(listed.objects.iter().map(|object| object.value()).collect())
    }
}

fn metrics(kind: &str, object: &Value, rate: Rate) -> Value {
    let mut metadata = json!({
        "name": object["metadata"]["name"],
        "creationTimestamp": format!("{:.0}", Timestamp::now()),
    });
    for key in ["namespace", "labels"] {
        if !object["metadata"][key].is_null() {
            metadata[key] = object["metadata"][key].clone();
        }
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": metadata,
        "timestamp": format!("{:.0}", rate.at),
        "window": window(rate.window),
    })
}

/// A duration as Go prints it.
fn window(window: Duration) -> String {
    let seconds = window.as_secs_f64();
    match window.as_secs() / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds - minutes as f64 * 60.0),
    }
}

fn usage(rate: Rate, memory: f64) -> Value {
    json!({
        "cpu": format!("{}n", rate.nanocores),
        "memory": format!("{}Ki", (memory / 1024.0) as u64),
    })
}

fn node_metrics(node: &Value, looks: &Looks) -> Option<Value> {
    let name = node["metadata"]["name"].as_str()?;
    let last = looks.last.get(name)?.node;
    let before = looks.before.get(name).map(|told| &told.node);
    let rate = last.rate(before)?;
    let mut metrics = metrics("NodeMetrics", node, rate);
    metrics["usage"] = usage(rate, last.memory?);
    Some(metrics)
}

/// A pod is told of only where each of its containers can be.
fn pod_metrics(pod: &Value, looks: &Looks) -> Option<Value> {
    let node = pod["spec"]["nodeName"].as_str()?;
    let (name, namespace) = (&pod["metadata"]["name"], &pod["metadata"]["namespace"]);
    let (name, namespace) = (name.as_str()?, namespace.as_str()?);
    let told = looks.last.get(node)?;
    let before = looks.before.get(node);
    let mut own: Vec<_> = told
        .containers
        .iter()
        .filter(|((in_namespace, of_pod, _), _)| in_namespace == namespace && of_pod == name)
        .collect();
    own.sort_by_key(|(name, _)| *name);
    let mut containers = Vec::new();
    let mut shortest: Option<Rate> = None;
    for (key, sample) in own {
        let rate = sample.rate(before.and_then(|told| told.containers.get(key)))?;
        containers.push(json!({"name": key.2, "usage": usage(rate, sample.memory?)}));
        let shorter = shortest.is_none_or(|it| rate.window < it.window);
        shortest = if shorter { Some(rate) } else { shortest };
    }
    let mut metrics = metrics("PodMetrics", pod, shortest?);
    metrics["containers"] = Value::Array(containers);
    Some(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP container_cpu_usage_seconds_total x
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container=\"c\",pod=\"p\",namespace=\"n\"} 1.5 1767225610000
container_memory_working_set_bytes{container=\"c\",pod=\"p\",namespace=\"n\"} 1.048576e+06 1767225610000
container_start_time_seconds{container=\"c\",pod=\"p\",namespace=\"n\"} 1.7672256e+09
node_cpu_usage_seconds_total 12.5 1767225610000
node_memory_working_set_bytes 2048 1767225610000
resource_scrape_error 0
";

    fn looks(before: &str, last: &str) -> Looks {
        let of = |text| HashMap::from([("node".to_owned(), read(text))]);
        Looks {
            at: Instant::now(),
            before: of(before),
            last: of(last),
        }
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
               "spec": {"nodeName": "node"}})
    }

    #[test]
    fn a_kubelets_words_are_read() {
        let told = read(TEXT);
        assert_eq!(told.node.cpu, Some((12.5, 1_767_225_610_000)));
        let key = ("n".to_owned(), "p".to_owned(), "c".to_owned());
        assert_eq!(told.containers[&key].memory, Some(1_048_576.0));
        let (_, labels, value, at) = read_line("x{a=\"1\\\"\\n\\\\\",b=\"}\"} 7").expect("a line");
        assert_eq!(
            (labels["a"].as_str(), labels["b"].as_str()),
            ("1\"\n\\", "}")
        );
        assert_eq!((value, at), (7.0, None));
        for bad in ["", "x", "x{", "x{a} 1", "x{a=\"} 1", "x{a=\"1\"} y"] {
            assert!(read_line(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_rate_is_between_two_looks() {
        let later = TEXT.replace("1.5 1767225610000", "2.5 1767225612000");
        let metrics = pod_metrics(&pod(), &looks(TEXT, &later)).expect("metrics");
        assert_eq!(metrics["containers"][0]["usage"]["cpu"], "500000000n");
        assert_eq!(metrics["containers"][0]["usage"]["memory"], "1024Ki");
        assert_eq!(metrics["window"], "2s");
        assert_eq!(metrics["timestamp"], "2026-01-01T00:00:12Z");
        assert_eq!(metrics["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn a_container_that_is_new_counts_from_its_start() {
        let metrics = pod_metrics(&pod(), &looks("", TEXT)).expect("metrics");
        assert_eq!(metrics["containers"][0]["usage"]["cpu"], "150000000n");
        assert_eq!(metrics["window"], "10s");
        // A restart is a new container, whatever its counter says.
        let restarted = TEXT.replace("1.7672256e+09", "1.767225609e+09");
        let metrics = pod_metrics(&pod(), &looks(TEXT, &restarted)).expect("metrics");
        assert_eq!(metrics["window"], "1s");
        assert!(pod_metrics(&pod(), &looks(TEXT, "")).is_none());
        // A node has no start: one look is not enough.
        let node = json!({"metadata": {"name": "node"}});
        assert!(node_metrics(&node, &looks("", TEXT)).is_none());
        assert!(node_metrics(&node, &looks(TEXT, TEXT)).is_none());
    }

    #[test]
    fn paths_are_those_of_a_metrics_server() {
        let parse = |path: &str| UsagePath::parse(&path.split('/').collect::<Vec<_>>());
        assert!(parse("nodes/n").expect("a path").nodes);
        let pod = parse("namespaces/n/pods/p").expect("a path");
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("n", "p"));
        assert_eq!(parse("namespaces/n/nodes"), None);
        assert_eq!(parse("pods/p"), None);
    }
}
