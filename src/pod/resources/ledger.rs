//! Admission against what is left, and who has which core and which GPU.
//!
//! The words of a refusal are a kubelet's (`Node didn't have enough resource: …`).
//!
//! A container of a Guaranteed pod that asks for whole CPUs gets cores of its own; init containers
//! use those of their pod. All others share the rest; where nothing is left they share every core,
//! since a process has to run somewhere. A CPU limit of a container without cores of its own holds
//! it to as many of the shared cores as the limit rounds up to, the least used first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::amounts::{self, Amounts, CPU};
use super::placement::{Assigned, Placement};

/// What the node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeShare {
    /// By resource, as in [`Amounts`]; devices among them.
    pub amounts: Amounts,
    /// Numbers of the cores, ascending.
    pub cores: Vec<usize>,
    /// Names of devices by resource, in the order in which they are handed out.
    pub devices: BTreeMap<&'static str, Vec<String>>,
}

/// Why a pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, …
    pub reason: String,
    /// The kubelet's words.
    pub message: String,
}

impl Rejection {
    fn out_of(resource: &str, requested: u64, used: u64, capacity: u64) -> Self {
        Self {
            reason: format!("OutOf{resource}"),
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Entry {
    takes: Amounts,
    /// Cores that containers are held to, by container.
    limits: BTreeMap<String, usize>,
    assigned: Arc<Assigned>,
}

/// Who has what.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    node: NodeShare,
    entries: BTreeMap<Arc<str>, Entry>,
    /// Whether anybody ever had cores of its own: then the others must be told what is theirs.
    divided: bool,
}

impl Ledger {
    /// Nobody has anything.
    pub fn new(node: NodeShare) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// Pods that have something.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.keys()
    }

    /// Takes a pod, or says why not; nothing has changed then.
    ///
    /// # Errors
    /// The first resource that is short.
    pub fn admit(&mut self, uid: &Arc<str>, pod: &Pod) -> Result<(), Rejection> {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let takes = amounts::of_pod(spec);
        self.fits(&takes)?;
        let assigned = self.assign(spec)?;
        self.enter(uid, spec, takes, assigned);
        Ok(())
    }

    /// Takes a pod that an earlier agent had taken, with what it was given then.
    /// Cores that are not the node's any more are not the pod's either.
    pub fn restore(&mut self, uid: &Arc<str>, pod: &Pod, mut assigned: Assigned) {
        for cores in assigned.cores.values_mut() {
            cores.retain(|it| self.node.cores.contains(it));
        }
        assigned.cores.retain(|_, cores| !cores.is_empty());
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        self.enter(uid, spec, amounts::of_pod(spec), assigned);
    }

    /// Gives back what a pod had. Whether it had anything that others may be given now.
    pub fn release(&mut self, uid: &str) -> bool {
        let entry = self.entries.remove(uid);
        entry.is_some_and(|it| !it.assigned.is_empty() || !it.limits.is_empty())
    }

    fn enter(&mut self, uid: &Arc<str>, spec: &PodSpec, takes: Amounts, assigned: Assigned) {
        self.divided |= !assigned.cores.is_empty();
        let limits = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        let limits = limits.filter_map(|container| {
            let millis = *amounts::limits(container).get(CPU)?;
            let cores = usize::try_from(millis.div_ceil(1000)).ok()?.max(1);
            let held =
                cores < self.node.cores.len() && !assigned.cores.contains_key(&container.name);
            held.then(|| (container.name.clone(), cores))
        });
        let entry = Entry {
            takes,
            limits: limits.collect(),
            assigned: Arc::new(assigned),
        };
        self.entries.insert(uid.clone(), entry);
    }

    fn fits(&self, takes: &Amounts) -> Result<(), Rejection> {
        let pods = self.node.amounts.get("pods").copied().unwrap_or(u64::MAX);
        let used = self.entries.len() as u64;
        if used + 1 > pods {
            return Err(Rejection::out_of("pods", 1, used, pods));
        }
        // The order of a kubelet: CPU, memory, storage, then the rest.
        let first = [CPU, amounts::MEMORY, amounts::STORAGE];
        let rest = takes.keys().map(String::as_str);
        let names = first
            .into_iter()
            .chain(rest.filter(|name| !first.contains(name)));
        for name in names {
            let requested = takes.get(name).copied().unwrap_or_default();
            // What the node does not know is not its to give: no kubelet counts it.
            let Some(&capacity) = self.node.amounts.get(name).filter(|_| requested > 0) else {
                continue;
            };
            let all = self.entries.values().filter_map(|it| it.takes.get(name));
            let used = all.fold(0_u64, |sum, it| sum.saturating_add(*it));
            if used.saturating_add(requested) > capacity {
                return Err(Rejection::out_of(name, requested, used, capacity));
            }
        }
        Ok(())
    }

    fn assign(&self, spec: &PodSpec) -> Result<Assigned, Rejection> {
        let mut assigned = Assigned::default();
        self.assign_devices(spec, &mut assigned)?;
        self.assign_cores(spec, &mut assigned);
        Ok(assigned)
    }

    /// Each container gets devices of its own; an init container uses those that its pod's later
    /// ones will have, and more where it asks for more.
    fn assign_devices(&self, spec: &PodSpec, assigned: &mut Assigned) -> Result<(), Rejection> {
        for (resource, names) in &self.node.devices {
            let taken: BTreeSet<&String> = self
                .entries
                .values()
                .flat_map(|it| it.assigned.devices.values())
                .filter_map(|it| it.get(*resource))
                .flatten()
                .collect();
            let free: Vec<&String> = names.iter().filter(|it| !taken.contains(it)).collect();
            let mut next = 0;
            let inits = spec.init_containers.iter().flatten();
            let lasting = inits.clone().filter(|it| amounts::is_sidecar(it));
            let mut give = |container: &k8s_openapi::api::core::v1::Container, from: usize| {
                let wanted = amounts::requests(container);
                let wanted = wanted.get(*resource).copied().unwrap_or_default();
                let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
                if wanted == 0 {
                    return Ok(0);
                }
                let Some(list) = free.get(from..from.saturating_add(wanted)) else {
                    let (used, all) = (taken.len() as u64, names.len() as u64);
                    return Err(Rejection::out_of(resource, wanted as u64, used, all));
                };
                let list = list.iter().map(|it| (*it).clone()).collect();
                let own = assigned.devices.entry(container.name.clone()).or_default();
                own.insert((*resource).to_owned(), list);
                Ok(wanted)
            };
            for container in lasting.chain(&spec.containers) {
                next += give(container, next)?;
            }
            for container in inits.filter(|it| !amounts::is_sidecar(it)) {
                // Sidecars that run beside it have the first ones.
                let beside = spec.init_containers.iter().flatten();
                let beside = beside.filter(|it| amounts::is_sidecar(it));
                let first: u64 = beside
                    .filter_map(|it| amounts::requests(it).get(*resource).copied())
                    .sum();
                let first = usize::try_from(first).unwrap_or(usize::MAX);
                give(container, first)?;
            }
        }
        Ok(())
    }

    fn assign_cores(&self, spec: &PodSpec, assigned: &mut Assigned) {
        if !amounts::is_guaranteed(spec) {
            return;
        }
        let taken = self.owned();
        let mut free = self
            .node
            .cores
            .iter()
            .copied()
            .filter(|it| !taken.contains(it));
        let inits = || spec.init_containers.iter().flatten();
        let lasting = inits().filter(|it| amounts::is_sidecar(it));
        let mut all = BTreeSet::new();
        for container in lasting.chain(&spec.containers) {
            let millis = amounts::requests(container).get(CPU).copied().unwrap_or(0);
            if millis == 0 || !millis.is_multiple_of(1000) {
                continue;
            }
            let wanted = usize::try_from(millis / 1000).unwrap_or(usize::MAX);
            let own: Vec<usize> = free.by_ref().take(wanted).collect();
            // A node whose quota is less than its cores may promise more cores than are free.
            if own.len() == wanted {
                all.extend(own.iter().copied());
                assigned.cores.insert(container.name.clone(), own);
            }
        }
        if !all.is_empty() {
            for container in inits().filter(|it| !amounts::is_sidecar(it)) {
                let own = all.iter().copied().collect();
                assigned.cores.insert(container.name.clone(), own);
            }
        }
    }

    /// Cores that somebody has for itself.
    fn owned(&self) -> BTreeSet<usize> {
        let all = self
            .entries
            .values()
            .flat_map(|it| it.assigned.cores.values());
        all.flatten().copied().collect()
    }

    /// The cores that all others share.
    fn shared(&self) -> Vec<usize> {
        let owned = self.owned();
        let rest = self.node.cores.iter().copied();
        let rest: Vec<usize> = rest.filter(|it| !owned.contains(it)).collect();
        if rest.is_empty() {
            self.node.cores.clone()
        } else {
            rest
        }
    }

    /// What everybody has now.
    pub fn placement(&self) -> Placement {
        let shared = self.shared();
        let mut load: BTreeMap<usize, usize> = shared.iter().map(|it| (*it, 0)).collect();
        let mut limited = BTreeMap::new();
        for (uid, entry) in &self.entries {
            for (container, count) in &entry.limits {
                let mut by_load: Vec<(usize, usize)> =
                    load.iter().map(|(core, load)| (*load, *core)).collect();
                by_load.sort_unstable();
                let mut own: Vec<usize> = by_load.iter().take(*count).map(|it| it.1).collect();
                own.sort_unstable();
                for core in &own {
                    *load.entry(*core).or_default() += 1;
                }
                limited.insert((uid.clone(), container.clone()), own);
            }
        }
        let assigned = self
            .entries
            .iter()
            .filter(|(_, it)| !it.assigned.is_empty());
        Placement {
            shared: self.divided.then_some(shared),
            limited,
            assigned: assigned
                .map(|(uid, it)| (uid.clone(), it.assigned.clone()))
                .collect(),
            devices: self.node.devices.keys().copied().collect(),
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
