//! When to look, and what follows from what was seen.
//!
//! One [`Tracker`] per running container; a new attempt gets a new one, so nothing is carried over.
//! Times are monotonic, measured from wherever the caller likes.

use std::{fmt, time::Duration};

use crate::pod::machine::{Probe as Kind, Probing as Mode};

/// All kinds, in the order of their numbers.
pub const KINDS: [Kind; 3] = [Kind::Startup, Kind::Readiness, Kind::Liveness];

/// As messages begin.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        })
    }
}

/// Numbers of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the start of the container to the first look.
    pub initial_delay: Duration,
    /// Between two looks; more than zero.
    pub period: Duration,
    /// Successes in a row that count; at least 1.
    pub success: u32,
    /// Failures in a row that count; at least 1.
    pub failure: u32,
}

/// What was known before, of a container that an earlier agent has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Initial {
    /// Its startup probe had succeeded.
    pub started: bool,
    /// Its readiness probe had.
    pub ready: bool,
}

/// What a look has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which probe.
    pub kind: Kind,
    /// What it says now.
    pub healthy: bool,
}

/// The probes of one running container.
#[derive(Clone, Debug)]
pub struct Tracker {
    started_at: Duration,
    started: bool,
    mode: Mode,
    tracks: [Option<Track>; 3],
}

#[derive(Clone, Debug)]
struct Track {
    timing: Timing,
    /// The next look.
    next: Duration,
    looking: bool,
    /// The last result and how often it came in a row.
    last: Option<bool>,
    run: u32,
    /// What the probe says.
    says: Option<bool>,
    /// It said that the container must end, and is not asked again.
    over: bool,
}

impl Tracker {
    /// Probes of a container that runs since `started_at`, in the order of [`KINDS`].
    ///
    /// `initial` is what an earlier agent knew; then the first looks are put off by `jitter` of a period (0 to 1), so
    /// that an agent that comes back does not look everywhere at once.
    pub fn new(
        timings: [Option<Timing>; 3],
        started_at: Duration,
        now: Duration,
        initial: Option<Initial>,
        jitter: f64,
    ) -> Self {
        let known = initial.unwrap_or_default();
        let started = timings[0].is_none() || known.started;
        let track = |kind, timing: Timing| {
            let put_off = match initial {
                Some(_) => timing.period.mul_f64(jitter.clamp(0.0, 1.0)),
                None => Duration::ZERO,
            };
            Track {
                timing,
                next: now.max(started_at.saturating_add(timing.initial_delay)) + put_off,
                looking: false,
                last: None,
                run: 0,
                says: match kind {
                    Kind::Startup => known.started.then_some(true),
                    Kind::Readiness => Some(known.ready),
                    Kind::Liveness => Some(true),
                },
                over: false,
            }
        };
        let mut kinds = KINDS.into_iter();
        let tracks = timings.map(|timing| {
            let kind = kinds.next()?;
            timing.map(|timing| track(kind, timing))
        });
        Self {
            started_at,
            started,
            mode: Mode::All,
            tracks,
        }
    }

    /// Whether the startup probe has succeeded, or there is none.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Says which probes go on.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// When [`Tracker::take_due`] has something to do; `None` until something else happens.
    pub fn due(&self) -> Option<Duration> {
        let waits = |kind: &Kind| self.may_look(*kind);
        let next = |kind| self.track(kind).map(|track| track.next);
        KINDS.into_iter().filter(waits).filter_map(next).min()
    }

    /// The probes whose time has come. Each is to be answered by [`Tracker::seen`].
    pub fn take_due(&mut self, now: Duration) -> Vec<Kind> {
        let mut due = Vec::new();
        for kind in KINDS {
            if !self.may_look(kind) {
                continue;
            }
            let Some(track) = &mut self.tracks[kind as usize] else {
                continue;
            };
            if track.next > now {
                continue;
            }
            track.looking = true;
            // Moments that passed while it looked are left out; the beat is kept.
            let late =
                now.saturating_sub(track.next).as_nanos() / track.timing.period.as_nanos().max(1);
            let beats = u32::try_from(late).unwrap_or(u32::MAX).saturating_add(1);
            track.next += track.timing.period.saturating_mul(beats);
            due.push(kind);
        }
        due
    }

    /// Takes what a look has shown; `None` where it could not be made, which counts for nothing.
    pub fn seen(&mut self, kind: Kind, healthy: Option<bool>, now: Duration) -> Option<Change> {
        let goes_on = self.goes_on(kind);
        let track = self.tracks[kind as usize].as_mut()?;
        track.looking = false;
        let healthy = healthy?;
        if !goes_on || track.over {
            return None;
        }
        track.run = if track.last == Some(healthy) {
            track.run.saturating_add(1)
        } else {
            1
        };
        track.last = Some(healthy);
        let threshold = if healthy {
            track.timing.success
        } else {
            track.timing.failure
        };
        if track.run < threshold {
            return None;
        }
        track.over = !healthy && kind != Kind::Readiness;
        if track.says == Some(healthy) {
            return None;
        }
        track.says = Some(healthy);
        if kind == Kind::Startup && healthy {
            self.start(now);
        }
        Some(Change { kind, healthy })
    }

    /// The others begin.
    fn start(&mut self, now: Duration) {
        self.started = true;
        for kind in [Kind::Readiness, Kind::Liveness] {
            if let Some(track) = &mut self.tracks[kind as usize] {
                let first = self.started_at.saturating_add(track.timing.initial_delay);
                track.next = now.max(first);
            }
        }
    }

    fn track(&self, kind: Kind) -> Option<&Track> {
        self.tracks[kind as usize].as_ref()
    }

    fn may_look(&self, kind: Kind) -> bool {
        let open = match kind {
            Kind::Startup => !self.started,
            Kind::Readiness | Kind::Liveness => self.started || self.mode == Mode::ReadinessOnly,
        };
        let rests = |track: &Track| track.looking || track.over;
        open && self.goes_on(kind) && self.track(kind).is_some_and(|track| !rests(track))
    }

    fn goes_on(&self, kind: Kind) -> bool {
        match self.mode {
            Mode::Off => false,
            Mode::All => true,
            Mode::ReadinessOnly => kind == Kind::Readiness,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing(success: u32, failure: u32) -> Timing {
        Timing {
            initial_delay: Duration::ZERO,
            period: SECOND,
            success,
            failure,
        }
    }

    fn at(seconds: u64) -> Duration {
        SECOND * u32::try_from(seconds).expect("small")
    }

    fn change(kind: Kind, healthy: bool) -> Option<Change> {
        Some(Change { kind, healthy })
    }

    #[test]
    fn startup_gates_the_others_and_rests_afterwards() {
        let all = [Some(timing(1, 3)), Some(timing(1, 3)), Some(timing(1, 3))];
        let mut it = Tracker::new(all, at(10), at(10), None, 0.5);
        assert_eq!(it.due(), Some(at(10)));
        assert_eq!(it.take_due(at(10)), [Kind::Startup]);
        assert_eq!(it.due(), None, "one look at a time");
        assert_eq!(it.seen(Kind::Startup, Some(false), at(10)), None);
        assert_eq!(it.take_due(at(11)), [Kind::Startup]);
        assert_eq!(
            it.seen(Kind::Startup, Some(true), at(11)),
            change(Kind::Startup, true)
        );
        assert_eq!(it.take_due(at(11)), [Kind::Readiness, Kind::Liveness]);
        assert_eq!(
            it.seen(Kind::Readiness, Some(true), at(11)),
            change(Kind::Readiness, true)
        );
        assert_eq!(it.seen(Kind::Liveness, Some(true), at(11)), None);
        assert_eq!(it.take_due(at(12)), [Kind::Readiness, Kind::Liveness]);
    }

    #[test]
    fn a_container_that_must_end_is_told_once() {
        let mut it = Tracker::new([None, None, Some(timing(1, 2))], at(0), at(0), None, 0.0);
        it.take_due(at(0));
        assert_eq!(it.seen(Kind::Liveness, Some(false), at(0)), None);
        it.take_due(at(1));
        assert_eq!(
            it.seen(Kind::Liveness, Some(false), at(1)),
            change(Kind::Liveness, false)
        );
        assert_eq!(it.due(), None);
    }

    #[test]
    fn the_initial_delay_counts_from_the_start_of_the_container() {
        let late = Timing {
            initial_delay: 5 * SECOND,
            ..timing(1, 1)
        };
        let it = Tracker::new([None, Some(late), None], at(10), at(12), None, 0.0);
        assert_eq!(it.due(), Some(at(15)));
        // The one that an earlier agent has started waited long ago.
        let known = Some(Initial {
            started: true,
            ready: true,
        });
        let mut it = Tracker::new([None, Some(late), None], at(10), at(100), known, 0.5);
        assert_eq!(it.due(), Some(at(100) + SECOND / 2));
        it.take_due(at(101));
        assert_eq!(
            it.seen(Kind::Readiness, Some(true), at(101)),
            None,
            "ready it was"
        );
        assert_eq!(it.due(), Some(at(101) + SECOND / 2), "the beat is kept");
    }

    #[test]
    fn while_the_pod_ends_only_readiness_is_asked() {
        let all = [Some(timing(1, 1)), Some(timing(1, 1)), Some(timing(1, 1))];
        let mut it = Tracker::new(all, at(0), at(0), None, 0.0);
        assert_eq!(it.take_due(at(0)), [Kind::Startup]);
        it.set_mode(Mode::ReadinessOnly);
        assert_eq!(it.seen(Kind::Startup, Some(false), at(0)), None);
        assert_eq!(it.take_due(at(1)), [Kind::Readiness]);
        it.set_mode(Mode::Off);
        assert_eq!(it.seen(Kind::Readiness, Some(true), at(1)), None);
        assert_eq!(it.due(), None);
    }

    /// What a probe says after results, thought through from the end: the last run that was long enough.
    fn model(results: &[Option<bool>], timing: Timing, first: bool, ends: bool) -> bool {
        let mut says = first;
        let counted: Vec<bool> = results.iter().filter_map(|it| *it).collect();
        for end in 1..=counted.len() {
            let tail = counted[end - 1];
            let run = counted[..end]
                .iter()
                .rev()
                .take_while(|it| **it == tail)
                .count();
            let needed = if tail { timing.success } else { timing.failure };
            if run >= needed as usize {
                says = tail;
                if ends && !says {
                    return false;
                }
            }
        }
        says
    }

    proptest! {
        #[test]
        fn what_is_told_adds_up_to_what_was_seen(
            results in prop::collection::vec(any::<Option<bool>>(), 0..60),
            (success, failure) in (1_u32..4, 1_u32..5),
            kind in prop::sample::select(vec![Kind::Readiness, Kind::Liveness]),
        ) {
            let success = if kind == Kind::Liveness { 1 } else { success };
            let timing = timing(success, failure);
            let mut timings = [None; 3];
            timings[kind as usize] = Some(timing);
            let mut it = Tracker::new(timings, at(0), at(0), None, 0.0);
            let first = kind == Kind::Liveness;
            let mut said = first;
            let mut used = Vec::new();
            for (second, result) in (0..).zip(results) {
                if it.take_due(at(second)).is_empty() {
                    // Only one that has ended its container is not asked any more.
                    prop_assert!(kind == Kind::Liveness && !said);
                    continue;
                }
                used.push(result);
                if let Some(change) = it.seen(kind, result, at(second)) {
                    prop_assert_eq!(change.kind, kind);
                    prop_assert!(change.healthy != said, "only changes are told");
                    said = change.healthy;
                }
                prop_assert_eq!(said, model(&used, timing, first, kind == Kind::Liveness));
            }
        }

        #[test]
        fn looks_are_a_period_apart_one_at_a_time_and_never_before_their_turn(
            steps in prop::collection::vec((0_u64..3_000, any::<bool>(), any::<Option<bool>>()), 1..200),
            delay in 0_u64..5,
            period in 1_u64..4,
        ) {
            let timing = Timing { initial_delay: at(delay), period: at(period), success: 1, failure: 3 };
            let mut it = Tracker::new([Some(timing); 3], at(0), at(0), None, 0.0);
            let mut now = Duration::ZERO;
            let mut looking: Vec<Kind> = Vec::new();
            let mut last = [None; 3];
            for (millis, answer, result) in steps {
                now += Duration::from_millis(millis);
                for kind in it.take_due(now) {
                    prop_assert!(!looking.contains(&kind));
                    prop_assert!(now >= at(delay));
                    prop_assert_eq!(kind == Kind::Startup, !it.started());
                    // The beat: in each period at most one look.
                    let beat = |time: Duration| time.as_millis() / u128::from(period * 1000);
                    if kind == Kind::Startup {
                        prop_assert!(last[0] != Some(beat(now - at(delay))));
                        last[0] = Some(beat(now - at(delay)));
                    }
                    looking.push(kind);
                }
                if answer && let Some(kind) = looking.pop() {
                    it.seen(kind, result, now);
                }
                if let Some(due) = it.due() {
                    prop_assert!(due >= at(delay));
                }
            }
        }
    }
}
