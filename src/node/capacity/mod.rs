//! What this node has to give: the allocation's share, not the host's whole.
//!
//! Of every source that speaks, the least counts:
//!
//! | resource | sources |
//! |---|---|
//! | CPU | the kernel's affinity mask (cpuset, `taskset`, `srun --cpu-bind`); quotas of control groups, version 1 and 2, on the whole path; the batch system's variables |
//! | memory | the host's; limits of control groups on the whole path; the batch system's variables |
//! | storage | the file system of pod data |
//!
//! Huge pages are not advertised: a process takes them itself, and nothing here could hand them out.

mod batch;
mod cgroup;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub millicpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes on the file system of pod data.
    pub storage: u64,
    /// The numbers of the CPUs that processes may use, ascending.
    pub cpus: Vec<usize>,
    /// Where CPU and memory come from.
    pub origins: Origins,
}

/// Where each value comes from, for the log and for measuring what is used of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins {
    /// Of the CPUs.
    pub cpu: String,
    /// Of the memory.
    pub memory: String,
    /// The control group whose memory limit is the node's, if one is.
    pub memory_group: Option<PathBuf>,
}

impl Capacity {
    /// Asks the kernel and the batch system. `data` lies on the file system that pods write to.
    ///
    /// # Errors
    /// Where `/proc` or the file system does not answer: a node does not invent what it has.
    pub fn of_this_process(data: &Path) -> io::Result<Self> {
        let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
        let cpus: Vec<usize> = (0..nix::sched::CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .collect();
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let total = meminfo_bytes(&meminfo, "MemTotal:")
            .ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let limits = cgroup::limits(Path::new("/sys/fs/cgroup"), &groups);
        let variable = |name: &str| std::env::var(name).ok();
        let machine_ad = variable("_CONDOR_MACHINE_AD").and_then(|it| fs::read_to_string(it).ok());
        let given = batch::given(variable, machine_ad.as_deref());
        let disk = nix::sys::statvfs::statvfs(data)?;
        let storage = disk.blocks() * disk.fragment_size();
        Ok(least(cpus, total, storage, limits, &given))
    }

    /// One line for the log: each value with its origin.
    pub fn explain(&self) -> String {
        format!(
            "cpu {}m ({}), memory {} MiB ({}), ephemeral-storage {} MiB (file system of pod data)",
            self.millicpus,
            self.origins.cpu,
            self.memory >> 20,
            self.origins.memory,
            self.storage >> 20
        )
    }
}

/// The least of what each source says.
fn least(
    cpus: Vec<usize>,
    total: u64,
    storage: u64,
    limits: cgroup::Limits,
    given: &batch::Given,
) -> Capacity {
    let mut millicpus = cpus.len() as u64 * 1000;
    let mut cpu = "affinity of this process".to_owned();
    if let Some((quota, dir)) = limits.millicpus
        && quota < millicpus
    {
        (millicpus, cpu) = (quota, format!("quota of {}", dir.display()));
    }
    if let Some((count, origin)) = given.cpus
        && count.saturating_mul(1000) < millicpus
    {
        (millicpus, cpu) = (count * 1000, origin.to_owned());
    }
    let mut memory = total;
    let mut memory_origin = "MemTotal of the host".to_owned();
    let mut memory_group = None;
    if let Some((limit, dir)) = limits.memory
        && limit < memory
    {
        (memory, memory_origin) = (limit, format!("limit of {}", dir.display()));
        memory_group = Some(dir);
    }
    if let Some((bytes, origin)) = given.memory
        && bytes < memory
    {
        (memory, memory_origin) = (bytes, origin.to_owned());
    }
    Capacity {
        millicpus,
        memory,
        storage,
        cpus,
        origins: Origins {
            cpu,
            memory: memory_origin,
            memory_group,
        },
    }
}

/// A line of `/proc/meminfo`, in bytes.
pub(super) fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_something() {
        let capacity = Capacity::of_this_process(Path::new("/")).expect("a kernel that answers");
        assert!(capacity.millicpus >= 1 && capacity.memory > 1 << 20 && capacity.storage > 0);
        assert!(!capacity.cpus.is_empty());
        assert!(capacity.explain().contains("memory"));
    }

    #[test]
    fn the_least_source_counts_and_is_named() {
        let group = |value| Some((value, PathBuf::from("/g")));
        let limits = |millicpus, memory| cgroup::Limits { millicpus, memory };
        let none = batch::Given::default();
        let given = batch::Given {
            cpus: Some((1, "SLURM_CPUS_ON_NODE")),
            memory: Some((10, "SLURM_MEM_PER_NODE")),
        };
        let free = least(vec![0, 1], 100, 5, limits(None, None), &none);
        assert_eq!((free.millicpus, free.memory), (2000, 100));
        let grouped = least(vec![0, 1], 100, 5, limits(group(1500), group(50)), &none);
        assert_eq!((grouped.millicpus, grouped.memory), (1500, 50));
        assert_eq!(grouped.origins.memory_group, Some(PathBuf::from("/g")));
        let batch = least(vec![0, 1], 100, 5, limits(group(1500), group(50)), &given);
        assert_eq!((batch.millicpus, batch.memory), (1000, 10));
        assert_eq!(batch.origins.cpu, "SLURM_CPUS_ON_NODE");
        // A batch system that promises more than the kernel allows does not help.
        let less = least(vec![0], 5, 5, limits(None, None), &given);
        assert_eq!((less.millicpus, less.memory), (1000, 5));
        assert_eq!(less.origins.memory, "MemTotal of the host");
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       24689764 kB\nMemFree:  5 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal:"), Some(24_689_764 * 1024));
        assert_eq!(meminfo_bytes(text, "MemAvailable:"), None);
    }
}
