//! What this node has to give: the allocation's share, not the host's whole.
//!
//! CPUs are those that the kernel lets this process run on (cpuset, `taskset`, `srun --cpu-bind`),
//! and no more than a cgroup's quota allows; memory is the host's, and no more than any cgroup
//! above this process allows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub millicpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes on the file system of pod data.
    pub storage: u64,
}

/// A cgroup's limits, along the path from this process to the root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    millicpus: Option<u64>,
    memory: Option<u64>,
}

impl Limits {
    fn and(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            millicpus: least(self.millicpus, other.millicpus),
            memory: least(self.memory, other.memory),
        }
    }
}

impl Capacity {
    /// Asks the kernel. `data` lies on the file system that pods write to.
    ///
    /// # Errors
    /// Where `/proc` or the file system does not answer: a node does not invent what it has.
    pub fn of_this_process(data: &Path) -> io::Result<Self> {
        let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
        let allowed = (0..nix::sched::CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .count() as u64;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let total = meminfo_bytes(&meminfo, "MemTotal:")
            .ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let limits = cgroup_limits(Path::new("/sys/fs/cgroup"), &groups);
        let disk = nix::sys::statvfs::statvfs(data)?;
        Ok(Self {
            millicpus: limits
                .millicpus
                .map_or(allowed * 1000, |quota| quota.min(allowed * 1000)),
            memory: limits.memory.map_or(total, |limit| limit.min(total)),
            storage: disk.blocks() * disk.fragment_size(),
        })
    }
}

/// A line of `/proc/meminfo`, in bytes.
pub(super) fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The limits of the groups in `/proc/self/cgroup`, of version 1 and 2, and of all above them.
fn cgroup_limits(mount: &Path, groups: &str) -> Limits {
    let mut limits = Limits::default();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, read): (PathBuf, fn(&Path) -> Limits) = match controllers {
            "" => (mount.to_owned(), version_2),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (mount.join("memory"), version_1_memory)
            }
            _ if controllers.split(',').any(|name| name == "cpu") => {
                let both = mount.join("cpu,cpuacct");
                let root = if both.exists() {
                    both
                } else {
                    mount.join("cpu")
                };
                (root, version_1_cpu)
            }
            _ => continue,
        };
        // A container sees its own group as the root; the path may not exist from here.
        let below = root.join(path.trim_start_matches('/'));
        for dir in below.ancestors().take_while(|dir| dir.starts_with(&root)) {
            limits = limits.and(read(dir));
        }
    }
    limits
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn version_2(dir: &Path) -> Limits {
    let quota = fs::read_to_string(dir.join("cpu.max")).unwrap_or_default();
    let mut words = quota.split_whitespace().map(str::parse::<u64>);
    let millicpus = match (words.next(), words.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0 => Some(quota * 1000 / period),
        _ => None,
    };
    Limits {
        millicpus,
        memory: number(&dir.join("memory.max")),
    }
}

fn version_1_memory(dir: &Path) -> Limits {
    // "No limit" is a number near 2^63 here; the host's memory is less.
    Limits {
        millicpus: None,
        memory: number(&dir.join("memory.limit_in_bytes")),
    }
}

fn version_1_cpu(dir: &Path) -> Limits {
    // A quota of -1 does not parse, and is none.
    let quota = number(&dir.join("cpu.cfs_quota_us"));
    let period = number(&dir.join("cpu.cfs_period_us")).filter(|period| *period > 0);
    Limits {
        millicpus: quota
            .zip(period)
            .map(|(quota, period)| quota * 1000 / period),
        memory: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        dir
    }

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let tree = tree(&[
            ("job/cpu.max", "150000 100000\n"),
            ("job/memory.max", "1073741824\n"),
            ("job/step/cpu.max", "max 100000\n"),
            ("job/step/memory.max", "2147483648\n"),
        ]);
        let limits = cgroup_limits(tree.path(), "0::/job/step\n");
        assert_eq!(limits.millicpus, Some(1500));
        assert_eq!(limits.memory, Some(1 << 30));
    }

    #[test]
    fn version_1_is_read_a_controller_at_a_time() {
        let tree = tree(&[
            ("memory/slurm/memory.limit_in_bytes", "536870912\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu,cpuacct/slurm/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n"),
        ]);
        let groups = "4:memory:/slurm\n3:cpu,cpuacct:/slurm\n2:devices:/x\n";
        let limits = cgroup_limits(tree.path(), groups);
        assert_eq!(limits.memory, Some(512 << 20));
        assert_eq!(limits.millicpus, None);
    }

    #[test]
    fn this_process_has_something() {
        let capacity = Capacity::of_this_process(Path::new("/")).expect("a kernel that answers");
        assert!(capacity.millicpus >= 1 && capacity.memory > 1 << 20 && capacity.storage > 0);
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       24689764 kB\nMemFree:  5 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal:"), Some(24_689_764 * 1024));
        assert_eq!(meminfo_bytes(text, "MemAvailable:"), None);
    }
}
