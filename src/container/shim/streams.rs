//! Pipes and terminals between the shim and a command.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    unistd::Pid,
};

use super::start::Failure;
use crate::container::{protocol::TerminalSize, status::StartFailure, terminal};

/// Size of a terminal that nobody looks at yet.
pub(super) const TERMINAL: TerminalSize = TerminalSize {
    columns: 80,
    rows: 24,
};

/// What a command reads and writes.
pub(super) enum Streams<'a> {
    /// Standard input, output and error; `/dev/null` where there is none.
    Pipes([Option<&'a OwnedFd>; 3]),
    /// A terminal, by the path of its slave; the command gets a session of its own, whose terminal it is.
    Terminal(&'a str),
}

/// Our ends of a command's streams. None of them blocks.
pub(super) struct Ends {
    pub(super) stdin: Option<File>,
    /// Of a terminal: what comes out of it, and what knows its size.
    pub(super) stdout: File,
    /// None of a terminal, where it is one with the output.
    pub(super) stderr: Option<File>,
}

/// Makes the streams and has the command started with them.
pub(super) fn start(
    stdin: bool,
    size: Option<TerminalSize>,
    command: impl FnOnce(&Streams<'_>) -> Result<Pid, Failure>,
) -> Result<(Pid, Ends), Failure> {
    if let Some(size) = size {
        let failed =
            |errno: Errno| Failure::errno(StartFailure::System, "failed to make a terminal", errno);
        let (master, path) = make_terminal(size).map_err(failed)?;
        let second = master.try_clone().map_err(|error| {
            Failure::caused(StartFailure::System, "failed to make a terminal", &error)
        })?;
        let pid = command(&Streams::Terminal(&path))?;
        let ends = Ends {
            stdin: stdin.then_some(second),
            stdout: master,
            stderr: None,
        };
        return Ok((pid, ends));
    }
    let (stdin, child_stdin) = stdin.then(pipe_in).transpose()?.unzip();
    let (stdout, child_stdout) = pipe_out()?;
    let (stderr, child_stderr) = pipe_out()?;
    let pid = command(&Streams::Pipes([
        child_stdin.as_ref(),
        Some(&child_stdout),
        Some(&child_stderr),
    ]))?;
    let ends = Ends {
        stdin: stdin.map(File::from),
        stdout: stdout.into(),
        stderr: Some(stderr.into()),
    };
    Ok((pid, ends))
}

/// A pipe: our end, which is read, and the command's.
fn pipe_out() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
    // Only our end: the command expects a pipe that blocks.
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
    Ok((read, write))
}

/// A pipe: our end, which is written, and the command's.
fn pipe_in() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
    Ok((write, read))
}

fn no_pipe(errno: Errno) -> Failure {
    Failure::errno(StartFailure::System, "failed to make a pipe", errno)
}

/// A terminal: our end, and the path of the other.
fn make_terminal(size: TerminalSize) -> nix::Result<(File, String)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    terminal::set_size(master.as_fd(), size)?;
    Ok((OwnedFd::from(master).into(), path))
}
