//! The end of the node's walltime, as one pod meets it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Done, Worker};
use crate::{
    container::files::{Dir, Durability},
    duration,
    events::Event,
    pod::{
        api::chain,
        machine::{self, Ending, Slot},
        walltime::{self, Wishes},
    },
};

/// In the pod's directory: its containers were warned, and are not warned again.
const WARNED: &str = "warned";

/// What this pod was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    wishes: Wishes,
    noticed: bool,
    warned: bool,
    ended: bool,
}

impl Told {
    pub(super) fn new(wishes: Wishes) -> Self {
        Self {
            wishes,
            ..Self::default()
        }
    }
}

impl Worker {
    /// Refuses a pod that has not begun and has no time here.
    pub(super) fn refuse_for_time(&mut self) {
        let Some(closing) = self.desired.borrow().closing else {
            return;
        };
        let grace = self.state.plan().grace;
        let now = self.now().mono;
        if let Some(failure) = walltime::refusal(closing, grace, self.walltime.wishes, now) {
            self.step(machine::Event::Fail {
                failure: Box::new(failure),
                grace: Some(Duration::ZERO),
            });
        }
    }

    /// Does what the end of the walltime asks for now. Level-triggered: may be called at any time.
    pub(super) fn attend_walltime(&mut self) {
        let Some(closing) = self.desired.borrow().closing else {
            return;
        };
        let over = self.state.ending() == Some(Ending::Removed) || self.state.terminal().is_some();
        if over {
            return;
        }
        let grace = self.state.plan().grace;
        let due = walltime::due(closing, grace, self.walltime.wishes, self.now().mono);
        if due.notice && !self.walltime.noticed {
            self.walltime.noticed = true;
            let disruption = walltime::disruption(closing, grace);
            self.step(machine::Event::Disrupt(Box::new(disruption)));
        }
        if due.warning && !self.walltime.warned {
            self.walltime.warned = true;
            self.warn_of_the_end();
        }
        if let Some(grace) = due.end
            && !self.walltime.ended
        {
            self.walltime.ended = true;
            self.step(machine::Event::Fail {
                failure: Box::new(walltime::failure()),
                grace: Some(grace),
            });
            // The end of the allocation waits for nobody.
            self.step(machine::Event::Shutdown { grace });
        }
    }

    /// When [`Self::attend_walltime`] has to be called next.
    pub(super) fn walltime_due(&self) -> Option<Instant> {
        let closing = self.desired.borrow().closing?;
        if self.state.terminal().is_some() || self.walltime.ended {
            return None;
        }
        let grace = self.state.plan().grace;
        let due = walltime::due(closing, grace, self.walltime.wishes, self.now().mono);
        due.again.map(|at| self.context.clock.instant(at))
    }

    /// Sends the warning signal to what runs; not where an earlier agent did.
    fn warn_of_the_end(&mut self) {
        let Some(warning) = self.walltime.wishes.warning else {
            return;
        };
        let containers = self.state.containers().iter().zip(&self.handles);
        let handles: Vec<_> = containers
            .filter(|(it, _)| matches!(it.slot, Slot::Running { .. }))
            .filter_map(|(_, handle)| handle.clone())
            .collect();
        let (context, root, uid) = (
            self.context.clone(),
            self.context.root.clone(),
            self.uid.clone(),
        );
        let subject = self.subject(None);
        self.tasks.spawn(async move {
            let marked = context.on_disk(move || {
                let path = root.create_pod(&uid)?;
                let Some(dir) = Dir::open_trusted(&path)? else {
                    return Ok(false);
                };
                let fresh = dir.read(WARNED)?.is_none();
                if fresh {
                    dir.write_atomic(WARNED, b"", Durability::Processes)?;
                }
                Ok::<_, crate::container::dir::DirError>(fresh)
            });
            match marked.await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Done::Nothing,
                Ok(Err(error)) => {
                    // Twice is better than never.
                    tracing::warn!(error = chain(&error), "the warning could not be recorded");
                }
                Err(error) => tracing::warn!(error, "the warning could not be recorded"),
            }
            for handle in handles {
                if let Err(error) = handle.signal(warning.signal as i32).await {
                    tracing::warn!(error = chain(&error), "a container was not warned");
                }
            }
            let message = format!(
                "Sent {}: SIGTERM comes {} later at the latest, as the walltime of the node ends",
                warning.signal,
                duration::show(warning.lead)
            );
            let event = Event {
                subject,
                warning: false,
                reason: "WalltimeWarning".into(),
                message,
            };
            context.events.publish(event, Timestamp::now());
            Done::Nothing
        });
    }
}
