//! A queue of keys that are due: each stands in it once, at its earliest time.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The wait after the first failure; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Keys with the time at which each is due.
#[derive(Debug)]
pub struct Queue<K> {
    due: BTreeSet<(Instant, K)>,
    times: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            times: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// `key` is due at `time`, or earlier where it is so already.
    pub fn add_at(&mut self, key: K, time: Instant) {
        match self.times.get(&key) {
            Some(earlier) if *earlier <= time => {}
            _ => self.set(key, time),
        }
    }

    /// `key` is due at `time` and not before.
    pub fn set(&mut self, key: K, time: Instant) {
        if let Some(old) = self.times.insert(key.clone(), time) {
            self.due.remove(&(old, key.clone()));
        }
        self.due.insert((time, key));
    }

    /// `key` is due now.
    pub fn add(&mut self, key: K) {
        self.add_at(key, Instant::now());
    }

    /// `key` is due again after a wait that grows with each failure in a row.
    pub fn retry(&mut self, key: K) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = MIN_BACKOFF
            .saturating_mul(1 << (*failures).min(16))
            .min(MAX_BACKOFF);
        *failures += 1;
        self.add_at(key, Instant::now() + wait);
    }

    /// The work on `key` went well: the next failure is the first again.
    pub fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// `key` is not due any more.
    pub fn remove(&mut self, key: &K) {
        if let Some(time) = self.times.remove(key) {
            self.due.remove(&(time, key.clone()));
        }
        self.failures.remove(key);
    }

    /// Takes a key that is due at `now`.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        let (time, _) = self.due.first()?;
        if *time > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.times.remove(&key);
        Some(key)
    }

    /// Waits for a key to be due and takes it; for ever while the queue is empty.
    /// Cancel-safe: a key is only taken when it is returned.
    pub async fn next(&mut self) -> K {
        loop {
            match self.due.first() {
                None => std::future::pending::<()>().await,
                Some((time, _)) => tokio::time::sleep_until(*time).await,
            }
            if let Some(key) = self.take(Instant::now()) {
                return key;
            }
        }
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_stands_once_at_its_earliest_time() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add_at("b", start + Duration::from_secs(20));
        queue.add_at("a", start + Duration::from_secs(30));
        queue.add_at("a", start + Duration::from_secs(10));
        queue.add_at("a", start + Duration::from_secs(40));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(queue.next().await, "b");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_wait_longer_and_longer() {
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..16 {
            let start = Instant::now();
            queue.retry(1);
            assert_eq!(queue.next().await, 1);
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits[..4], [5, 10, 20, 40]);
        assert_eq!(waits[15], 60_000);
        queue.succeeded(&1);
        let start = Instant::now();
        queue.retry(1);
        queue.next().await;
        assert_eq!(start.elapsed().as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_key_does_not_come_and_a_later_time_can_be_set() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add("gone");
        queue.remove(&"gone");
        queue.add_at("late", start + Duration::from_secs(1));
        queue.set("late", start + Duration::from_secs(9));
        assert_eq!(queue.next().await, "late");
        assert_eq!(start.elapsed().as_secs(), 9);
    }
}
