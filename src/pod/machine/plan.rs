//! What the machine is told of a pod before anything happens.

use std::{sync::Arc, time::Duration};

/// `restartPolicy`, of a pod or of one of its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Restart whatever the exit code was.
    #[default]
    Always,
    /// Restart after a failure.
    OnFailure,
    /// Run once.
    Never,
}

/// What the machine needs to know of a pod. Only ephemeral containers are added later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `<name>_<namespace>(<uid>)`, as the kubelet's messages name a pod.
    pub label: String,
    /// Init containers first, then the others, then the ephemeral ones, each in the
    /// order of the spec.
    pub containers: Vec<ContainerPlan>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Why this pod as a whole cannot run here, if it cannot.
    pub refusal: Option<Refusal>,
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has to succeed before what follows it starts.
    Init,
    /// An init container that goes on running: it has to have started before what
    /// follows it does, and ends after the main containers.
    Sidecar,
    /// The pod lives as long as one of these does.
    Main,
    /// Added to a running pod; started once.
    Ephemeral,
}

impl Role {
    /// Whether it is listed in `spec.initContainers`.
    pub fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// One container of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Its name, unique in the pod.
    pub name: Arc<str>,
    /// What it is to its pod.
    pub role: Role,
    /// What follows its exit, where no rule and no role says otherwise: its own policy
    /// or the pod's.
    pub restart: RestartPolicy,
    /// What most containers do not have.
    pub extras: Option<Box<Extras>>,
    /// Why this container cannot run here, if it cannot (its image, most often).
    pub refusal: Option<Refusal>,
}

impl ContainerPlan {
    /// The list of the pod's spec that it stands in.
    pub fn list(&self) -> &'static str {
        match self.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        }
    }

    /// `spec.containers{name}`, as events name a container.
    pub fn field(&self) -> String {
        format!("spec.{}{{{}}}", self.list(), self.name)
    }

    pub(super) fn has(&self, what: impl Fn(&Extras) -> bool) -> bool {
        self.extras.as_deref().is_some_and(what)
    }
}

/// Hooks, probes and rules of a container.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Extras {
    /// Exit codes after which it is started again whatever its policy says, in order:
    /// `restartPolicyRules`, whose only action is `Restart`.
    pub rules: Vec<RestartRule>,
    /// Whether it has a postStart hook.
    pub post_start: bool,
    /// Whether it has a preStop hook.
    pub pre_stop: bool,
    /// Whether it has a startup probe.
    pub startup: bool,
    /// Whether it has a readiness probe.
    pub readiness: bool,
    /// Whether it has a liveness probe.
    pub liveness: bool,
    /// The startup probe's own `terminationGracePeriodSeconds`.
    pub startup_grace: Option<Duration>,
    /// The liveness probe's own `terminationGracePeriodSeconds`.
    pub liveness_grace: Option<Duration>,
    /// What it gets instead of SIGTERM.
    pub stop_signal: Option<i32>,
}

/// `restartPolicyRules[].exitCodes`: restart where the code is one of them, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRule {
    /// Whether the rule means the codes (`In`) or all others (`NotIn`).
    pub among: bool,
    /// The codes.
    pub codes: Vec<i32>,
}

impl RestartRule {
    /// Whether the rule is about this exit code.
    pub fn means(&self, code: i32) -> bool {
        self.codes.contains(&code) == self.among
    }
}

/// Why something is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The waiting reason (`CreateContainerConfigError`, `InvalidImageName`, …).
    pub reason: &'static str,
    /// The reason of the event.
    pub event: &'static str,
    /// Names the field, its value and the mend.
    pub message: String,
}
