//! Every environment variable that vk-cmd reads, in one place.
//!
//! The documents' names are a contract (`docs/configuration.md` lists them for users).

/// The kubeconfig of the cluster; default `$HOME/.kube/config`.
pub const KUBECONFIG: &str = "KUBECONFIG";
/// A kubeconfig that may ask for a certificate of the node.
pub const VK_CMD_BOOTSTRAP_KUBECONFIG: &str = "VK_CMD_BOOTSTRAP_KUBECONFIG";
/// The name of the node.
pub const NODENAME: &str = "NODENAME";
/// Where the control plane reaches the node: InternalIP, `hostIP`, `podIP`.
pub const VKUBELET_POD_IP: &str = "VKUBELET_POD_IP";
/// The port of the kubelet API; default 10250.
pub const KUBELET_PORT: &str = "KUBELET_PORT";
/// The serving certificate of the kubelet API.
pub const APISERVER_CERT_LOCATION: &str = "APISERVER_CERT_LOCATION";
/// The key of that certificate.
pub const APISERVER_KEY_LOCATION: &str = "APISERVER_KEY_LOCATION";
/// The node's label `jiriaf.nodetype`.
pub const JIRIAF_NODETYPE: &str = "JIRIAF_NODETYPE";
/// The node's label `jiriaf.site`.
pub const JIRIAF_SITE: &str = "JIRIAF_SITE";
/// How long the node lives, in seconds: a multiple of 60, or 0 for no limit.
pub const JIRIAF_WALLTIME: &str = "JIRIAF_WALLTIME";
/// When the allocation ends, for batch systems that do not tell: seconds since 1970, or RFC 3339.
pub const VK_CMD_END_TIME: &str = "VK_CMD_END_TIME";
/// How long before the end the node is cordoned.
pub const VK_CMD_DRAIN_WINDOW: &str = "VK_CMD_DRAIN_WINDOW";
/// The time between the batch system's SIGTERM and its SIGKILL.
pub const VK_CMD_KILL_WAIT: &str = "VK_CMD_KILL_WAIT";
/// Whether the agent ends at the end of the walltime.
pub const VK_CMD_EXIT_AT_WALLTIME: &str = "VK_CMD_EXIT_AT_WALLTIME";
/// The name of the node in the oldest documents; [`NODENAME`] says the same and holds where both are set.
pub const JOBNAME: &str = "JOBNAME";
/// The control plane's host, to which ssh tunnels are built.
pub const CONTROL_PLANE_IP: &str = "CONTROL_PLANE_IP";
/// The API server's port on the control plane's host, and on this one.
pub const APISERVER_PORT: &str = "APISERVER_PORT";
/// The ssh server's port there.
pub const VK_CMD_SSH_PORT: &str = "VK_CMD_SSH_PORT";
/// The private key for ssh.
pub const VK_CMD_SSH_KEY: &str = "VK_CMD_SSH_KEY";
/// Known host keys.
pub const VK_CMD_SSH_KNOWN_HOSTS: &str = "VK_CMD_SSH_KNOWN_HOSTS";
/// Set by `vk-cmd entrypoint` for itself once user and environment are settled.
pub const VK_CMD_ENTERED: &str = "VK_CMD_ENTERED";
/// Where `vk-cmd up` keeps its state.
pub const VK_CMD_STATE_DIR: &str = "VK_CMD_STATE_DIR";
/// Where `vk-cmd agent` keeps pod data.
pub const VK_CMD_ROOT: &str = "VK_CMD_ROOT";
/// Whose semantics pods get: `kubernetes` or `virtual-kubelet-cmd`.
pub const VK_CMD_COMPAT: &str = "VK_CMD_COMPAT";
/// How large a container's log grows.
pub const VK_CMD_CONTAINER_LOG_MAX_SIZE: &str = "VK_CMD_CONTAINER_LOG_MAX_SIZE";
/// How many files a container's log has.
pub const VK_CMD_CONTAINER_LOG_MAX_FILES: &str = "VK_CMD_CONTAINER_LOG_MAX_FILES";
/// Of how many pods that are over data is kept.
pub const VK_CMD_DEAD_PODS_MAX_COUNT: &str = "VK_CMD_DEAD_PODS_MAX_COUNT";
/// For how long.
pub const VK_CMD_DEAD_PODS_MAX_AGE: &str = "VK_CMD_DEAD_PODS_MAX_AGE";
/// When pods are evicted.
pub const VK_CMD_EVICTION_HARD: &str = "VK_CMD_EVICTION_HARD";
/// Whether control groups are used, or which.
pub const VK_CMD_CGROUP: &str = "VK_CMD_CGROUP";
/// How many processes a pod has at most.
pub const VK_CMD_POD_MAX_PIDS: &str = "VK_CMD_POD_MAX_PIDS";
/// Whether containers get mount namespaces of their own.
pub const VK_CMD_MOUNT_NAMESPACE: &str = "VK_CMD_MOUNT_NAMESPACE";
/// Which log lines to print.
pub const VK_CMD_LOG: &str = "VK_CMD_LOG";
/// The site profile.
pub const VK_CMD_SITE: &str = "VK_CMD_SITE";
/// A file with a site profile.
pub const VK_CMD_SITE_FILE: &str = "VK_CMD_SITE_FILE";
