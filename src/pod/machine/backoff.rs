//! The pause before a container that ended is started again.
//!
//! The numbers are the kubelet's: the first restart follows at once, the next
//! 10 s after the exit, then twice as long each time up to 300 s; a run of more
//! than 10 min (twice the longest pause) clears the slate.

use std::time::Duration;

/// The pause before the second restart.
const INITIAL: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// Restart history of one container, in monotonic time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    pause: Duration,
    restarted: Duration,
}

impl Backoff {
    /// History rebuilt after an agent restart, from how often the container has
    /// been restarted and when that last happened.
    pub fn recovered(restarts: u32, last_start: Duration) -> Self {
        let Some(doublings) = restarts.checked_sub(1) else {
            return Self::default();
        };
        // 300 s is reached after five doublings.
        let pause = (INITIAL * (1 << doublings.min(5))).min(LONGEST);
        Self {
            entry: Some(Entry {
                pause,
                restarted: last_start,
            }),
        }
    }

    /// When a container that ended at `finished` may start again, and the pause
    /// that leads there; none where it may start at once.
    pub fn wait(&self, finished: Duration) -> Option<(Duration, Duration)> {
        let entry = self.entry.filter(|entry| !entry.expired(finished))?;
        Some((finished.saturating_add(entry.pause), entry.pause))
    }

    /// Records a restart at `now` of a container that ended at `finished`.
    pub fn restart(&mut self, finished: Duration, now: Duration) {
        let pause = match self.entry {
            Some(entry) if !entry.expired(finished) => (entry.pause * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.entry = Some(Entry {
            pause,
            restarted: now,
        });
    }
}

impl Entry {
    fn expired(&self, finished: Duration) -> bool {
        finished.saturating_sub(self.restarted) > 2 * LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_those_of_the_kubelet() {
        let mut backoff = Backoff::default();
        let mut now = Duration::from_secs(1);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let (at, pause) = backoff.wait(now).unwrap_or((now, Duration::ZERO));
            pauses.push(pause.as_secs());
            backoff.restart(now, at);
            now = at + Duration::from_millis(3);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_clear_the_slate() {
        let mut backoff = Backoff::default();
        backoff.restart(Duration::from_secs(0), Duration::from_secs(0));
        backoff.restart(Duration::from_secs(1), Duration::from_secs(11));
        assert_eq!(
            backoff.wait(Duration::from_secs(611)).unwrap().1.as_secs(),
            20
        );
        assert_eq!(backoff.wait(Duration::from_secs(612)), None);
        backoff.restart(Duration::from_secs(612), Duration::from_secs(612));
        assert_eq!(
            backoff.wait(Duration::from_secs(613)).unwrap().1.as_secs(),
            10
        );
    }

    #[test]
    fn history_survives_the_agent() {
        let mut lived = Backoff::default();
        for restarts in 0..8 {
            let at = Duration::from_secs(restarts);
            assert_eq!(
                Backoff::recovered(restarts as u32, at)
                    .wait(at)
                    .map(|w| w.1),
                lived.wait(at).map(|w| w.1)
            );
            lived.restart(at, at);
        }
    }
}
