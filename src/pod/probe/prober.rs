//! The one task that looks after all probes of a node.
//!
//! | in | from |
//! |---|---|
//! | [`Command`] | pod workers: containers to look after, and to forget |
//! | ends of looks | itself: looks are polled by this one task, since a task a look would wake a thread a look |
//! | one timer | the next looks of all, a few hundredths of a second at a time |
//!
//! | out | to |
//! |---|---|
//! | [`Report`] | the pod worker that asked: changes, and what people should know |

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{
    StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Change, Initial, KINDS, Kind, Mode, Probes, Tracker,
    check::{self, Outcome},
    http::Client,
};
use crate::container::Handle;

/// Looks that are due within this time are begun together: each time costs a wake-up, and caches that others have used
/// meanwhile.
const GRAIN: Duration = Duration::from_millis(20);
/// The same where there are many to look after, of which each is asked once a second at most.
const COARSE: Duration = Duration::from_millis(100);
/// So many are many.
const MANY: usize = 100;
/// Failures of one probe that are told in a row, and how long it takes to earn one more: the kubelet's, whose API
/// servers have to live with thousands of probes that fail each second.
const NOTICES: u32 = 25;
const NOTICE_EARNED: Duration = Duration::from_secs(300);
/// A look that could not be made is tried so often before it counts as none; the kubelet's.
const TRIES: usize = 3;

/// Looks after probes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    commands: mpsc::UnboundedSender<Command>,
    ids: Arc<std::sync::atomic::AtomicU64>,
}

/// What is to be looked after: one attempt of a container.
pub(crate) struct Target {
    /// The container.
    pub(crate) handle: Handle,
    /// Its probes.
    pub(crate) probes: Arc<Probes>,
    /// How long it runs already.
    pub(crate) age: Duration,
    /// What is known of one that an earlier agent has started.
    pub(crate) initial: Option<Initial>,
    /// For the reports.
    pub(crate) container: usize,
    /// For the reports.
    pub(crate) attempt: u32,
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// As in [`Target`].
    pub(crate) container: usize,
    /// As in [`Target`].
    pub(crate) attempt: u32,
    /// What it is about.
    pub(crate) news: News,
}

/// See [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A probe says something else than before.
    Change(Change),
    /// For a warning event: its reason and message.
    Notice(&'static str, String),
}

/// Ends the looking when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Watch(u64, Box<Target>, mpsc::UnboundedSender<Report>),
    Mode(u64, Mode),
    Forget(u64),
}

struct Watched {
    target: Box<Target>,
    tracker: Tracker,
    reports: mpsc::UnboundedSender<Report>,
    looks: [Option<AbortHandle>; 3],
    notices: [Bucket; 3],
    /// The moment that the heap holds for it.
    due: Option<Duration>,
}

/// A token bucket of notices.
#[derive(Clone, Copy)]
struct Bucket {
    left: u32,
    since: Duration,
}

struct Seen {
    id: u64,
    kind: Kind,
    outcome: Outcome,
}

impl Prober {
    /// Makes it, and the task, which ends with the last prober and guard.
    pub(crate) fn new(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (commands, asked) = mpsc::unbounded_channel();
        let task = Task {
            epoch: Instant::now(),
            client,
            watched: HashMap::new(),
            timer: BinaryHeap::new(),
            looks: FuturesUnordered::new(),
        };
        let prober = Self {
            commands,
            ids: Arc::default(),
        };
        (prober, task.run(asked))
    }

    /// Looks after a container from now on, until the guard is dropped.
    pub(crate) fn watch(&self, target: Target, reports: mpsc::UnboundedSender<Report>) -> Guard {
        let id = self.ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Without the task nobody waits for reports either.
        let _ = self
            .commands
            .send(Command::Watch(id, Box::new(target), reports));
        Guard {
            id,
            commands: self.commands.clone(),
        }
    }
}

impl Guard {
    /// Says which probes go on.
    pub(crate) fn set_mode(&self, mode: Mode) {
        let _ = self.commands.send(Command::Mode(self.id, mode));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Forget(self.id));
    }
}

impl Bucket {
    const fn new() -> Self {
        Self {
            left: NOTICES,
            since: Duration::ZERO,
        }
    }

    fn take(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.since).as_secs() / NOTICE_EARNED.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(NOTICES);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

struct Task {
    epoch: Instant,
    client: Client,
    watched: HashMap<u64, Watched>,
    /// When to look at whom. An entry that is not its container's moment any more is passed over.
    timer: BinaryHeap<Reverse<(Duration, u64)>>,
    looks: FuturesUnordered<Abortable<BoxFuture<'static, Seen>>>,
}

impl Task {
    /// So that the start of a container that is older than this agent has a place on the clock.
    const OFFSET: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Command>) {
        loop {
            let next = self.timer.peek().map(|Reverse((at, _))| *at);
            let size = if self.watched.len() < MANY {
                GRAIN
            } else {
                COARSE
            };
            let wake = next.map(|at| self.epoch + grain(at.saturating_sub(Self::OFFSET), size));
            tokio::select! {
                // Cancel-safe per docs on `recv`.
                command = asked.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                // Cancel-safe: what is ready stays so until it is taken.
                // Of one that was broken off nobody is left to be told.
                Some(seen) = self.looks.next() => if let Ok(seen) = seen {
                    self.seen(seen);
                },
                // Cancel-safe: made anew each time.
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {
                    self.look_around();
                }
            }
        }
    }

    fn now(&self) -> Duration {
        Self::OFFSET + self.epoch.elapsed()
    }

    fn take(&mut self, command: Command) {
        let id = match command {
            Command::Watch(id, target, reports) => {
                let now = self.now();
                let timings = KINDS.map(|kind| target.probes.get(kind).map(|it| it.timing));
                let started_at = now.saturating_sub(target.age);
                let tracker = Tracker::new(timings, started_at, now, target.initial, jitter(id));
                let watched = Watched {
                    target,
                    tracker,
                    reports,
                    looks: [None, None, None],
                    notices: [Bucket::new(); 3],
                    due: None,
                };
                self.watched.insert(id, watched);
                id
            }
            Command::Mode(id, mode) => {
                if let Some(watched) = self.watched.get_mut(&id) {
                    watched.tracker.set_mode(mode);
                }
                id
            }
            Command::Forget(id) => {
                if let Some(watched) = self.watched.remove(&id) {
                    for look in watched.looks.into_iter().flatten() {
                        look.abort();
                    }
                }
                return;
            }
        };
        self.schedule(id);
    }

    /// Puts the next look of a container into the timer.
    fn schedule(&mut self, id: u64) {
        let Some(watched) = self.watched.get_mut(&id) else {
            return;
        };
        let due = watched.tracker.due();
        if due != watched.due {
            watched.due = due;
            if let Some(at) = due {
                self.timer.push(Reverse((at, id)));
            }
        }
    }

    /// Starts the looks whose time has come.
    fn look_around(&mut self) {
        let now = self.now();
        while let Some(&Reverse((at, id))) = self.timer.peek()
            && at <= now
        {
            self.timer.pop();
            let Some(watched) = self.watched.get_mut(&id) else {
                continue;
            };
            if watched.due != Some(at) {
                continue;
            }
            watched.due = None;
            for kind in watched.tracker.take_due(now) {
                let (client, handle) = (self.client.clone(), watched.target.handle.clone());
                let probes = watched.target.probes.clone();
                let look: BoxFuture<'static, Seen> = Box::pin(async move {
                    let outcome = look(&probes, kind, &handle, &client).await;
                    Seen { id, kind, outcome }
                });
                let (abort, registration) = AbortHandle::new_pair();
                self.looks.push(Abortable::new(look, registration));
                watched.looks[kind as usize] = Some(abort);
            }
            self.schedule(id);
        }
    }

    fn seen(&mut self, seen: Seen) {
        let now = self.now();
        let Seen { id, kind, outcome } = seen;
        let Some(watched) = self.watched.get_mut(&id) else {
            return;
        };
        watched.looks[kind as usize] = None;
        let change = watched.tracker.seen(kind, outcome.healthy(), now);
        let Target {
            container, attempt, ..
        } = *watched.target;
        let tell = |news| {
            // A worker that is gone has dropped the guard as well.
            let _ = watched.reports.send(Report {
                container,
                attempt,
                news,
            });
        };
        // What happened before what follows from it.
        if let Some((reason, message)) = notice(kind, &outcome)
            && watched.notices[kind as usize].take(now)
        {
            tell(News::Notice(reason, message));
        }
        if let Some(change) = change {
            tell(News::Change(change));
        }
        self.schedule(id);
    }
}

/// The end of the grain of this size that a moment lies in.
fn grain(at: Duration, size: Duration) -> Duration {
    let size = size.as_nanos();
    let end = at.as_nanos().div_ceil(size).saturating_mul(size);
    Duration::from_nanos(u64::try_from(end).unwrap_or(u64::MAX))
}

/// A place between 0 and 1 that spreads the containers of an agent evenly (the fractional parts of multiples of the
/// golden ratio).
fn jitter(id: u64) -> f64 {
    let steps = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (steps >> 11) as f64 / (1_u64 << 53) as f64
}

async fn look(probes: &Probes, kind: Kind, handle: &Handle, client: &Client) -> Outcome {
    let Some(spec) = probes.get(kind) else {
        return Outcome::Gone;
    };
    let mut outcome = Outcome::Gone;
    for _ in 0..TRIES {
        outcome = check::look(&spec.action, spec.timeout, handle, client).await;
        if !matches!(outcome, Outcome::Error(..)) {
            break;
        }
    }
    outcome
}

/// The event of a look, in the kubelet's words.
fn notice(kind: Kind, outcome: &Outcome) -> Option<(&'static str, String)> {
    match outcome {
        Outcome::Success | Outcome::Gone => None,
        Outcome::Warning(text) => Some(("ProbeWarning", format!("{kind} probe warning: {text}"))),
        Outcome::Failure(text) => Some(("Unhealthy", format!("{kind} probe failed: {text}"))),
        Outcome::Error(state, text) => Some((
            "Unhealthy",
            format!("{kind} probe errored and resulted in {state} state: {text}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_fails_for_ever_is_told_a_bounded_number_of_times() {
        let mut bucket = Bucket::new();
        let told = (0..1000)
            .filter(|second| bucket.take(Duration::from_secs(1_000_000 + second)))
            .count();
        assert_eq!(told, 25 + 3);
    }

    #[test]
    fn a_moment_is_put_off_by_less_than_a_grain() {
        for micros in [0, 1, 19_999, 20_000, 20_001, 1_234_567] {
            let at = Duration::from_micros(micros);
            for size in [GRAIN, COARSE] {
                let end = grain(at, size);
                assert!(end >= at && end < at + size, "{at:?} {end:?}");
            }
        }
    }

    #[test]
    fn containers_are_spread_over_the_period() {
        let mut places: Vec<f64> = (0..100).map(jitter).collect();
        places.sort_by(f64::total_cmp);
        assert!(places.first().is_some_and(|it| *it >= 0.0));
        assert!(places.last().is_some_and(|it| *it < 1.0));
        let gaps = places.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.fold(0.0, f64::max) < 0.03);
    }
}
