//! Whether memory, disk or process ids run out: memory by the kubelet's default threshold
//! (`memory.available<100Mi`). For the disk its tenth (`nodefs.available<10%`) would be petabytes
//! of a parallel file system, and closes a laptop that works; here it takes less than a gibibyte, too.

use std::fs;
use std::io;
use std::path::Path;

use super::capacity::meminfo_bytes;

const MEMORY_LEFT: u64 = 100 << 20;
const STORAGE_LEFT: u64 = 1 << 30;

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Bytes of memory that can be had without swapping.
    pub memory: u64,
    /// Bytes on the file system of pod data, for this user.
    pub storage: u64,
    /// All bytes of that file system.
    pub storage_size: u64,
    /// Processes and threads on the host.
    pub tasks: u64,
    /// How many there may be.
    pub most_tasks: u64,
}

/// Which resources are under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
}

impl Left {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Where `/proc` or the file system does not answer.
    pub fn now(data: &Path) -> io::Result<Self> {
        let missing = |what: &str| io::Error::other(format!("{what} is not there"));
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let memory = meminfo_bytes(&meminfo, "MemAvailable:")
            .ok_or_else(|| missing("MemAvailable in /proc/meminfo"))?;
        let disk = nix::sys::statvfs::statvfs(data)?;
        let loadavg = fs::read_to_string("/proc/loadavg")?;
        let tasks = loadavg
            .split_whitespace()
            .nth(3)
            .and_then(|ratio| ratio.split_once('/')?.1.parse().ok())
            .ok_or_else(|| missing("the number of tasks in /proc/loadavg"))?;
        let most_tasks = fs::read_to_string("/proc/sys/kernel/pid_max")?
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        Ok(Self {
            memory,
            storage: disk.blocks_available() * disk.fragment_size(),
            storage_size: disk.blocks() * disk.fragment_size(),
            tasks,
            most_tasks,
        })
    }

    /// Which thresholds are crossed.
    pub fn pressure(&self) -> Pressure {
        Pressure {
            memory: self.memory < MEMORY_LEFT,
            disk: self.storage < STORAGE_LEFT.min(self.storage_size / 10),
            pids: self.tasks.saturating_mul(10) > self.most_tasks.saturating_mul(9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EASY: Left = Left {
        memory: 1 << 30,
        storage: 50,
        storage_size: 100,
        tasks: 100,
        most_tasks: 1000,
    };

    #[test]
    fn each_threshold_is_its_own() {
        assert_eq!(EASY.pressure(), Pressure::default());
        let memory = Left {
            memory: MEMORY_LEFT - 1,
            ..EASY
        };
        assert_eq!(
            memory.pressure(),
            Pressure {
                memory: true,
                ..Pressure::default()
            }
        );
        let disk = Left { storage: 9, ..EASY };
        assert_eq!(
            disk.pressure(),
            Pressure {
                disk: true,
                ..Pressure::default()
            }
        );
        let pids = Left { tasks: 901, ..EASY };
        assert_eq!(
            pids.pressure(),
            Pressure {
                pids: true,
                ..Pressure::default()
            }
        );
    }
}
