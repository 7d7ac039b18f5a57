//! Data of pods that are over: kept for those who ask for logs, within limits.
//!
//! Nothing is removed but directories of pods below the private root. A pod whose object is gone
//! has its data removed at once, by its worker; what that left behind (a file that could not be
//! removed, an agent that died in the middle) is found here again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{api::chain, volumes::remove_memory};
use crate::container::Root;

/// How often it is looked for.
pub(super) const PERIOD: Duration = Duration::from_secs(20);

/// How long data of pods that are over is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Of so many pods at most, those that ended last.
    pub max_count: usize,
    /// For so long at most.
    pub max_age: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_count: 1000,
            max_age: None,
        }
    }
}

/// A pod that is over and still in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) uid: Arc<str>,
    /// When its last container ended.
    pub(super) ended_at: Timestamp,
}

/// Whose data goes: what is too old, and the oldest of what is too much.
pub(super) fn choose(mut dead: Vec<Dead>, policy: Retention, now: Timestamp) -> Vec<Arc<str>> {
    dead.sort_by(|a, b| b.ended_at.cmp(&a.ended_at).then(a.uid.cmp(&b.uid)));
    let old = |it: &Dead| {
        let age = Duration::try_from(now.duration_since(it.ended_at)).unwrap_or_default();
        policy.max_age.is_some_and(|most| age > most)
    };
    let gone = dead.into_iter().enumerate();
    gone.filter(|(index, it)| *index >= policy.max_count || old(it))
        .map(|(_, it)| it.uid)
        .collect()
}

/// The UIDs that have a directory; none where that cannot be told now.
pub(super) fn list(root: &Root) -> Vec<String> {
    root.pods().unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "pods on disk cannot be listed");
        Vec::new()
    })
}

/// What is to go of what is there: `chosen`, and what belongs to no pod that is known.
pub(super) fn unwanted(
    there: Vec<String>,
    chosen: &[Arc<str>],
    known: impl Fn(&str) -> bool,
) -> Vec<String> {
    let gone = there.into_iter();
    gone.filter(|uid| chosen.iter().any(|it| **it == **uid) || !known(uid))
        .collect()
}

/// Removes the data of these.
pub(super) fn remove(root: &Root, gone: &[String]) {
    for uid in gone {
        if let Err(error) = remove_memory(root, uid) {
            let error = chain(&error);
            tracing::warn!(error, uid, "a volume in memory stays");
        }
        match root.remove_pod(uid) {
            Ok(()) => tracing::info!(uid, "data of a pod that is over was removed"),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, uid, "data of a pod that is over stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dead(number: usize, seconds: i64) -> Dead {
        Dead {
            uid: Arc::from(format!("u{number}")),
            ended_at: Timestamp::from_second(seconds).expect("a time"),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1000).expect("a time")
    }

    #[test]
    fn the_oldest_go_first() {
        let all = vec![dead(0, 900), dead(1, 100), dead(2, 950)];
        let names = |max_count, max_age: Option<u64>| {
            let max_age = max_age.map(Duration::from_secs);
            let policy = Retention { max_count, max_age };
            let mut gone: Vec<String> = choose(all.clone(), policy, now())
                .iter()
                .map(ToString::to_string)
                .collect();
            gone.sort();
            gone
        };
        assert!(names(3, None).is_empty());
        assert_eq!(names(2, None), ["u1"]);
        assert_eq!(names(3, Some(60)), ["u0", "u1"]);
        assert_eq!(names(0, None).len(), 3);
    }

    #[test]
    fn only_what_nobody_knows_or_wants_is_removed() {
        let temp = tempfile::tempdir().expect("a directory");
        let root = Root::create(&temp.path().join("root")).expect("a root");
        for uid in ["live", "dead", "orphan"] {
            root.create_pod(uid).expect("made");
        }
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("precious"), "x").expect("written");
        let planted = root.path().join("pods/dead/link");
        std::os::unix::fs::symlink(&outside, planted).expect("linked");
        let known = |uid: &str| uid != "orphan";
        let gone = unwanted(list(&root), &[Arc::from("dead")], known);
        // Begun after the look.
        root.create_pod("new").expect("made");
        remove(&root, &gone);
        let mut left = root.pods().expect("listed");
        left.sort();
        assert_eq!(left, ["live", "new"]);
        assert!(outside.join("precious").exists(), "no link is followed");
    }

    proptest! {
        #[test]
        fn what_stays_is_younger_and_within_the_count(
            ages in prop::collection::vec(0..1000_i64, 0..20), max_count in 0..10_usize,
        ) {
            let all: Vec<Dead> = ages.iter().enumerate().map(|(n, s)| dead(n, *s)).collect();
            let policy = Retention { max_count, max_age: Some(Duration::from_secs(500)) };
            let gone = choose(all.clone(), policy, now());
            let (left, removed): (Vec<_>, Vec<_>) =
                all.iter().partition(|it| !gone.contains(&it.uid));
            prop_assert!(left.len() <= max_count);
            for stays in &left {
                prop_assert!(stays.ended_at.as_second() >= 500);
                let younger = |it: &&Dead| it.ended_at <= stays.ended_at;
                prop_assert!(removed.iter().all(younger));
            }
        }
    }
}
