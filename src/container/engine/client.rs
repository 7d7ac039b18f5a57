//! What the client of an engine leaves to its supervisor: files in memory, the way in for further commands, and the
//! end of a container that is no descendant of the client.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::Invocation;
use crate::container::{
    dir::DirError,
    files::{Dir, Durability},
    held::PidFd,
};

/// Name of the file that tells how to end what a client has left behind.
const TEARDOWN: &str = "teardown.json";
/// How long a command of the engine may take once its container has ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a command is looked at where the kernel does not tell its end.
const LOOK: Duration = Duration::from_millis(20);
/// How often a container is removed whose client was killed, and how long apart.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to say where one is.
const WHERE: Duration = Duration::from_secs(5);
/// Bytes kept of what the engine says of an end.
const REPORT: usize = 8 * 1024;

/// The part of a container's spec that is for its engine.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineClient {
    /// Contents of the files that the command line names as `/proc/self/fd/3` and on; secrets.
    pub memory_files: Vec<String>,
    /// What goes before a further command.
    pub exec: ExecPrefix,
    /// Tells how the container ended.
    pub autopsy: Vec<String>,
    /// Ends and removes what the client may leave behind.
    pub teardown: Vec<Vec<String>>,
    /// Tells number and id of a container that a daemon runs, in one line.
    #[serde(default)]
    pub whereabouts: Vec<String>,
    /// The environment of these commands.
    pub environment: Vec<(String, String)>,
    /// The number that was told, once it was.
    #[serde(skip)]
    main: OnceLock<i32>,
}

/// What goes before a further command in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPrefix {
    /// Program and first arguments; empty where the command runs as it is.
    pub before: Vec<String>,
    /// For a command with standard input.
    pub interactive: Option<String>,
    /// For a command with a terminal.
    pub terminal: Option<String>,
    /// The rest.
    pub after: Vec<String>,
}

impl ExecPrefix {
    /// The whole command line.
    pub fn wrap(&self, argv: &[String], stdin: bool, terminal: bool) -> Vec<String> {
        let interactive = self.interactive.iter().filter(|_| stdin);
        let terminal = self.terminal.iter().filter(|_| terminal);
        let words = self.before.iter().chain(interactive).chain(terminal);
        words.chain(&self.after).chain(argv).cloned().collect()
    }
}

/// Leaves the contents of files out.
impl std::fmt::Debug for EngineClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineClient")
            .field("exec", &self.exec)
            .field("teardown", &self.teardown)
            .finish_non_exhaustive()
    }
}

impl EngineClient {
    /// Of a command line; `environment` is that of the engine's own programs.
    pub fn new(invocation: Invocation, environment: Vec<(String, String)>) -> Self {
        let Invocation {
            memory_files,
            exec,
            autopsy,
            teardown,
            whereabouts,
            ..
        } = invocation;
        Self {
            memory_files,
            exec,
            autopsy,
            teardown,
            whereabouts,
            environment,
            main: OnceLock::new(),
        }
    }

    /// Whether the container is no descendant of the client.
    pub fn leaves_it_to_a_daemon(&self) -> bool {
        !self.teardown.is_empty()
    }

    /// All in it that may hold a path of the host.
    pub(in crate::container) fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let Self {
            memory_files,
            exec,
            autopsy,
            teardown,
            whereabouts,
            environment,
            main: _,
        } = self;
        memory_files
            .iter_mut()
            .chain(&mut exec.before)
            .chain(&mut exec.after)
            .chain(autopsy)
            .chain(whereabouts)
            .chain(teardown.iter_mut().flatten())
            .chain(environment.iter_mut().map(|(_, value)| value))
    }

    /// The container's first process, where a daemon has it and it can be seen from here; asked once. The kernel has
    /// to agree that it is in the control group of that container: the daemon may count in another namespace. Blocks.
    pub(in crate::container) fn main_process(&self) -> Option<i32> {
        if let Some(pid) = self.main.get() {
            return Some(*pid);
        }
        (!self.whereabouts.is_empty()).then_some(())?;
        let said = run_to_end(&self.whereabouts, &self.environment, WHERE).ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let (pid, id) = said.trim().split_once(' ')?;
        let pid: i32 = pid.parse().ok().filter(|pid| *pid > 0)?;
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        (id.len() >= 12 && group.contains(id)).then(|| *self.main.get_or_init(|| pid))
    }

    /// Writes down how to end what the client may leave behind, for whoever finds its supervisor dead. Nothing of it
    /// is secret.
    ///
    /// # Errors
    /// Where it cannot be written; then nothing may be started.
    pub(in crate::container) fn record(&self, records: &Dir) -> Result<(), DirError> {
        if self.teardown.is_empty() {
            return Ok(());
        }
        let teardown = Teardown {
            commands: self.teardown.clone(),
            environment: self.environment.clone(),
        };
        let bytes = serde_json::to_vec(&teardown).unwrap_or_default();
        records.write_atomic(TEARDOWN, &bytes, Durability::Power)
    }

    /// Ends what the client has left behind; returns what the engine says of the end.
    /// `killed`: the client did not end by itself.
    pub(in crate::container) fn settle(&self, killed: bool) -> Option<String> {
        let report = (!self.autopsy.is_empty())
            .then(|| run_to_end(&self.autopsy, &self.environment, PATIENCE).ok())
            .flatten()
            .filter(|said| said.code == Some(0))
            .map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
        let rounds = if killed { ROUNDS } else { 1 };
        // A client that could not even begin has left nothing, and the engine says so.
        let _ = tear_down(&self.teardown, &self.environment, rounds);
        report.filter(|report| !report.is_empty())
    }
}

#[derive(Serialize, Deserialize)]
struct Teardown {
    commands: Vec<Vec<String>>,
    environment: Vec<(String, String)>,
}

/// Ends what the client of a dead supervisor has left behind. Blocks.
///
/// # Errors
/// Where the record cannot be read.
pub(in crate::container) fn settle_left(records: &Dir) -> Result<(), DirError> {
    let Some(bytes) = records.read(TEARDOWN)? else {
        return Ok(());
    };
    let Ok(teardown) = serde_json::from_slice::<Teardown>(&bytes) else {
        return Ok(());
    };
    if let Err(error) = tear_down(&teardown.commands, &teardown.environment, ROUNDS) {
        let commands = &teardown.commands;
        tracing::warn!(%error, ?commands, "a container may live on in its engine");
    }
    Ok(())
}

/// Runs commands that remove a container, so many times over: a daemon goes on for a moment with what a client that
/// was killed had asked it for, and nothing tells when it is done. Blocks.
fn tear_down(
    commands: &[Vec<String>],
    environment: &[(String, String)],
    rounds: u32,
) -> io::Result<()> {
    let mut done = Ok(());
    for round in 0..rounds {
        if round > 0 && !commands.is_empty() {
            std::thread::sleep(PAUSE);
        }
        done = { commands.iter() }
            .try_for_each(|command| run_to_end(command, environment, PATIENCE).map(drop));
    }
    done
}

/// What a command gave.
struct Said {
    /// None for a signal.
    code: Option<i32>,
    stdout: Vec<u8>,
}

/// Runs a command, for `patience` at most.
fn run_to_end(
    argv: &[String],
    environment: &[(String, String)],
    patience: Duration,
) -> io::Result<Said> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if path.is_none() {
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    }
    let mut child = command.spawn()?;
    let deadline = Instant::now() + patience;
    // Without it, it is looked at now and then.
    let ended = PidFd::open(child.id().cast_signed()).ok().flatten();
    let mut stdout = Vec::new();
    let mut pipe = child.stdout.take();
    loop {
        let mut left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if ended.is_none() {
            left = left.min(LOOK);
        }
        let mut fds = Vec::new();
        fds.extend(
            ended
                .iter()
                .map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(
            pipe.iter()
                .map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut fds, timeout);
        let readable = fds.last().and_then(PollFd::any).unwrap_or(false) && pipe.is_some();
        match ready {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => {
                let _ = child.kill();
                return Err(errno.into());
            }
        }
        if readable && let Some(from) = &mut pipe {
            let mut piece = [0; 4096];
            let read = from.read(&mut piece)?;
            let room = REPORT.saturating_sub(stdout.len());
            stdout.extend_from_slice(&piece[..read.min(room)]);
            if read == 0 {
                pipe = None;
            }
            continue;
        }
        if let Some(status) = child.try_wait()? {
            return Ok(Said {
                code: status.code(),
                stdout,
            });
        }
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{program} did not end within {} s", patience.as_secs()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn output_and_code_come_back_and_a_command_that_hangs_is_ended() {
        let path = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let said = run_to_end(&sh("echo a; echo b; exit 3"), &path, PATIENCE).expect("it runs");
        assert_eq!(
            (said.code, said.stdout.as_slice()),
            (Some(3), b"a\nb\n".as_slice())
        );
        let error = run_to_end(&sh("exec sleep 60"), &path, Duration::from_millis(50));
        assert_eq!(
            error.map(|said| said.code).expect_err("too long").kind(),
            io::ErrorKind::TimedOut
        );
        let long = run_to_end(&sh("yes | head -c 100000"), &path, PATIENCE).expect("it runs");
        assert_eq!(long.stdout.len(), REPORT);
    }

    #[test]
    fn what_a_dead_supervisor_has_written_down_is_done() {
        let temp = tempfile::tempdir().expect("tempdir");
        let records = Dir::open_trusted(temp.path())
            .expect("opened")
            .expect("present");
        let mark = temp.path().join("done");
        let client = EngineClient {
            teardown: vec![sh(&format!("echo > '{}'", mark.display()))],
            ..EngineClient::default()
        };
        settle_left(&records).expect("nothing to do");
        client.record(&records).expect("written");
        settle_left(&records).expect("done");
        assert!(mark.exists());
    }

    #[test]
    fn the_kernel_has_to_agree_where_a_container_is() {
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("procfs");
        let client = |id: &str| EngineClient {
            whereabouts: sh(&format!("echo '{} {id}'", std::process::id())),
            ..EngineClient::default()
        };
        assert_eq!(client("no-such-container").main_process(), None);
        assert_eq!(
            client("1").main_process(),
            None,
            "too short to tell anything"
        );
        assert_eq!(EngineClient::default().main_process(), None);
        // The longest word of our own group stands for an id.
        let word = own
            .split(['/', '\n', ':'])
            .max_by_key(|it| it.len())
            .unwrap_or_default();
        if word.len() >= 12 {
            let found = client(word).main_process();
            assert_eq!(found, Some(std::process::id().cast_signed()));
        }
    }

    #[test]
    fn a_further_command_goes_behind_its_prefix() {
        let text = |words: &[&str]| words.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let prefix = ExecPrefix {
            before: text(&["docker", "exec"]),
            interactive: Some("--interactive".to_owned()),
            terminal: Some("--tty".to_owned()),
            after: text(&["name"]),
        };
        let argv = text(&["ls", "-l"]);
        assert_eq!(
            prefix.wrap(&argv, false, false),
            text(&["docker", "exec", "name", "ls", "-l"])
        );
        assert_eq!(
            prefix.wrap(&argv, true, true),
            text(&[
                "docker",
                "exec",
                "--interactive",
                "--tty",
                "name",
                "ls",
                "-l"
            ])
        );
        assert_eq!(ExecPrefix::default().wrap(&argv, true, true), argv);
    }
}
