//! An image is there or is pulled, by policy, with the kubelet's words.

use std::{sync::PoisonError, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::{
    Images, Source, Via,
    progress::{Lines, Progress, Words},
    waiting,
};
use crate::container::engine::{Auth, Call, Found, Image, Output};
use crate::hostpipe;
use crate::pod::{
    machine::Waiting,
    objects::{Kind, Objects, Reference},
};

/// The kubelet's pause after a failed pull, and its longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long an engine may take to say what it has.
const LOOK: Duration = Duration::from_secs(60);
/// How long a pull may take.
const PULL: Duration = Duration::from_secs(3600);

pub(super) struct Failure {
    until: Instant,
    pause: Duration,
    message: String,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Pull at each start.
    Always,
    /// Pull what is not there.
    IfNotPresent,
    /// Never pull.
    Never,
}

impl Policy {
    /// Of a container; where nothing is said, `latest` is always pulled.
    pub fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("IfNotPresent") => Self::IfNotPresent,
            Some("Never") => Self::Never,
            _ => {
                let image = container.image.as_deref().unwrap_or_default();
                let last = image.rsplit('/').next().unwrap_or_default();
                let fixed = last.contains('@')
                    || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
                if fixed {
                    Self::IfNotPresent
                } else {
                    Self::Always
                }
            }
        }
    }
}

/// Tells an event: whether it is a warning, its reason, its message.
pub type Tell<'a> = &'a (dyn Fn(bool, &'static str, String) + Send + Sync);

impl Images {
    /// Brings an image to this node, or finds it; returns what is known of it.
    ///
    /// # Errors
    /// What the container's status shows: `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `ImageInspectError`.
    pub async fn ensure(
        &self,
        pod: &str,
        name: &str,
        policy: Policy,
        auth: &Auth,
        tell: Tell<'_>,
    ) -> Result<Found, Waiting> {
        let (reference, image) = match self.source(name) {
            Some(Source::Ready(image)) => return self.ready(name, image.clone()).await,
            Some(Source::Reference(other)) => (other.clone(), self.engine.located(other)),
            None => (name.to_owned(), self.engine.located(name)),
        };
        let key = (pod.to_owned(), name.to_owned());
        if policy != Policy::Always
            && let Some(found) = self.find(&image).await?
        {
            self.forget(&key);
            tell(
                false,
                "Pulled",
                format!("Container image {name:?} already present on machine"),
            );
            return Ok(found);
        }
        if policy == Policy::Never {
            let message =
                format!("Container image {name:?} is not present with pull policy of Never");
            tell(true, "ErrImageNeverPull", message.clone());
            return Err(waiting("ErrImageNeverPull", message));
        }
        if let Some(message) = self.pausing(&key) {
            let message = format!("Back-off pulling image {name:?}: {message}");
            tell(false, "BackOff", message.clone());
            return Err(waiting("ImagePullBackOff", message));
        }
        let asked = Instant::now();
        // Never closed.
        let _turn = self.turn.acquire().await;
        if policy != Policy::Always
            && let Some(found) = self.find(&image).await?
        {
            return Ok(found);
        }
        tell(false, "Pulling", format!("Pulling image {name:?}"));
        let began = Instant::now();
        let outcome = self.pull(name, &reference, auth, tell).await;
        let found = match outcome {
            Ok(()) => self.find(&image).await?.ok_or_else(|| {
                format!(
                    "{} says that it has pulled the image, and does not have it",
                    self.engine.kind
                )
            }),
            Err(message) => Err(message),
        };
        match found {
            Ok(found) => {
                self.forget(&key);
                let (took, waited) = (seconds(began.elapsed()), seconds(asked.elapsed()));
                tell(
                    false,
                    "Pulled",
                    format!(
                        "Successfully pulled image {name:?} in {took} ({waited} including waiting)."
                    ),
                );
                Ok(found)
            }
            Err(message) => {
                let message = format!("failed to pull and unpack image {name:?}: {message}");
                self.failed(key, &message);
                tell(
                    true,
                    "Failed",
                    format!("Failed to pull image {name:?}: {message}"),
                );
                Err(waiting("ErrImagePull", message))
            }
        }
    }

    fn source(&self, name: &str) -> Option<&Source> {
        self.sources.get(name).or_else(|| {
            let fits = |pattern: &str| {
                pattern
                    .strip_suffix('*')
                    .is_some_and(|start| name.starts_with(start))
            };
            { self.sources.iter() }
                .find(|(pattern, _)| fits(pattern))
                .map(|it| it.1)
        })
    }

    /// What the site says is there.
    async fn ready(&self, name: &str, image: Image) -> Result<Found, Waiting> {
        self.find(&image).await?.ok_or_else(|| {
            let path = match &image {
                Image::Sif(path) | Image::Directory { path, .. } => path,
                _ => name,
            };
            waiting(
                "ErrImageNeverPull",
                format!(
                    "the site's profile says that image {name:?} is {path:?}, which is not there; mend images: in \
                     the profile, or put the file there"
                ),
            )
        })
    }

    async fn find(&self, image: &Image) -> Result<Option<Found>, Waiting> {
        let Some(call) = self.engine.look(image) else {
            return Ok(Some(Found {
                image: image.clone(),
                id: String::new(),
                user: String::new(),
            }));
        };
        match self.run(&call, LOOK, &Progress::default()).await {
            Ok(output) => Ok(self.engine.seen(image.clone(), &output)),
            Err(message) => Err(waiting(
                "ImageInspectError",
                format!("Failed to inspect image: {message}"),
            )),
        }
    }

    async fn pull(
        &self,
        name: &str,
        reference: &str,
        auth: &Auth,
        tell: Tell<'_>,
    ) -> Result<(), String> {
        let call = self.engine.pull(reference, auth);
        let began = Instant::now();
        let heard = Progress::default();
        let mut told = Words::new();
        let mut pulling = std::pin::pin!(self.run(&call, PULL, &heard));
        let output = loop {
            tokio::select! {
                // Cancel-safe: it goes on in the next turn.
                output = &mut pulling => break output?,
                // Cancel-safe: made anew each time.
                () = tokio::time::sleep_until(began + told.due()) => {
                    tell(false, "Pulling", told.word(name, &heard));
                }
            }
        };
        match output.code {
            Some(0) => Ok(()),
            _ if output.stderr.is_empty() => {
                Err(format!("{} ended with {:?}", self.engine.kind, output.code))
            }
            _ => Err(output.stderr),
        }
    }

    async fn run(
        &self,
        call: &Call,
        patience: Duration,
        progress: &Progress,
    ) -> Result<Output, String> {
        let client = match &self.via {
            Via::Here => {
                let ran = call.run(patience, |line| progress.hear(line)).await;
                return ran.map_err(|error| error.to_string());
            }
            Via::Host(client) => client,
        };
        // The host has its own environment; what the profile sets comes over it.
        let task = hostpipe::Task {
            argv: call.argv.clone(),
            env: call.env.clone(),
            stdin: call.stdin.clone(),
        };
        let (mut stdout, mut stderr) = (Lines::new(progress), Lines::new(progress));
        let code = tokio::time::timeout(patience, client.run(task, &mut stdout, &mut stderr))
            .await
            .map_err(|_| format!("no end within {} s on the host", patience.as_secs()))?
            .map_err(|error| error.to_string())?;
        stderr.end();
        Ok(Output {
            code: Some(code),
            stdout: String::from_utf8_lossy(&stdout.first).into_owned(),
            stderr: stderr.last.join("; "),
        })
    }

    fn pausing(&self, key: &(String, String)) -> Option<String> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failures.get(key)?;
        (failure.until > Instant::now()).then(|| failure.message.clone())
    }

    fn failed(&self, key: (String, String), message: &str) {
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // Pods that are gone leave nothing for long.
        failures.retain(|_, failure| failure.until + LONGEST_PAUSE > now);
        let pause = match failures.get(&key) {
            Some(failure) => (failure.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        let failure = Failure {
            until: now + pause,
            pause,
            message: message.to_owned(),
        };
        failures.insert(key, failure);
    }

    fn forget(&self, key: &(String, String)) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(key);
    }
}

/// The pull secrets of a pod.
pub fn secrets(pod: &Pod) -> impl Iterator<Item = Reference> {
    let list = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    list.map(|secret| Reference {
        kind: Kind::Secret,
        name: secret.name.clone(),
    })
}

/// What the pull secrets hold. One that is missing or unreadable is told and left out, as a kubelet does.
pub fn auth(pod: &Pod, objects: &Objects, tell: Tell<'_>) -> Auth {
    let mut auth = Auth::default();
    for secret in secrets(pod) {
        let name = &secret.name;
        let data = objects.get(Kind::Secret, name);
        let text = data.and_then(|data| {
            data.text(".dockerconfigjson")
                .or_else(|| data.text(".dockercfg"))
        });
        let problem = match text {
            None => format!(
                "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
            ),
            Some(text) => match auth.add(&text) {
                Ok(()) => continue,
                Err(problem) => format!("Image pull secret {name} {problem}; it is left out"),
            },
        };
        tell(true, "FailedToRetrieveImagePullSecret", problem);
    }
    auth
}

/// As Go prints a duration.
fn seconds(time: Duration) -> String {
    if time.as_secs() == 0 {
        format!("{}ms", time.as_millis())
    } else {
        format!("{:.3}s", time.as_secs_f64())
    }
}
