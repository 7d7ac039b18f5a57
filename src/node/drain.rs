//! The task that owns the walltime: it waits for moments and signals and publishes the outlook.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::allocation::{self, Job};
use super::walltime::{Event, Outlook, Walltime};
use crate::pod::Clock;

/// When and how a node ends, as it was told at its start.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The end, as far as it is known.
    pub end: Option<Instant>,
    /// The drain window, where one is set.
    pub window: Option<Duration>,
    /// Whether the node shows the label `jiriaf.alivetime`.
    pub labelled: bool,
    /// The job whose batch system has to be asked for the end.
    pub ask: Option<Job>,
    /// Whether the agent ends at the end; else it lives on, NotReady.
    pub exit_at_end: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            end: None,
            window: None,
            labelled: true,
            ask: None,
            exit_at_end: false,
        }
    }
}

/// Makes the walltime, and the task that keeps it until it is dropped. `soon` is cancelled when the batch
/// system announces the end.
pub(crate) fn keep_time(
    limits: &Limits,
    clock: Clock,
    soon: CancellationToken,
) -> (
    watch::Receiver<Outlook>,
    impl Future<Output = ()> + Send + use<>,
) {
    let now = clock.now().mono;
    let end = limits.end.map(|end| clock.mono(end));
    let mut walltime = Walltime::new(end, limits.window, limits.labelled, now);
    let (publish, outlook) = watch::channel(walltime.step(Event::Tick, now));
    (
        outlook,
        run(walltime, clock, soon, limits.ask.clone(), publish),
    )
}

async fn run(
    mut walltime: Walltime,
    clock: Clock,
    soon: CancellationToken,
    job: Option<Job>,
    publish: watch::Sender<Outlook>,
) {
    let mut announced = false;
    let asked = allocation::ask(job);
    let mut asked = std::pin::pin!(asked);
    let mut answered = false;
    let mut event = Event::Tick;
    loop {
        let outlook = walltime.step(event, clock.now().mono);
        publish.send_if_modified(|shown| {
            let news = *shown != outlook;
            *shown = outlook;
            news
        });
        let wake = walltime.wake_at().map(|at| clock.instant(at));
        event = tokio::select! {
            // Cancel-safe: made anew each time.
            () = async { match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            } } => Event::Tick,
            // Cancel-safe: it only waits.
            () = soon.cancelled(), if !announced => {
                announced = true;
                tracing::info!("the batch system announced the end: the drain begins");
                Event::Drain
            }
            // Cancel-safe: polled by reference.
            left = &mut asked, if !answered => {
                answered = true;
                left.map_or(Event::Tick, |left| Event::EndsAt(clock.now().mono.saturating_add(left)))
            }
        };
    }
}
