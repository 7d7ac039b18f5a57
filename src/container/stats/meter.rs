//! A CPU counter that never goes back while a container lives.
//!
//! A pass is no snapshot: a process that ends while it is taken is seen neither alive nor in its
//! parent's account, and the sum is short for that once. A program that ignores SIGCHLD has its
//! children forgotten by the kernel, and the sum is short for ever. The first wants patience, the
//! second a new base to count from.

/// Counts nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    shown: u64,
    /// What was lost for good.
    lost: u64,
    short: bool,
}

impl Meter {
    /// What was shown last.
    pub fn shown(&self) -> u64 {
        self.shown.max(1)
    }

    /// Takes what the kernel tells now, returns what is shown: at least 1, since a consumer takes 0
    /// for "unknown".
    pub fn record(&mut self, now: u64) -> u64 {
        let sum = now.saturating_add(self.lost);
        if sum >= self.shown {
            self.shown = sum;
            self.short = false;
        } else if self.short {
            self.lost = self.lost.saturating_add(self.shown - sum);
            self.short = false;
        } else {
            self.short = true;
        }
        self.shown.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_short_pass_is_forgiven_and_a_lasting_loss_is_a_new_base() {
        let mut meter = Meter::default();
        assert_eq!(meter.record(0), 1);
        assert_eq!(meter.record(100), 100);
        assert_eq!(meter.record(40), 100);
        assert_eq!(meter.record(110), 110, "the missing part is back");
        assert_eq!(meter.record(40), 110);
        assert_eq!(meter.record(45), 110);
        assert_eq!(meter.record(55), 120, "ten more are ten more");
    }

    proptest! {
        #[test]
        fn it_never_goes_back(values in prop::collection::vec(0..1000_u64, 1..50)) {
            let mut meter = Meter::default();
            let mut last = 0;
            for value in values {
                let shown = meter.record(value);
                prop_assert!(shown >= last && shown >= value);
                last = shown;
            }
        }
    }
}
