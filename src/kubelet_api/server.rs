//! The listener, and the answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use rustls::ServerConfig;
use sync_wrapper::SyncStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::reply::Response;
use warp::{Filter, Reply};

use super::auth::{Caller, Guard, Refused};
use super::channel::{CHANNELS, Upgrade};
use super::forward::{self, FORWARDS};
use super::route::{Container, Route, verb};
use super::stream::{self, Options};
use super::{logs, stats};
use crate::agent::ServiceContext;
use crate::container::launch::{ExecError, ExecStream};
use crate::container::log::Reader;
use crate::container::{Adopted, Launcher};
use crate::node::Board;
use crate::node::usage::{NodeMeter, NodeUsage};
use crate::pod::monitor::Monitor;
use crate::pod::{ContainerView, Pods};

/// A stranger may hold a socket open; more than this many wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take for the TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// The port could not be bound, or stopped working.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken, or not ours to take.
    #[error(
        "the kubelet API cannot listen on {address}; choose another port with --kubelet-port (0 takes a free one)"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Listener {
    /// Binds; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Api {
    pods: Pods,
    monitor: Monitor,
    meter: NodeMeter,
    node: String,
    data: PathBuf,
    guard: Guard,
    launcher: Launcher,
    board: Board,
    /// Streams that go on after their request.
    streams: TaskTracker,
    stop: CancellationToken,
}

/// What a request has beside its line and its body.
struct Head {
    method: Method,
    query: String,
    headers: http::HeaderMap,
    upgrade: Option<OnUpgrade>,
}

/// Serves until `context.stop` is cancelled; then open streams are cut.
pub async fn serve(
    listener: Listener,
    tls: Arc<ServerConfig>,
    node: String,
    context: ServiceContext,
) {
    let api = Arc::new(Api {
        pods: context.pods,
        monitor: context.monitor,
        meter: context.meter,
        node: node.clone(),
        data: context.data,
        guard: Guard::new(context.client, node),
        launcher: context.launcher,
        board: context.board,
        streams: TaskTracker::new(),
        stop: context.stop.clone(),
    });
    let streams = api.streams.clone();
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a slot that is not used is given back, `accept` and `join_next` lose nothing.
        let accepted = tokio::select! {
            () = context.stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener.socket, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else {
            continue;
        };
        let api = Arc::clone(&api);
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            if let Err(error) = connection(stream, acceptor, api).await {
                tracing::debug!(%error, "connection to the kubelet API ended");
            }
            drop(slot);
        });
    }
    connections.shutdown().await;
    streams.close();
    streams.wait().await;
}

async fn accept(
    socket: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of descriptors, or a client that left: only time helps with the former.
            tracing::warn!(%error, "the kubelet API could not accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, api: Arc<Api>) -> io::Result<()> {
    // Log lines are small and wanted at once.
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (_, session) = stream.get_ref();
    let caller = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| Caller::of_certificate(certificate));
    let service = TowerToHyperService::new(warp::service(routes(api, caller)));
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

fn routes(
    api: Arc<Api>,
    caller: Option<Caller>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::filters::ext::optional::<OnUpgrade>())
        .and(warp::header::optional::<String>("authorization"))
        .then(
            move |method, path: warp::path::FullPath, query, headers, upgrade, authorization| {
                let api = Arc::clone(&api);
                let caller = caller.clone();
                let head = Head {
                    method,
                    query,
                    headers,
                    upgrade,
                };
                async move { answer(&api, caller, path.as_str(), head, authorization).await }
            },
        )
        // Only a header that is no text can fail above.
        .recover(|_| async { Ok::<_, Infallible>(text(StatusCode::BAD_REQUEST, "Bad Request")) })
        .unify()
}

fn text(code: StatusCode, text: impl Into<String>) -> Response {
    warp::reply::with_status(text.into(), code).into_response()
}

async fn answer(
    api: &Api,
    certificate: Option<Caller>,
    path: &str,
    head: Head,
    authorization: Option<String>,
) -> Response {
    let Head { method, .. } = &head;
    let route = Route::of(method, path);
    match check(api, certificate, method, &route, authorization.as_deref()).await {
        Ok(()) => {}
        Err(Refused::Unknown) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Err(Refused::Forbidden(why)) => return text(StatusCode::FORBIDDEN, why),
        Err(Refused::Failed(why)) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
    match route {
        Route::Healthz => text(StatusCode::OK, "ok"),
        Route::Pods => pod_list(&api.pods, false).await,
        Route::RunningPods => pod_list(&api.pods, true).await,
        Route::ContainerLogs {
            namespace,
            pod,
            container,
        } => container_logs(&api.pods, &namespace, &pod, &container, &head.query).await,
        Route::ResourceMetrics => resource_metrics(api).await,
        Route::Summary => summary(api, &head.query).await,
        Route::Metrics => agent_metrics(api).await,
        Route::Exec(container) => exec(api, &container, head).await,
        Route::Attach(container) => attach(api, &container, head).await,
        Route::PortForward {
            namespace,
            pod,
            uid,
        } => port_forward(api, &namespace, &pod, uid, head).await,
        Route::NotBuilt { path, .. } => text(
            StatusCode::NOT_IMPLEMENTED,
            format!("not implemented: this node does not serve /{path} yet"),
        ),
        Route::WrongMethod(allow) => {
            let reply =
                warp::reply::with_status("Method Not Allowed", StatusCode::METHOD_NOT_ALLOWED);
            warp::reply::with_header(reply, http::header::ALLOW, allow).into_response()
        }
        Route::Unknown => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

fn exposition(body: String) -> Response {
    warp::reply::with_header(body, http::header::CONTENT_TYPE, EXPOSITION).into_response()
}

fn ending() -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
}

async fn node_usage(api: &Api) -> io::Result<NodeUsage> {
    let meter = api.meter.clone();
    let read = tokio::task::spawn_blocking(move || meter.read()).await;
    read.map_err(io::Error::other)?
}

async fn resource_metrics(api: &Api) -> Response {
    let (sample, node) = tokio::join!(api.monitor.sample(false), node_usage(api));
    let Some(sample) = sample else {
        return ending();
    };
    if let Err(error) = &node {
        tracing::warn!(%error, "what the node uses cannot be read");
    }
    exposition(stats::resource(&sample, node.as_ref().ok()))
}

async fn summary(api: &Api, query: &str) -> Response {
    let only = form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "only_cpu_and_memory" && value == "true");
    let data = api.data.clone();
    let file_system = tokio::task::spawn_blocking(move || stats::file_system(&data));
    let (sample, node, file_system) =
        tokio::join!(api.monitor.sample(!only), node_usage(api), file_system);
    let Some(sample) = sample else {
        return ending();
    };
    match node {
        Ok(node) => {
            let file_system = file_system.ok().flatten();
            let (meter, name) = (&api.meter, &api.node);
            let summary = stats::summary(&sample, &node, meter, name, file_system.as_ref(), only);
            warp::reply::json(&summary).into_response()
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("what the node uses cannot be read: {error}"),
        ),
    }
}

async fn agent_metrics(api: &Api) -> Response {
    let running = |view: &crate::pod::PodView| {
        let containers = view.containers.iter();
        containers.filter(|container| container.running).count()
    };
    let all: Vec<usize> = api.pods.list().await.iter().map(running).collect();
    let busy = all.iter().filter(|count| **count > 0).count();
    let mut text = stats::agent(busy, all.iter().sum());
    text.push_str(&stats::ways(&api.board.subscribe().borrow().conditions));
    exposition(text)
}

async fn check(
    api: &Api,
    certificate: Option<Caller>,
    method: &Method,
    route: &Route,
    authorization: Option<&str>,
) -> Result<(), Refused> {
    let caller = api.guard.caller(certificate, authorization).await?;
    api.guard
        .authorize(&caller, verb(method), route.subresources())
        .await
}

async fn pod_list(pods: &Pods, running: bool) -> Response {
    let items: Vec<Pod> = pods
        .list()
        .await
        .into_iter()
        .filter(|view| !running || view.containers.iter().any(|container| container.running))
        .map(|view| Pod::clone(&view.pod))
        .collect();
    let list = List {
        items,
        ..List::default()
    };
    warp::reply::json(&list).into_response()
}

async fn container_logs(
    pods: &Pods,
    namespace: &str,
    name: &str,
    container: &str,
    query: &str,
) -> Response {
    let query = match logs::parse(query, Timestamp::now()) {
        Ok(query) => query,
        Err(refusal) => return text(refusal.code, refusal.text),
    };
    let Some(pod) = pods.find(namespace, name).await else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {name:?} is not on this node in namespace {namespace:?}"),
        );
    };
    let (view, attempt) = match logs::choose(&pod, name, container, query.previous) {
        Ok(chosen) => chosen,
        Err(refusal) => return text(refusal.code, refusal.text),
    };
    match Reader::open(&view.directory.attempt(attempt), query.read).await {
        Ok(reader) => {
            let body = warp::reply::stream(SyncStream::new(reader.into_stream()));
            warp::reply::with_header(body, http::header::CONTENT_TYPE, "text/plain").into_response()
        }
        Err(error) => text(
            StatusCode::BAD_REQUEST,
            format!("the log of container {container:?} cannot be read: {error}"),
        ),
    }
}

/// The running container that is meant, its attempt, and which streams are wanted; an error is the answer.
async fn streamed(
    api: &Api,
    container: &Container,
    query: &str,
) -> Result<(ContainerView, u32, Options), Response> {
    let bad = |why: &str| text(StatusCode::BAD_REQUEST, why);
    let options = Options::parse(query)
        .ok_or_else(|| bad("you must specify at least 1 of stdin, stdout, stderr"))?;
    let view = api.pods.find(&container.namespace, &container.pod).await;
    let view = view.filter(|it| container.uid.is_none() || it.pod.metadata.uid == container.uid);
    let view = view.ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let mut containers = view.containers.into_iter();
    let running = containers.find(|it| it.name == container.name && it.running);
    let missing = || {
        let name = &container.name;
        text(
            StatusCode::NOT_FOUND,
            format!("container not found ({name:?})"),
        )
    };
    let running = running.ok_or_else(missing)?;
    let attempt = running.current.ok_or_else(missing)?;
    Ok((running, attempt, options))
}

async fn exec(api: &Api, container: &Container, head: Head) -> Response {
    let (view, attempt, options) = match streamed(api, container, &head.query).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let upgrade = match Upgrade::new(&head.headers, head.upgrade, CHANNELS) {
        Ok(upgrade) => upgrade,
        Err(answer) => return answer,
    };
    let handle = match api.launcher.adopt(&view.directory, attempt).await {
        Ok(Adopted::Running(handle)) => handle,
        Ok(_) => {
            let name = &container.name;
            return text(
                StatusCode::NOT_FOUND,
                format!("container not found ({name:?})"),
            );
        }
        Err(error) => {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                crate::pod::api::chain(&error),
            );
        }
    };
    let answer = upgrade.answer();
    let stop = api.stop.clone();
    api.streams.spawn(async move {
        tokio::select! {
            () = stream::exec(upgrade, handle, options) => {}
            () = stop.cancelled() => {}
        }
    });
    answer
}

/// The way to what a container's command reads; none where it has ended meanwhile, so that its output says all.
async fn input(
    api: &Api,
    view: &ContainerView,
    attempt: u32,
    options: &Options,
) -> Result<Option<ExecStream>, String> {
    let adopted = api.launcher.adopt(&view.directory, attempt).await;
    let handle = match adopted.map_err(|error| crate::pod::api::chain(&error))? {
        Adopted::Running(handle) => handle,
        _ => return Ok(None),
    };
    match handle.attach(options.attach_call()).await {
        Ok(input) => Ok(Some(input)),
        Err(ExecError::Ended) => Ok(None),
        Err(error) => Err(crate::pod::api::chain(&error)),
    }
}

async fn attach(api: &Api, container: &Container, head: Head) -> Response {
    let (view, attempt, options) = match streamed(api, container, &head.query).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let upgrade = match Upgrade::new(&head.headers, head.upgrade, CHANNELS) {
        Ok(upgrade) => upgrade,
        Err(answer) => return answer,
    };
    // Before the answer: who has it misses nothing that comes afterwards.
    let output = match stream::Output::open(&view.directory.attempt(attempt)).await {
        Ok(output) => output,
        Err(error) => {
            let why = format!("the output of {:?} cannot be read: {error}", container.name);
            return text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
    };
    let input = if options.speaks() {
        match input(api, &view, attempt, &options).await {
            Ok(input) => input,
            Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
        }
    } else {
        None
    };
    let answer = upgrade.answer();
    let stop = api.stop.clone();
    api.streams.spawn(async move {
        tokio::select! {
            () = stream::attach(upgrade, output, input, options) => {}
            () = stop.cancelled() => {}
        }
    });
    answer
}

async fn port_forward(
    api: &Api,
    namespace: &str,
    name: &str,
    uid: Option<String>,
    head: Head,
) -> Response {
    let view = api.pods.find(namespace, name).await;
    let view = view.filter(|it| uid.is_none() || it.pod.metadata.uid == uid);
    let Some(view) = view else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if !view.containers.iter().any(|it| it.running) {
        let why = format!("unable to forward port because pod {name:?} has no running container");
        return text(StatusCode::BAD_REQUEST, why);
    }
    let upgrade = match Upgrade::new(&head.headers, head.upgrade, FORWARDS) {
        Ok(upgrade) => upgrade,
        Err(answer) => return answer,
    };
    let uid = view.pod.metadata.uid.as_deref().unwrap_or_default();
    let called = format!("{name}, uid {uid}");
    let answer = upgrade.answer();
    let stop = api.stop.clone();
    api.streams.spawn(async move {
        tokio::select! {
            () = forward::serve(upgrade, &called) => {}
            () = stop.cancelled() => {}
        }
    });
    answer
}
