//! The walltime as a contract: what a node says and does as its end comes nearer. Pure.
//!
//! ```text
//! ──────────── Open ────────────┬────── Draining ──────┬──── Over ────
//!  label counts down            │ cordoned; pods know  │ NotReady
//!  pods that cannot fit are     │ SIGTERM to each pod  │ nothing runs
//!  refused; early warnings      │ at end − min(grace,  │
//!                               │ window)              │
//!                           end − window              end
//! ```
//!
//! The label is written anew when a twentieth of what is left has passed, at least every minute and at
//! most every ten seconds: a selector `jiriaf.alivetime Gt N` is wrong by a minute or five per cent at
//! most, and a node costs the API server one write a minute. Every change of a node's labels has the
//! scheduler look at the pods that wait, which is why it is not written every five seconds.

use std::time::Duration;

/// The least and the longest time between two writes of the label.
const LABEL_EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// The drain window where none is set: this, or a tenth of the walltime if that is less.
const WINDOW: Duration = Duration::from_secs(60);

/// How far the end has come. Never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Pods are taken.
    #[default]
    Open,
    /// The node is cordoned; pods end by and by.
    Draining,
    /// The time is over.
    Over,
}

/// What happens to the walltime. Times are monotonic, on the agent's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The batch system announced the end (SIGUSR1): the drain begins now and takes the drain window.
    Drain,
    /// The end was learned; an earlier one stays.
    EndsAt(Duration),
}

/// What pods have to know of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Whether the drain has begun.
    pub phase: Phase,
    /// When everything has to be over.
    pub end: Duration,
    /// The longest time between a pod's SIGTERM and the end.
    pub window: Duration,
}

/// What the node shows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Outlook {
    /// How far it is.
    pub phase: Phase,
    /// The value of the label `jiriaf.alivetime`, in seconds; none: no such label.
    pub label: Option<u64>,
    /// For pods; none where no end is known.
    pub closing: Option<Closing>,
}

/// The walltime of one node.
#[derive(Clone, Debug)]
pub struct Walltime {
    phase: Phase,
    end: Option<Duration>,
    window: Option<Duration>,
    started: Duration,
    labelled: bool,
    /// What the label says, and when it is written anew.
    shown: Option<(u64, Duration)>,
}

impl Walltime {
    /// A node that starts `now`. `window` is the drain window where one is set; `labelled` whether there is
    /// a label (none where `JIRIAF_WALLTIME` is 0).
    pub fn new(
        end: Option<Duration>,
        window: Option<Duration>,
        labelled: bool,
        now: Duration,
    ) -> Self {
        Self {
            phase: Phase::Open,
            end,
            window,
            started: now,
            labelled,
            shown: None,
        }
    }

    /// Takes an event and tells what the node shows from now on.
    pub fn step(&mut self, event: Event, now: Duration) -> Outlook {
        match event {
            Event::Tick => {}
            Event::EndsAt(end) => self.end = Some(self.end.map_or(end, |known| known.min(end))),
            Event::Drain if self.phase == Phase::Open => {
                // A tenth of the walltime, as it was until now.
                let window = self.window();
                self.window = Some(window);
                let announced = now.saturating_add(window);
                self.end = Some(self.end.map_or(announced, |known| known.min(announced)));
                self.phase = Phase::Draining;
            }
            Event::Drain => {}
        }
        if let Some(end) = self.end {
            let reached = if now >= end {
                Phase::Over
            } else if now >= self.drain_at(end) {
                Phase::Draining
            } else {
                Phase::Open
            };
            self.phase = self.phase.max(reached);
        }
        self.count_down(now);
        Outlook {
            phase: self.phase,
            label: self.shown.map(|(seconds, _)| seconds),
            closing: self.end.map(|end| Closing {
                phase: self.phase,
                end,
                window: self.window(),
            }),
        }
    }

    /// When the next [`Event::Tick`] is due; none where time changes nothing any more.
    pub fn wake_at(&self) -> Option<Duration> {
        let end = self.end?;
        let turn = match self.phase {
            Phase::Open => self.drain_at(end),
            Phase::Draining => end,
            Phase::Over => return None,
        };
        let label = self.shown.map_or(Duration::MAX, |(_, again)| again);
        Some(turn.min(label))
    }

    /// The drain window.
    pub fn window(&self) -> Duration {
        self.window.unwrap_or_else(|| {
            let tenth = self
                .end
                .map_or(WINDOW, |end| end.saturating_sub(self.started) / 10);
            WINDOW.min(tenth)
        })
    }

    fn drain_at(&self, end: Duration) -> Duration {
        end.saturating_sub(self.window())
    }

    fn count_down(&mut self, now: Duration) {
        let Some(end) = self.end.filter(|_| self.labelled) else {
            return;
        };
        let left = end.saturating_sub(now);
        let seconds = left.as_secs();
        // An end that came nearer, or a phase that turned, is shown at once.
        let overstated = |shown: u64, again: Duration| {
            shown > seconds + (again.saturating_sub(now) + LABEL_EVERY.1).as_secs()
        };
        let stands = self.shown.is_some_and(|(shown, again)| {
            now < again && self.phase != Phase::Over && !overstated(shown, again)
        });
        if !stands {
            let every = (left / 20).clamp(LABEL_EVERY.0, LABEL_EVERY.1);
            self.shown = Some((seconds, now.saturating_add(every)));
        }
    }
}

impl Closing {
    /// When a pod of this grace gets SIGTERM: once for all of its containers, and nothing of it starts
    /// after that.
    pub fn terminates_at(&self, grace: Duration) -> Duration {
        self.end.saturating_sub(grace.min(self.window))
    }

    /// How long a pod of this grace can work from `now` on.
    pub fn left(&self, grace: Duration, now: Duration) -> Duration {
        self.terminates_at(grace).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn events() -> impl Strategy<Value = Vec<(Event, u64)>> {
        let event = prop_oneof![
            6 => Just(Event::Tick),
            1 => Just(Event::Drain),
            1 => (0_u64..200_000).prop_map(|at| Event::EndsAt(secs(at))),
        ];
        prop::collection::vec((event, 0_u64..4_000), 1..60)
    }

    proptest! {
        #[test]
        fn the_end_only_comes_nearer(
            end in prop::option::of(0_u64..200_000),
            window in prop::option::of(0_u64..600),
            labelled: bool,
            events in events(),
        ) {
            let mut now = secs(1_000);
            let mut walltime = Walltime::new(end.map(secs), window.map(secs), labelled, now);
            let mut before = walltime.step(Event::Tick, now);
            for (event, pause) in events {
                now += secs(pause);
                let outlook = walltime.step(event, now);
                prop_assert!(outlook.phase >= before.phase);
                if let (Some(old), Some(new)) = (before.closing, outlook.closing) {
                    prop_assert!(new.end <= old.end);
                }
                prop_assert!(outlook.closing.is_some() || before.closing.is_none());
                prop_assert!(outlook.label.unwrap_or(0) <= before.label.unwrap_or(u64::MAX));
                if !labelled {
                    prop_assert_eq!(outlook.label, None);
                }
                if let Some(closing) = outlook.closing {
                    let left = closing.end.saturating_sub(now);
                    prop_assert_eq!(outlook.phase == Phase::Over, left.is_zero());
                    if left <= closing.window {
                        prop_assert!(outlook.phase >= Phase::Draining);
                    }
                    if labelled {
                        // Never less than is left, and never much more.
                        let shown = outlook.label.expect("labelled");
                        prop_assert!(shown >= left.as_secs());
                        prop_assert!(shown <= left.as_secs() + 121);
                    }
                    for grace in [0, 5, 30, 3_600].map(secs) {
                        let at = closing.terminates_at(grace);
                        prop_assert!(at <= closing.end);
                        prop_assert!(closing.end - at <= grace.min(closing.window));
                        prop_assert!(closing.left(grace, now) <= left);
                    }
                }
                match walltime.wake_at() {
                    Some(at) => prop_assert!(at > now, "no progress at {now:?}"),
                    None => prop_assert!(outlook.phase == Phase::Over || outlook.closing.is_none()),
                }
                before = outlook;
            }
        }

        /// Woken when it asks to be, the label is true to five per cent, or ten seconds, or a minute.
        #[test]
        fn the_label_is_written_seldom_and_is_nearly_true(total in 60_u64..400_000) {
            let start = secs(500);
            let mut walltime = Walltime::new(Some(start + secs(total)), None, true, start);
            let mut now = start;
            let mut outlook = walltime.step(Event::Tick, now);
            prop_assert_eq!(outlook.label, Some(total));
            let mut writes = 0;
            while let Some(at) = walltime.wake_at() {
                // A moment before it is written anew it is at its worst.
                let left = (start + secs(total)).saturating_sub(at).as_secs();
                let error = outlook.label.expect("labelled") - left;
                prop_assert!(error <= 60 && error <= 11 + left / 18, "{error} of {left}");
                now = at;
                let next = walltime.step(Event::Tick, now);
                writes += u64::from(next.label != outlook.label);
                outlook = next;
            }
            prop_assert_eq!(outlook.phase, Phase::Over);
            prop_assert_eq!(outlook.label, Some(0));
            prop_assert_eq!(now, start + secs(total));
            prop_assert!(writes <= total / 60 + 60, "{writes} writes in {total} s");
        }
    }

    #[test]
    fn the_window_is_a_minute_or_a_tenth() {
        let window = |total, set| Walltime::new(Some(secs(total)), set, true, secs(0)).window();
        assert_eq!(window(60, None), secs(6));
        assert_eq!(window(300, None), secs(30));
        assert_eq!(window(86_400, None), secs(60));
        assert_eq!(window(86_400, Some(secs(600))), secs(600));
    }

    #[test]
    fn an_announced_end_comes_within_the_window() {
        let mut walltime = Walltime::new(None, None, true, secs(0));
        assert_eq!(walltime.step(Event::Tick, secs(5)), Outlook::default());
        assert_eq!(walltime.wake_at(), None);
        let outlook = walltime.step(Event::Drain, secs(10));
        assert_eq!(outlook.phase, Phase::Draining);
        assert_eq!(outlook.closing.map(|it| it.end), Some(secs(70)));
        // Announced twice, it comes no sooner.
        let outlook = walltime.step(Event::Drain, secs(20));
        assert_eq!(outlook.closing.map(|it| it.end), Some(secs(70)));
        assert_eq!(
            outlook.closing.map(|it| it.terminates_at(secs(30))),
            Some(secs(40))
        );
    }
}
