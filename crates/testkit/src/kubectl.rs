//! The real kubectl.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of a program gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// The line that was run.
    pub line: String,
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// Where it cannot be run at all.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let done = command
            .output()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        Self {
            line,
            code: done.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// Runs a line of words of vk-cmd's own client, with a kubeconfig and a home.
    ///
    /// # Panics
    /// As [`Output::of`].
    #[track_caller]
    pub(crate) fn of_client(program: &Path, kubeconfig: &Path, home: &Path, line: &str) -> Self {
        Self::of(
            Command::new(program)
                .args(line.split_whitespace())
                .env("KUBECONFIG", kubeconfig)
                .env("HOME", home)
                .stdin(Stdio::null()),
        )
    }

    /// Standard output of a run that went well.
    ///
    /// # Panics
    /// Where it did not, with all that it said.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout
    }

    /// Standard error of a run that failed with `code`.
    ///
    /// # Panics
    /// Where it ended otherwise, with all that it said.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:#?}");
        self.stderr
    }
}

/// kubectl for one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// kubectl with a kubeconfig, and a home for its cache; none where there is no kubectl:
    /// `KUBECTL` names one that is not in `PATH`.
    pub fn new(kubeconfig: &Path, home: &Path) -> Option<Self> {
        let program = std::env::var_os("KUBECTL")
            .map(PathBuf::from)
            .or_else(|| find_program("kubectl"))?;
        Some(Self {
            program,
            kubeconfig: kubeconfig.to_owned(),
            home: home.to_owned(),
            namespace: None,
        })
    }

    /// The same, working in another namespace than `default`.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// A command with these words, ready to be run.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    /// Runs a line of words, separated by spaces.
    #[track_caller]
    pub fn run(&self, line: &str) -> Output {
        self.words(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs words, for those that hold spaces.
    #[track_caller]
    pub fn words<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Output {
        Output::of(&mut self.command(words))
    }

    /// Runs a line with `input` as its standard input.
    ///
    /// # Panics
    /// Where kubectl cannot be run.
    #[track_caller]
    pub fn pipe(&self, line: &str, input: &str) -> Output {
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(input.as_bytes()).expect("a temporary file");
        file.rewind().expect("a temporary file");
        let words: Vec<_> = line.split_whitespace().collect();
        Output::of(self.command(&words).stdin(file))
    }
}

/// Finds a program in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
