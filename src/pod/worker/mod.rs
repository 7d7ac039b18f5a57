//! One pod's task: feeds its machine, carries effects out, keeps the API's status true.
//!
//! | in | from |
//! |---|---|
//! | `watch` of [`Desired`] | the manager: what the API wants, latest only |
//! | [`Done`] of the worker's own tasks | starts, exits, volumes, API writes |
//! | a timer | the machine's next deadline |
//!
//! | out | to |
//! |---|---|
//! | `watch` of [`Snapshot`] | the manager, for the kubelet API |
//!
//! The worker alone changes its state. Its tasks live in its `JoinSet` and end with it;
//! containers do not: they belong to their shims.

mod cleanup;
mod context;
mod effects;
mod ending;
mod hooks;
mod messages;
mod prepare;
mod probes;
mod recover;
mod refresh;
mod start;
mod volumes;
mod walltime;
mod write;

pub(crate) use context::{Clock, Context};
pub(super) use {
    cleanup::clean_up,
    messages::{Desired, Done, Shutdown, Snapshot},
};

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{added, admit, config_error},
    api::{Retry, Version},
    containers,
    kept::Kept,
    machine::{Container, ContainerPlan, Effect, Event, Failure, Now, Role, Slot, State, Stopping},
    monitor::Verdict,
    record::{HomeLink, Record},
    resources::{Facts, affinity},
    status,
    walltime::Wishes,
};
use crate::{
    container::Handle,
    events::{self, Subject},
};

/// How often a status may be withheld because a better one is about to come: a pod that
/// starts at once is written once, as Running.
const FIRST_STATUS_WITHIN: Duration = Duration::from_secs(1);

/// How long the object stays typed after it was looked into.
const AWAKE: Duration = Duration::from_millis(300);

pub(super) struct Worker {
    context: Arc<Context>,
    uid: String,
    pod: Kept,
    /// The turn to come into being, until the first status is on its way.
    turn: Option<OwnedSemaphorePermit>,
    /// When the object may rest again, while it is typed.
    rest_at: Option<Instant>,
    state: State,
    handles: Vec<Option<Handle>>,
    tasks: JoinSet<Done>,
    desired: watch::Receiver<Desired>,
    show: watch::Sender<Snapshot>,
    /// What the API should hold.
    derived: Kept<PodStatus>,
    /// What it holds, as far as we know.
    written: Option<Kept<PodStatus>>,
    /// The version that our last write made.
    written_as: Option<Version>,
    writing: bool,
    write_retry: Retry,
    write_after: Option<Instant>,
    first_status_at: Instant,
    delete_after: Option<Instant>,
    delete_retry: Retry,
    deleting: bool,
    hooks: hooks::Running,
    /// By container: what tells the content of the image that its latest attempt was started in.
    image_ids: Vec<(Arc<str>, Box<str>)>,
    /// None for a pod without probes.
    watching: Option<Box<probes::Watching>>,
    care: volumes::Care,
    /// Cancelled once nothing may start any more: look-ups for a start end with it.
    no_starts: CancellationToken,
    warnings: Vec<String>,
    told: BTreeSet<String>,
    /// `activeDeadlineSeconds` as last seen.
    deadline: Option<Duration>,
    walltime: walltime::Told,
    /// Nothing of it ever ran.
    fresh: bool,
    facts: Arc<Facts>,
}

impl Worker {
    /// Makes a worker. `recover` reads what earlier agents left.
    pub(super) async fn new(
        context: Arc<Context>,
        desired: watch::Receiver<Desired>,
        show: watch::Sender<Snapshot>,
        known_on_disk: bool,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let pod = desired.borrow().pod.clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut admitted = admit(&pod, &context.host);
        let wishes = Wishes::read(pod.metadata.annotations.as_ref()).unwrap_or_else(|message| {
            let plan = Arc::make_mut(&mut admitted.plan);
            plan.refusal.get_or_insert_with(|| config_error(message));
            Wishes::default()
        });
        let earlier = pod.status.clone().unwrap_or_default();
        let now = context.clock.now();
        let mut handles = vec![None; admitted.plan.containers.len()];
        let terminal = status::terminal(&earlier);
        let fresh = !(known_on_disk || recover::ran_before(&earlier) || terminal.is_some());
        let state = if !fresh {
            // Boxed, as below: rare and large, and there is one worker for each pod.
            let plan = &admitted.plan;
            let recovered = recover::containers(&context, &pod, &uid, plan, &earlier, &mut handles);
            let recovered = Box::pin(recovered).await;
            State::recover(admitted.plan, recovered, terminal, now)
        } else {
            State::new(admitted.plan)
        };
        let mut warnings = admitted.warnings;
        warnings.extend(context.not_enforced(&pod));
        let facts = Arc::new(Facts::of(&pod));
        let derived = Kept::awakened(earlier);
        let written = terminal.map(|_| derived.resting());
        Self {
            context,
            uid,
            pod,
            turn,
            rest_at: None,
            state,
            handles,
            tasks: JoinSet::new(),
            desired,
            show,
            derived,
            written,
            written_as: None,
            writing: false,
            write_retry: Retry::default(),
            write_after: None,
            first_status_at: Instant::now() + FIRST_STATUS_WITHIN,
            delete_after: None,
            delete_retry: Retry::default(),
            deleting: false,
            hooks: Vec::new(),
            image_ids: Vec::new(),
            watching: None,
            care: volumes::Care::default(),
            no_starts: CancellationToken::new(),
            warnings,
            facts,
            told: BTreeSet::new(),
            deadline: None,
            walltime: walltime::Told::new(wishes),
            fresh,
        }
    }

    /// Works until the pod is gone, or the node is and all is said.
    pub(super) async fn run(mut self) {
        self.follow_adopted();
        // A pod that the node does not take has nothing prepared for it.
        if self.desired.borrow().verdict.is_none() {
            self.warn();
            if self.fresh {
                self.refuse_for_time();
            }
            self.step(Event::Tick);
            self.amend();
        }
        self.desired.mark_changed();
        let changed = self.care.changed.clone();
        while !self.finished() {
            if self.rest_at.is_none() && self.awake() {
                self.rest_at = Some(Instant::now() + AWAKE);
            }
            let wake = self.wake_at();
            tokio::select! {
                // Cancel-safe per docs on `changed`.
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.want(),
                    // The manager is gone: the agent aborts.
                    Err(_) => return,
                },
                // Cancel-safe per docs on `join_next`.
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                // Cancel-safe: see there.
                report = probes::next(&mut self.watching) => self.reported(report),
                // Cancel-safe: a permit that is not taken stays.
                () = changed.notified() => self.volume_changed(),
                // Cancel-safe: made anew each time.
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {
                    self.woken();
                }
            }
        }
        if self.state.finished() {
            Box::pin(self.finish_tasks()).await;
            Box::pin(self.clean_up()).await;
        }
    }

    /// Lets writes to the disk come to their end before the files go.
    async fn finish_tasks(&mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), all)
            .await
            .is_err()
        {
            self.tasks.shutdown().await;
        }
    }

    /// Whether something is typed that could rest.
    fn awake(&self) -> bool {
        let written = self.written.as_ref().is_some_and(Kept::awake);
        written || self.pod.awake() || self.derived.awake()
    }

    fn finished(&self) -> bool {
        if self.state.finished() {
            return true;
        }
        let shutdown = self.desired.borrow().shutdown;
        shutdown.is_some_and(|it| !self.state.active() && (it.silent || self.settled()))
    }

    fn now(&self) -> Now {
        self.context.clock.now()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn wake_at(&self) -> Option<Instant> {
        let machine = self
            .state
            .wake_at()
            .map(|mono| self.context.clock.instant(mono));
        let write = self.write_due();
        let walltime = self.walltime_due();
        [
            machine,
            write,
            self.delete_after,
            self.care.wake_at(),
            self.rest_at,
            walltime,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn woken(&mut self) {
        let now = Instant::now();
        if self.rest_at.is_some_and(|at| at <= now) {
            self.rest_at = None;
            self.turn = None;
            self.pod.rest();
            self.derived.rest();
            if let Some(written) = &mut self.written {
                written.rest();
            }
            if self.wake_at().is_none_or(|at| at > now) {
                return;
            }
        }
        if self.delete_after.is_some_and(|at| at <= now) {
            self.delete_after = None;
            self.delete();
        }
        self.care_for_volumes(now);
        self.attend_walltime();
        self.step(Event::Tick);
    }

    /// The API wants something else.
    fn want(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.pod, desired.pod);
        self.metadata_changed(&before);
        self.compare();
        self.amend();
        let metadata = &self.pod.metadata;
        let of = |seconds: i64| Duration::from_secs(seconds.max(0).unsigned_abs());
        let grace = metadata.deletion_grace_period_seconds.map(of);
        let event = if desired.removed {
            // Gone at once, by force: a moment to say good-bye is what a kubelet gives, too.
            let grace = grace.unwrap_or(self.state.plan().grace);
            Some(Event::Removed {
                grace: grace.max(Duration::from_secs(1)),
            })
        } else if metadata.deletion_timestamp.is_some() {
            Some(Event::Delete {
                grace: grace.unwrap_or(self.state.plan().grace),
            })
        } else {
            desired
                .shutdown
                .map(|it| Event::Shutdown { grace: it.grace })
        };
        if let Some(verdict) = desired.verdict {
            self.step(failure(&verdict));
        }
        match event {
            Some(event) => self.step(event),
            None => self.step(Event::Tick),
        }
        self.attend_walltime();
    }

    /// What of a spec may change while the pod runs.
    fn amend(&mut self) {
        let now = self.now();
        let spec = self.pod.spec.as_ref();
        let seconds = spec.and_then(|it| it.active_deadline_seconds);
        let seconds = seconds.map(|it| Duration::from_secs(it.max(0).unsigned_abs()));
        if seconds != self.deadline {
            self.deadline = seconds;
            let start = self.derived.start_time.as_ref();
            let start = start.map_or(now.wall, |time| time.0);
            self.step(State::deadline(start, seconds, now));
        }
        let of_kind = |plan: &&ContainerPlan| plan.role == Role::Ephemeral;
        let known = self.state.plan().containers.iter().filter(of_kind).count();
        if containers::ephemeral_count(&self.pod) > known {
            let containers = added(&self.pod, &self.context.host, known);
            self.handles
                .resize(self.handles.len() + containers.len(), None);
            self.step(Event::Ephemeral { containers });
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.now();
        let effects = self.state.step(event, now);
        if self.state.ending().is_some() {
            self.no_starts.cancel();
        }
        self.end_care();
        for effect in effects {
            self.carry_out(effect);
        }
        self.refresh(now.wall);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Machine(event) => self.step(event),
            Done::Volumes(filled) => self.volumes_ready(*filled),
            Done::Refreshed { tokens, outcome } => self.volumes_refreshed(tokens, outcome),
            Done::Weighed { over, next } => self.volumes_weighed(over, next),
            Done::Started {
                container,
                attempt,
                image_id,
                outcome,
            } => {
                self.know_image(container, image_id);
                self.started(container, attempt, outcome);
            }
            Done::Ended { container, end } => {
                self.handles[container] = None;
                self.step(Event::Ended { container, end });
            }
            Done::Adopted {
                container,
                attempt,
                handle,
            } => {
                self.handles[container] = Some(handle.clone());
                self.follow(handle, container, attempt);
                match self.state.containers()[container].stopping {
                    Stopping::No | Stopping::Hook { .. } | Stopping::Turn { .. } => {}
                    Stopping::Terminated { .. } => self.terminate(container),
                    Stopping::Killed => self.kill(container),
                }
                self.probe_adopted(container);
            }
            Done::Written {
                status,
                terminal,
                outcome,
            } => self.status_written(status, terminal, outcome),
            Done::Deleted(outcome) => self.deleted(outcome),
            Done::Nothing => {}
        }
    }

    /// Derives the status anew and has it written where it differs.
    fn refresh(&mut self, now: Timestamp) {
        // What the API was found to hold stays as it was: it is a terminal phase.
        let kept = self.state.terminal().is_some()
            && self
                .written
                .as_ref()
                .is_some_and(|it| status::terminal(it).is_some());
        if !kept {
            let mut derived = status::derive(
                &self.state,
                &self.pod,
                &self.context.host,
                &self.derived,
                now,
            );
            status::know_images(&mut derived, &self.image_ids, &self.derived);
            if derived != *self.derived {
                self.derived = Kept::awakened(derived);
            }
        }
        self.publish();
        self.write();
    }

    fn publish(&self) {
        let attempts = self.state.containers().iter().map(attempts).collect();
        self.show.send_replace(Snapshot {
            pod: self.pod.resting(),
            status: self.derived.resting(),
            over: status::over(&self.derived),
            attempts,
            idle: !self.state.active(),
        });
    }

    /// One event for all that cannot hold here.
    fn warn(&mut self) {
        if self.warnings.is_empty() {
            return;
        }
        let list = std::mem::take(&mut self.warnings).join(", ");
        let message = format!(
            "Containers are plain processes on this node, where this has no effect: {list}"
        );
        self.notify(None, true, "Unsupported", message);
    }

    fn notify(
        &self,
        container: Option<usize>,
        warning: bool,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        let event = events::Event {
            subject: self.subject(container),
            warning,
            reason: reason.into(),
            message,
        };
        self.context.events.publish(event, Timestamp::now());
    }

    fn subject(&self, container: Option<usize>) -> Subject {
        Subject {
            kind: "Pod",
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            uid: self.uid.clone(),
            field: container
                .and_then(|index| self.state.plan().containers.get(index))
                .map(ContainerPlan::field),
        }
    }

    fn home_link(&self) -> Option<HomeLink> {
        let home = self.context.home.as_deref()?;
        Some(HomeLink::new(
            home,
            &self.context.root,
            self.name(),
            &self.uid,
        ))
    }

    /// Turns the pod away where the node is not what it asks for.
    pub(super) async fn check_node(&mut self) {
        let node = &self.context.host.node;
        let path = format!("/api/v1/nodes/{node}");
        let found = self.context.api.labels(&path).await;
        let spec = self.pod.spec.as_ref();
        // Who cannot be asked refuses nobody.
        let (Ok(labels), Some(spec)) = (found, spec) else {
            return;
        };
        if affinity::matches(spec, node, &labels) {
            return;
        }
        let verdict = Verdict {
            uid: self.uid.clone(),
            reason: "NodeAffinity".to_owned(),
            message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned(),
            disruption: None,
            grace: Duration::ZERO,
        };
        self.step(failure(&verdict));
    }

    fn record(&self) -> Record {
        let grace = self.state.plan().grace.as_secs();
        let assigned = self.context.placement.borrow().of(&self.uid).cloned();
        Record::new(self.namespace().to_owned(), self.name().to_owned(), grace)
            .with(assigned.unwrap_or_default())
    }

    async fn clean_up(&self) {
        let (link, root, uid) = (
            self.home_link(),
            self.context.root.clone(),
            self.uid.clone(),
        );
        clean_up(link, root, uid).await;
    }
}

/// What the machine is told of a verdict.
fn failure(verdict: &Verdict) -> Event {
    Event::Fail {
        failure: Box::new(Failure {
            reason: Cow::Owned(verdict.reason.clone()),
            message: verdict.message.clone(),
            disruption: verdict.disruption,
            warning: true,
        }),
        grace: Some(verdict.grace),
    }
}

fn attempts(container: &Container) -> (Option<u32>, Option<u32>) {
    let last = container.last.as_ref().map(|end| end.attempt);
    match container.slot {
        Slot::Running { attempt, .. } => (Some(attempt), last),
        _ => (last, container.before.as_ref().map(|end| end.attempt)),
    }
}

impl Worker {
    /// Waits for the ends of what an earlier agent started.
    fn follow_adopted(&mut self) {
        for container in 0..self.handles.len() {
            let Slot::Running { attempt, .. } = self.state.containers()[container].slot else {
                continue;
            };
            if let Some(handle) = self.handles[container].clone() {
                self.follow(handle, container, attempt);
                continue;
            }
            let name = &self.state.plan().containers[container].name;
            if let Ok(dir) = self.context.root.container(&self.uid, name) {
                self.tasks.spawn(start::adopt_again(
                    self.witness(container),
                    dir,
                    container,
                    attempt,
                ));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::PrepareVolumes => self.prepare_volumes(),
            Effect::Start { container, attempt } => self.start(container, attempt),
            Effect::Terminate { container } => self.terminate(container),
            Effect::Kill { container } => self.kill(container),
            Effect::Notify {
                container,
                warning,
                reason,
                message,
            } => {
                self.notify(container, warning, reason, message);
            }
            Effect::RunHook {
                container,
                attempt,
                hook,
            } => self.run_hook(container, attempt, hook),
            Effect::DropHook { container } => self.drop_hook(container),
            Effect::Probe {
                container,
                attempt,
                which,
            } => self.probe(container, attempt, which),
            Effect::DeleteObject => self.delete(),
        }
    }
}
