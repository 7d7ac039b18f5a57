//! Signals: effects that are no start, no volume and no API write.

use std::time::Duration;

use super::{Done, Worker};
use crate::{container::launch::ControlError, pod::machine::Stopping};

impl Worker {
    pub(super) fn terminate(&mut self, container: usize) {
        let Some(handle) = self.handles[container].clone() else {
            return;
        };
        // The shim kills on its own should this agent not live to do it.
        let grace = match self.state.containers()[container].stopping {
            Stopping::Terminated { kill_at } => kill_at.saturating_sub(self.now().mono),
            _ => Duration::ZERO,
        };
        let extras = self.state.plan().containers[container].extras.as_deref();
        let signal = extras.and_then(|it| it.stop_signal);
        self.tasks
            .spawn(async move { ordered(handle.terminate_with(signal, grace).await) });
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
