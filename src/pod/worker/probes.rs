//! Probes: the machine says which run, the node's prober runs them, and what they find goes back to the machine.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Worker;
use crate::pod::{
    containers,
    machine::{Event, Probing, Slot},
    probe::{Guard, Initial, News, Probes, Report, Target},
};

/// What only a pod with probes needs.
pub(super) struct Watching {
    tell: mpsc::UnboundedSender<Report>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Container, attempt, and what ends the probing.
    guards: Vec<(usize, u32, Guard)>,
}

impl Watching {
    fn new() -> Self {
        let (tell, reports) = mpsc::unbounded_channel();
        Self {
            tell,
            reports,
            guards: Vec::new(),
        }
    }
}

/// The next report; never comes for a pod without probes. Cancel-safe.
pub(super) async fn next(watching: &mut Option<Box<Watching>>) -> Report {
    match watching {
        // Never closed: it holds a sender itself.
        Some(watching) => match watching.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Worker {
    /// Lets these probes of a container run and no others.
    pub(super) fn probe(&mut self, container: usize, attempt: u32, which: Probing) {
        let watching = self
            .watching
            .get_or_insert_with(|| Box::new(Watching::new()));
        watching
            .guards
            .retain(|(of, number, _)| *of != container || *number == attempt);
        let at = watching
            .guards
            .iter()
            .position(|(of, _, _)| *of == container);
        match (which, at) {
            (Probing::Off, Some(at)) => drop(watching.guards.swap_remove(at)),
            (Probing::Off, None) => {}
            (which, Some(at)) => watching.guards[at].2.set_mode(which),
            (which, None) => self.watch(container, attempt, which),
        }
    }

    fn watch(&mut self, container: usize, attempt: u32, which: Probing) {
        let plan = &self.state.plan().containers[container];
        let probes = containers::find(&self.pod, &plan.name).and_then(|(_, it)| Probes::of(&it));
        let it = &self.state.containers()[container];
        // One that is out of reach is probed once it is adopted.
        let (Some(handle), Some(probes), Slot::Running { started_at, .. }) =
            (self.handles[container].clone(), probes, &it.slot)
        else {
            return;
        };
        let age = Timestamp::now().duration_since(*started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        let adopted = age > self.context.clock.elapsed();
        let initial = adopted.then_some(Initial {
            started: it.started,
            ready: it.ready,
        });
        let target = Target {
            handle,
            probes: Arc::new(probes),
            age,
            initial,
            container,
            attempt,
        };
        if let Some(watching) = &mut self.watching {
            let guard = self.context.prober.watch(target, watching.tell.clone());
            guard.set_mode(which);
            watching.guards.push((container, attempt, guard));
        }
    }

    /// Probes a container that has come into reach.
    pub(super) fn probe_adopted(&mut self, container: usize) {
        let it = &self.state.containers()[container];
        let Slot::Running { attempt, .. } = it.slot else {
            return;
        };
        let which = it.probing;
        if which != Probing::Off {
            self.probe(container, attempt, which);
        }
    }

    pub(super) fn reported(&mut self, report: Report) {
        let Report {
            container,
            attempt,
            news,
        } = report;
        match news {
            News::Change(change) => self.step(Event::Probed {
                container,
                attempt,
                probe: change.kind,
                healthy: change.healthy,
            }),
            News::Notice(reason, message) => {
                self.notify(Some(container), true, reason, message);
            }
        }
    }
}
