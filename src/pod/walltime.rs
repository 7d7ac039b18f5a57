//! What a pod says of its time and what becomes of it as the node's walltime ends. Pure.
//!
//! | annotation | meaning |
//! |---|---|
//! | `vk-cmd.io/needs-time: 30m` | refused where less is left before its SIGTERM |
//! | `vk-cmd.io/warning-signal: SIGUSR1` | sent to each running container before SIGTERM, once |
//! | `vk-cmd.io/warning-lead: 120s` | how long before; 60 s where only the signal is given |

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use nix::sys::signal::Signal;

use super::machine::{Disruption, Failure};
use crate::{
    duration,
    node::walltime::{Closing, Phase},
};

/// How long a pod needs.
pub const NEEDS_TIME: &str = "vk-cmd.io/needs-time";
/// The signal that warns its containers.
pub const WARNING_SIGNAL: &str = "vk-cmd.io/warning-signal";
/// How long before SIGTERM they are warned.
pub const WARNING_LEAD: &str = "vk-cmd.io/warning-lead";
const DEFAULT_LEAD: Duration = Duration::from_secs(60);
/// The reason of `DisruptionTarget`, and of the pods that end for it.
pub const EXCEEDED: &str = "WalltimeExceeded";
/// The reason of pods that are not even begun.
pub const OUT_OF_TIME: &str = "OutOfWalltime";

/// What a pod asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The least time that it has to have.
    pub needs: Option<Duration>,
    /// The warning that it wants.
    pub warning: Option<Warning>,
}

/// An early warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Sent to the process group of each running container.
    pub signal: Signal,
    /// How long before SIGTERM.
    pub lead: Duration,
}

impl Wishes {
    /// Reads the annotations.
    ///
    /// # Errors
    /// Key, value and mend of the first that cannot be read.
    pub fn read(annotations: Option<&BTreeMap<String, String>>) -> Result<Self, String> {
        let text = |key: &str| annotations.and_then(|all| all.get(key)).map(|it| it.trim());
        let length = |key: &str| match text(key) {
            None => Ok(None),
            Some(value) => duration::parse(value).map(Some).ok_or_else(|| {
                let form = duration::FORM;
                format!("metadata.annotations[{key}]: {value:?} is not a length of time; {form}")
            }),
        };
        let needs = length(NEEDS_TIME)?;
        let lead = length(WARNING_LEAD)?;
        let warning = match (text(WARNING_SIGNAL), lead) {
            (Some(value), lead) => Some(Warning {
                signal: signal(value).ok_or_else(|| {
                    format!(
                        "metadata.annotations[{WARNING_SIGNAL}]: {value:?} is not a signal that a \
                         process can take; write a name such as SIGUSR1"
                    )
                })?,
                lead: lead.unwrap_or(DEFAULT_LEAD),
            }),
            (None, Some(_)) => {
                return Err(format!(
                    "metadata.annotations[{WARNING_LEAD}] stands alone; name the signal with {WARNING_SIGNAL}"
                ));
            }
            (None, None) => None,
        };
        Ok(Self { needs, warning })
    }
}

/// `SIGUSR1`, `USR1` or a number; not those that no process sees.
fn signal(text: &str) -> Option<Signal> {
    let signal = match text.parse::<i32>() {
        Ok(number) => Signal::try_from(number).ok()?,
        Err(_) => Signal::from_str(text)
            .or_else(|_| Signal::from_str(&format!("SIG{text}")))
            .ok()?,
    };
    (!matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)).then_some(signal)
}

/// What the end of the walltime asks of one pod now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// It is told that its end comes.
    pub notice: bool,
    /// Its containers get the warning signal.
    pub warning: bool,
    /// It ends, within this time.
    pub end: Option<Duration>,
    /// When to look again, if ever.
    pub again: Option<Duration>,
}

/// What is due for a pod of this grace and these wishes at `now`.
pub fn due(closing: Closing, grace: Duration, wishes: Wishes, now: Duration) -> Due {
    let at = closing.terminates_at(grace);
    let warn_at = wishes.warning.map(|it| at.saturating_sub(it.lead));
    // The drain itself is announced by another `Closing`.
    let again = [warn_at, Some(at)].into_iter().flatten();
    Due {
        notice: closing.phase >= Phase::Draining || now >= at,
        warning: warn_at.is_some_and(|warn_at| warn_at <= now && now < at),
        end: (at <= now).then(|| closing.end.saturating_sub(now)),
        again: again.filter(|at| *at > now).min(),
    }
}

/// Why a pod is not begun at all, if it is not.
pub fn refusal(
    closing: Closing,
    grace: Duration,
    wishes: Wishes,
    now: Duration,
) -> Option<Failure> {
    let left = closing.left(grace, now);
    let message = match (closing.phase, wishes.needs) {
        (Phase::Draining | Phase::Over, _) => {
            "Pod was rejected as the walltime of the node is about to end.".to_owned()
        }
        (Phase::Open, Some(needs)) if left < needs => format!(
            "Pod needs {} (annotation {NEEDS_TIME}), and this node ends its pods in {}: select nodes with \
             enough time, such as by the node affinity jiriaf.alivetime Gt {}",
            duration::show(needs),
            duration::show(left),
            needs.as_secs(),
        ),
        (Phase::Open, _) => return None,
    };
    Some(Failure {
        reason: OUT_OF_TIME.into(),
        message,
        disruption: None,
        warning: true,
    })
}

/// What a pod is told when the drain begins.
pub fn disruption(closing: Closing, grace: Duration) -> Disruption {
    Disruption {
        reason: EXCEEDED,
        message: format!(
            "The walltime of the node ends: SIGTERM comes {} before the end, and nothing is restarted after that.",
            duration::show(closing.end.saturating_sub(closing.terminates_at(grace)))
        ),
    }
}

/// How a pod ends for it.
pub fn failure() -> Failure {
    Failure {
        reason: EXCEEDED.into(),
        message: "Pod was terminated as the walltime of its node ended.".to_owned(),
        disruption: Some(EXCEEDED),
        warning: true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Wishes, String> {
        let all = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Wishes::read(Some(&all.collect()))
    }

    #[test]
    fn wishes_are_read() {
        assert_eq!(Wishes::read(None), Ok(Wishes::default()));
        let wishes = read(&[
            (NEEDS_TIME, "30m"),
            (WARNING_SIGNAL, "SIGUSR1"),
            (WARNING_LEAD, "120s"),
        ]);
        let warning = |signal, lead| {
            Some(Warning {
                signal,
                lead: Duration::from_secs(lead),
            })
        };
        assert_eq!(
            wishes,
            Ok(Wishes {
                needs: Some(Duration::from_secs(1800)),
                warning: warning(Signal::SIGUSR1, 120),
            })
        );
        for (text, signal) in [("USR2", Signal::SIGUSR2), ("10", Signal::SIGUSR1)] {
            assert_eq!(
                read(&[(WARNING_SIGNAL, text)]).map(|it| it.warning),
                Ok(warning(signal, 60))
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_mend() {
        for (pairs, part) in [
            (
                &[(NEEDS_TIME, "soon")][..],
                "[vk-cmd.io/needs-time]: \"soon\" is not a length of time; write",
            ),
            (
                &[(WARNING_SIGNAL, "SIGKILL")][..],
                "\"SIGKILL\" is not a signal that a process can take",
            ),
            (&[(WARNING_SIGNAL, "x")][..], "SIGUSR1"),
            (
                &[(WARNING_LEAD, "5s")][..],
                "stands alone; name the signal with vk-cmd.io/warning-signal",
            ),
        ] {
            let error = read(pairs).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_due_comes_in_order(
            end in 0_u64..2_000, window in 0_u64..200, grace in 0_u64..200, lead in 0_u64..200,
            steps in prop::collection::vec(1_u64..300, 1..20),
        ) {
            let s = Duration::from_secs;
            let wishes = Wishes { needs: None, warning: Some(Warning { signal: Signal::SIGUSR1, lead: s(lead) }) };
            let mut now = Duration::ZERO;
            let mut ended = false;
            for step in steps {
                let phase = if now >= s(end) { Phase::Over }
                    else if now + s(window) >= s(end) { Phase::Draining } else { Phase::Open };
                let closing = Closing { phase, end: s(end), window: s(window) };
                let due = due(closing, s(grace), wishes, now);
                prop_assert!(!(due.warning && due.end.is_some()));
                prop_assert!(due.end.is_none() || due.notice);
                prop_assert!(due.end.is_some() || !ended);
                ended = due.end.is_some();
                if let Some(left) = due.end {
                    prop_assert!(left <= s(grace.min(window)));
                    prop_assert!(now + left <= s(end) || left.is_zero());
                }
                prop_assert_eq!(due.again.is_none(), ended);
                prop_assert!(due.again.is_none_or(|at| at > now));
                now = due.again.map_or(now + s(step), |at| at.min(now + s(step)));
            }
        }
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let closing = Closing {
            phase: Phase::Open,
            end: Duration::from_secs(1000),
            window: Duration::from_secs(60),
        };
        let refused = |closing, needs, now| {
            let wishes = Wishes {
                needs: Some(Duration::from_secs(needs)),
                warning: None,
            };
            refusal(
                closing,
                Duration::from_secs(30),
                wishes,
                Duration::from_secs(now),
            )
            .map(|it| it.message)
        };
        assert_eq!(refused(closing, 970, 0), None);
        let message = refused(closing, 971, 0).expect("too long");
        assert!(
            message.contains("needs 16m11s")
                && message.contains("in 16m10s")
                && message.contains("Gt 971"),
            "{message}"
        );
        assert!(refused(closing, 970, 1).is_some());
        let draining = Closing {
            phase: Phase::Draining,
            ..closing
        };
        assert!(refused(draining, 0, 0).is_some());
    }
}
