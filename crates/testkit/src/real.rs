//! Kubernetes' own control plane as a fixture.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::kubectl::Kubectl;

/// Describes a [`RealCluster`].
#[derive(Debug, Default)]
pub struct RealClusterBuilder {
    controllers: bool,
    version: Option<String>,
    apiserver: Vec<String>,
}

/// A running etcd and kube-apiserver, and, where asked for, kube-scheduler and kube-controller-manager.
#[derive(Debug)]
pub struct RealCluster {
    place: TempDir,
    keeper: Child,
}

/// Starts the cluster in `$1` with the words that follow, says `ready`, and stops it once its standard
/// input ends: at the latest when the test's process has died, by whatever.
const KEEPER: &str = r#"
    trap '' PIPE INT TERM HUP
    script=$1 place=$2
    shift 2
    "$script" start "$place" "$@" >/dev/null && echo ready
    read -r _
    "$script" stop "$place"
    rm -rf "$place"
"#;

impl RealClusterBuilder {
    /// Runs kube-scheduler and kube-controller-manager too.
    #[must_use]
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// Another version than v1.34: a directory of `tests/kubernetes`, such as `v1.36`.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    /// Adds a flag to kube-apiserver's.
    #[must_use]
    pub fn apiserver_arg(mut self, arg: &str) -> Self {
        self.apiserver.push(format!("--apiserver-arg={arg}"));
        self
    }

    /// Starts it and waits until it is ready, some seconds. `None`, said loudly, where its programs are
    /// not built: tests do not build them, `tests/kubernetes/setup.sh` does.
    ///
    /// # Panics
    /// Where it does not become ready.
    #[track_caller]
    pub fn start(self) -> Option<RealCluster> {
        let version = self.version.as_deref().unwrap_or("v1.34");
        let mut programs = vec!["etcd".to_owned(), format!("{version}/kube-apiserver")];
        if self.controllers {
            programs.push(format!("{version}/kube-scheduler"));
            programs.push(format!("{version}/kube-controller-manager"));
        }
        let asked = Command::new(scripts().join("setup.sh"))
            .arg("--built")
            .args(&programs)
            .output()
            .expect("setup.sh runs");
        if !asked.status.success() {
            let why = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
            crate::skip!("no real Kubernetes: {why}");
            return None;
        }

        let place = tempfile::tempdir().expect("a directory");
        let log = place.path().join("start.log");
        let mut keeper = Command::new("setsid")
            .args(["bash", "-c", KEEPER, "keeper"])
            .arg(scripts().join("cluster.sh"))
            .arg(place.path())
            .arg(version)
            .args(self.controllers.then_some("--with-controllers"))
            .args(&self.apiserver)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("setsid runs");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("its output");
        let cluster = RealCluster { place, keeper };
        assert_eq!(
            line.trim_end(),
            "ready",
            "the cluster does not start: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        Some(cluster)
    }
}

impl RealCluster {
    /// Describes a cluster in a new place.
    pub fn builder() -> RealClusterBuilder {
        RealClusterBuilder::default()
    }

    /// Where keys, logs and process ids lie; the head of `cluster.sh` names them.
    pub fn dir(&self) -> &Path {
        self.place.path()
    }

    /// The kubeconfig of a member of system:masters.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// The real kubectl; none where there is none.
    pub fn kubectl(&self) -> Option<Kubectl> {
        Kubectl::new(&self.kubeconfig(), self.dir())
    }

    /// What a program of it wrote so far, such as `kube-apiserver`.
    pub fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.dir().join(format!("{program}.log"))).unwrap_or_default()
    }
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kubernetes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_cluster_is_left() {
        let Some(cluster) = RealCluster::builder().start() else {
            return;
        };
        let pids = cluster.dir().join("kube-apiserver.pid");
        let text = std::fs::read_to_string(pids).expect("a process id");
        let pid = text.split(' ').next().expect("a process id").to_owned();
        // Gone too where nobody has reaped it yet.
        let exe = Path::new("/proc").join(pid).join("exe");
        assert!(exe.read_link().is_ok());
        let dir = cluster.dir().to_owned();
        drop(cluster);
        assert!(exe.read_link().is_err());
        assert!(!dir.exists());
    }
}
