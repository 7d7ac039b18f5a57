//! A root and a launcher of one test, and waits that end with an event.

use std::{future::Future, path::PathBuf, time::Duration};

use tempfile::TempDir;
use vk_cmd::container::{
    ContainerDir, ContainerSpec, Exit, Handle, Launcher, Root, StartError, Status,
    log::{ReadOptions, Reader},
};

/// No test waits longer for anything; a wait that takes so long has failed.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    pub(crate) launcher: Launcher,
    pub(crate) root: Root,
    temp: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let launcher = Launcher::new(
            PathBuf::from(env!("CARGO_BIN_EXE_vk-cmd")),
            temp.path().join("s"),
        )
        .expect("a directory for sockets");
        let root = Root::create(&temp.path().join("root")).expect("a root");
        Self {
            launcher,
            root,
            temp,
        }
    }

    /// A directory that the tests may write to, outside the root.
    pub(crate) fn outside(&self) -> &std::path::Path {
        self.temp.path()
    }

    pub(crate) fn container(&self, name: &str) -> ContainerDir {
        let dir = self.root.container("uid-1", name).expect("a valid name");
        dir.create().expect("a working directory");
        dir
    }

    /// A command with the usual environment in the container's directory.
    pub(crate) fn spec(&self, dir: &ContainerDir, argv: &[&str]) -> ContainerSpec {
        let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        ContainerSpec::new(
            argv,
            vec![("PATH".into(), "/usr/bin:/bin".into())],
            dir.path(),
        )
    }

    pub(crate) async fn start(
        &self,
        dir: &ContainerDir,
        argv: &[&str],
    ) -> Result<Handle, StartError> {
        in_time(self.launcher.start(dir, 0, 1, &self.spec(dir, argv))).await
    }

    /// Runs a shell script to its end.
    pub(crate) async fn run(&self, script: &str) -> (ContainerDir, Status) {
        let dir = self.container("c");
        let handle = self
            .start(&dir, &["sh", "-c", script])
            .await
            .expect("started");
        let status = in_time(handle.wait()).await;
        (dir, status)
    }
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("no event within the limit")
}

pub(crate) fn exit(status: &Status) -> Exit {
    match status {
        Status::Exited { exit, .. } => *exit,
        other => panic!("not exited: {other:?}"),
    }
}

/// The whole log, to the end of the attempt.
pub(crate) async fn log(dir: &ContainerDir, options: ReadOptions) -> Vec<u8> {
    let mut reader = Reader::open(&dir.attempt(0), options).await.expect("a log");
    let mut text = Vec::new();
    while let Some(piece) = in_time(reader.next()).await.expect("readable") {
        text.extend_from_slice(&piece);
    }
    text
}

/// Reads a log until it holds a line.
pub(crate) async fn line_comes(dir: &ContainerDir, line: &str) {
    let options = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let mut reader = Reader::open(&dir.attempt(0), options).await.expect("a log");
    let mut text = String::new();
    while !text.lines().any(|have| have == line) {
        let piece = in_time(reader.next())
            .await
            .expect("readable")
            .unwrap_or_else(|| panic!("no {line:?} in {text:?}"));
        text.push_str(&String::from_utf8_lossy(&piece));
    }
}

/// Shims that wait, stopped by the kernel, before they do anything.
pub(crate) struct Gate {
    pub(crate) launcher: Launcher,
    /// The read end of a FIFO on which they tell their numbers.
    arrivals: std::fs::File,
}

/// A shim that waits. Dropping it kills it.
pub(crate) struct Held(i32);

impl Gate {
    pub(crate) fn new(bed: &Bed) -> Self {
        let (fifo, program) = (
            bed.temp.path().join("arrivals"),
            bed.temp.path().join("gate"),
        );
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        // Both ends, so that opening does not wait.
        let arrivals = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&fifo)
            .expect("opened");
        let script = format!(
            "#!/bin/sh\necho $$ > '{}'\nkill -STOP $$\nexec '{}' \"$@\"\n",
            fifo.display(),
            env!("CARGO_BIN_EXE_vk-cmd")
        );
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("chmod");
        let launcher =
            Launcher::new(program, bed.temp.path().join("s")).expect("a directory for sockets");
        Self { launcher, arrivals }
    }

    /// Waits for the next shim to stop.
    pub(crate) async fn wait(&self) -> Held {
        use std::io::Read;
        let mut arrivals = self.arrivals.try_clone().expect("duplicated");
        let read = tokio::task::spawn_blocking(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while arrivals.read(&mut byte).expect("readable") == 1 && byte != *b"\n" {
                line.push(byte[0]);
            }
            let pid: i32 = String::from_utf8(line)
                .expect("text")
                .parse()
                .expect("a number");
            let flags =
                nix::sys::wait::WaitPidFlag::WSTOPPED | nix::sys::wait::WaitPidFlag::WNOWAIT;
            nix::sys::wait::waitid(
                nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(pid)),
                flags,
            )
            .expect("our child");
            Held(pid)
        });
        in_time(read).await.expect("no panic")
    }
}

impl Held {
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0)
    }

    /// Leaves it to the caller.
    pub(crate) fn into_pid(mut self) -> nix::unistd::Pid {
        let pid = self.pid();
        // Nothing to kill any more.
        self.0 = 0;
        pid
    }

    pub(crate) fn go_on(mut self) {
        nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGCONT)
            .expect("our stopped child");
        // Nothing to kill any more.
        self.0 = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0 > 0 {
            // A stopped process dies of SIGKILL as any other; where it is gone, nothing is to do.
            let _ = nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
