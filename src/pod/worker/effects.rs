//! Volumes and signals: effects that are no start and no API write.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Volume};

use tokio_util::sync::CancellationToken;

use super::{Context, Done, Worker};
use crate::{
    container::launch::ControlError,
    pod::{
        api::{ApiProblem, chain},
        machine::{Event, Stopping},
        objects::{Objects, Reference},
        record::{HomeLink, Record},
        volumes::{self, Payload, Problem, TokenRequest, Tokens},
    },
};

/// Tokens are renewed at four fifths of their life, and daily.
const LONGEST_TOKEN_USE: Duration = Duration::from_secs(24 * 3600);
/// The pause after a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);

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
            let (made, found) = tokio::join!(made, ask(&context, &pod, &uid, &stop));
            let prepared = match made.and(found) {
                Ok(found) => fill(&context, &pod, &uid, found).await,
                Err(message) => Err(message),
            };
            match prepared {
                Ok(renew) => Done::Volumes { renew },
                Err(message) => Done::Machine(Event::VolumesFailed { message }),
            }
        });
    }

    pub(super) fn renew_volumes(&mut self) {
        let (context, pod, uid) = (self.context.clone(), self.pod.typed(), self.uid.clone());
        let stop = self.no_starts.clone();
        self.tasks.spawn(async move {
            let renewed = match ask(&context, &pod, &uid, &stop).await {
                Ok(found) => fill(&context, &pod, &uid, found).await,
                Err(message) => Err(message),
            };
            let renew = renewed.unwrap_or_else(|problem| {
                tracing::warn!(problem, uid, "tokens were not renewed");
                Some(RENEWAL_RETRY)
            });
            Done::Renewed { renew }
        });
    }

    pub(super) fn terminate(&mut self, container: usize) {
        let Some(handle) = self.handles[container].clone() else {
            return;
        };
        // The shim kills on its own should this agent not live to do it.
        let grace = match self.state.containers()[container].stopping {
            Stopping::Terminated { kill_at } => kill_at.saturating_sub(self.now().mono),
            _ => Duration::ZERO,
        };
        self.tasks
            .spawn(async move { ordered(handle.terminate(grace).await) });
    }

    pub(super) fn kill(&mut self, container: usize) {
        let Some(handle) = self.handles[container].clone() else {
            return;
        };
        self.tasks
            .spawn(async move { ordered(handle.kill_tree().await) });
    }
}

fn ordered(outcome: Result<(), ControlError>) -> Done {
    match outcome {
        Ok(()) | Err(ControlError::Ended) => {}
        Err(error) => tracing::error!(%error, "a container could not be signalled"),
    }
    Done::Nothing
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
        Ok::<_, crate::container::dir::DirError>(())
    });
    let made = made.await?;
    made.map_err(|error| format!("the pod's directory cannot be made: {}", chain(&error)))
}

/// What the volumes are filled with.
struct Found {
    objects: Objects,
    tokens: Tokens,
    /// When the first of the tokens wants to be renewed.
    renew: Option<Duration>,
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
}

/// Looks up what the volumes refer to. Given up when the pod ends.
async fn ask(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    uid: &str,
    stop: &CancellationToken,
) -> Result<Found, String> {
    let needed = volumes_of(pod).flat_map(volumes::needs).collect();
    let wanted = volumes_of(pod).flat_map(volumes::tokens).collect();
    let objects = async {
        let found = look_up(context, pod, needed).await;
        found.map_err(|problem| format!("MountVolume.SetUp failed: {problem}"))
    };
    let answers = async { tokio::try_join!(objects, issue(context, pod, uid, wanted)) };
    let (objects, (tokens, renew)) = tokio::select! {
        answers = answers => answers?,
        () = stop.cancelled() => return Err("the pod ends".to_owned()),
    };
    Ok(Found {
        objects,
        tokens,
        renew,
    })
}

/// Brings the volumes to the disk; tells when the tokens in them want to be renewed.
async fn fill(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    uid: &str,
    found: Found,
) -> Result<Option<Duration>, String> {
    let Found {
        objects,
        tokens,
        renew,
    } = found;
    let payloads = volumes_of(pod).map(|volume| {
        let payload = volumes::payload(pod, &context.host, volume, &objects, &tokens);
        payload.map(|payload| (volume.name.clone(), payload))
    });
    let payloads: Result<Vec<_>, Problem> = payloads.collect();
    place(
        context,
        uid,
        payloads.map_err(|problem| problem.to_string())?,
    )
    .await?;
    Ok(renew)
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

async fn place(
    context: &Context,
    uid: &str,
    payloads: Vec<(String, Option<Payload>)>,
) -> Result<(), String> {
    let (root, uid) = (context.root.clone(), uid.to_owned());
    let placed = context.on_disk(move || {
        for (volume, payload) in payloads {
            if let Err(error) = volumes::place(&root, &uid, &volume, payload.as_ref()) {
                let error = chain(&error);
                return Err(format!(
                    "MountVolume.SetUp failed for volume {volume:?} : {error}"
                ));
            }
        }
        Ok(())
    });
    placed.await?
}
