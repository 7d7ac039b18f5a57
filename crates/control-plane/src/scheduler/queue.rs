//! The order in which pods are placed: by priority, then by how long they wait.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::pod::Pod;

type Place = (Reverse<i64>, u64);

/// The pods that wait for a node.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Each waiting pod's place, kept while it fails and is tried again.
    waiting: HashMap<Arc<str>, Place>,
    /// Those to be tried now.
    ready: BTreeSet<(Place, Arc<str>)>,
    arrivals: u64,
}

impl Queue {
    /// Makes a pod be tried; it keeps its place if it has one.
    pub(super) fn push(&mut self, pod: &Pod) {
        let place = self.waiting.entry(pod.key.clone()).or_insert_with(|| {
            self.arrivals += 1;
            (Reverse(pod.priority), self.arrivals)
        });
        self.ready.insert((*place, pod.key.clone()));
    }

    /// The next pod to be tried. It stays known as waiting.
    pub(super) fn pop(&mut self) -> Option<Arc<str>> {
        self.ready.pop_first().map(|(_, key)| key)
    }

    /// Forgets a pod.
    pub(super) fn remove(&mut self, key: &str) {
        if let Some((key, place)) = self.waiting.remove_entry(key) {
            self.ready.remove(&(place, key));
        }
    }

    /// Makes all waiting pods be tried that `chosen` names.
    pub(super) fn retry(&mut self, chosen: impl Fn(&str) -> bool) {
        for (key, place) in &self.waiting {
            if chosen(key) {
                self.ready.insert((*place, key.clone()));
            }
        }
    }

    pub(super) fn is_waiting(&self, key: &str) -> bool {
        self.waiting.contains_key(key)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.ready.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i64) -> Pod {
        Pod::parse(name.into(), &json!({"spec": {"priority": priority}}))
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|key| key.to_string())
            .collect()
    }

    #[test]
    fn priority_comes_first_then_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("b", 0), ("a", 0), ("high", 10), ("low", -5), ("b", 0)] {
            queue.push(&pod(name, priority));
        }
        assert_eq!(drain(&mut queue), ["high", "b", "a", "low"]);
        queue.push(&pod("new", 0));
        queue.retry(|_| true);
        assert_eq!(drain(&mut queue), ["high", "b", "a", "new", "low"]);
        queue.remove("a");
        queue.retry(|key| key != "b");
        assert_eq!(drain(&mut queue), ["high", "new", "low"]);
        assert!(!queue.is_waiting("a") && queue.is_waiting("b"));
    }
}
