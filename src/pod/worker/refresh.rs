//! When a pod's volumes are written anew. Pure.

use tokio::time::Instant;

/// Whether a refresh asks for new tokens, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pod) enum Tokenwise {
    Keep,
    Renew,
}

/// The next refresh of each kind: neither puts the other off.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    keep: Option<Instant>,
    renew: Option<Instant>,
}

impl Schedule {
    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.keep, self.renew].into_iter().flatten().min()
    }

    /// Orders a refresh. The sooner one of contents holds; the later order of tokens does, being that of newer ones.
    pub(super) fn order(&mut self, at: Instant, tokens: Tokenwise) {
        match tokens {
            Tokenwise::Keep => self.keep = Some(self.keep.map_or(at, |before| before.min(at))),
            Tokenwise::Renew => self.renew = Some(at),
        }
    }

    /// Takes what is due: new tokens come with new contents.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Tokenwise> {
        let keep = self.keep.take_if(|at| *at <= now);
        let renew = self.renew.take_if(|at| *at <= now);
        renew
            .map(|_| Tokenwise::Renew)
            .or(keep.map(|_| Tokenwise::Keep))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Order(u64, bool),
        Look(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..100_u64, any::<bool>()).prop_map(|(at, renew)| Act::Order(at, renew)),
            (0..40_u64).prop_map(Act::Look),
        ]
    }

    proptest! {
        #[test]
        fn every_order_is_carried_out_when_it_is_due_and_not_before(
            acts in prop::collection::vec(act(), 0..40),
        ) {
            let begin = Instant::now();
            let (mut schedule, mut now) = (Schedule::default(), begin);
            let (mut renew, mut keep): (Option<Instant>, Vec<Instant>) = (None, Vec::new());
            for act in acts {
                match act {
                    Act::Order(after, true) => {
                        let at = now + Duration::from_secs(after);
                        schedule.order(at, Tokenwise::Renew);
                        renew = Some(at);
                    }
                    Act::Order(after, false) => {
                        let at = now + Duration::from_secs(after);
                        schedule.order(at, Tokenwise::Keep);
                        keep.push(at);
                    }
                    Act::Look(later) => {
                        now += Duration::from_secs(later);
                        let due_renew = renew.is_some_and(|at| at <= now);
                        let due_keep = keep.iter().any(|at| *at <= now);
                        let wanted = match (due_renew, due_keep) {
                            (true, _) => Some(Tokenwise::Renew),
                            (false, true) => Some(Tokenwise::Keep),
                            (false, false) => None,
                        };
                        prop_assert_eq!(schedule.take_due(now), wanted);
                        renew = renew.filter(|at| *at > now);
                        if due_keep {
                            // One refresh serves all that was ordered before it.
                            keep.clear();
                        }
                    }
                }
                let first = keep.iter().copied().chain(renew).min();
                prop_assert_eq!(schedule.next(), first);
            }
        }
    }
}
