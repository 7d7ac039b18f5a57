//! When a tunnel is started, given up on, and tried again. Pure: the time is handed in.

use std::time::Duration;

use super::report::Problem;

/// Between two tries, the first time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(60);
/// The shortest time between two tries of what will not mend itself.
const LASTING: Duration = Duration::from_secs(30);
/// A tunnel that was up for so long begins anew with the shortest pause.
const STABLE: Duration = Duration::from_secs(60);

/// Where a tunnel is in its life. Times are of a monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A child runs and has not confirmed everything yet.
    Connecting {
        /// When it is given up.
        until: Duration,
    },
    /// Everything is forwarded.
    Up {
        /// Since when.
        since: Duration,
    },
    /// No child runs.
    Waiting {
        /// When the next one is started.
        until: Duration,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Every forward is confirmed.
    Confirmed,
    /// The child ended, or was found not to answer and has been ended.
    Ended(Problem),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a child.
    Start,
    /// End the child, which took too long.
    GiveUp,
}

/// The state of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    phase: Phase,
    failures: u32,
    patience: Duration,
}

impl Machine {
    /// A tunnel that is started by the first tick. `patience` is for one child to confirm everything.
    pub fn new(now: Duration, patience: Duration) -> Self {
        Self {
            phase: Phase::Waiting { until: now },
            failures: 0,
            patience,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// When a tick is due.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.phase {
            Phase::Connecting { until } | Phase::Waiting { until } => Some(until),
            Phase::Up { .. } => None,
        }
    }

    /// One step. `jitter` is a random number: many nodes of one job lose their tunnels at the same moment.
    pub fn step(&mut self, event: &Event, now: Duration, jitter: u32) -> Option<Effect> {
        match (event, &self.phase) {
            (Event::Confirmed, Phase::Connecting { .. }) => {
                self.phase = Phase::Up { since: now };
                None
            }
            (Event::Ended(problem), phase) => {
                if let Phase::Up { since } = phase
                    && now.saturating_sub(*since) >= STABLE
                {
                    self.failures = 0;
                }
                let pause = pause(self.failures, problem.passing, jitter);
                self.failures = self.failures.saturating_add(1);
                self.phase = Phase::Waiting { until: now + pause };
                None
            }
            (Event::Tick, Phase::Waiting { until }) if *until <= now => {
                self.phase = Phase::Connecting {
                    until: now + self.patience,
                };
                Some(Effect::Start)
            }
            (Event::Tick, Phase::Connecting { until }) if *until <= now => Some(Effect::GiveUp),
            _ => None,
        }
    }
}

/// Doubles with each failure, and lies between half and the whole of that.
fn pause(failures: u32, passing: bool, jitter: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    let whole = if passing {
        doubled
    } else {
        doubled.max(LASTING)
    };
    whole / 2 + (whole / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ended(passing: bool) -> Event {
        Event::Ended(Problem {
            reason: "X",
            message: String::new(),
            passing,
        })
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_life() {
        let at = Duration::from_secs;
        let mut machine = Machine::new(at(0), PATIENCE);
        assert_eq!(machine.step(&Event::Tick, at(0), 0), Some(Effect::Start));
        assert_eq!(machine.step(&Event::Confirmed, at(1), 0), None);
        assert_eq!(machine.wake_at(), None);
        machine.step(&ended(true), at(2), u32::MAX);
        assert_eq!(machine.wake_at(), Some(at(3)));
        assert_eq!(machine.step(&Event::Tick, at(2), 0), None);
        assert_eq!(machine.step(&Event::Tick, at(3), 0), Some(Effect::Start));
        assert_eq!(machine.step(&Event::Tick, at(33), 0), Some(Effect::GiveUp));
        machine.step(&ended(false), at(33), 0);
        assert_eq!(machine.wake_at(), Some(at(48)));
    }

    proptest! {
        #[test]
        fn pauses_grow_to_a_bound_and_a_stable_tunnel_begins_anew(
            jitter in any::<u32>(), failures in 0_u32..40, passing: bool,
        ) {
            let pause = pause(failures, passing, jitter);
            prop_assert!(pause >= FIRST / 2 && pause <= LONGEST, "{pause:?}");
            let mut machine = Machine::new(Duration::ZERO, PATIENCE);
            machine.failures = failures;
            machine.phase = Phase::Up { since: Duration::ZERO };
            machine.step(&ended(true), STABLE, jitter);
            prop_assert!(machine.wake_at() <= Some(STABLE + FIRST));
        }

        /// Two starts never follow each other without an end between them.
        #[test]
        fn there_is_one_child_at_a_time(steps in prop::collection::vec((0_u8..3, 0_u64..50), 0..60)) {
            let mut machine = Machine::new(Duration::ZERO, PATIENCE);
            let (mut now, mut child) = (Duration::ZERO, false);
            for (kind, pause) in steps {
                now += Duration::from_secs(pause);
                let event = match kind {
                    0 => Event::Confirmed,
                    1 => ended(pause % 2 == 0),
                    _ => Event::Tick,
                };
                if kind == 1 && !child {
                    continue;
                }
                child &= kind != 1;
                match machine.step(&event, now, 7) {
                    Some(Effect::Start) => {
                        prop_assert!(!child);
                        child = true;
                    }
                    Some(Effect::GiveUp) => prop_assert!(child),
                    None => {}
                }
            }
        }
    }
}
