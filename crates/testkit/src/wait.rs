//! Level-triggered waits: they look at the state, and fail with the last one seen.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long [`eventually`] waits: long enough for a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is looked at that nothing announces.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `look` gives `Ok`, and returns what it gave.
///
/// # Panics
/// After a minute, with what was seen last.
#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    eventually_within(PATIENCE, what, look)
}

/// [`eventually`] with a patience of one's own.
///
/// # Panics
/// As [`eventually`].
#[track_caller]
pub fn eventually_within<T, E: Debug>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > patience => {
                panic!("{what}: not within {patience:?}; last seen: {last:?}")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
