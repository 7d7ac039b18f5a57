//! Hooks: run for the machine, and dropped when it does not wait any more.

use tokio::task::AbortHandle;

use super::{Done, Worker};
use crate::{
    container::files::Durability,
    pod::{
        api::chain,
        containers,
        hook::{self, Subject},
        machine::{Event, Hook},
    },
};

/// Name of the file, among an attempt's records, that says that its preStop hook was run.
const PRE_STOPPED: &str = "pre-stop";

/// The hooks that run, by container; most often none.
pub(super) type Running = Vec<(usize, AbortHandle)>;

impl Worker {
    pub(super) fn run_hook(&mut self, container: usize, attempt: u32, which: Hook) {
        let name = self.state.plan().containers[container].name.clone();
        let label = self.state.plan().label.clone();
        let spec = containers::find(&self.pod, &name).map(|(_, spec)| spec);
        let lifecycle = spec.as_ref().and_then(|it| it.lifecycle.as_ref());
        let handler = lifecycle.and_then(|it| match which {
            Hook::PostStart => it.post_start.as_ref(),
            Hook::PreStop => it.pre_stop.as_ref(),
        });
        let hook = handler.zip(spec.as_ref());
        let hook = hook.map(|(handler, spec)| hook::Hook::new(handler, spec));
        let handle = self.handles[container].clone();
        let (context, uid) = (self.context.clone(), self.uid.clone());
        let events = self.notifier(container);
        let task = self.tasks.spawn(async move {
            if which == Hook::PreStop {
                let (root, name) = (context.root.clone(), name.clone());
                let marked = context.on_disk(move || {
                    match root.container(&uid, &name)?.attempt(attempt).open()? {
                        Some(dir) => dir.write_atomic(PRE_STOPPED, b"\n", Durability::Processes),
                        None => Ok(()),
                    }
                });
                if let Ok(Err(error)) = marked.await {
                    let error = chain(&error);
                    tracing::warn!(error, "a later agent may run a preStop hook again");
                }
            }
            let outcome = match (&hook, &handle) {
                (Some(hook), Some(handle)) => {
                    let subject = Subject {
                        handle,
                        container: &name,
                        pod: &label,
                    };
                    hook::run(hook, &subject, &context.http).await
                }
                _ => Err(format!("container {name} cannot be reached")),
            };
            let failure = match outcome {
                Ok(notice) => {
                    if let Some((reason, message)) = notice {
                        events((true, reason, message));
                    }
                    None
                }
                Err(failure) => {
                    // Not in an event: a command line or an answer may hold a secret.
                    tracing::info!(pod = label, ?which, failure, "a hook failed");
                    Some(failure)
                }
            };
            Done::Machine(Event::HookDone {
                container,
                attempt,
                hook: which,
                failure,
            })
        });
        self.drop_hook(container);
        self.hooks.push((container, task));
    }

    /// Ends the hook that runs, if one does.
    pub(super) fn drop_hook(&mut self, container: usize) {
        self.hooks.retain(|(of, task)| {
            if *of == container {
                task.abort();
            }
            *of != container
        });
    }
}

/// Whether an earlier agent has run the preStop hook of an attempt.
pub(super) fn pre_stopped(dir: &crate::container::ContainerDir, attempt: u32) -> bool {
    let mark = dir.attempt(attempt).open().map(|records| {
        records.is_some_and(|records| matches!(records.read(PRE_STOPPED), Ok(Some(_))))
    });
    // Who cannot know runs it rather twice than never.
    mark.unwrap_or(false)
}
