//! Kubernetes' own control plane as a fixture.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::keeper::{Keeper, are_built};
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
    keeper: Keeper,
}

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
        if !are_built(&programs) {
            return None;
        }
        let mut words = vec![version.to_owned()];
        words.extend(self.controllers.then(|| "--with-controllers".to_owned()));
        words.extend(self.apiserver);
        words.extend(self.controller_manager);
        let keeper = Keeper::start("cluster.sh", &words, &[]);
        Some(RealCluster { keeper })
    }
}

impl RealCluster {
    /// Describes a cluster in a new place.
    pub fn builder() -> RealClusterBuilder {
        RealClusterBuilder::default()
    }

    /// Where keys, logs and process ids lie; the head of `cluster.sh` names them.
    pub fn dir(&self) -> &Path {
        self.keeper.dir()
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
        self.keeper.log(program)
    }
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
