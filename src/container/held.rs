//! Processes that are held, so that a signal cannot reach a later one of the same number.
//!
//! A descriptor of a process (Linux 5.3) does that. Before it, and where a seccomp profile knows no `pidfd_open`, the
//! start time is compared just before each signal: a window of microseconds stays open, in which the process would
//! have to end and the kernel to hand out every other number.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use nix::{errno::Errno, sys::signal::Signal, unistd::Pid};
use tokio::io::unix::AsyncFd;

use super::process::Stat;

/// How often a process without a descriptor is looked at: nothing tells its end to one who is not its parent.
const LOOK: Duration = Duration::from_millis(20);

/// A process that was seen, and is still the same.
#[derive(Debug)]
pub struct Held {
    seen: Stat,
    fd: Option<PidFd>,
}

impl Held {
    /// Holds the process that was seen; `None` where it is gone.
    ///
    /// # Errors
    /// Where `/proc` or the kernel cannot be asked.
    pub fn of(seen: &Stat) -> io::Result<Option<Self>> {
        let fd = match PidFd::open(seen.pid) {
            Ok(None) => return Ok(None),
            Ok(Some(fd)) => Some(fd),
            Err(error) if is_unknown(&error) => None,
            Err(error) => return Err(error),
        };
        // The descriptor was opened after `seen` was read: compare before it is trusted.
        let held = Self { seen: *seen, fd };
        Ok(held.is_there()?.then_some(held))
    }

    fn is_there(&self) -> io::Result<bool> {
        let now = Stat::read(self.seen.pid)?;
        Ok(now.is_some_and(|now| now.start_time == self.seen.start_time))
    }

    /// Sends a signal; false where the process is gone.
    ///
    /// # Errors
    /// `EPERM` where it is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match &self.fd {
            Some(fd) => fd.signal(signal),
            None if self.is_there()? => signal_number(self.seen.pid, signal),
            None => Ok(false),
        }
    }

    /// Waits until the process has ended (a zombie has). Cancel-safe. Needs a runtime.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub async fn ended(self) -> io::Result<()> {
        if let Some(fd) = self.fd {
            return fd.ended().await;
        }
        loop {
            let now = Stat::read(self.seen.pid)?;
            if now.is_none_or(|now| now.start_time != self.seen.start_time || now.is_dead()) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Signals a process if it is still the one that was seen.
///
/// Returns whether it was; `EPERM` comes back as an error.
pub fn signal_seen(seen: &Stat, signal: Signal) -> io::Result<bool> {
    Held::of(seen)?.map_or(Ok(false), |process| process.signal(signal))
}

/// Signals whoever has the number now.
pub(super) fn signal_number(pid: i32, signal: Signal) -> io::Result<bool> {
    match nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the kernel, or the seccomp profile of an older container engine, knows no such call. `pidfd_open` itself
/// asks for no permission, so a refusal says the same.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    let known = [Errno::ENOSYS as i32, Errno::EPERM as i32];
    error.raw_os_error().is_some_and(|it| known.contains(&it))
}

/// A process that cannot be mistaken for a later one of the same number. Readable when the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a process; `None` when there is none.
    ///
    /// # Errors
    /// [`is_unknown`] where there is no such call.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
        match Errno::result(fd) {
            // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
            Ok(fd) => Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))),
            Err(Errno::ESRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends a signal; false when the process has been reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        // SAFETY: the siginfo pointer is null, which the call documents; the rest are integers.
        let sent = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as i32,
                std::ptr::null::<nix::libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl PidFd {
    /// Waits until the process has ended (a zombie has). Cancel-safe. Needs a runtime.
    pub async fn ended(self) -> io::Result<()> {
        // SAFETY: the descriptor is owned by `self`, which gives the same one at each call and closes it last.
        let process = unsafe { AsyncFd::register(self) }.map_err(io::Error::from)?;
        process.readable().await.map(drop)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn child() -> (Child, Stat) {
        let child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = child.id().cast_signed();
        let stat = Stat::read(pid).expect("procfs").expect("it runs");
        (child, stat)
    }

    #[tokio::test]
    async fn a_process_is_held_with_a_descriptor_and_without() {
        for with in [true, false] {
            let (mut child, seen) = child();
            let mut held = Held::of(&seen).expect("procfs").expect("it runs");
            if !with {
                held.fd = None;
            }
            assert!(held.signal(Signal::SIGKILL).expect("ours"));
            held.ended().await.expect("it ends");
            child.wait().expect("reaped");
            assert!(Held::of(&seen).expect("procfs").is_none());
        }
    }

    #[test]
    fn a_later_process_of_the_same_number_is_left_alone() {
        let (mut child, seen) = child();
        let other = Stat {
            start_time: seen.start_time + 1,
            ..seen
        };
        assert!(!signal_seen(&other, Signal::SIGKILL).expect("procfs"));
        let without = Held {
            seen: other,
            fd: None,
        };
        assert!(!without.signal(Signal::SIGKILL).expect("procfs"));
        assert!(child.try_wait().expect("ours").is_none());
        child.kill().expect("ours");
        child.wait().expect("reaped");
    }

    #[test]
    fn a_refused_call_is_an_unknown_one() {
        for (errno, unknown) in [
            (Errno::ENOSYS, true),
            (Errno::EPERM, true),
            (Errno::EMFILE, false),
        ] {
            assert_eq!(is_unknown(&errno.into()), unknown);
        }
    }
}
