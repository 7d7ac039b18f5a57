//! The node agent: one node, its lease, its pods.
//!
//! `run` wires the parts and owns their tasks; what each part does lives in
//! [`crate::node`] and [`crate::pod`]. The kubelet API is handed in as a
//! [`Service`], so that the agent knows no HTTP server.
//!
//! | task | what it does | ends |
//! |---|---|---|
//! | manager | pods and their workers | after a drain; dropped otherwise |
//! | time | when the node ends, and what that means now | with the agent |
//! | keeper | registration, lease, node status | last, or when the name is lost |
//! | events | sends events | after the others |
//! | identity | renews our certificate, or says when it ends | with the agent |
//! | following | watches what volumes refer to, and services | with the agent |
//! | service | the kubelet API | with the pods |

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Taint;
use serde_json::Value;
use tokio::{
    sync::{OnceCell, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    container::{
        Launcher,
        cgroup::Delegated,
        dir::DirError,
        files::wants_room,
        launch::{default_socket_dir, raise_open_files},
    },
    events, hostpipe, identity, multiplex,
    node::{
        self, Board, Capacity, Keeping, Limits, NodeError, NodeSpec,
        devices::Devices,
        eviction::Evictor,
        keep_time,
        pressure::Pressure,
        usage::NodeMeter,
        walltime::{Outlook, Phase},
    },
    pod::{
        Clock, Context, Desk, Host, OnHost, OpenError, Order, Place, Pods,
        admission::Identity,
        api::{ApiProblem, PodApi, Retry, get},
        compat::Compat,
        env,
        fields::resource::Allocatable,
        images::{Images, Means},
        manage,
        monitor::Monitor,
        mounts::Layout,
        objects,
        probe::{Client, Prober},
        resources::{Amounts, Ledger, NodeShare},
    },
    quantity::Quantity,
    settings::resources::Upkeep,
};

mod host_watch;

/// All that the agent is told; resolved once, never changed.
pub struct AgentSettings {
    /// How the API server is reached and who we are there.
    pub config: kube::Config,
    /// How long we are that, and what is done about it.
    pub identity: identity::Identity,
    /// Name of the Node object.
    pub node_name: String,
    /// The private base directory: pod data lies in `<base>/<cluster>/<node>/pods`.
    pub base: PathBuf,
    /// Where the documented `<home>/<pod name>` links are made; none: no links.
    pub home: Option<PathBuf>,
    /// Where the control plane reaches this node: InternalIP, `hostIP` and `podIP`.
    pub address: IpAddr,
    /// The node's Hostname address and `kubernetes.io/hostname` label.
    pub hostname: String,
    /// The port of the kubelet API, for `status.daemonEndpoints`.
    pub kubelet_port: u16,
    /// Labels of the node beside those that the agent knows itself.
    pub labels: BTreeMap<String, String>,
    /// The taint that the node registers with, if any.
    pub taint: Option<Taint>,
    /// The program that is started as `<program> shim …`; usually this very binary.
    pub shim: PathBuf,
    /// The environment that pods start from, before the deny list is applied:
    /// the batch job's.
    pub environment: Vec<(String, String)>,
    /// Names (or prefixes that end in `*`) which no pod gets from that environment,
    /// beside the built-in ones.
    pub environment_deny: Vec<String>,
    /// Whose semantics pods get that do not choose.
    pub compat: Compat,
    /// What becomes of image references.
    pub images: Means,
    /// The site's engine, where there is one.
    pub engine: Option<Images>,
    /// How the node looks after its resources.
    pub upkeep: Upkeep,
    /// Where control groups of containers are made; none: nobody delegated any.
    pub groups: Option<Delegated>,
    /// How mounts are made where a pod says nothing of it.
    pub layout: Layout,
    /// The kubelet API, started once the pods are known.
    pub service: Option<Service>,
    /// Told once the node is registered and Ready.
    pub on_ready: Option<oneshot::Sender<()>>,
    /// When the node ends.
    pub limits: Limits,
    /// How long all may take once the end was ordered: what is left then is killed by the batch system.
    pub kill_wait: Duration,
    /// Whether the Node object goes with a drain, where this identity may remove it.
    pub remove_node: bool,
    /// How the host is reached where the agent sits in a container.
    pub hostpipe: Option<Hostpipe>,
    /// What others have to say in the node's status.
    pub board: Board,
}

/// The way to the host.
#[derive(Clone, Debug)]
pub struct Hostpipe {
    /// The pipe; somebody watches over it.
    pub client: hostpipe::Client,
    /// Whether every container runs on the host, not only those that need it.
    pub everything: bool,
}

/// A server that runs beside the agent until its token is cancelled.
pub type Service = Box<dyn FnOnce(ServiceContext) -> BoxFuture<'static, Result<(), String>> + Send>;

/// What a [`Service`] may use.
pub struct ServiceContext {
    /// The pods of this node.
    pub pods: Pods,
    /// What they use.
    pub monitor: Monitor,
    /// What the node uses.
    pub meter: NodeMeter,
    /// The root of pod data.
    pub data: PathBuf,
    /// Reaches their containers.
    pub launcher: Launcher,
    /// What others have to say in the node's status.
    pub board: Board,
    /// A client with the agent's identity (token and access reviews).
    pub client: kube::Client,
    /// Ends the service.
    pub stop: CancellationToken,
}

/// How the agent is told to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// End the containers within their grace, say so to the API, then return.
    pub drain: CancellationToken,
    /// The end was announced: cordon the node and end its pods within the drain window.
    pub soon: CancellationToken,
    /// Return at once and leave the containers running, to be adopted.
    pub abort: CancellationToken,
}

/// How a run of the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every container ended and every status was written.
    Drained,
    /// Told to leave at once; containers go on.
    Aborted,
    /// A newer agent holds this node's name.
    SteppedDown,
    /// Another reader of the hostpipe has answered, with another home or environment: what pods are told is to be
    /// found out anew. Containers go on.
    HostChanged,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The API client could not be made from the configuration.
    #[error("cannot make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    /// The API server answers and will not have us.
    #[error(
        "the API server refuses to {what}: {problem}. Give this identity the rights of a node \
         (deploy/rbac.yaml, or a certificate of the group system:nodes)"
    )]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Its words.
        problem: ApiProblem,
    },
    /// The agent would be of no use.
    #[error(
        "this identity may not {rights}: without that there is no node. deploy/rbac.yaml has all rights of a \
         service account, a certificate of the group system:nodes those of a node"
    )]
    Rights {
        /// Verbs and resources.
        rights: String,
    },
    /// Probes and hooks have no client.
    #[error("cannot prepare TLS for probes and hooks")]
    Tls(#[source] rustls::Error),
    /// The root cannot be used.
    #[error(transparent)]
    Root(#[from] OpenError),
    /// There can be no node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Control sockets have no place.
    #[error("no place for control sockets")]
    Sockets(#[from] DirError),
}

/// How long writes may take once the last container has ended, at most; a sixth of the time to the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the agent until it is told to end.
pub async fn run(mut settings: AgentSettings, shutdown: Shutdown) -> Result<Outcome, AgentError> {
    // Pods run under this uid: none of them may read our memory or trace us.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "other processes of this user can read this one");
    }
    let started = tokio::select! {
        started = Agent::start(&mut settings) => started?,
        () = shutdown.drain.cancelled() => return Ok(Outcome::Drained),
        () = shutdown.abort.cancelled() => return Ok(Outcome::Aborted),
    };
    started.run(settings, shutdown).await
}

struct Agent {
    client: kube::Client,
    place: Place,
    launcher: Launcher,
}

impl Agent {
    /// Finds out where we are: the cluster, the root, the epoch. Waits for an API server
    /// that cannot be reached; containers of an earlier agent go on meanwhile.
    async fn start(settings: &mut AgentSettings) -> Result<Self, AgentError> {
        let mut config = settings.config.clone();
        // Every caller here tries again in its own way.
        config.default_retry = false;
        // A watch whose connection died in silence is taken up again; servers say something every minute.
        config.read_timeout = Some(Duration::from_secs(100));
        config.connect_timeout = Some(Duration::from_secs(10));
        let client = match settings.identity.follow() {
            Some(tls) => multiplex::following(&config, tls),
            None => kube::Client::try_from(config),
        };
        let client = client.map_err(|error| AgentError::Client(Box::new(error)))?;
        let cluster = cluster(&client).await?;
        if settings.identity.is_checked() {
            match node::lacking(&client).await.map(|lacking| lacking.tell()) {
                Ok(None) => {}
                Ok(Some(rights)) => return Err(AgentError::Rights { rights }),
                // The first request that matters will say what is wrong.
                Err(problem) => {
                    tracing::debug!(%problem, "the rights of this identity are not known")
                }
            }
        }
        let place = place(&settings.base, &cluster, &settings.node_name).await?;
        if let Err(error) = raise_open_files() {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
        let sockets = match &settings.hostpipe {
            // All else in this container may be read-only.
            Some(pipe) if pipe.everything => pipe.client.dir().sockets(),
            _ => default_socket_dir(),
        };
        let host = settings.hostpipe.as_ref().map(|pipe| pipe.client.clone());
        let launcher = Launcher::new(settings.shim.clone(), sockets)?.with_host(host);
        tracing::info!(root = %place.root.path().display(), epoch = place.epoch, "the root is ours");
        Ok(Self {
            client,
            place,
            launcher,
        })
    }

    async fn run(self, settings: AgentSettings, shutdown: Shutdown) -> Result<Outcome, AgentError> {
        let Self {
            client,
            place,
            launcher,
        } = self;
        let stop_events = CancellationToken::new();
        let (recorder, send_events) = events::recorder(
            client.clone(),
            settings.node_name.clone(),
            stop_events.clone(),
        );
        let superseded = CancellationToken::new();
        let reach = launcher.clone();
        let http = Client::new().map_err(AgentError::Tls)?;
        let (prober, probing) = Prober::new(http.clone());
        let clock = Clock::start();
        // Nothing is written for this node before its lease is ours.
        let (mandate, may_write) = watch::channel(Instant::now());
        let (outlook, time) = keep_time(&settings.limits, clock, shutdown.soon.clone());
        let capacity = Capacity::of_this_process(place.root.path()).map_err(NodeError::Capacity)?;
        tracing::info!("the node has {}", capacity.explain());
        let found = crate::node::devices::find(Path::new("/"), |name| std::env::var(name).ok());
        for origin in &found.origins {
            tracing::info!("devices: {origin}");
        }
        let meter = NodeMeter::new(&capacity);
        let ledger = Ledger::new(share(&capacity, &found.devices));
        let (placement, placed) = watch::channel(Arc::new(ledger.placement()));
        let (sentence, verdicts) = mpsc::channel(64);
        let (ask_reclaim, reclaim) = mpsc::channel(1);
        let (monitor, monitoring) =
            Monitor::new(place.root.clone(), placed.clone(), sentence.clone());
        let config = settings.config.clone();
        let tls = settings.identity.follow();
        let connect = Box::new(move || match &tls {
            Some(tls) => multiplex::following(&config, tls.clone()),
            None => multiplex::client(&config),
        });
        let (follow, following) = objects::follow(connect);
        let context = Context {
            api: PodApi::new(client.clone(), may_write),
            monitor: monitor.clone(),
            placement: placed,
            log: settings.upkeep.log,
            events: recorder.clone(),
            follow,
            root: place.root.clone(),
            launcher,
            epoch: place.epoch,
            host: host(&settings, &capacity),
            groups: settings.groups,
            pod_pids: settings.upkeep.pod_pids,
            prober,
            http,
            images: settings.engine,
            home: settings.home,
            clock,
            beginnings: Arc::new(Semaphore::new(Context::BEGINNINGS)),
            disk: Semaphore::new(Context::DISK),
            superseded: superseded.clone(),
            private_mounts: OnceCell::new(),
        };
        let (order, orders) = watch::channel(Order::Run);
        let spec = NodeSpec {
            name: settings.node_name,
            address: settings.address,
            hostname: settings.hostname,
            kubelet_port: settings.kubelet_port,
            labels: settings.labels,
            taint: settings.taint,
            devices: found.devices,
            board: settings.board.clone(),
        };
        let desk = Desk {
            ledger,
            placement,
            verdicts,
            dead: settings.upkeep.dead,
            reclaim,
            labels: node::object::labels(&spec, true),
        };
        let (pods, manager) = manage(context, client.clone(), orders, outlook.clone(), desk);
        let (pressed, pressure) = watch::channel(Pressure::default());
        let stop_evictor = CancellationToken::new();
        let evictor = Evictor {
            thresholds: settings.upkeep.eviction,
            meter: meter.clone(),
            data: place.root.path().to_owned(),
            monitor: monitor.clone(),
            verdicts: sentence.clone(),
            pressure: pressed,
            reclaim: ask_reclaim,
        };
        let board = settings.board.clone();
        let host_changed = host_watch::follow(
            settings.hostpipe.map(|pipe| pipe.client),
            settings.board,
            spec.name.clone(),
            recorder.clone(),
        );
        let data = place.root.path().to_owned();
        let stop_keeper = CancellationToken::new();
        let keeping = Keeping {
            spec,
            data,
            pressure,
            outlook: outlook.clone(),
            events: recorder,
            ready: settings.on_ready,
            mandate,
            stop: stop_keeper.clone(),
            remove: settings.remove_node,
        };
        let keeper = node::keep(client.clone(), keeping);

        // Each of these ends when it is told to, and all when this function returns.
        let mut manager = spawn(manager);
        let _time = spawn(time);
        let events_task = spawn(send_events);
        let _probing = spawn(probing);
        let monitor_task = spawn(monitoring);
        let evictor_task = spawn(evictor.run(stop_evictor.clone()));
        let _following = spawn(following);
        let _identity = spawn(settings.identity.keep(client.clone()));
        let mut keeper = spawn(keeper);
        let stop_service = CancellationToken::new();
        let service = settings.service.map(|service| {
            let context = ServiceContext {
                pods,
                monitor,
                meter,
                data: place.root.path().to_owned(),
                launcher: reach,
                board,
                client,
                stop: stop_service.clone(),
            };
            spawn(service(context))
        });

        let ending = tokio::select! {
            () = shutdown.abort.cancelled() => Ending::Abort,
            () = shutdown.drain.cancelled() => Ending::Drain,
            () = superseded.cancelled() => Ending::Lost,
            () = over(outlook.clone()), if settings.limits.exit_at_end => Ending::Drain,
            kept = keeper.join_next() => match joined(kept) {
                Some(Ok(node::End::Replaced)) => Ending::Lost,
                Some(Err(error)) => Ending::Failed(error),
                Some(Ok(node::End::Stopped)) | None => Ending::Abort,
            },
            () = host_changed => Ending::HostChanged,
            ended = manager.join_next() => {
                joined(ended);
                Ending::Abort
            }
        };
        let end_containers = match ending {
            Ending::Drain => true,
            Ending::Abort | Ending::HostChanged | Ending::Failed(_) => false,
            // On our root the newer agent has adopted them; elsewhere they are ours to end.
            Ending::Lost => place.is_ours_alone(settings.kill_wait / 2).await,
        };
        let farewell = FAREWELL.min(settings.kill_wait / 6);
        let grace = settings.kill_wait.saturating_sub(farewell);
        // What one step does not need of its time is the next one's.
        let end = Instant::now() + settings.kill_wait;
        if end_containers {
            order.send_replace(match ending {
                Ending::Lost => Order::Abandon(grace),
                _ => Order::Drain(grace),
            });
            let drained = tokio::time::timeout_at(end - farewell / 2, manager.join_next());
            tokio::select! {
                drained = drained => if drained.is_err() {
                    tracing::warn!("not every container or status came to its end in time");
                },
                () = shutdown.abort.cancelled() => {}
            }
        }
        manager.shutdown().await;
        if matches!(ending, Ending::Drain) {
            stop_keeper.cancel();
            // The API server may be gone already.
            let _ = tokio::time::timeout_at(end - farewell / 8, keeper.join_next()).await;
        }
        stop_service.cancel();
        stop_events.cancel();
        let end = end.min(Instant::now() + FAREWELL);
        // Told to leave at once we do; what these were about is on disk or in the API.
        if !matches!(ending, Ending::Abort) {
            for mut task in [Some(events_task), service.map(silent)]
                .into_iter()
                .flatten()
            {
                let _ = tokio::time::timeout_at(end, task.join_next()).await;
            }
        }
        stop_evictor.cancel();
        drop((monitor_task, evictor_task));
        drop(place);
        match ending {
            Ending::Drain => Ok(Outcome::Drained),
            Ending::Abort => Ok(Outcome::Aborted),
            Ending::Lost => Ok(Outcome::SteppedDown),
            Ending::HostChanged => Ok(Outcome::HostChanged),
            Ending::Failed(error) => Err(error.into()),
        }
    }
}

/// Waits for the end of the walltime.
async fn over(mut outlook: watch::Receiver<Outlook>) {
    // The task that keeps the time lives as long as the agent.
    let _ = outlook.wait_for(|it| it.phase == Phase::Over).await;
}

enum Ending {
    Drain,
    Abort,
    HostChanged,
    Lost,
    Failed(NodeError),
}

/// One task that is aborted when its owner goes.
fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    let mut set = JoinSet::new();
    set.spawn(task);
    set
}

/// A service's task, with its error told.
fn silent(mut service: JoinSet<Result<(), String>>) -> JoinSet<()> {
    spawn(async move {
        if let Some(Ok(Err(error))) = service.join_next().await {
            tracing::error!(error, "the kubelet API ended");
        }
    })
}

/// What a task returned, if it came to its end; its panic is ours.
fn joined<T>(ended: Option<Result<T, tokio::task::JoinError>>) -> Option<T> {
    match ended? {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// What there is for pods to take.
fn share(capacity: &Capacity, devices: &Devices) -> NodeShare {
    let mut amounts = Amounts::from([
        ("cpu".to_owned(), capacity.millicpus),
        ("memory".to_owned(), capacity.memory / 1024 * 1024),
        (
            "ephemeral-storage".to_owned(),
            capacity.storage / 1024 * 1024,
        ),
        ("pods".to_owned(), u64::from(node::object::PODS)),
    ]);
    amounts.extend(
        devices
            .iter()
            .map(|(name, all)| ((*name).to_owned(), all.len() as u64)),
    );
    NodeShare {
        amounts,
        cores: capacity.cpus.clone(),
        devices: devices.clone(),
    }
}

fn host(settings: &AgentSettings, capacity: &Capacity) -> Host {
    let url = &settings.config.cluster_url;
    let port = match url.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    Host {
        node: settings.node_name.clone(),
        address: settings.address,
        api: (
            url.host().unwrap_or_default().to_owned(),
            url.port_u16().unwrap_or(port),
        ),
        environment: env::inherited(&settings.environment, &settings.environment_deny),
        identity: Identity {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        },
        compat: settings.compat,
        on_host: settings.hostpipe.as_ref().map(|pipe| {
            let facts = pipe.client.facts();
            let environment = facts.as_ref().map_or(&[][..], |facts| &facts.environment);
            OnHost {
                everything: pipe.everything,
                environment: env::inherited(environment, &settings.environment_deny),
            }
        }),
        images: settings.images.clone(),
        allocatable: allocatable(capacity),
        layout: settings.layout,
    }
}

/// What a container without a limit may use: what the Node object says of it.
fn allocatable(capacity: &Capacity) -> Allocatable {
    Allocatable {
        cpu: Quantity::millis(capacity.millicpus),
        memory: Quantity::units(capacity.memory / 1024 * 1024),
        storage: Quantity::units(capacity.storage / 1024 * 1024),
    }
}

/// What tells this cluster from others that a home has seen: the UID of the Service
/// default/kubernetes, which a node may read, or that of the namespace kube-system.
async fn cluster(client: &kube::Client) -> Result<String, AgentError> {
    const WHAT: &str = "read the Service default/kubernetes";
    let uid = |object: Value| object["metadata"]["uid"].as_str().map(str::to_owned);
    let found = insist(WHAT, || async {
        let service = get::<Value>(client, "/api/v1/namespaces/default/services/kubernetes").await;
        match service {
            Err(refused @ (ApiProblem::NotFound | ApiProblem::Refused { .. })) => {
                let namespace = get::<Value>(client, "/api/v1/namespaces/kube-system").await;
                namespace.map_err(|problem| match problem {
                    ApiProblem::Unreachable(_) => problem,
                    _ => refused,
                })
            }
            service => service,
        }
    });
    let missing = || AgentError::Refused {
        what: WHAT,
        problem: ApiProblem::NotFound,
    };
    uid(found.await?)
        .filter(|uid| is_component(uid))
        .ok_or_else(missing)
}

/// Opens the root; waits for room on its disk, since containers of an earlier agent may run there.
async fn place(base: &Path, cluster: &str, node: &str) -> Result<Place, OpenError> {
    let mut retry = Retry::default();
    loop {
        let (base, cluster, node) = (base.to_owned(), cluster.to_owned(), node.to_owned());
        let opened = tokio::task::spawn_blocking(move || Place::open(&base, &cluster, &node)).await;
        match opened {
            Ok(Err(error)) if wants_room(&error) => {
                let pause = retry.failed();
                tracing::warn!(
                    error = crate::pod::api::chain(&error),
                    pause_ms = pause.as_millis(),
                    "waiting for room on the disk of the root: remove something there"
                );
                tokio::time::sleep(pause).await;
            }
            Ok(opened) => return opened,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// It names a directory.
fn is_component(uid: &str) -> bool {
    !uid.is_empty()
        && uid
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'-')
}

/// Asks until there is an answer.
async fn insist<T, F: Future<Output = Result<T, ApiProblem>>>(
    what: &'static str,
    ask: impl Fn() -> F,
) -> Result<T, AgentError> {
    let mut retry = Retry::default();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            // Objects that every cluster has may come a moment after the server.
            Err(
                problem @ (ApiProblem::Unreachable(_)
                | ApiProblem::NotFound
                | ApiProblem::Conflict(_)),
            ) => {
                let pause = retry.failed();
                tracing::warn!(%problem, what, pause_ms = pause.as_millis(), "waiting for the API server");
                tokio::time::sleep(pause).await;
            }
            Err(problem) => return Err(AgentError::Refused { what, problem }),
        }
    }
}
