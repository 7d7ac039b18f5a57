//! Processes that are known by more than a number.
use serde::{Deserialize, Serialize};

/// Identity of a process for as long as the host's records last: pids repeat and homes are shared between hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the PID namespace that `pid` is valid in.
    pub pid_namespace: u64,
    /// Process number.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
}
