//! What a worker writes to the API: its pod's status, one change at a time and in
//! order, and the final delete.

use k8s_openapi::api::core::v1::PodStatus;
use tokio::time::Instant;

use super::{Done, Worker};
use crate::pod::{
    api::{ApiProblem, Version},
    kept::Kept,
    machine::{Container, Event, Slot, Volumes},
    status,
};

/// What became of the final delete.
pub(super) type Outcome = Result<(), ApiProblem>;
/// What became of a write, with the version that it made.
pub(super) type Written = Result<Option<Version>, ApiProblem>;

impl Worker {
    /// Whether nothing is left to be written, as far as we can.
    pub(super) fn settled(&self) -> bool {
        !self.writing && !self.deleting && self.written.as_ref() == Some(&self.derived)
    }

    /// When a status that was withheld or refused is to be written.
    pub(super) fn write_due(&self) -> Option<Instant> {
        if self.writing || self.mute() || self.written.as_ref() == Some(&self.derived) {
            return None;
        }
        match self.write_after {
            Some(after) => Some(after),
            None => Some(if self.withheld() {
                self.first_status_at
            } else {
                Instant::now()
            }),
        }
    }

    /// Nothing is left to write to, or it is another agent's to write.
    fn mute(&self) -> bool {
        let desired = self.desired.borrow();
        desired.removed || desired.shutdown.is_some_and(|it| it.silent)
    }

    /// A pod that is about to run is not written as waiting first.
    fn withheld(&self) -> bool {
        let starting = |it: &Container| matches!(it.slot, Slot::Starting { .. });
        let coming = matches!(self.state.volumes(), Volumes::Preparing { tries: 0 })
            || self.state.containers().iter().any(starting);
        self.written.is_none() && coming && Instant::now() < self.first_status_at
    }

    pub(super) fn write(&mut self) {
        if self.write_due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.writing = true;
        self.turn = None;
        self.write_after = None;
        let status = self.derived.resting();
        let terminal = status::terminal(&self.derived).is_some();
        let patch = status::patch(&self.pod, &self.derived);
        let context = self.context.clone();
        let (namespace, name) = (self.namespace().to_owned(), self.name().to_owned());
        self.tasks.spawn(async move {
            let outcome = context.api.patch_status(&namespace, &name, &patch).await;
            Done::Written {
                status,
                terminal,
                outcome,
            }
        });
    }

    pub(super) fn status_written(
        &mut self,
        status: Kept<PodStatus>,
        terminal: bool,
        outcome: Written,
    ) {
        self.writing = false;
        match outcome {
            Ok(version) => {
                self.write_retry.succeeded();
                self.written_as = version;
                self.written = Some(status);
                self.compare();
                if terminal {
                    return self.step(Event::StatusStored);
                }
            }
            // The object is gone, or its name is another pod's: the watch will say so.
            Err(ApiProblem::NotFound | ApiProblem::Conflict(_)) => {
                self.write_after = Some(Instant::now() + self.write_retry.failed());
            }
            Err(problem) => {
                let pause = self.write_retry.failed();
                tracing::warn!(pod = self.name(), namespace = self.namespace(), %problem,
                    pause_ms = pause.as_millis(), "the status was not written");
                self.write_after = Some(Instant::now() + pause);
            }
        }
        self.write();
    }

    /// Writes anew what somebody else has changed of what is ours: the node controller
    /// makes pods unready whose node was silent, and nobody else will make them ready.
    pub(super) fn compare(&mut self) {
        let version = self.pod.metadata.resource_version.as_deref();
        let seen = version.and_then(Version::parse);
        // What was seen before our own write says nothing about it.
        if self.writing || seen < self.written_as {
            return;
        }
        let changed = |written: &Kept<PodStatus>| {
            let found = self.pod.status.as_ref();
            found.is_some_and(|found| !status::same_conditions(written, found))
        };
        if self.written.as_ref().is_some_and(changed) {
            self.written = None;
        }
    }

    pub(super) fn delete(&mut self) {
        if self.mute() {
            return;
        }
        self.deleting = true;
        let context = self.context.clone();
        let (namespace, name) = (self.namespace().to_owned(), self.name().to_owned());
        let uid = self.uid.clone();
        self.tasks.spawn(async move {
            Done::Deleted(context.api.delete_pod(&namespace, &name, &uid).await)
        });
    }

    pub(super) fn deleted(&mut self, outcome: Outcome) {
        self.deleting = false;
        match outcome {
            // The watch tells when it is gone; finalizers may hold it.
            Ok(()) | Err(ApiProblem::NotFound | ApiProblem::Conflict(_)) => {}
            Err(problem) => {
                let pause = self.delete_retry.failed();
                tracing::warn!(pod = self.name(), namespace = self.namespace(), %problem,
                    "the pod was not deleted");
                self.delete_after = Some(Instant::now() + pause);
            }
        }
    }
}
