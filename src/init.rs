//! The first process of a container.
//!
//! Whatever loses its parent in a PID namespace becomes a child of its first process, which has to
//! reap it. The agent cannot: its runtime reaps its own children, and a wait for any child would
//! take their ends away from it. So where the program is the first process it starts itself again
//! as its only child, passes signals on, reaps, and ends as the child does.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::printer;

/// Runs the program once more where this is the first process, and returns how it ended; none where
/// there is another first process.
pub fn run() -> Option<ExitCode> {
    if std::process::id() != 1 {
        return None;
    }
    // Before there is a child: its end must not be missed.
    if let Err(errno) = SigSet::all().thread_block() {
        printer::note(format!("error: signals cannot be blocked: {errno}"));
        return Some(ExitCode::FAILURE);
    }
    let started = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        hear_signals(&mut command).spawn()
    });
    match started {
        Ok(child) => {
            let code = look_after(Pid::from_raw(child.id().cast_signed()));
            Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        Err(error) => {
            printer::note(format!(
                "error: the program cannot be started again: {error}"
            ));
            Some(ExitCode::FAILURE)
        }
    }
}

/// Has the command begin with no signal blocked: it would inherit what this process blocks, and never hear its end.
pub fn hear_signals(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only one system call is made, which touches no memory that is shared.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) }
}

/// Passes signals on and reaps until the child has ended; its exit code, or 128 + its signal.
fn look_after(child: Pid) -> i32 {
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            // A terminal's business with its own group, which the child is in as well.
            Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) => {}
            Ok(signal) => {
                // It may have ended a moment ago.
                let _ = kill(child, signal);
            }
            // A real-time signal, which has no name here.
            Err(_) => {}
        }
    }
}

/// Reaps all that has ended.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, end)) => (pid, end),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(_) => continue,
        };
        if pid == child {
            code = Some(end);
        }
    }
}
