//! What the test knows of its pods.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use nix::sys::stat::Mode;

use super::Random;

/// What a pod is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs once.
    Once,
    /// Runs once, after an init container.
    Init,
    /// Runs once, with children that left its session or its environment.
    Daemons,
    /// Runs once and ignores SIGTERM.
    Stubborn,
    /// Is started again for ever.
    Always,
}

const KINDS: [Kind; 5] = [
    Kind::Once,
    Kind::Init,
    Kind::Daemons,
    Kind::Stubborn,
    Kind::Always,
];

/// How a container may have ended: reason and exit code.
pub(crate) type End = (String, i64);

/// How far a delete has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deleted {
    No,
    /// Asked for, with its grace: the object goes last.
    Asked,
    /// The object went first.
    Forced,
}

#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) kind: Kind,
    pub(crate) deleted: Deleted,
    /// What has happened to it that may have ended it.
    pub(crate) causes: BTreeSet<End>,
    /// What the API said of its end; it stays so.
    pub(crate) told: Option<End>,
    /// The most restarts that the API told of.
    pub(crate) restarts: i64,
    /// Whether the disk was full while it lived: its log may have a gap, its start may have failed.
    pub(crate) starved: bool,
    /// Whether what it prints at its end was checked.
    pub(crate) logged: bool,
    /// The gate through which its script hears that it is to end.
    gate: File,
}

/// What the script prints before its end.
pub(crate) const LINES: usize = 50;

impl Pod {
    /// Describes a pod, and makes its gate in the home.
    pub(crate) fn new(home: &Path, number: usize, random: &mut Random) -> Self {
        let name = format!("p{number}");
        let path = home.join(format!("{name}.gate"));
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
        // Both ends: it opens at once, and what is written waits for a reader.
        let gate = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("a pipe");
        Self {
            name,
            uid: String::new(),
            kind: *random.one_of(&KINDS).unwrap_or(&Kind::Once),
            deleted: Deleted::No,
            causes: BTreeSet::new(),
            told: None,
            restarts: 0,
            starved: false,
            logged: false,
            gate,
        }
    }

    pub(crate) fn manifest(&self, home: &Path) -> String {
        let theirs = home.join("precious");
        let theirs = theirs.display();
        let name = &self.name;
        let children = match self.kind {
            Kind::Daemons => {
                "setsid sleep 100000 & env -i FAULTS_POD=$FAULTS_POD FAULTS_PLACE=$FAULTS_PLACE sleep 100000 & "
            }
            _ => "",
        };
        let trap = match self.kind {
            Kind::Stubborn => "trap '' TERM; ",
            _ => "",
        };
        // The start is told before anything else, and by one write.
        let script = format!(
            "echo $BASHPID >> ~/{name}.starts; {trap}{children}echo begin; read code < ~/{name}.gate; \
             for ((n = 0; n < {LINES}; n++)); do echo line $n; done; echo end; exit $code"
        );
        let policy = match self.kind {
            Kind::Always => "Always",
            _ => "Never",
        };
        let init = match self.kind {
            Kind::Init => format!(
                "  initContainers:\n  - name: i\n    image: host\n    command: [bash, -c, 'echo i >> ~/{name}.inits']\n"
            ),
            _ => String::new(),
        };
        let script = serde_json::Value::from(script);
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: node\n  \
             terminationGracePeriodSeconds: 1\n  restartPolicy: {policy}\n  volumes:\n  \
             - name: theirs\n    hostPath: {{path: {theirs}}}\n  - name: own\n    emptyDir: {{}}\n{init}  \
             containers:\n  - name: c\n    image: host\n    command: [bash, -c, {script}]\n    env:\n    \
             - {{name: FAULTS_POD, value: {name}}}\n    volumeMounts:\n    \
             - {{name: theirs, mountPath: theirs}}\n    - {{name: own, mountPath: own}}\n"
        )
    }

    /// Tells the script to end.
    pub(crate) fn end(&mut self, code: u8) {
        self.gate
            .write_all(format!("{code}\n").as_bytes())
            .expect("a pipe");
        let reason = if code == 0 { "Completed" } else { "Error" };
        self.caused(reason, code.into());
    }

    /// Something happened that may have been its end.
    pub(crate) fn caused(&mut self, reason: &str, code: i64) {
        if self.told.is_none() {
            self.causes.insert((reason.to_owned(), code));
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.told.is_some()
    }

    /// The pids of its starts so far.
    pub(crate) fn starts(&self, home: &Path) -> Vec<i32> {
        let text =
            std::fs::read_to_string(home.join(format!("{}.starts", self.name))).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// How often its init container has run.
    pub(crate) fn inits(&self, home: &Path) -> usize {
        let text =
            std::fs::read_to_string(home.join(format!("{}.inits", self.name))).unwrap_or_default();
        text.lines().count()
    }
}
