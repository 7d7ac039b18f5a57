//! The pods of this node: one worker task each.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};

use crate::container::ContainerDir;

/// What others may ask of the pods; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pods {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
pub(crate) enum Request {
    Find {
        namespace: String,
        name: String,
        reply: oneshot::Sender<Option<PodView>>,
    },
    List {
        reply: oneshot::Sender<Vec<PodView>>,
    },
}

/// A pod as the kubelet API sees it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The object, with the status that this agent gives it.
    pub pod: Arc<Pod>,
    /// Its containers, init containers first.
    pub containers: Vec<ContainerView>,
}

/// A container and where its files are.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Its name in the pod.
    pub name: String,
    /// Its directories.
    pub directory: ContainerDir,
    /// The attempt that runs or ran last; none before the first start.
    pub current: Option<u32>,
    /// The attempt before it that has a log.
    pub previous: Option<u32>,
    /// Whether the current attempt runs.
    pub running: bool,
    /// Why it waits, if it does (`ContainerCreating`, `CrashLoopBackOff`, …).
    pub waiting: Option<String>,
}

impl Pods {
    /// The pod of that namespace and name, if this node has it.
    pub async fn find(&self, namespace: &str, name: &str) -> Option<PodView> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Find {
            namespace: namespace.into(),
            name: name.into(),
            reply,
        };
        self.requests.send(request).await.ok()?;
        answer.await.ok().flatten()
    }

    /// All pods of this node; empty once the agent has ended.
    pub async fn list(&self) -> Vec<PodView> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::List { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}
