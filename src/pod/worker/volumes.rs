//! Volumes: filled before the first start, kept up to date while the pod lives, and weighed
//! where they may not grow at will.
//!
//! Nothing here polls the API: tokens are renewed by a timer, config maps and secrets are read
//! anew when their watch says so, and what shows labels or annotations when these change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Context, Done, Worker,
    refresh::{Schedule, Tokenwise},
};
use crate::{
    container::dir::DirError,
    pod::{
        api::{ApiProblem, chain},
        kept::Kept,
        machine::{Event, Failure},
        objects::{Interest, Key, Objects, Reference, Version},
        record::{HomeLink, Record},
        volumes::{self, Claimed, Content, Found, Limit, Placed, Problem, TokenRequest, Tokens},
    },
};

/// Tokens are renewed at four fifths of their life, and daily.
const LONGEST_TOKEN_USE: Duration = Duration::from_secs(24 * 3600);
/// The pause after a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// How often volumes with a limit are weighed: the period of a kubelet's eviction manager.
const WEIGHING: Duration = Duration::from_secs(10);
/// Weighing large trees takes no more than this share of the time.
const WEIGHING_SHARE: u32 = 20;

/// What a worker remembers of its volumes.
#[derive(Debug, Default)]
pub(super) struct Care {
    /// Notified when an object in a volume has changed.
    pub(super) changed: Arc<Notify>,
    interest: Option<Interest>,
    refreshes: Schedule,
    refreshing: bool,
    weigh_after: Option<Instant>,
    limits: Vec<Limit>,
    /// Whether a volume shows labels or annotations.
    shows_metadata: bool,
}

/// What came of filling volumes.
#[derive(Debug)]
pub(in crate::pod) struct Filled {
    /// When the first of the tokens wants to be renewed.
    renew: Option<Duration>,
    seen: Vec<(Key, Version)>,
    /// Volumes that should be in memory, and are on the disk.
    on_disk: Vec<String>,
}

impl Care {
    /// When there is something to do next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        // What is due while a refresh goes on waits for its end.
        let refresh = self.refreshes.next().filter(|_| !self.refreshing);
        [refresh, self.weigh_after].into_iter().flatten().min()
    }

    fn refresh_within(&mut self, after: Duration, tokens: Tokenwise) {
        self.refreshes.order(Instant::now() + after, tokens);
    }
}

impl Worker {
    pub(super) fn prepare_volumes(&mut self) {
        let (context, pod) = (self.context.clone(), self.pod.typed());
        let (uid, record, link) = (self.uid.clone(), self.record(), self.home_link());
        let stop = self.no_starts.clone();
        let first = self.told.insert("home".to_owned());
        let names = self
            .state
            .plan()
            .containers
            .iter()
            .map(|it| it.name.to_string())
            .collect();
        self.tasks.spawn(async move {
            let made = make_directories(&context, &uid, record, link.filter(|_| first), names);
            // The questions do not need the directories.
            let (made, found) =
                tokio::join!(made, ask(&context, &pod, &uid, &stop, Tokenwise::Renew));
            let prepared = match made.and(found) {
                Ok(found) => fill(&context, &pod, &uid, found).await,
                Err(message) => Err(message),
            };
            match prepared {
                Ok(filled) => Done::Volumes(Box::new(filled)),
                Err(message) => Done::Machine(Event::VolumesFailed { message }),
            }
        });
    }

    /// The volumes are in place for the first time.
    pub(super) fn volumes_ready(&mut self, filled: Filled) {
        let Filled {
            renew,
            seen,
            on_disk,
        } = filled;
        if let Some(after) = renew {
            self.care.refresh_within(after, Tokenwise::Renew);
        }
        if !seen.is_empty() {
            let tell = self.care.changed.clone();
            self.care.interest = Some(self.context.follow.interest(seen, tell));
        }
        self.care.shows_metadata = volumes_of(&self.pod).any(volumes::shows_metadata);
        self.care.limits = volumes::limits(&self.pod);
        if !self.care.limits.is_empty() {
            self.care.weigh_after = Some(Instant::now() + WEIGHING);
        }
        if !on_disk.is_empty() && self.told.insert("memory".to_owned()) {
            let message = format!(
                "This host has no shared memory for pods (/dev/shm), so that emptyDir volumes of \
                 medium Memory are on its disk: {}",
                on_disk.join(", ")
            );
            self.notify(None, true, "Unsupported", message);
        }
        self.step(Event::VolumesReady);
    }

    /// A timer may have come to its end.
    pub(super) fn care_for_volumes(&mut self, now: Instant) {
        if !self.care.refreshing
            && let Some(tokens) = self.care.refreshes.take_due(now)
        {
            self.refresh_volumes(tokens);
        }
        if self.care.weigh_after.is_some_and(|at| at <= now) {
            self.care.weigh_after = None;
            self.weigh_volumes();
        }
    }

    /// An object that a volume shows has changed.
    pub(super) fn volume_changed(&mut self) {
        if self.care.refreshing {
            self.care.refresh_within(Duration::ZERO, Tokenwise::Keep);
        } else {
            self.refresh_volumes(Tokenwise::Keep);
        }
    }

    /// The pod has other labels or annotations than before.
    pub(super) fn metadata_changed(&mut self, before: &Kept) {
        if !self.care.shows_metadata || !self.care_goes_on() {
            return;
        }
        let (old, new) = (&before.metadata, &self.pod.metadata);
        if old.labels != new.labels || old.annotations != new.annotations {
            self.volume_changed();
        }
    }

    /// A pod that has come to its end keeps its volumes as they are.
    fn care_goes_on(&self) -> bool {
        *self.state.volumes() == crate::pod::machine::Volumes::Ready
            && self.state.terminal().is_none()
            && self.state.ending().is_none()
    }

    /// Leaves the volumes of a pod that has ended alone.
    pub(super) fn end_care(&mut self) {
        if self.state.terminal().is_some() || self.state.ending().is_some() {
            self.care.interest = None;
            self.care.refreshes = Schedule::default();
            self.care.weigh_after = None;
        }
    }

    fn refresh_volumes(&mut self, tokens: Tokenwise) {
        if !self.care_goes_on() {
            return;
        }
        self.care.refreshing = true;
        let (context, pod, uid) = (self.context.clone(), self.pod.typed(), self.uid.clone());
        let stop = self.no_starts.clone();
        self.tasks.spawn(async move {
            let outcome = match ask(&context, &pod, &uid, &stop, tokens).await {
                Ok(found) => fill(&context, &pod, &uid, found).await,
                Err(message) => Err(message),
            };
            let outcome = outcome.map(|filled| filled.renew);
            Done::Refreshed { tokens, outcome }
        });
    }

    pub(super) fn volumes_refreshed(
        &mut self,
        tokens: Tokenwise,
        outcome: Result<Option<Duration>, String>,
    ) {
        self.care.refreshing = false;
        match outcome {
            Ok(renew) => {
                if let Some(after) = renew {
                    self.care.refresh_within(after, Tokenwise::Renew);
                }
            }
            Err(message) if self.care_goes_on() => {
                // What the volume held stays; a watch may tell sooner that it is worth a try.
                self.care.refresh_within(RENEWAL_RETRY, tokens);
                self.notify(None, true, "FailedMount", message);
            }
            Err(_) => {}
        }
        self.end_care();
    }

    fn weigh_volumes(&mut self) {
        if !self.care_goes_on() {
            return;
        }
        let limits = self.care.limits.clone();
        let (context, uid) = (self.context.clone(), self.uid.clone());
        self.tasks.spawn(async move {
            let begun = Instant::now();
            let root = context.root.clone();
            let weighed = context.on_disk(move || {
                let over =
                    |limit: &Limit| limit.exceeded(volumes::usage(&root, &uid, &limit.volume));
                limits.iter().find_map(over)
            });
            let over = weighed.await.ok().flatten();
            let next = WEIGHING.max(begun.elapsed() * WEIGHING_SHARE);
            Done::Weighed { over, next }
        });
    }

    pub(super) fn volumes_weighed(&mut self, over: Option<String>, next: Duration) {
        match over {
            Some(message) => {
                let failure = Box::new(Failure {
                    reason: "Evicted".into(),
                    message,
                    disruption: None,
                    warning: true,
                });
                let grace = Some(Duration::ZERO);
                self.step(Event::Fail { failure, grace });
            }
            None if self.care_goes_on() => self.care.weigh_after = Some(Instant::now() + next),
            None => {}
        }
    }
}

async fn make_directories(
    context: &Context,
    uid: &str,
    record: Record,
    link: Option<HomeLink>,
    containers: Vec<String>,
) -> Result<(), String> {
    let (root, uid) = (context.root.clone(), uid.to_owned());
    let made = context.on_disk(move || {
        record.write(&root, &uid)?;
        for name in containers {
            root.container(&uid, &name)?.create()?;
        }
        if let Some(link) = link {
            match link.make() {
                Ok(true) => {}
                Ok(false) => {
                    tracing::debug!(uid, ?link, "the pod's name is taken in the home directory")
                }
                Err(error) => tracing::warn!(%error, uid, "no link in the home directory"),
            }
        }
        Ok::<_, DirError>(())
    });
    let made = made.await?;
    made.map_err(|error| format!("the pod's directory cannot be made: {}", chain(&error)))
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
}

/// What was found, and when the first of the tokens wants to be renewed.
type Asked = (Found, Option<Duration>);

/// Looks up what the volumes refer to. Given up when the pod ends.
async fn ask(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    uid: &str,
    stop: &CancellationToken,
    tokenwise: Tokenwise,
) -> Result<Asked, String> {
    let needed = volumes_of(pod).flat_map(volumes::needs).collect();
    let mut wanted: BTreeSet<TokenRequest> = volumes_of(pod).flat_map(volumes::tokens).collect();
    let mut kept = Tokens::new();
    if tokenwise == Tokenwise::Keep && !wanted.is_empty() {
        kept = tokens_in_place(context, pod, uid).await?;
        wanted.retain(|request| !kept.contains_key(request));
    }
    let objects = async {
        let found = look_up(context, pod, needed).await;
        found.map_err(|problem| format!("MountVolume.SetUp failed: {problem}"))
    };
    let claims = async { Ok(claims(context, pod).await) };
    let answers = async { tokio::try_join!(objects, issue(context, pod, uid, wanted), claims) };
    let (objects, (mut tokens, renew), claims) = tokio::select! {
        answers = answers => answers?,
        () = stop.cancelled() => return Err("the pod ends".to_owned()),
    };
    tokens.append(&mut kept);
    let found = Found {
        objects,
        tokens,
        claims,
    };
    Ok((found, renew))
}

/// Brings the volumes to the disk.
async fn fill(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    uid: &str,
    (found, renew): Asked,
) -> Result<Filled, String> {
    let contents = volumes_of(pod).map(|volume| {
        let content = volumes::content(pod, &context.host, volume, &found);
        content.map(|content| (volume.name.clone(), content))
    });
    let contents: Result<Vec<_>, Problem> = contents.collect();
    let contents = contents.map_err(|problem| problem.to_string())?;
    let on_disk = place(context, uid, contents).await?;
    let namespace: Arc<str> = pod.metadata.namespace.as_deref().unwrap_or_default().into();
    let seen = found.objects.iter().filter_map(|(reference, data)| {
        let key = (namespace.clone(), reference.clone());
        match data {
            Some(data) if data.immutable() => None,
            Some(data) => Some((key, data.version().map(Box::from))),
            None => Some((key, None)),
        }
    });
    Ok(Filled {
        renew,
        seen: seen.collect(),
        on_disk,
    })
}

/// The objects a pod refers to, each none where it does not exist.
pub(super) async fn look_up(
    context: &Context,
    pod: &Pod,
    needed: BTreeSet<Reference>,
) -> Result<Objects, ApiProblem> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let found = try_join_all(needed.into_iter().map(|reference| async move {
        let data = context.api.object(namespace, reference.clone()).await;
        data.map(|data| (reference, data))
    }));
    let mut objects = Objects::default();
    for (reference, data) in found.await? {
        objects.insert(reference, data);
    }
    Ok(objects)
}

/// What the pod's claims stand for.
async fn claims(context: &Context, pod: &Pod) -> BTreeMap<String, Result<Claimed, String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named = volumes_of(pod).filter_map(|volume| Some((volume, volumes::claim(volume)?)));
    let found = join_all(named.map(|(volume, name)| async move {
        (
            name.to_owned(),
            claimed(context, namespace, volume, name).await,
        )
    }));
    found.await.into_iter().collect()
}

async fn claimed(
    context: &Context,
    namespace: &str,
    volume: &Volume,
    name: &str,
) -> Result<Claimed, String> {
    let absent = |resource: &str, name: &str, problem| match problem {
        ApiProblem::NotFound => format!("{resource} {name:?} not found"),
        problem => problem.to_string(),
    };
    let uri = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
    let claim = context.api.read::<PersistentVolumeClaim>(&uri).await;
    let claim = claim.map_err(|problem| {
        let why = absent("persistentvolumeclaims", name, problem);
        format!("failed to fetch PVC from API server: {why}")
    })?;
    let (bound, uid) = volumes::bound(&claim)?;
    let uri = format!("/api/v1/persistentvolumes/{bound}");
    let backing = context.api.read::<PersistentVolume>(&uri).await;
    let backing = backing.map_err(|problem| {
        let why = absent("persistentvolumes", bound, problem);
        format!("failed to fetch PV {bound} from API server: {why}")
    })?;
    if volumes::is_tied(&backing) {
        let node = &context.host.node;
        let labels = context.api.labels(&format!("/api/v1/nodes/{node}")).await;
        let labels = labels.map_err(|problem| {
            let why = absent("nodes", node, problem);
            format!("failed to fetch the node from API server: {why}")
        })?;
        volumes::on_this_node(&backing, node, &labels)?;
    }
    volumes::backed(&volume.name, &backing, uid)
}

/// Tokens as they are in the volumes: they are read back rather than kept in memory.
async fn tokens_in_place(context: &Context, pod: &Arc<Pod>, uid: &str) -> Result<Tokens, String> {
    let (root, pod, uid) = (context.root.clone(), pod.clone(), uid.to_owned());
    let read = context.on_disk(move || {
        let mut tokens = Tokens::new();
        for volume in volumes_of(&pod) {
            for (path, request) in volumes::token_files(volume) {
                let bytes = volumes::read(&root, &uid, &volume.name, path);
                if let Some(token) = bytes.and_then(|it| String::from_utf8(it).ok()) {
                    tokens.insert(request, token);
                }
            }
        }
        tokens
    });
    read.await
}

async fn issue(
    context: &Context,
    pod: &Pod,
    uid: &str,
    wanted: BTreeSet<TokenRequest>,
) -> Result<(Tokens, Option<Duration>), String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|it| !it.is_empty()).unwrap_or("default");
    let issued = try_join_all(wanted.into_iter().map(|request| async move {
        let token = context
            .api
            .token(namespace, account, (name, uid), &request)
            .await;
        token.map(|token| (request, token))
    }));
    let issued = issued.await.map_err(|problem| {
        let why = match problem {
            ApiProblem::NotFound => format!("serviceaccounts {account:?} not found"),
            problem => problem.to_string(),
        };
        let has_token = |volume: &&Volume| !volumes::tokens(volume).is_empty();
        let volume = volumes_of(pod).find(has_token).map(|it| it.name.as_str());
        let volume = volume.unwrap_or_default();
        format!("MountVolume.SetUp failed for volume {volume:?} : failed to fetch token: {why}")
    })?;
    let now = context.clock.now().wall;
    let mut renew = None;
    let mut tokens = Tokens::new();
    for (request, token) in issued {
        let left = Duration::try_from(token.expiration_timestamp.duration_since(now));
        let after = (left.unwrap_or_default() * 4 / 5).clamp(RENEWAL_RETRY, LONGEST_TOKEN_USE);
        renew = Some(renew.map_or(after, |renew: Duration| renew.min(after)));
        tokens.insert(request, token.token);
    }
    Ok((tokens, renew))
}

/// Returns the volumes that should be in memory and are on the disk.
async fn place(
    context: &Context,
    uid: &str,
    contents: Vec<(String, Content)>,
) -> Result<Vec<String>, String> {
    let (root, uid) = (context.root.clone(), uid.to_owned());
    // Behind a hostpipe our own file system says nothing of the host's.
    let elsewhere = context
        .host
        .on_host
        .as_ref()
        .is_some_and(|it| it.everything);
    let placed = context.on_disk(move || {
        let mut on_disk = Vec::new();
        for (volume, content) in contents {
            let placed = match &content {
                Content::Place { path, .. } if elsewhere => {
                    volumes::lead_to(&root, &uid, &volume, path).map(|()| Placed::AsAsked)
                }
                Content::Directory { memory: true } if elsewhere => {
                    let content = Content::Directory { memory: false };
                    volumes::place(&root, &uid, &volume, &content).map(|_| Placed::OnDisk)
                }
                content => volumes::place(&root, &uid, &volume, content),
            };
            match placed {
                Ok(Placed::AsAsked) => {}
                Ok(Placed::OnDisk) => on_disk.push(volume),
                Err(error) => {
                    let name = match &content {
                        Content::Place { name, .. } => name,
                        _ => &volume,
                    };
                    let error = chain(&error);
                    return Err(format!(
                        "MountVolume.SetUp failed for volume {name:?} : {error}"
                    ));
                }
            }
        }
        Ok(on_disk)
    });
    placed.await?
}
