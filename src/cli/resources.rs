//! How a node looks after its resources; the same for `agent` and `up`.

use clap::{Args, ValueEnum};

use crate::settings::env;

/// Logs, data of pods that are over, eviction.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Resources")]
pub struct ResourceArgs {
    /// How large a container's log grows before it is rotated
    #[arg(long, value_name = "QUANTITY", env = env::VK_CMD_CONTAINER_LOG_MAX_SIZE, default_value = "10Mi")]
    pub container_log_max_size: String,
    /// How many files a container's log has at most, the one being written included
    #[arg(long, value_name = "COUNT", env = env::VK_CMD_CONTAINER_LOG_MAX_FILES, default_value = "5")]
    pub container_log_max_files: String,
    /// Of how many pods that are over, and still in the API, data and logs are kept
    #[arg(long, value_name = "COUNT", env = env::VK_CMD_DEAD_PODS_MAX_COUNT, default_value = "1000")]
    pub dead_pods_max_count: String,
    /// For how many seconds data and logs of a pod that is over are kept; 0 sets no limit
    #[arg(long, value_name = "SECONDS", env = env::VK_CMD_DEAD_PODS_MAX_AGE, default_value = "0")]
    pub dead_pods_max_age: String,
    /// When the node is short of something and evicts pods: SIGNAL<QUANTITY, separated by commas;
    /// signals are memory.available, nodefs.available, nodefs.inodesFree and pid.available, a
    /// quantity may be a percentage
    /// [default: memory.available<100Mi,nodefs.inodesFree<5%,pid.available<10%, and nodefs.available
    /// below 1Gi and 10%]
    #[arg(long, value_name = "THRESHOLDS", env = env::VK_CMD_EVICTION_HARD)]
    pub eviction_hard: Option<String>,
    /// Limit containers by control groups: auto (where this process's group was delegated to it),
    /// off, or the directory of a delegated group of version 2
    #[arg(long, value_name = "GROUP", env = env::VK_CMD_CGROUP, default_value = "auto")]
    pub cgroup: String,
    /// How many processes and threads a pod has at most, where control groups can hold it to that;
    /// -1 sets no limit
    #[arg(long, value_name = "COUNT", env = env::VK_CMD_POD_MAX_PIDS, default_value = "-1", allow_hyphen_values = true)]
    pub pod_max_pids: String,
    /// Whether containers get mount namespaces of their own where pods do not say: host or private
    /// [default: what the site's profile says, else host]
    #[arg(long, value_name = "KIND", env = env::VK_CMD_MOUNT_NAMESPACE)]
    pub mount_namespace: Option<MountNamespace>,
}

/// Where the mounts of a container are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MountNamespace {
    /// As links in the container's directory.
    Host,
    /// In a namespace of its own, at their own paths.
    Private,
}
