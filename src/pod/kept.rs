//! A pod's object, and its status, in memory.
//!
//! Typed, a pod takes ten kilobytes and a status five, most of them room for fields that
//! no pod uses, and a node holds a thousand. So who only keeps them keeps their JSON; who
//! works with them has them typed until they rest.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use k8s_openapi::api::core::v1::Pod;
use serde::{Serialize, de::DeserializeOwned};

/// A pod, or a part of it, that takes little memory while nobody looks into it.
///
/// Two are equal where their JSON is.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T = Pod> {
    json: Arc<[u8]>,
    typed: OnceLock<Arc<T>>,
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.json, &other.json) || self.json == other.json
    }
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    /// Keeps an object's JSON.
    pub(crate) fn at_rest(object: &T) -> Self {
        // Strings, numbers and maps by string are all there is in a Pod.
        let json = serde_json::to_vec(object).expect("a Pod is JSON");
        Self {
            json: json.into(),
            typed: OnceLock::new(),
        }
    }

    /// Keeps an object that is worked with.
    pub(crate) fn awakened(object: T) -> Self {
        let kept = Self::at_rest(&object);
        Self {
            typed: OnceLock::from(Arc::new(object)),
            ..kept
        }
    }

    /// The same object at rest.
    pub(crate) fn resting(&self) -> Self {
        Self {
            json: self.json.clone(),
            typed: OnceLock::new(),
        }
    }

    /// The typed object, to be taken along.
    pub(crate) fn typed(&self) -> Arc<T> {
        self.wake().clone()
    }

    /// Whether it is typed now.
    pub(crate) fn awake(&self) -> bool {
        self.typed.get().is_some()
    }

    /// Back to JSON.
    pub(crate) fn rest(&mut self) {
        self.typed.take();
    }

    fn wake(&self) -> &Arc<T> {
        self.typed.get_or_init(|| {
            Arc::new(serde_json::from_slice(&self.json).expect("this JSON was made from a Pod"))
        })
    }
}

impl<T: Serialize + DeserializeOwned> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.wake()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_wakes_as_it_was() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"a": "b"}},
            "spec": {
                "containers": [{"name": "c", "image": "host", "resources": {"limits": {"cpu": "1"}},
                    "ports": [{"containerPort": 80}],
                    "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3}}],
                "volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}]},
            "status": {"phase": "Pending", "conditions": [{"type": "X", "status": "True"}]}}))
        .expect("a pod");
        let mut kept = Kept::at_rest(&pod);
        assert!(!kept.awake());
        assert_eq!(*kept, pod);
        assert!(kept.awake());
        let resting = kept.resting();
        kept.rest();
        assert!(!kept.awake());
        assert!(!resting.awake());
        assert_eq!(*resting.typed(), pod);
    }

    #[test]
    fn what_says_the_same_is_equal_awake_or_not() {
        let status = |phase: &str| PodStatus {
            phase: Some(phase.to_owned()),
            ..PodStatus::default()
        };
        let awake = Kept::awakened(status("Running"));
        assert!(awake.awake());
        assert_eq!(awake, Kept::at_rest(&status("Running")));
        assert_eq!(awake, awake.resting());
        assert_ne!(awake, Kept::at_rest(&status("Failed")));
    }
}
