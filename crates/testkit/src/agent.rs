//! `vk-cmd agent` as a fixture, for any cluster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::before::Before;
use crate::place::Place;
use crate::wait::eventually;

/// Describes an [`Agent`].
#[derive(Debug, Clone)]
pub struct AgentBuilder {
    program: PathBuf,
    node: String,
    kubeconfig: PathBuf,
    place: Option<Arc<Place>>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    before: Before,
}

/// A running `vk-cmd agent`. Its containers end with the last that holds its place.
#[derive(Debug)]
pub struct Agent {
    place: Arc<Place>,
    child: Child,
    /// The node's name.
    pub node: String,
}

impl AgentBuilder {
    /// Adds words to the command line.
    #[must_use]
    pub fn args(mut self, words: &[&str]) -> Self {
        self.args
            .extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Registers the node with the documented taint.
    #[must_use]
    pub fn tainted(mut self) -> Self {
        self.args.retain(|word| word != "--no-taint");
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Puts a command before the program that ends with becoming it (`sh -c '…; exec "$@"' sh`).
    #[must_use]
    pub fn behind(mut self, words: &[&str]) -> Self {
        self.before.behind(words);
        self
    }

    /// Runs it as another user, whose group has the same number; takes root.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.before.user(uid);
        self
    }

    /// Uses home and pod data of another agent.
    #[must_use]
    pub fn at(mut self, place: &Arc<Place>) -> Self {
        self.place = Some(Arc::clone(place));
        self
    }

    /// The command, not yet run; for runs that are to fail.
    pub fn command(&mut self) -> Command {
        let place = self.place.get_or_insert_with(|| Arc::new(Place::new()));
        let home = place.path().join("home");
        std::fs::create_dir_all(&home).expect("a home");
        let kubeconfig = match self.before.owner() {
            None => self.kubeconfig.clone(),
            // Whoever runs the test keeps theirs to themselves.
            Some(_) => {
                let own = home.join("agent.kubeconfig");
                std::fs::copy(&self.kubeconfig, &own).expect("a kubeconfig");
                own
            }
        };
        self.before.give(&[place.path(), &home, &kubeconfig]);
        let mut command = self.before.command(&self.program);
        command
            .arg("agent")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--nodename", &self.node, "--kubelet-port", "0"])
            .arg("--root")
            .arg(place.path().join("root"))
            .args(&self.args)
            .env("HOME", &home)
            .env_remove("KUBECONFIG")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Starts it; it may not be registered yet.
    ///
    /// # Panics
    /// Where the program does not run.
    #[track_caller]
    pub fn start(mut self) -> Agent {
        let mut command = self.command();
        let place = self.place.take().expect("command() set it");
        let log = File::options()
            .create(true)
            .append(true)
            .open(place.path().join(format!("{}.log", self.node)))
            .expect("a log");
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program runs");
        Agent {
            place,
            child,
            node: self.node,
        }
    }
}

impl Agent {
    /// Describes an agent of `program` for the node `node` of a cluster.
    pub fn of(program: &str, kubeconfig: &Path, node: &str) -> AgentBuilder {
        AgentBuilder {
            program: program.into(),
            node: node.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            place: None,
            args: Vec::new(),
            env: Vec::new(),
            before: Before::default(),
        }
    }

    /// Home and pod data, for another agent.
    pub fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }

    /// The home that its pods see.
    pub fn home(&self) -> PathBuf {
        self.place.path().join("home")
    }

    /// The base of its pod data.
    pub fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    /// What agents of this node wrote to stderr in this place so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join(format!("{}.log", self.node)))
            .unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// Where it is gone already.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// `kill -9`, and its place.
    ///
    /// # Panics
    /// Where it is gone already.
    pub fn kill(mut self) -> Arc<Place> {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("it is our child");
        self.place()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// Where it does not within a minute, with its log.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let log = self.place.path().join(format!("{}.log", self.node));
        eventually("the agent ends", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(std::fs::read_to_string(&log)),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = kill(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
