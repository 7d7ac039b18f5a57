//! Kubernetes' own control plane as a fixture.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::kubectl::Kubectl;
use crate::wait::eventually;

/// Describes a [`RealCluster`].
#[derive(Debug, Default)]
pub struct RealClusterBuilder {
    controllers: bool,
    controller_manager: Vec<String>,
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

/// Writes down its process id and start time, as `cluster.sh` does, and becomes the program.
const AGAIN: &str = r#"
    read -r line </proc/$$/stat
    read -ra fields <<<"${line##*) }"
    echo "$$ ${fields[19]}" >"$1.new" && mv "$1.new" "$1"
    exec "${@:2}"
"#;

/// A program of a cluster that was killed.
#[derive(Debug)]
pub struct Killed {
    program: String,
    words: Vec<String>,
}

impl RealClusterBuilder {
    /// As [`crate::Cluster`] needs it: with scheduler and controllers, and pods kept to the nodes that their
    /// namespace names.
    #[must_use]
    pub fn for_tests(self) -> Self {
        self.controllers()
            // As every cluster has it: it is for a node to say no.
            .apiserver_arg("--allow-privileged=true")
            .apiserver_arg("--enable-admission-plugins=NodeRestriction,PodNodeSelector")
    }

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

    /// Adds a flag to kube-controller-manager's.
    #[must_use]
    pub fn controller_manager_arg(mut self, arg: &str) -> Self {
        self.controller_manager
            .push(format!("--controller-manager-arg={arg}"));
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
            .args(&self.controller_manager)
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

    /// Lets a program of it stand still, such as `etcd`: it keeps its connections and answers nothing.
    ///
    /// # Panics
    /// Where it does not run.
    #[track_caller]
    pub fn pause(&self, program: &str) {
        kill(self.pid(program), Signal::SIGSTOP).expect("it runs");
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// Where it does not run.
    #[track_caller]
    pub fn resume(&self, program: &str) {
        kill(self.pid(program), Signal::SIGCONT).expect("it runs");
    }

    /// Kills a program of it; what is given back starts it again.
    ///
    /// # Panics
    /// Where it does not run.
    #[track_caller]
    pub fn kill(&self, program: &str) -> Killed {
        let pid = self.pid(program);
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
        let words = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .filter(|word| !word.is_empty())
            .collect();
        kill(pid, Signal::SIGKILL).expect("it runs");
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        eventually("it ends", || {
            if exe.read_link().is_ok() {
                Err(pid)
            } else {
                Ok(())
            }
        });
        Killed {
            program: program.to_owned(),
            words,
        }
    }

    /// Starts a program again that was killed; it may not be ready yet.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn start_again(&self, killed: &Killed) {
        let file = self.dir().join(&killed.program);
        let log = std::fs::File::options()
            .append(true)
            .open(file.with_extension("log"))
            .expect("its log");
        // In a session of its own, and known to `cluster.sh stop`, before it is the program.
        let done = Command::new("setsid")
            .args(["--fork", "bash", "-c", AGAIN, "again"])
            .arg(file.with_extension("pid"))
            .args(&killed.words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log)
            .status()
            .expect("setsid runs");
        assert!(done.success());
    }

    fn pid(&self, program: &str) -> Pid {
        let file = self.dir().join(program).with_extension("pid");
        let text = std::fs::read_to_string(file).expect("a process id");
        let pid = text.split(' ').next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.expect("a process id"))
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
