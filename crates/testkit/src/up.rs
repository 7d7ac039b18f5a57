//! `vk-cmd up` as a fixture.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::before::Before;
use crate::kubectl::{Kubectl, Output};
use crate::place::Place;

/// Describes an [`Up`].
#[derive(Debug)]
pub struct UpBuilder {
    program: PathBuf,
    place: Option<Arc<Place>>,
    port: u16,
    args: Vec<String>,
    env: Vec<(String, String)>,
    before: Before,
}

/// A running `vk-cmd up`.
#[derive(Debug)]
pub struct Up {
    program: PathBuf,
    place: Arc<Place>,
    child: Child,
    /// The kubeconfig of the administrator.
    pub kubeconfig: PathBuf,
}

impl UpBuilder {
    /// Adds words to the command line.
    #[must_use]
    pub fn args(mut self, words: &[&str]) -> Self {
        self.args
            .extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Listens on this port rather than on any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
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

    /// Uses home and state of an earlier run.
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
        self.before.give(&[place.path(), &home]);
        let mut command = self.before.command(&self.program);
        command
            .arg("up")
            .arg("--state-dir")
            .arg(place.path().join("state"))
            .args(["--port", &self.port.to_string()])
            .args(&self.args)
            .env("HOME", &home)
            .env_remove("KUBECONFIG")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Starts it and waits for the line that says the node is Ready.
    ///
    /// # Panics
    /// Where it ends before, with its stderr.
    #[track_caller]
    pub fn start(mut self) -> Up {
        let mut command = self.command();
        let place = self.place.take().expect("command() set it");
        let log = place.path().join("up.log");
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its output");
        let Some(path) = line.trim_end().strip_prefix("export KUBECONFIG=") else {
            let status = child.wait();
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("no KUBECONFIG but {line:?}; ended with {status:?}; stderr:\n{log}");
        };
        let kubeconfig = PathBuf::from(path.trim_matches('\''));
        Up {
            program: self.program,
            place,
            child,
            kubeconfig,
        }
    }
}

impl Up {
    /// Describes a run of `program` in a new place.
    pub fn of(program: &str) -> UpBuilder {
        UpBuilder {
            program: program.into(),
            place: None,
            port: 0,
            args: Vec::new(),
            env: Vec::new(),
            before: Before::default(),
        }
    }

    /// Home and state, for a later run.
    pub fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }

    /// The home that pods and clients see.
    pub fn home(&self) -> PathBuf {
        self.place.path().join("home")
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("up.log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The real kubectl; none where there is none.
    pub fn kubectl(&self) -> Option<Kubectl> {
        Kubectl::new(&self.kubeconfig, &self.home())
    }

    /// Runs the program's own client.
    #[track_caller]
    pub fn client(&self, line: &str) -> Output {
        Output::of_client(&self.program, &self.kubeconfig, &self.home(), line)
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// Where it is gone already.
    pub fn kill(mut self) -> Arc<Place> {
        kill(self.pid(), Signal::SIGKILL).expect("it runs");
        self.child.wait().expect("it is our child");
        self.place()
    }

    /// Ctrl-C, and waits for the end.
    ///
    /// # Panics
    /// Where it is gone already.
    pub fn interrupt(mut self) -> (ExitStatus, Arc<Place>) {
        kill(self.pid(), Signal::SIGINT).expect("it runs");
        let status = self.child.wait().expect("it is our child");
        (status, self.place())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // What was killed on purpose is gone already.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = kill(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
