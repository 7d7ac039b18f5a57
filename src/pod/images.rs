//! Images of pods: there or pulled, by policy, with the kubelet's words; and how a container becomes a request to the
//! site's engine.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    containers,
    machine::Waiting,
    objects::{Kind, Objects, Reference},
    resources::amounts,
};
use crate::container::{
    ContainerSpec,
    engine::{
        self, Auth, Bind, Call, Engine, EngineClient, Gpus, Image, Kind as Engines, Output, Request,
    },
};
use crate::hostpipe;

/// The kubelet's pause after a failed pull, and its longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long an engine may take to say what it has.
const LOOK: Duration = Duration::from_secs(60);
/// How long a pull may take.
const PULL: Duration = Duration::from_secs(3600);

/// What this node does with image references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Means {
    /// An engine runs them.
    Engine {
        /// Whether it can run them as another user than the agent's.
        users: bool,
    },
    /// Nothing does; the mend.
    #[default]
    Nothing,
    /// Nothing does, and this would help.
    Mend(String),
}

/// What a site has for an image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another reference.
    Reference(String),
    /// Something that is there already.
    Ready(Image),
}

/// The node's engine and its images.
pub struct Images {
    engine: Engine,
    sources: BTreeMap<String, Source>,
    job: Job,
    via: Via,
    /// One pull at a time, as a kubelet does by default: a second one of the same image then finds it there.
    turn: Semaphore,
    failures: Mutex<HashMap<(String, String), Failure>>,
}

/// All that [`Images`] is made of.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// What the site has for a name; `*` at the end of one stands for any rest.
    pub sources: BTreeMap<String, Source>,
    /// What containers see of the job.
    pub job: Job,
    /// Who starts the engine's programs.
    pub via: Via,
}

/// What image containers see of the job.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Variables that they get; `*` at the end of a name stands for any rest.
    pub pass: Vec<String>,
    /// Variables that every one gets.
    pub set: BTreeMap<String, String>,
    /// Paths; a variable may begin the source.
    pub binds: Vec<Bind>,
    /// Whether they see the home.
    pub home: bool,
}

/// Who starts an engine's programs.
#[derive(Clone, Debug)]
pub enum Via {
    /// The agent itself.
    Here,
    /// The host, behind the hostpipe.
    Host(hostpipe::Client),
}

struct Failure {
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
    /// An engine and what a site has.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            engine,
            sources,
            job,
            via,
        } = parts;
        Self {
            engine,
            sources,
            job,
            via,
            turn: Semaphore::new(1),
            failures: Mutex::default(),
        }
    }

    /// Brings an image to this node, or finds it; returns it with its id.
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
    ) -> Result<(Image, String), Waiting> {
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
        let outcome = self.pull(&reference, auth).await;
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
    async fn ready(&self, name: &str, image: Image) -> Result<(Image, String), Waiting> {
        if matches!(image, Image::Command(_)) {
            return Ok((image, String::new()));
        }
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

    async fn find(&self, image: &Image) -> Result<Option<(Image, String)>, Waiting> {
        let Some(call) = self.engine.look(image) else {
            return Ok(Some((image.clone(), String::new())));
        };
        match self.run(&call, LOOK).await {
            Ok(output) => Ok(self.engine.seen(image.clone(), &output)),
            Err(message) => Err(waiting(
                "ImageInspectError",
                format!("Failed to inspect image: {message}"),
            )),
        }
    }

    async fn pull(&self, reference: &str, auth: &Auth) -> Result<(), String> {
        let output = self.run(&self.engine.pull(reference, auth), PULL).await?;
        match output.code {
            Some(0) => Ok(()),
            _ if output.stderr.is_empty() => {
                Err(format!("{} ended with {:?}", self.engine.kind, output.code))
            }
            _ => Err(output.stderr),
        }
    }

    async fn run(&self, call: &Call, patience: Duration) -> Result<Output, String> {
        let client = match &self.via {
            Via::Here => {
                let progress = |line: &str| tracing::debug!(line, "engine");
                let ran = call.run(patience, progress).await;
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
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = tokio::time::timeout(patience, client.run(task, &mut stdout, &mut stderr))
            .await
            .map_err(|_| format!("no end within {} s on the host", patience.as_secs()))?
            .map_err(|error| error.to_string())?;
        let stderr = String::from_utf8_lossy(&stderr);
        let lines: Vec<&str> = stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        Ok(Output {
            code: Some(code),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: lines[lines.len().saturating_sub(5)..].join("; "),
        })
    }

    fn pausing(&self, key: &(String, String)) -> Option<String> {
        let failures = self
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let failure = failures.get(key)?;
        (failure.until > Instant::now()).then(|| failure.message.clone())
    }

    fn failed(&self, key: (String, String), message: &str) {
        let now = Instant::now();
        let mut failures = self
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
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
        let mut failures = self
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        failures.remove(key);
    }

    /// What the shim runs for a container.
    ///
    /// # Errors
    /// What the engine cannot do, named.
    pub fn spec(&self, asked: Asked<'_>) -> Result<ContainerSpec, Waiting> {
        let Asked {
            pod,
            container,
            image,
            own,
            binds,
            name,
            cwd,
            inherited,
        } = asked;
        let expand = |text: &String| {
            super::env::expand::references(text, |name| own.get(name).map(String::as_str))
        };
        let list = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(expand).collect()
        };
        let command = Some(list(&container.command)).filter(|words| !words.is_empty());
        let lookup = |name: &str| {
            let found = inherited.iter().find(|it| it.0 == name);
            found.map(|it| it.1.as_str())
        };
        let passed = inherited
            .iter()
            .filter(|(name, _)| engine::passes(&self.job.pass, name));
        let mut environment: BTreeMap<String, String> = passed.cloned().collect();
        environment.extend(self.job.set.clone());
        environment.extend(own.clone());
        // One whose variable is not set has nothing to show.
        let of_site = self.job.binds.iter().map(|bind| Bind {
            source: engine::expand(&bind.source, lookup),
            target: engine::expand(&bind.target, lookup),
            read_only: bind.read_only,
        });
        let mut all: Vec<Bind> = of_site
            .filter(|bind| bind.source.starts_with('/'))
            .collect();
        all.extend(binds);
        let mut client = self.engine.clone();
        if let Via::Host(_) = self.via {
            let there = inherited
                .iter()
                .filter(|(name, _)| engine::is_for_engines(name));
            let own = std::mem::take(&mut client.environment);
            client.environment = there.cloned().collect();
            client.environment.extend(own);
        }
        // What a daemon starts is in no group of ours. Podman without root refuses limits where groups are not its own.
        let limits = amounts::limits(container);
        let held = |name: &str| {
            let limit = limits.get(name).copied().filter(|it| *it > 0);
            limit.filter(|_| self.engine.kind == Engines::Docker)
        };
        let request = Request {
            name,
            image,
            command,
            args: list(&container.args),
            environment,
            workdir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
            binds: all,
            user: user(pod, container),
            groups: groups(pod),
            gpus: gpus(container, own),
            home: lookup("HOME").filter(|_| self.job.home).map(str::to_owned),
            read_only: container
                .security_context
                .as_ref()
                .and_then(|it| it.read_only_root_filesystem)
                == Some(true),
            memory: held(amounts::MEMORY),
            cpu_millis: held(amounts::CPU),
            stdin: container.stdin == Some(true),
            tty: container.tty == Some(true),
        };
        let invocation = client
            .run(&request)
            .map_err(|error| waiting("CreateContainerConfigError", error.to_string()))?;
        let mut spec = ContainerSpec::new(invocation.argv.clone(), invocation.env.clone(), cwd);
        let environment = client.environment.into_iter().collect();
        spec.on_host = matches!(self.via, Via::Host(_));
        spec.engine = Some(Box::new(EngineClient::new(invocation, environment)));
        spec.interactive = containers::interactive(container);
        Ok(spec)
    }

    /// Whether the engine is on the host, behind the hostpipe.
    pub fn is_on_host(&self) -> bool {
        matches!(self.via, Via::Host(_))
    }

    /// What admission is told.
    pub fn means(&self) -> Means {
        Means::Engine {
            users: self.engine.kind.has_users(),
        }
    }

    /// Whether the engine can make a mount point that the image does not have. Where `/dev` is the host's, it would
    /// have to be made there.
    pub fn makes_mount_point(&self, path: &str) -> bool {
        match self.engine.kind {
            Engines::Docker | Engines::Podman | Engines::PodmanHpc => true,
            Engines::Apptainer | Engines::Singularity => !path.starts_with("/dev/"),
            Engines::Shifter | Engines::Charliecloud => false,
        }
    }
}

/// What a container's command line is made of.
pub struct Asked<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its image, as [`Images::ensure`] found it.
    pub image: Image,
    /// Its own variables.
    pub own: &'a BTreeMap<String, String>,
    /// Its volumes.
    pub binds: Vec<Bind>,
    /// The engine's name for it.
    pub name: String,
    /// The directory that the client runs in.
    pub cwd: &'a Path,
    /// The environment that processes start from where the engine is.
    pub inherited: &'a [(String, String)],
}

/// The engine's name for a container: unique on the host, and found by its pod's UID.
pub fn engine_name(uid: &str, container: &str, attempt: u32) -> String {
    format!("vk-cmd-{uid}-{container}-{attempt}")
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

fn user(pod: &Pod, container: &Container) -> Option<(u32, Option<u32>)> {
    let of_pod = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = own
        .and_then(|it| it.run_as_user)
        .or(of_pod.and_then(|it| it.run_as_user))?;
    let group = own
        .and_then(|it| it.run_as_group)
        .or(of_pod.and_then(|it| it.run_as_group));
    let id = |number: i64| u32::try_from(number).ok();
    Some((id(user)?, group.and_then(id)))
}

fn groups(pod: &Pod) -> Vec<u32> {
    let context = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let more = context
        .iter()
        .flat_map(|it| it.supplemental_groups.iter().flatten());
    let of_files = context.and_then(|it| it.fs_group);
    more.chain(&of_files)
        .filter_map(|gid| u32::try_from(*gid).ok())
        .collect()
}

/// GPUs that the container asks for: those that were handed out to it, where that is known.
fn gpus(container: &Container, own: &BTreeMap<String, String>) -> Gpus {
    let asked = container
        .resources
        .iter()
        .flat_map(|it| [&it.limits, &it.requests])
        .flatten()
        .any(|list| {
            list.iter().any(|(name, amount)| {
                let gpu = name.ends_with("/gpu") || name.contains("gpu");
                gpu && amount.0 != "0"
            })
        });
    let named = ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]
        .into_iter()
        .find_map(|name| own.get(name));
    match (asked, named) {
        (false, _) => Gpus::None,
        (true, Some(list)) => Gpus::Devices(list.split(',').map(str::to_owned).collect()),
        (true, None) => Gpus::Visible,
    }
}

fn waiting(reason: &'static str, message: String) -> Waiting {
    Waiting { reason, message }
}

/// As Go prints a duration.
fn seconds(time: Duration) -> String {
    if time.as_secs() == 0 {
        format!("{}ms", time.as_millis())
    } else {
        format!("{:.3}s", time.as_secs_f64())
    }
}
