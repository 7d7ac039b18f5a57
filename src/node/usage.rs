//! What the node as a whole uses: the CPUs that are ours, the memory that is ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::capacity::{Capacity, meminfo_bytes};

/// Measures the node's share of its host.
#[derive(Debug, Clone)]
pub struct NodeMeter {
    cores: Vec<usize>,
    memory: u64,
    /// The control group whose limit is the node's memory.
    group: Option<PathBuf>,
    started_at: Timestamp,
}

/// What the node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeUsage {
    /// When it was read.
    pub taken_at: Timestamp,
    /// CPU time of the node's CPUs since the host started.
    pub cpu: Duration,
    /// Bytes that cannot be had back without writing them somewhere.
    pub working_set: u64,
    /// Bytes that are left.
    pub available: u64,
    /// Processes and threads on the host, and how many there may be.
    pub tasks: (u64, u64),
}

impl NodeMeter {
    /// A meter of what `capacity` describes.
    pub fn new(capacity: &Capacity) -> Self {
        Self {
            cores: capacity.cpus.clone(),
            memory: capacity.memory,
            group: capacity.origins.memory_group.clone(),
            started_at: Timestamp::now(),
        }
    }

    /// Bytes of memory that the node has.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// When the agent began to measure.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Reads it now.
    ///
    /// # Errors
    /// Where `/proc` does not answer.
    pub fn read(&self) -> io::Result<NodeUsage> {
        let missing = |what: &str| io::Error::other(format!("{what} is not there"));
        let taken_at = Timestamp::now();
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks = busy_ticks(&stat, &self.cores).ok_or_else(|| missing("cpu in /proc/stat"))?;
        let per_second = procfs::ticks_per_second().max(1);
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let total = meminfo_bytes(&meminfo, "MemTotal:");
        let available = meminfo_bytes(&meminfo, "MemAvailable:");
        let (total, available) = total
            .zip(available)
            .ok_or_else(|| missing("MemTotal or MemAvailable in /proc/meminfo"))?;
        let of_host = total.saturating_sub(available);
        let of_group = self.group.as_ref().and_then(|dir| group_working_set(dir));
        let working_set = of_group.unwrap_or(of_host);
        let loadavg = fs::read_to_string("/proc/loadavg")?;
        let tasks = loadavg
            .split_whitespace()
            .nth(3)
            .and_then(|ratio| ratio.split_once('/')?.1.parse().ok())
            .unwrap_or(0);
        let most = fs::read_to_string("/proc/sys/kernel/pid_max")?;
        Ok(NodeUsage {
            taken_at,
            cpu: Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second)),
            working_set,
            available: self.memory.saturating_sub(working_set).min(available),
            tasks: (tasks, most.trim().parse().unwrap_or(0)),
        })
    }
}

/// Ticks that the cores were not idle: user, nice, system, irq, softirq and steal (proc_stat(5));
/// idle and iowait are the fourth and fifth.
fn busy_ticks(stat: &str, cores: &[usize]) -> Option<u64> {
    let mut sum = None;
    for line in stat.lines() {
        let Some((name, values)) = line.split_once(' ') else {
            continue;
        };
        let Some(core) = name.strip_prefix("cpu").and_then(|it| it.parse().ok()) else {
            continue;
        };
        if !cores.contains(&core) {
            continue;
        }
        let busy = values
            .split_ascii_whitespace()
            .take(8)
            .enumerate()
            .filter(|(index, _)| !matches!(index, 3 | 4))
            .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
            .sum::<u64>();
        sum = Some(sum.unwrap_or(0) + busy);
    }
    sum
}

/// What a control group has charged, less the files that nobody has used lately.
fn group_working_set(dir: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
    };
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
    let value = |key: &str| -> Option<u64> {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(name, _)| *name == key)?;
        value.parse().ok()
    };
    // Version 1 has the sum over the groups below under another name.
    let idle = value("total_inactive_file").or_else(|| value("inactive_file"));
    Some(used.saturating_sub(idle.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_cores_count_and_not_what_they_waited() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 1000 1000 4 5 6 7 8\ncpu1 10 0 0 0 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(busy_ticks(stat, &[0]), Some(21));
        assert_eq!(busy_ticks(stat, &[0, 1]), Some(31));
        assert_eq!(busy_ticks(stat, &[7]), None);
    }

    #[test]
    fn a_group_is_charged_less_its_idle_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        write("memory.current", "1000\n");
        write("memory.stat", "anon 1\ninactive_file 300\n");
        assert_eq!(group_working_set(dir.path()), Some(700));
        assert_eq!(group_working_set(Path::new("/nowhere")), None);
    }

    #[test]
    fn this_host_uses_something() {
        let capacity = Capacity::of_this_process(std::path::Path::new("/")).expect("a kernel");
        let usage = NodeMeter::new(&capacity).read().expect("readable");
        assert!(usage.cpu > Duration::ZERO && usage.working_set > 0 && usage.available > 0);
    }
}
