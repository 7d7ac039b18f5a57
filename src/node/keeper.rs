//! One task keeps the Node: it registers it, renews its lease, and reports its status.
//!
//! The lease fences: its holder is this run of the agent. Who registers takes the lease; who finds
//! on renewal that another run holds it has been replaced, and ends.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::capacity::Capacity;
use super::holder::Holder;
use super::object::{self, Host, NodeSpec};
use super::pressure::Pressure;
use super::walltime::{Outlook, Phase};
use crate::events::{Event, Recorder, Subject};
use crate::pod::api::{ApiProblem, Retry, get, send};

/// How often the lease is renewed, and the status looked at (a kubelet's `nodeStatusUpdateFrequency`).
const BEAT: Duration = Duration::from_secs(10);
/// How long a lease is good for.
const LEASE_SECONDS: u32 = 40;
/// How often a status that did not change is sent (a kubelet's `nodeStatusReportFrequency`).
const REPORT: Duration = Duration::from_secs(300);
/// After a silence as long as this the watch of the Node may be dead without a word: it is read.
const SILENCE: Duration = Duration::from_secs(25);
/// How long the last report may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long after a report of ours another one may follow because somebody wrote against it.
const CONTRADICTION: Duration = Duration::from_secs(1);
/// Why a node is not ready once its time is over; the reason is the original's.
const OVER: (&str, &str) = ("NodeNotReady", "the walltime of this node is over");
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// How the keeper ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Another run of the agent holds the lease.
    Replaced,
}

/// Why there can be no node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel does not say what there is.
    #[error("the capacity of this node cannot be found out")]
    Capacity(#[source] std::io::Error),
    /// The API server does not let this identity register the node.
    #[error(
        "the API server refused node {name:?}: {message}; the identity in the kubeconfig must be an admin, system:node:{name}, or a service account with the rights of deploy/rbac.yaml"
    )]
    Refused {
        /// The node.
        name: String,
        /// The server's words.
        message: String,
    },
}

struct Keeper {
    client: Client,
    spec: NodeSpec,
    host: Host,
    data: PathBuf,
    /// What the node is short of.
    pressure: watch::Receiver<Pressure>,
    /// This run.
    holder: Holder,
    node_uid: String,
    lease: Option<Value>,
    sent: Value,
    sent_at: Instant,
    /// When the API server last heard of us.
    heard_at: Instant,
    outlook: watch::Receiver<Outlook>,
    events: Recorder,
    /// The Node as last seen.
    seen: Value,
    /// Whether a watch tells of its changes.
    watching: bool,
    /// It was told that the walltime cannot be shown.
    mute: bool,
    /// Until when this run speaks for the node.
    mandate: watch::Sender<Instant>,
}

/// What the keeper is given.
pub(crate) struct Keeping {
    /// The node.
    pub(crate) spec: NodeSpec,
    /// On the file system of pod data.
    pub(crate) data: PathBuf,
    /// What the node is short of.
    pub(crate) pressure: watch::Receiver<Pressure>,
    /// What the walltime asks the node to show.
    pub(crate) outlook: watch::Receiver<Outlook>,
    /// For what happens to the node.
    pub(crate) events: Recorder,
    /// Told once the node is registered and Ready.
    pub(crate) ready: Option<oneshot::Sender<()>>,
    /// Told until when the lease is ours: whoever writes for this node waits for it.
    pub(crate) mandate: watch::Sender<Instant>,
    /// Ends the keeper.
    pub(crate) stop: CancellationToken,
    /// Whether the Node object goes with it, where this identity may remove it.
    pub(crate) remove: bool,
}

/// Registers the node and keeps it until it is told to stop.
///
/// # Errors
/// [`NodeError`]; an API server that cannot be reached is waited for instead.
pub(crate) async fn keep(client: Client, keeping: Keeping) -> Result<End, NodeError> {
    let Keeping {
        spec,
        data,
        pressure,
        outlook,
        events,
        ready,
        mandate,
        stop,
        remove,
    } = keeping;
    let holder = Holder::new(&spec.name, &data);
    let mut keeper = Keeper {
        client,
        spec,
        host: Host::read(),
        data,
        pressure,
        holder,
        node_uid: String::new(),
        lease: None,
        sent: Value::Null,
        sent_at: Instant::now(),
        heard_at: Instant::now(),
        outlook,
        events,
        seen: Value::Null,
        watching: false,
        mute: false,
        mandate,
    };
    tokio::select! {
        // Dropped in the middle it leaves a node without a lease, which the next run takes over.
        registered = keeper.register() => registered?,
        () = stop.cancelled() => return Ok(End::Stopped),
    }
    if let Some(ready) = ready {
        // Nobody waits any more: nothing to tell.
        let _ = ready.send(());
    }
    let end = keeper.beat(&stop).await?;
    if end == End::Stopped {
        let _ = tokio::time::timeout(FAREWELL, keeper.say_goodbye(remove)).await;
    }
    Ok(end)
}

impl Keeper {
    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.spec.name)
    }

    fn lease_path(&self) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
            self.spec.name
        )
    }

    fn refused(&self, message: String) -> NodeError {
        NodeError::Refused {
            name: self.spec.name.clone(),
            message,
        }
    }

    fn status(&self, not_ready: Option<(&str, &str)>) -> Result<Value, NodeError> {
        let capacity = Capacity::of_this_process(&self.data).map_err(NodeError::Capacity)?;
        let over = (self.outlook.borrow().phase == Phase::Over).then_some(OVER);
        let pressure = *self.pressure.borrow();
        Ok(object::status(
            &self.spec,
            &self.host,
            &capacity,
            pressure,
            not_ready.or(over),
            &self.sent,
            Timestamp::now(),
        ))
    }

    /// Tries until the node is there with our labels and status and the lease is ours.
    async fn register(&mut self) -> Result<(), NodeError> {
        let mut retry = Retry::default();
        loop {
            match self.try_register().await {
                Ok(()) => return Ok(()),
                Err(Try::Never(error)) => return Err(error),
                Err(problem) => {
                    let why = ApiProblem::from(problem);
                    let pause = retry.failed();
                    tracing::warn!(%why, ?pause, "the node is not registered yet");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn try_register(&mut self) -> Result<(), Try> {
        self.still_ours().await?;
        let status = self.status(None)?;
        let node = match self.create(&status).await? {
            Some(node) => node,
            None => self.reconcile(&status).await?,
        };
        self.node_uid = node["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.sent = status;
        self.sent_at = Instant::now();
        self.seen = node;
        self.take_lease().await?;
        self.show_walltime()
            .await
            .map_err(|error| Try::Again(error.to_string()))
    }

    /// The new node; none where one of that name exists.
    async fn create(&self, status: &Value) -> Result<Option<Value>, Try> {
        let mut with_role = true;
        loop {
            let body = object::node(
                &self.spec,
                status.clone(),
                with_role,
                &self.outlook.borrow(),
            );
            let made = send(&self.client, Method::POST, "/api/v1/nodes", JSON, &body).await;
            match made {
                Ok(node) => return Ok(Some(node)),
                Err(ApiProblem::Conflict(_)) => return Ok(None),
                // A node identity may not give itself this label on a real cluster.
                Err(ApiProblem::Refused { code: 403, message })
                    if with_role && message.contains(object::ROLE_LABEL.0) =>
                {
                    self.tell_about_the_role();
                    with_role = false;
                }
                // It may not create nodes, and may know one that somebody made for it.
                Err(ApiProblem::Refused { code: 403, message }) => {
                    return match get::<IgnoredAny>(&self.client, &self.path()).await {
                        Ok(_) => Ok(None),
                        Err(_) => Err(Try::Never(self.refused(message))),
                    };
                }
                Err(ApiProblem::Refused { message, .. }) => {
                    return Err(Try::Never(self.refused(message)));
                }
                Err(error) => return Err(Try::Again(error.to_string())),
            }
        }
    }

    fn tell_about_the_role(&self) {
        let (key, value) = object::ROLE_LABEL;
        tracing::warn!(
            "this identity may not set the label {key}={value}, which pods select; an admin can: kubectl label node {} {key}={value}",
            self.spec.name
        );
    }

    /// Brings a node that exists to our labels, taint and status.
    async fn reconcile(&mut self, status: &Value) -> Result<Value, Try> {
        let again = |error: ApiProblem| Try::Again(error.to_string());
        let node: Value = get(&self.client, &self.path()).await.map_err(again)?;
        for with_role in [true, false] {
            let missing = object::missing_labels(&node, &object::labels(&self.spec, with_role));
            if missing.is_empty() {
                break;
            }
            let patch = json!({"metadata": {"labels": missing}});
            let patched: Result<IgnoredAny, _> =
                send(&self.client, Method::PATCH, &self.path(), MERGE, &patch).await;
            match patched {
                Ok(_) => break,
                Err(ApiProblem::Refused { code: 403, .. }) if with_role => {
                    self.tell_about_the_role()
                }
                Err(ApiProblem::Refused { message, .. }) => {
                    tracing::warn!(message, "the labels of the node could not be set");
                    break;
                }
                Err(error) => return Err(again(error)),
            }
        }
        self.reconcile_taint(&node).await?;
        self.sent = node["status"].clone();
        self.patch_status(status).await.map_err(again)?;
        Ok(node)
    }

    /// A node identity may not change its taints later; what it finds then stays, and is told.
    async fn reconcile_taint(&self, node: &Value) -> Result<(), Try> {
        let Some(wanted) = &self.spec.taint else {
            return Ok(());
        };
        let taints = node["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if taints
            .iter()
            .any(|taint| taint["key"] == wanted.key.as_str())
        {
            return Ok(());
        }
        let patch = json!({"spec": {"taints": [wanted]}});
        let path = self.path();
        match send::<IgnoredAny>(&self.client, Method::PATCH, &path, STRATEGIC, &patch).await {
            Ok(_) => Ok(()),
            Err(ApiProblem::Refused { message, .. }) => {
                tracing::warn!(
                    message,
                    key = wanted.key,
                    "the node's taint could not be set"
                );
                Ok(())
            }
            Err(error) => Err(Try::Again(error.to_string())),
        }
    }

    async fn patch_status(&self, status: &Value) -> Result<(), ApiProblem> {
        let path = format!("{}/status", self.path());
        let patch = json!({"status": status});
        send::<IgnoredAny>(&self.client, Method::PATCH, &path, STRATEGIC, &patch).await?;
        Ok(())
    }

    fn lease_body(&self, held: Option<&Value>) -> Value {
        let now = format!("{:.6}", Timestamp::now());
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.spec.name,
                "namespace": "kube-node-lease",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node",
                    "name": self.spec.name, "uid": self.node_uid}],
            },
            "spec": {
                "holderIdentity": self.holder.text,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": now,
            },
        });
        if let Some(held) = held {
            lease["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"].clone();
        }
        lease
    }

    /// A run that held the lease takes it from nobody: whoever holds it now came later.
    async fn still_ours(&self) -> Result<(), Try> {
        if self.lease.is_none() {
            return Ok(());
        }
        match get::<Value>(&self.client, &self.lease_path()).await {
            Ok(held) => self.not_of_another(&held),
            Err(ApiProblem::NotFound) => Ok(()),
            Err(error) => Err(Try::Again(format!("lease: {error}"))),
        }
    }

    fn not_of_another(&self, held: &Value) -> Result<(), Try> {
        let holder = &held["spec"]["holderIdentity"];
        if self.lease.is_none() || *holder == self.holder.text.as_str() {
            return Ok(());
        }
        tracing::error!(
            %holder,
            "another agent took this node's name; this one steps down: give each agent a NODENAME (--nodename) of its own"
        );
        Err(Try::Replaced)
    }

    /// Makes the lease ours: the first time whoever had it, later only where nobody has.
    async fn take_lease(&mut self) -> Result<(), Try> {
        let again = |error: ApiProblem| Try::Again(format!("lease: {error}"));
        let collection = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let asked_at = Instant::now();
        let fresh = self.lease_body(None);
        let made = send::<Value>(&self.client, Method::POST, collection, JSON, &fresh).await;
        let lease = match made {
            Ok(lease) => lease,
            Err(ApiProblem::Conflict(_)) => {
                let held: Value = get(&self.client, &self.lease_path()).await.map_err(again)?;
                self.not_of_another(&held)?;
                self.tell_whose_it_was(&held);
                let body = self.lease_body(Some(&held));
                send(&self.client, Method::PUT, &self.lease_path(), JSON, &body)
                    .await
                    .map_err(again)?
            }
            Err(error) => return Err(again(error)),
        };
        self.lease = Some(lease);
        self.extend_mandate(asked_at);
        Ok(())
    }

    /// Who takes a name that is in use elsewhere says so: the other one ends, and what it ran.
    fn tell_whose_it_was(&self, held: &Value) {
        let Some(other) = self.holder.elsewhere(&held["spec"], Timestamp::now()) else {
            return;
        };
        let name = &self.spec.name;
        let message = format!(
            "the name of node {name} was in use elsewhere, by {other}: this agent has it now, and that one ends with its \
             pods. Unless that was meant, give each agent a NODENAME (--nodename) of its own"
        );
        tracing::warn!("{message}");
        self.tell_of("NodeNameTaken", true, message);
    }

    /// The lease was renewed by a request of that time.
    fn extend_mandate(&self, asked_at: Instant) {
        self.mandate
            .send_replace(asked_at + Duration::from_secs(LEASE_SECONDS.into()));
    }

    /// Renews the lease and reports what changed, until told to stop or replaced.
    async fn beat(&mut self, stop: &CancellationToken) -> Result<End, NodeError> {
        let mut retry = Retry::default();
        let mut next = Instant::now() + BEAT;
        let mut outlook = self.outlook.clone();
        let mut nodes = pin!(self.watch());
        let mut notices = self.spec.board.subscribe();
        loop {
            let mut renew = false;
            tokio::select! {
                // Cancel-safe: all only wait. The board lives as long as we do.
                () = tokio::time::sleep_until(next) => renew = true,
                Ok(()) = outlook.changed() => {}
                Ok(()) = notices.changed() => {}
                () = stop.cancelled() => return Ok(End::Stopped),
                // Cancel-safe: `next` of a pinned stream, which never ends.
                Some(event) = nodes.next() => {
                    self.observe(event);
                    let contradicted = object::contradicted(&self.seen, &self.sent);
                    if !contradicted && object::walltime_patch(&self.spec, &self.seen, &outlook.borrow()).is_none() {
                        continue;
                    }
                    // Whoever writes against us does not make us write without end.
                    let soon = self.sent_at + CONTRADICTION;
                    if soon > Instant::now() {
                        next = next.min(soon);
                        continue;
                    }
                }
            }
            let beat = async {
                if renew && self.renew().await? {
                    return Ok(Some(End::Replaced));
                }
                self.report().await?;
                self.show_walltime().await?;
                Ok(None)
            };
            let done: Result<Option<End>, ApiProblem> = tokio::select! {
                // Dropped only when the keeper ends.
                done = beat => done,
                () = stop.cancelled() => return Ok(End::Stopped),
            };
            match done {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {
                    retry.succeeded();
                    if renew {
                        next = Instant::now() + BEAT;
                    }
                }
                Err(error) => {
                    let pause = retry.failed().min(BEAT);
                    next = Instant::now() + pause;
                    // What was missed meanwhile is read.
                    self.watching = false;
                    tracing::warn!(%error, ?pause, "the node's heartbeat failed");
                }
            }
        }
    }

    /// What happens to our Node.
    fn watch(
        &self,
    ) -> impl Stream<Item = Result<watcher::Event<DynamicObject>, watcher::Error>> + use<> {
        let kind = ApiResource::erase::<Node>(&());
        let nodes = Api::<DynamicObject>::all_with(self.client.clone(), &kind);
        let ours = watcher::Config::default().fields(&format!("metadata.name={}", self.spec.name));
        watcher(nodes, ours).default_backoff()
    }

    fn observe(&mut self, event: Result<watcher::Event<DynamicObject>, watcher::Error>) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match event {
            Ok(Apply(node) | InitApply(node)) => {
                let node = serde_json::to_value(node).unwrap_or_default();
                self.watching = true;
                // Our own writes answer faster than the watch.
                let version = |it: &Value| {
                    it["metadata"]["resourceVersion"]
                        .as_str()?
                        .parse::<u64>()
                        .ok()
                };
                if version(&node)
                    .zip(version(&self.seen))
                    .is_none_or(|(new, old)| new >= old)
                {
                    self.seen = node;
                }
            }
            // Registered anew by the report that this brings about.
            Ok(Delete(_)) => self.seen = Value::Null,
            Ok(Init | InitDone) => {}
            Err(error) => {
                if self.watching {
                    tracing::debug!(%error, "the node is not watched; it is read at each heartbeat");
                }
                self.watching = false;
            }
        }
    }

    /// Brings label and cordon to what the walltime asks for.
    async fn show_walltime(&mut self) -> Result<(), ApiProblem> {
        let outlook = *self.outlook.borrow();
        let Some(patch) = object::walltime_patch(&self.spec, &self.seen, &outlook) else {
            return Ok(());
        };
        let node = send::<Value>(&self.client, Method::PATCH, &self.path(), MERGE, &patch).await;
        match node {
            Ok(node) => self.seen = node,
            Err(ApiProblem::Refused { code: 403, message }) => {
                if !std::mem::replace(&mut self.mute, true) {
                    tracing::warn!(
                        message,
                        "this identity may not change its node: the walltime is not shown there (rights: deploy/rbac.yaml)"
                    );
                }
                return Ok(());
            }
            Err(problem) => return Err(problem),
        }
        if patch["spec"]["unschedulable"] == true {
            let message = match outlook.closing {
                Some(closing) => format!(
                    "Node {} is cordoned: its walltime ends, and pods get SIGTERM up to {} before that",
                    self.spec.name,
                    crate::duration::show(closing.window)
                ),
                None => format!("Node {} is cordoned: its walltime ends", self.spec.name),
            };
            self.tell("NodeNotSchedulable", message);
        } else if patch["spec"].is_object() {
            let message = format!("Node {} takes pods: a new walltime began", self.spec.name);
            self.tell("NodeSchedulable", message);
        }
        Ok(())
    }

    fn tell(&self, reason: &'static str, message: String) {
        self.tell_of(reason, false, message);
    }

    fn tell_of(&self, reason: &'static str, warning: bool, message: String) {
        // As a kubelet writes them: the UID of a node's events is its name.
        let subject = Subject {
            kind: "Node",
            namespace: String::new(),
            name: self.spec.name.clone(),
            uid: self.spec.name.clone(),
            field: None,
        };
        let event = Event {
            subject,
            warning,
            reason: reason.into(),
            message,
        };
        self.events.publish(event, Timestamp::now());
    }

    /// True where another run holds the lease.
    async fn renew(&mut self) -> Result<bool, ApiProblem> {
        let asked_at = Instant::now();
        let body = self.lease_body(self.lease.as_ref());
        let path = self.lease_path();
        match send(&self.client, Method::PUT, &path, JSON, &body).await {
            Ok(lease) => {
                self.lease = Some(lease);
                self.extend_mandate(asked_at);
            }
            Err(ApiProblem::Conflict(_)) => {
                let held: Value = get(&self.client, &path).await?;
                if self.not_of_another(&held).is_err() {
                    return Ok(true);
                }
                self.lease = Some(held);
            }
            // Deleted with the node, or by hand.
            Err(ApiProblem::NotFound) => {
                return match self.try_register().await {
                    Ok(()) => Ok(false),
                    Err(Try::Replaced) => Ok(true),
                    Err(again) => Err(again.into()),
                };
            }
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    async fn report(&mut self) -> Result<(), ApiProblem> {
        let status = self
            .status(None)
            .map_err(|error| ApiProblem::Unreachable(error.to_string()))?;
        if !self.watching || self.heard_at.elapsed() > SILENCE {
            self.seen = match get::<Value>(&self.client, &self.path()).await {
                Ok(node) => node,
                Err(ApiProblem::NotFound) => Value::Null,
                Err(problem) => return Err(problem),
            };
        }
        let same = object::essence(&status) == object::essence(&self.sent)
            && !object::contradicted(&self.seen, &self.sent);
        if same && self.sent_at.elapsed() < REPORT {
            self.heard_at = Instant::now();
            return Ok(());
        }
        match self.patch_status(&status).await {
            Err(ApiProblem::NotFound) => {
                self.try_register().await?;
            }
            other => other?,
        }
        self.sent = status;
        self.sent_at = Instant::now();
        self.heard_at = self.sent_at;
        Ok(())
    }

    /// The last report: whoever schedules learns at once that nobody is here. With `remove` the Node goes,
    /// where this identity may remove it.
    async fn say_goodbye(&mut self, remove: bool) {
        // A newer agent of this name may have come meanwhile.
        match self.renew().await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the lease was not renewed at the end"),
        }
        if remove {
            let only = json!({"preconditions": {"uid": self.node_uid}});
            let path = self.path();
            match send::<IgnoredAny>(&self.client, Method::DELETE, &path, JSON, &only).await {
                Ok(_) | Err(ApiProblem::NotFound | ApiProblem::Conflict(_)) => return,
                Err(problem) => tracing::warn!(
                    %problem,
                    "the node stays, NotReady: kubectl delete node {} removes it", self.spec.name
                ),
            }
        }
        let why = ("AgentStopped", "the agent was stopped");
        let Ok(status) = self.status(Some(why)) else {
            return;
        };
        if let Err(error) = self.patch_status(&status).await {
            tracing::warn!(%error, "the API server was not told that the node is down");
        }
    }
}

enum Try {
    Again(String),
    Never(NodeError),
    /// Another run holds the lease; the next renewal ends this one.
    Replaced,
}

impl From<Try> for ApiProblem {
    fn from(problem: Try) -> Self {
        Self::Unreachable(match problem {
            Try::Again(why) => why,
            Try::Never(error) => error.to_string(),
            Try::Replaced => "another agent has this node's name".to_owned(),
        })
    }
}

impl From<NodeError> for Try {
    fn from(error: NodeError) -> Self {
        Self::Never(error)
    }
}
