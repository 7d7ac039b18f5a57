//! What containers were given for themselves, as those who start and watch them see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What one pod was given; a part of its private record, so that it survives the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Assigned {
    /// Numbers of the cores that nobody else uses, by container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cores: BTreeMap<String, Vec<usize>>,
    /// Names of devices by container and resource.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Assigned {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.cores.is_empty() && self.devices.is_empty()
    }
}

/// The state of the node's cores and devices, published by their owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Cores of containers that have none of their own; none as long as nobody ever had any.
    pub shared: Option<Vec<usize>>,
    /// Cores of containers that are held to some of the shared ones, by pod and container.
    pub limited: BTreeMap<(Arc<str>, String), Vec<usize>>,
    /// What pods were given.
    pub assigned: BTreeMap<Arc<str>, Arc<Assigned>>,
    /// The resources that this node has devices of.
    pub devices: Vec<&'static str>,
}

impl Placement {
    /// The cores that a container may use; none where every one of the node.
    pub fn cores(&self, uid: &str, container: &str) -> Option<&[usize]> {
        let own = self
            .assigned
            .get(uid)
            .and_then(|it| it.cores.get(container));
        let limited = || {
            let key = (Arc::from(uid), container.to_owned());
            self.limited.get(&key)
        };
        own.or_else(limited)
            .or(self.shared.as_ref())
            .map(Vec::as_slice)
    }

    /// What was given to a pod, if anything.
    pub fn of(&self, uid: &str) -> Option<&Arc<Assigned>> {
        self.assigned.get(uid)
    }

    /// Variables that show a container the devices it was given, and no others. A variable with no
    /// value hides them all. Empty on a node without devices.
    pub fn variables(&self, uid: &str, container: &str) -> Vec<(String, String)> {
        let given = self.of(uid).and_then(|it| it.devices.get(container));
        let mut variables = Vec::new();
        for resource in &self.devices {
            let list = given.and_then(|it| it.get(*resource));
            let list = list.map(|it| it.join(",")).unwrap_or_default();
            for name in visible_by(resource) {
                variables.push(((*name).to_owned(), list.clone()));
            }
        }
        variables
    }

    /// Variables of the batch job that would show a container devices that are not its own.
    pub fn hidden(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            "CUDA_VISIBLE_DEVICES",
            "NVIDIA_VISIBLE_DEVICES",
            "ROCR_VISIBLE_DEVICES",
            "HIP_VISIBLE_DEVICES",
            "GPU_DEVICE_ORDINAL",
        ];
        let any = !self.devices.is_empty();
        all.into_iter().filter(move |_| any)
    }
}

/// The variables that a maker's libraries and container engines obey. AMD's further ones
/// (`HIP_VISIBLE_DEVICES`, …) count among what `ROCR_VISIBLE_DEVICES` leaves, and are left out.
fn visible_by(resource: &str) -> &'static [&'static str] {
    match resource {
        "nvidia.com/gpu" => &["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"],
        "amd.com/gpu" => &["ROCR_VISIBLE_DEVICES"],
        _ => &[],
    }
}
