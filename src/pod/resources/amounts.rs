//! Requests and limits of pods and containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::quantity::Quantity;

/// Amounts by resource: CPU in thousandths, all else in units (bytes, devices).
pub type Amounts = BTreeMap<String, u64>;

/// `cpu`.
pub const CPU: &str = "cpu";
/// `memory`.
pub const MEMORY: &str = "memory";
/// `ephemeral-storage`.
pub const STORAGE: &str = "ephemeral-storage";

/// What a list of the API says; what is no quantity, or negative, is nothing.
pub fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let amount = |(name, text): (&String, &Text)| {
        let quantity = Quantity::parse(&text.0)?;
        let amount = if name == CPU {
            quantity.to_millis()
        } else {
            quantity.to_units()
        };
        Some((name.clone(), amount?))
    };
    list.into_iter().flatten().filter_map(amount).collect()
}

/// Requests of a container; a limit without a request is one, too (the API fills it in).
pub fn requests(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut all = amounts(resources.and_then(|it| it.limits.as_ref()));
    all.extend(amounts(resources.and_then(|it| it.requests.as_ref())));
    all
}

/// Limits of a container.
pub fn limits(container: &Container) -> Amounts {
    amounts(
        container
            .resources
            .as_ref()
            .and_then(|it| it.limits.as_ref()),
    )
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = to.entry(name.clone()).or_default();
        *most = (*most).max(*amount);
    }
}

/// Whether an init container runs beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod takes: the containers together, or the hungriest init container with the sidecars
/// before it, whichever is more; what `spec.resources` says in place of both; the overhead.
pub fn of_pod(spec: &PodSpec) -> Amounts {
    total(spec, requests, |spec| {
        let resources = spec.resources.as_ref();
        let mut all = amounts(resources.and_then(|it| it.limits.as_ref()));
        all.extend(amounts(resources.and_then(|it| it.requests.as_ref())));
        all
    })
}

fn total(
    spec: &PodSpec,
    of: impl Fn(&Container) -> Amounts,
    of_spec: impl Fn(&PodSpec) -> Amounts,
) -> Amounts {
    let mut all = Amounts::new();
    for container in &spec.containers {
        add(&mut all, &of(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if is_sidecar(container) {
            add(&mut sidecars, &own);
            add(&mut all, &own);
            raise(&mut most, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut most, &together);
        }
    }
    raise(&mut all, &most);
    all.extend(of_spec(spec));
    add(&mut all, &amounts(spec.overhead.as_ref()));
    all
}

/// Whether every container has limits of CPU and memory that are its requests (QoS class
/// Guaranteed).
pub fn is_guaranteed(spec: &PodSpec) -> bool {
    let all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let fixed = |container: &Container| {
        let (asked, most) = (requests(container), limits(container));
        [CPU, MEMORY].iter().all(|name| {
            let limit = most.get(*name).filter(|limit| **limit > 0);
            limit.is_some() && limit == asked.get(*name)
        })
    };
    { all }.all(fixed)
}

/// What those who watch a pod's use need to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.priority`.
    pub priority: i32,
    /// When the pod was accepted, in seconds since 1970; 0 where nobody said yet.
    pub started: i64,
    /// Memory and ephemeral storage that each container requests.
    pub requests: BTreeMap<String, (u64, u64)>,
    /// What the pod as a whole requests.
    pub total: (u64, u64),
    /// Limits of ephemeral storage.
    pub storage: Arc<StorageLimits>,
}

/// Limits of ephemeral storage, in bytes, with the text that the user wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageLimits {
    /// Of the containers.
    pub containers: BTreeMap<String, (u64, String)>,
    /// Their sum, where every one of them has a limit counts (as the API defines a pod's limit).
    pub pod: Option<u64>,
}

impl StorageLimits {
    /// Whether there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.pod.is_none()
    }
}

impl Facts {
    /// Of a pod.
    pub fn of(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let both = |amounts: &Amounts| {
            let get = |name| amounts.get(name).copied().unwrap_or_default();
            (get(MEMORY), get(STORAGE))
        };
        let all = || {
            spec.init_containers
                .iter()
                .flatten()
                .chain(&spec.containers)
        };
        let limit = |container: &Container| {
            let list = container.resources.as_ref()?.limits.as_ref()?;
            let text = list.get(STORAGE)?;
            let bytes = Quantity::parse(&text.0)?.to_units()?;
            Some((container.name.clone(), (bytes, text.0.clone())))
        };
        let containers: BTreeMap<_, _> = all().filter_map(limit).collect();
        let sum = total(spec, limits, |spec| {
            amounts(spec.resources.as_ref().and_then(|it| it.limits.as_ref()))
        });
        let started = pod.status.as_ref().and_then(|it| it.start_time.as_ref());
        Self {
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            priority: spec.priority.unwrap_or_default(),
            started: started.map_or(0, |it| it.0.as_second()),
            requests: all()
                .map(|it| (it.name.clone(), both(&requests(it))))
                .collect(),
            total: both(&of_pod(spec)),
            storage: Arc::new(StorageLimits {
                containers,
                pod: sum.get(STORAGE).copied(),
            }),
        }
    }
}

/// Limits that hold only roughly for plain processes, for the pod's one warning.
pub fn not_enforced(pod: &Pod, cpu_is_held: bool) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let lists = [
        (
            "initContainers",
            spec.init_containers.as_deref().unwrap_or_default(),
        ),
        ("containers", spec.containers.as_slice()),
    ];
    let mut found = Vec::new();
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let Some(millis) = limits(container).get(CPU).copied() else {
                continue;
            };
            if !cpu_is_held && !millis.is_multiple_of(1000) {
                let cores = millis.div_ceil(1000);
                found.push(format!(
                    "spec.{list}[{index}].resources.limits.cpu={millis}m (held to {cores} whole cores)"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    fn with(requests: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests}})
    }

    #[test]
    fn a_pod_takes_what_its_containers_take_together() {
        let all = of_pod(&spec(json!({"containers": [
            with(json!({"cpu": "500m", "memory": "1Gi"})), with(json!({"cpu": "1.5"})),
            {"name": "d", "resources": {"limits": {"nvidia.com/gpu": "2"}}},
        ], "overhead": {"cpu": "100m"}})));
        assert_eq!(all[CPU], 2100);
        assert_eq!(all[MEMORY], 1 << 30);
        assert_eq!(all["nvidia.com/gpu"], 2);
    }

    #[test]
    fn init_containers_count_one_at_a_time_with_the_sidecars_before_them() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always",
            "resources": {"requests": {"cpu": "1"}}});
        let all = of_pod(&spec(json!({
            "initContainers": [with(json!({"cpu": "3"})), sidecar, with(json!({"cpu": "4"}))],
            "containers": [with(json!({"cpu": "2"}))],
        })));
        // The last init container with the sidecar: 5; the containers with it: 3.
        assert_eq!(all[CPU], 5000);
    }

    #[test]
    fn a_guaranteed_pod_has_limits_that_are_its_requests() {
        let container = |requests: Value, limits: Value| json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        let both = json!({"cpu": "2", "memory": "1Gi"});
        let good = container(both.clone(), both.clone());
        assert!(is_guaranteed(&spec(json!({"containers": [good]}))));
        let only_limits = json!({"name": "c", "resources": {"limits": both}});
        assert!(is_guaranteed(&spec(json!({"containers": [only_limits]}))));
        let less = container(json!({"cpu": "1", "memory": "1Gi"}), both.clone());
        assert!(!is_guaranteed(&spec(json!({"containers": [good, less]}))));
        let none = json!({"name": "c"});
        assert!(!is_guaranteed(&spec(json!({"containers": [none]}))));
    }

    #[test]
    fn what_a_fraction_of_a_core_comes_to_is_said() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "2"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1500m"}}},
        ]}}))
        .expect("a pod");
        assert_eq!(
            not_enforced(&pod, false),
            ["spec.containers[1].resources.limits.cpu=1500m (held to 2 whole cores)"]
        );
    }

    #[test]
    fn limits_of_storage_keep_the_users_words() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {
        "priority": 7,
        "containers": [
            {"name": "a", "resources": {"limits": {"ephemeral-storage": "1Gi"},
                                        "requests": {"memory": "1Mi"}}},
            {"name": "b"},
        ]}}))
        .expect("a pod");
        let facts = Facts::of(&pod);
        assert_eq!(facts.storage.containers["a"], (1 << 30, "1Gi".to_owned()));
        assert_eq!(facts.storage.pod, Some(1 << 30));
        assert_eq!(facts.requests["a"].0, 1 << 20);
        assert_eq!((facts.priority, facts.total.0), (7, 1 << 20));
    }
}
