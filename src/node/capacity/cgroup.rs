//! Limits of control groups, of version 1 and 2, from this process to the root.

use std::fs;
use std::path::{Path, PathBuf};

/// The least limits on the way, and the group that each comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) millicpus: Option<(u64, PathBuf)>,
    pub(super) memory: Option<(u64, PathBuf)>,
}

/// What one group says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Own {
    millicpus: Option<u64>,
    memory: Option<u64>,
}

impl Limits {
    fn take(&mut self, own: Own, dir: &Path) {
        let least = |kept: &mut Option<(u64, PathBuf)>, found: Option<u64>| {
            if let Some(found) = found
                && kept.as_ref().is_none_or(|(least, _)| found < *least)
            {
                *kept = Some((found, dir.to_owned()));
            }
        };
        least(&mut self.millicpus, own.millicpus);
        least(&mut self.memory, own.memory);
    }
}

/// The limits of the groups in `/proc/self/cgroup`, and of all above them.
pub(super) fn limits(mount: &Path, groups: &str) -> Limits {
    let mut limits = Limits::default();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let has = |wanted: &str| controllers.split(',').any(|name| name == wanted);
        let (root, read): (PathBuf, fn(&Path) -> Own) = match controllers {
            "" => (version_2_mount(mount), version_2),
            _ if has("memory") => (mount.join("memory"), version_1_memory),
            _ if has("cpu") => {
                let both = mount.join("cpu,cpuacct");
                let alone = mount.join("cpu");
                (if both.exists() { both } else { alone }, version_1_cpu)
            }
            _ => continue,
        };
        // A container sees its own group as the root; the path may not exist from here.
        let below = root.join(path.trim_start_matches('/'));
        for dir in below.ancestors().take_while(|dir| dir.starts_with(&root)) {
            limits.take(read(dir), dir);
        }
    }
    limits
}

/// Where version 2 is: beside the controllers of version 1 on hosts that have both.
pub(super) fn version_2_mount(mount: &Path) -> PathBuf {
    let unified = mount.join("unified");
    if mount.join("cgroup.controllers").exists() || !unified.exists() {
        return mount.to_owned();
    }
    unified
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `cpu.max`: a quota and a period in microseconds; "max" is none.
fn version_2(dir: &Path) -> Own {
    let quota = fs::read_to_string(dir.join("cpu.max")).unwrap_or_default();
    let mut words = quota.split_whitespace().map(str::parse::<u64>);
    let millicpus = match (words.next(), words.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0 => Some(quota * 1000 / period),
        _ => None,
    };
    Own {
        millicpus,
        memory: number(&dir.join("memory.max")),
    }
}

fn version_1_memory(dir: &Path) -> Own {
    // "No limit" is a number near 2^63 here; the host's memory is less.
    Own {
        millicpus: None,
        memory: number(&dir.join("memory.limit_in_bytes")),
    }
}

fn version_1_cpu(dir: &Path) -> Own {
    // A quota of -1 does not parse, and is none.
    let quota = number(&dir.join("cpu.cfs_quota_us"));
    let period = number(&dir.join("cpu.cfs_period_us")).filter(|period| *period > 0);
    Own {
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

    fn values(limits: &Limits) -> (Option<u64>, Option<u64>) {
        let value = |found: &Option<(u64, PathBuf)>| found.as_ref().map(|(value, _)| *value);
        (value(&limits.millicpus), value(&limits.memory))
    }

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let tree = tree(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("job/cpu.max", "150000 100000\n"),
            ("job/memory.max", "1073741824\n"),
            ("job/step/cpu.max", "max 100000\n"),
            ("job/step/memory.max", "2147483648\n"),
        ]);
        let limits = limits(tree.path(), "0::/job/step\n");
        assert_eq!(values(&limits), (Some(1500), Some(1 << 30)));
        let (_, dir) = limits.memory.expect("found");
        assert_eq!(dir, tree.path().join("job"), "its origin is known");
    }

    #[test]
    fn version_1_is_read_a_controller_at_a_time() {
        let tree = tree(&[
            ("memory/slurm/memory.limit_in_bytes", "536870912\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu,cpuacct/slurm/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n"),
            ("unified/slurm/memory.max", "4096\n"),
        ]);
        let groups = "4:memory:/slurm\n3:cpu,cpuacct:/slurm\n2:devices:/x\n";
        assert_eq!(
            values(&limits(tree.path(), groups)),
            (None, Some(512 << 20))
        );
        let both = format!("{groups}0::/slurm\n");
        assert_eq!(values(&limits(tree.path(), &both)), (None, Some(4096)));
    }

    #[test]
    fn nonsense_is_no_limit() {
        let tree = tree(&[
            ("cpu.max", "x y z"),
            ("memory.max", "max"),
            ("cgroup.controllers", ""),
        ]);
        assert_eq!(
            values(&limits(tree.path(), "0::/\nnonsense\n")),
            (None, None)
        );
    }
}
