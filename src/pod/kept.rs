//! A pod's object in memory.
//!
//! Typed it takes ten kilobytes, most of them room for fields that no pod uses, and a
//! node holds a thousand. So who only keeps it keeps its JSON; who works with it has
//! it typed until it rests.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use k8s_openapi::api::core::v1::Pod;

/// A pod that takes little memory while nobody looks into it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    json: Arc<[u8]>,
    typed: OnceLock<Arc<Pod>>,
}

impl Kept {
    /// Keeps an object's JSON.
    pub(crate) fn at_rest(pod: &Pod) -> Self {
        // Strings, numbers and maps by string are all there is in a Pod.
        let json = serde_json::to_vec(pod).expect("a Pod is JSON");
        Self {
            json: json.into(),
            typed: OnceLock::new(),
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
    pub(crate) fn typed(&self) -> Arc<Pod> {
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

    fn wake(&self) -> &Arc<Pod> {
        self.typed.get_or_init(|| {
            Arc::new(serde_json::from_slice(&self.json).expect("this JSON was made from a Pod"))
        })
    }
}

impl Deref for Kept {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        self.wake()
    }
}

#[cfg(test)]
mod tests {
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
}
