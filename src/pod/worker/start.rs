//! Starting an attempt: look-ups, command, shim; and waiting for its end.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    Context, Done, Worker,
    ending::{self, How, Witness},
    prepare::{Prepared, mount_last_words, prepare},
};
use crate::{
    container::{
        Adopted, ContainerDir, ContainerSpec, Handle, StartError, StartFailure, Status,
        cgroup::Limits,
        engine::End,
        process::{Here, ProcessId},
    },
    pod::{
        admission::{self, Image},
        api::{Retry, chain},
        compat::{self, Compat, Obstacle},
        containers,
        machine::{Ended, Event, Waiting},
        monitor::{Guard, Watched},
        resources::amounts,
    },
};

/// What became of an ordered start.
pub(in crate::pod) enum Outcome {
    /// It runs, or ran.
    Handle(Handle),
    /// The attempt is used up.
    Ended(Ended),
    /// A shim has it and does not answer: it may run.
    OutOfReach(ContainerDir),
    /// It could not be tried.
    Problem(Waiting),
}

/// Why an attempt was not even tried, and what the documents call it.
pub(super) struct NotBuilt {
    pub(super) waiting: Waiting,
    pub(super) obstacle: Option<Obstacle>,
}

impl From<Waiting> for NotBuilt {
    fn from(waiting: Waiting) -> Self {
        Self {
            waiting,
            obstacle: None,
        }
    }
}

impl Worker {
    pub(super) fn start(&mut self, container: usize, attempt: u32) {
        let (context, pod, uid) = (self.context.clone(), self.pod.typed(), self.uid.clone());
        let stop = self.no_starts.clone();
        let name = self.state.plan().containers[container].name.clone();
        let events = self.notifier(container);
        let compat = Compat::of(&self.pod, self.context.host.compat);
        self.tasks.spawn(async move {
            let mut image_id = String::new();
            let outcome = async {
                let prepared = tokio::select! {
                    prepared = prepare(&context, &pod, (&uid, &name, attempt), &events) => prepared?,
                    () = stop.cancelled() => return Err(cancelled().into()),
                };
                let Prepared {
                    mut spec,
                    notices,
                    image_id: id,
                } = prepared;
                image_id = id;
                give(&context, &uid, &name, &mut spec);
                confine(&context, &pod, &uid, &name, &mut spec);
                for notice in notices {
                    events(notice);
                }
                let launched = launch(&context, &pod, &uid, &name, attempt, spec).await;
                launched.map_err(NotBuilt::from)
            };
            let outcome = outcome.await.unwrap_or_else(|problem: NotBuilt| {
                match problem.obstacle.filter(|_| compat.documented()) {
                    Some(obstacle) => {
                        Outcome::Ended(not_started(never_started(attempt), &obstacle))
                    }
                    None => Outcome::Problem(problem.waiting),
                }
            });
            Done::Started {
                container,
                attempt,
                image_id,
                outcome,
            }
        });
    }

    /// What is shown as the container's `imageID` from now on.
    pub(super) fn know_image(&mut self, container: usize, id: String) {
        let name = &self.state.plan().containers[container].name;
        self.image_ids.retain(|(of, _)| of != name);
        if !id.is_empty() {
            self.image_ids.push((name.clone(), id.into_boxed_str()));
        }
    }

    /// Who tells how this container ended.
    pub(super) fn witness(&self, container: usize) -> Witness {
        let name = self.state.plan().containers[container].name.clone();
        Witness {
            context: self.context.clone(),
            uid: self.uid.clone(),
            how: How::of(&self.context, &self.pod, &name),
            name,
        }
    }

    pub(super) fn notifier(
        &self,
        container: usize,
    ) -> impl Fn((bool, &'static str, String)) + Send + use<> {
        let recorder = self.context.events.clone();
        let plan = &self.state.plan().containers[container];
        let subject = crate::events::Subject {
            kind: "Pod",
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            uid: self.uid.clone(),
            field: Some(plan.field()),
        };
        move |(warning, reason, message)| {
            let subject = subject.clone();
            let event = crate::events::Event {
                subject,
                warning,
                reason: reason.into(),
                message,
            };
            recorder.publish(event, Timestamp::now());
        }
    }

    pub(super) fn started(&mut self, container: usize, attempt: u32, outcome: Outcome) {
        match outcome {
            Outcome::Handle(handle) => {
                if let Some((id, started_at)) = identity(&handle.status()) {
                    self.handles[container] = Some(handle.clone());
                    self.step(Event::Started {
                        container,
                        attempt,
                        id,
                        started_at,
                    });
                    self.forget_attempts(container, attempt);
                }
                self.follow(handle, container, attempt);
            }
            Outcome::Ended(end) => self.step(Event::Ended { container, end }),
            // As long as it may run it counts as running, so that nothing is started beside it and
            // nothing of it is removed.
            Outcome::OutOfReach(dir) => {
                let (id, started_at) = (Arc::from(""), Timestamp::now());
                self.step(Event::Started {
                    container,
                    attempt,
                    id,
                    started_at,
                });
                let witness = self.witness(container);
                self.tasks
                    .spawn(adopt_again(witness, dir, container, attempt));
            }
            Outcome::Problem(problem) => {
                self.step(Event::ConfigFailed {
                    container,
                    attempt,
                    problem,
                });
            }
        }
    }

    /// Waits for the end of an attempt and has it watched meanwhile.
    pub(super) fn follow(&mut self, handle: Handle, container: usize, attempt: u32) {
        let name = self.state.plan().containers[container].name.clone();
        let guard = match handle.status() {
            Status::Running {
                process,
                started_at,
                memory_held,
                ..
            } => {
                let daemons = self.is_daemons(&name);
                let limit = self.memory_limit(&name);
                let limit = limit.filter(|_| !memory_held && !daemons);
                let hidden = self.context.host.on_host.is_some()
                    && !Here::current().is_ok_and(|here| here.holds(&process));
                let elsewhere = daemons || hidden;
                let facts = self.facts.clone();
                Some(self.context.monitor.watch(Watched {
                    facts,
                    container: name,
                    main: process,
                    started_at,
                    memory_limit: limit,
                    elsewhere,
                    handle: handle.clone(),
                }))
            }
            _ => None,
        };
        let witness = self.witness(container);
        self.tasks
            .spawn(exit(witness, handle, container, attempt, guard));
    }

    /// Whether a daemon has the container's processes.
    fn is_daemons(&self, name: &str) -> bool {
        let Some((_, container)) = containers::find(&self.pod, name) else {
            return false;
        };
        matches!(admission::image(&container), Image::Reference) && { self.context.images.as_ref() }
            .is_some_and(|images| images.is_daemons())
    }

    fn memory_limit(&self, name: &str) -> Option<u64> {
        let (_, container) = containers::find(&self.pod, name)?;
        let limit = amounts::limits(&container).get(amounts::MEMORY).copied();
        limit.filter(|bytes| *bytes > 0)
    }

    /// Keeps the records of this attempt and the one before, whose log can be asked for.
    fn forget_attempts(&mut self, container: usize, attempt: u32) {
        if attempt < 2 {
            return;
        }
        let (root, uid) = (self.context.root.clone(), self.uid.clone());
        let name = self.state.plan().containers[container].name.clone();
        self.tasks.spawn_blocking(move || {
            let forgotten = root.container(&uid, &name).and_then(|dir| {
                let old = dir.attempts()?.into_iter().filter(|it| it + 1 < attempt);
                { old }.try_for_each(|old| dir.remove_attempt(old))
            });
            if let Err(error) = forgotten {
                tracing::warn!(error = chain(&error), uid, "records of old attempts stay");
            }
            Done::Nothing
        });
    }
}

/// Tries to reach a shim that lives and does not answer, for as long as it takes:
/// while it may run its container must not be started again.
pub(super) async fn adopt_again(
    witness: Witness,
    dir: ContainerDir,
    container: usize,
    attempt: u32,
) -> Done {
    let context = &witness.context;
    let mut retry = Retry::default();
    loop {
        tokio::time::sleep(retry.failed()).await;
        match context.launcher.adopt(&dir, attempt).await {
            Ok(Adopted::Running(handle)) => {
                return Done::Adopted {
                    container,
                    attempt,
                    handle,
                };
            }
            Ok(Adopted::Exited(status) | Adopted::Lost(status)) => {
                let end = witness.read(attempt, &status).await;
                return Done::Ended { container, end };
            }
            Ok(Adopted::NeverStarted | Adopted::Cancelled) => {
                let status = Status::Lost {
                    started_at: None,
                    finished_at: Timestamp::now(),
                    message: "the attempt left no trace".to_owned(),
                };
                let end = witness.read(attempt, &status).await;
                return Done::Ended { container, end };
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    container = dir.name(),
                    attempt,
                    "not adopted yet"
                );
            }
        }
    }
}

/// Waits for the end of an attempt, which is watched until then.
async fn exit(
    witness: Witness,
    handle: Handle,
    container: usize,
    attempt: u32,
    guard: Option<Guard>,
) -> Done {
    let status = handle.wait().await;
    drop(guard);
    let end = witness.read(attempt, &status).await;
    Done::Ended { container, end }
}

/// Gives the container the cores and devices that are its own, and hides the others' devices: what
/// the batch job's environment shows is the whole allocation's.
fn give(context: &Context, uid: &str, name: &str, spec: &mut ContainerSpec) {
    let placement = context.placement.borrow();
    spec.cpu_affinity = placement.cores(uid, name).map(<[usize]>::to_vec);
    spec.log = context.log;
    let hidden: Vec<_> = placement.hidden().collect();
    spec.env
        .retain(|(name, _)| !hidden.contains(&name.as_str()));
    spec.env.extend(placement.variables(uid, name));
}

/// Names the control group that the container is to have. What runs on the host is beyond ours, and
/// an engine with a daemon makes one itself.
fn confine(context: &Context, pod: &Pod, uid: &str, name: &str, spec: &mut ContainerSpec) {
    let daemon = spec
        .engine
        .as_ref()
        .is_some_and(|it| it.leaves_it_to_a_daemon());
    let (Some(groups), Some((_, container))) = (&context.groups, containers::find(pod, name))
    else {
        return;
    };
    if spec.on_host || daemon {
        return;
    }
    let limits = amounts::limits(&container);
    let of =
        |amounts: &amounts::Amounts, name: &str| amounts.get(name).copied().filter(|it| *it > 0);
    let limits = Limits {
        memory: of(&limits, amounts::MEMORY),
        millicpus: of(&limits, amounts::CPU),
        cpu_request: of(&amounts::requests(&container), amounts::CPU).unwrap_or(0),
        pod_pids: context.pod_pids,
    };
    spec.group = Some(Box::new(groups.of(uid, limits)));
}

fn cancelled() -> Waiting {
    Waiting {
        reason: "ContainerCreating",
        message: String::new(),
    }
}

/// The container's name in the API, `vk-cmd://<boot>-<pid>-<start time>`, and its start;
/// the name is empty where the end came before we looked.
pub(super) fn identity(status: &Status) -> Option<(Arc<str>, Timestamp)> {
    match status {
        Status::Running {
            process,
            started_at,
            ..
        } => Some((container_id(process), *started_at)),
        Status::Exited {
            process,
            started_at,
            ..
        } => {
            let id = process.as_ref().map_or_else(|| Arc::from(""), container_id);
            Some((id, *started_at))
        }
        Status::Lost {
            started_at: Some(started_at),
            ..
        } => Some((Arc::from(""), *started_at)),
        Status::Created
        | Status::StartFailed { .. }
        | Status::Lost {
            started_at: None, ..
        } => None,
    }
}

fn container_id(process: &ProcessId) -> Arc<str> {
    let ProcessId {
        boot_id,
        pid,
        start_time,
        ..
    } = process;
    Arc::from(format!("vk-cmd://{boot_id}-{pid}-{start_time}"))
}

/// The documents' word for a start that failed, as a record says it.
pub(super) fn obstacle(dir: &ContainerDir, status: &Status) -> Option<Obstacle> {
    match status {
        Status::StartFailed {
            reason, message, ..
        } => Some(start_obstacle(dir, *reason, message.clone())),
        _ => None,
    }
}

pub(super) fn start_obstacle(dir: &ContainerDir, step: StartFailure, message: String) -> Obstacle {
    Obstacle::Start {
        step,
        message,
        pgid_file: dir.path().join("pgid").display().to_string(),
    }
}

/// The same end in the documents' words.
pub(super) fn not_started(end: Ended, obstacle: &Obstacle) -> Ended {
    let (code, reason, message) = compat::not_started(obstacle);
    Ended {
        code,
        reason,
        message,
        ..end
    }
}

fn never_started(attempt: u32) -> Ended {
    Ended {
        attempt,
        code: 128,
        reason: "StartError",
        message: String::new(),
        started_at: None,
        finished_at: Timestamp::now(),
        id: None,
    }
}

/// The end that a terminal status tells of.
pub(super) fn ended(attempt: u32, status: &Status) -> Ended {
    let now = Timestamp::now();
    let end = |code, reason, message: &str, started_at, finished_at| Ended {
        attempt,
        code,
        reason,
        message: message.to_owned(),
        started_at,
        finished_at,
        id: None,
    };
    match status {
        Status::Exited {
            exit,
            process,
            started_at,
            finished_at,
            message,
            report,
            out_of_memory,
        } => {
            match report.as_deref().and_then(End::read) {
                Some(End::NeverStarted(message)) => {
                    return end(128, "StartError", &message, None, *finished_at);
                }
                Some(End::OutOfMemory) => {
                    return end(137, "OOMKilled", message, Some(*started_at), *finished_at);
                }
                None => {}
            }
            let reason = match exit.code {
                0 => "Completed",
                _ if *out_of_memory => "OOMKilled",
                _ => "Error",
            };
            let ended = end(exit.code, reason, message, Some(*started_at), *finished_at);
            Ended {
                id: process.as_ref().map(container_id),
                ..ended
            }
        }
        Status::StartFailed {
            message,
            finished_at,
            ..
        } => end(128, "StartError", message, None, *finished_at),
        Status::Lost {
            started_at,
            finished_at,
            message,
        } => end(
            137,
            "ContainerStatusUnknown",
            message,
            *started_at,
            *finished_at,
        ),
        Status::Created | Status::Running { .. } => end(
            137,
            "ContainerStatusUnknown",
            "the container could not be followed",
            None,
            now,
        ),
    }
}

pub(super) fn create_error(message: String) -> Waiting {
    Waiting {
        reason: "CreateContainerError",
        message,
    }
}

async fn launch(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    uid: &str,
    name: &str,
    attempt: u32,
    mut spec: ContainerSpec,
) -> Result<Outcome, Waiting> {
    let dir = context
        .root
        .container(uid, name)
        .map_err(|error| create_error(chain(&error)))?;
    let how = How::of(context, pod, name);
    let log = {
        let (dir, container) = (dir.clone(), containers::find(pod, name));
        context.on_disk(move || {
            container.map(|(_, container)| ending::prepare(&dir, attempt, &container))
        })
    };
    if let Some(log) = log.await.map_err(create_error)? {
        let log = log.map_err(|error| create_error(chain(&error)))?;
        mount_last_words(&mut spec, pod, name, &log);
        spec.env.push((ending::TERMINATION_LOG.to_owned(), log));
    }
    match context
        .launcher
        .start(&dir, attempt, context.epoch, &spec)
        .await
    {
        Ok(handle) => Ok(Outcome::Handle(handle)),
        Err(StartError::Failed {
            reason,
            message,
            no_room,
        }) => {
            let status = Status::StartFailed {
                reason,
                message,
                finished_at: Timestamp::now(),
                no_room,
            };
            if let Some(problem) = ending::not_yet(context, &dir, how, attempt, &status).await {
                return Err(problem);
            }
            let end = ending::read(context, &dir, how, attempt, &status);
            Ok(Outcome::Ended(end.await))
        }
        Err(
            error @ (StartError::Claimed { .. } | StartError::Cancelled { .. } | StartError::Lost),
        ) => match context.launcher.adopt(&dir, attempt).await {
            Ok(Adopted::Running(handle)) => Ok(Outcome::Handle(handle)),
            Ok(Adopted::Exited(status) | Adopted::Lost(status)) => {
                if let Some(problem) = ending::not_yet(context, &dir, how, attempt, &status).await {
                    return Err(problem);
                }
                let end = ending::read(context, &dir, how, attempt, &status);
                Ok(Outcome::Ended(end.await))
            }
            Ok(Adopted::Cancelled) => {
                let status = Status::Lost {
                    started_at: None,
                    finished_at: Timestamp::now(),
                    message: chain(&error),
                };
                let end = ending::read(context, &dir, how, attempt, &status);
                Ok(Outcome::Ended(end.await))
            }
            Ok(Adopted::NeverStarted) => Err(create_error(chain(&error))),
            Err(adopting) => {
                tracing::warn!(
                    error = chain(&adopting),
                    container = name,
                    attempt,
                    "not adopted yet"
                );
                Ok(Outcome::OutOfReach(dir))
            }
        },
        Err(error @ StartError::Superseded { .. }) => {
            context.superseded.cancel();
            Err(create_error(chain(&error)))
        }
        Err(error @ (StartError::Spawn { .. } | StartError::Host(_) | StartError::Record(_))) => {
            Err(create_error(chain(&error)))
        }
    }
}
