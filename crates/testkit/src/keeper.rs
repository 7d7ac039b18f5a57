//! Clusters of programs that a script of `tests/kubernetes` starts and stops.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

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

/// A cluster in a directory of its own; it ends with the value, and with the process.
#[derive(Debug)]
pub(crate) struct Keeper {
    place: TempDir,
    child: Child,
}

impl Keeper {
    /// Runs `SCRIPT start DIRECTORY WORDS…` and waits until it is done.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub(crate) fn start(script: &str, words: &[String], env: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let log = place.path().join("start.log");
        let mut child = Command::new("setsid")
            .args(["bash", "-c", KEEPER, "keeper"])
            .arg(scripts().join(script))
            .arg(place.path())
            .args(words)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("setsid runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("its output");
        let keeper = Self { place, child };
        assert_eq!(
            line.trim_end(),
            "ready",
            "the cluster does not start: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        keeper
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.place.path()
    }

    /// What a program of it wrote so far.
    pub(crate) fn log(&self, program: &str) -> String {
        let file = self.dir().join(format!("{program}.log"));
        std::fs::read_to_string(file).unwrap_or_default()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Whether programs of a real Kubernetes are built; says loudly where they are not. Tests build none:
/// `tests/kubernetes/setup.sh` does.
pub(crate) fn are_built(programs: &[String]) -> bool {
    let asked = Command::new(scripts().join("setup.sh"))
        .arg("--built")
        .args(programs)
        .output()
        .expect("setup.sh runs");
    if !asked.status.success() {
        let why = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
        crate::skip!("no real Kubernetes: {why}");
    }
    asked.status.success()
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kubernetes")
}
