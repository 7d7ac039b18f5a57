//! Processes that are known by more than a number.
//!
//! With [`super::held`] the only module of the crate with `unsafe` code for processes: system calls that the `nix` crate
//! does not wrap.

use std::{
    fs, io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use nix::{
    errno::Errno,
    sys::signal::{SigHandler, SigSet, Signal},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::held::{PidFd, is_unknown, signal_number};

/// Environment variable that marks every process of a container with the container's random identity.
///
/// It finds what a dead shim left behind; a process that clears its environment *and* its session *and* outlives its
/// parents escapes this mark.
pub const MARKER: &str = "VK_CMD_CONTAINER_ID";

/// Where process numbers mean something: one boot of one host, one PID namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Here {
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the PID namespace.
    pub pid_namespace: u64,
}

impl Here {
    /// Where this process is.
    pub fn current() -> io::Result<Self> {
        let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid")?.ino();
        Ok(Self {
            host,
            boot_id,
            pid_namespace,
        })
    }

    /// The identity of a process of this place.
    pub fn process(&self, pid: i32, start_time: u64) -> ProcessId {
        ProcessId {
            host: self.host.clone(),
            boot_id: self.boot_id.clone(),
            pid_namespace: self.pid_namespace,
            pid,
            start_time,
        }
    }

    /// The identity of this very process.
    pub fn own_process(&self) -> io::Result<ProcessId> {
        let pid = Pid::this().as_raw();
        let stat = Stat::read(pid)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(self.process(pid, stat.start_time))
    }

    /// Whether numbers of `id` can be compared with processes of this place.
    pub fn holds(&self, id: &ProcessId) -> bool {
        self.boot_id == id.boot_id && self.host == id.host && self.pid_namespace == id.pid_namespace
    }

    /// Whether `id` is a process of this place that has not ended (a zombie has).
    pub fn is_alive(&self, id: &ProcessId) -> io::Result<bool> {
        Ok(self.holds(id)
            && Stat::read(id.pid)?
                .is_some_and(|stat| stat.start_time == id.start_time && !stat.is_dead()))
    }
}

/// Identity of a process for as long as records last: pids repeat, and homes are shared between hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the PID namespace that `pid` is valid in.
    pub pid_namespace: u64,
    /// Process number.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
}

/// What `/proc/<pid>/stat` says that we use (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process number.
    pub pid: i32,
    /// State letter.
    pub state: u8,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Reads one process; `None` when there is none.
    pub fn read(pid: i32) -> io::Result<Option<Self>> {
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(bytes) => Self::parse(&bytes).map(Some).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("/proc/{pid}/stat is unreadable"),
                )
            }),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Parses the line. The name in parentheses may hold anything, spaces and `)` included, so fields are counted
    /// from the last `)`.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|&b| b == b'(')?;
        let close = line.iter().rposition(|&b| b == b')')?;
        let pid = std::str::from_utf8(line.get(..open)?)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let ppid = fields.next()?.parse().ok()?;
        let pgrp = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        // Fields 7 to 21 lie between the session (6) and the start time (22).
        let start_time = fields.nth(15)?.parse().ok()?;
        Some(Self {
            pid,
            state,
            ppid,
            pgrp,
            session,
            start_time,
        })
    }

    /// Whether somebody has stopped the process.
    pub fn is_stopped(&self) -> bool {
        self.state == b'T'
    }

    /// Whether the process has ended and only waits to be reaped.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// All processes that can be seen; those that end meanwhile are left out.
pub fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        match Stat::read(pid) {
            Ok(Some(stat)) => found.push(stat),
            Ok(None) => {}
            // Where /proc is mounted with hidepid=1, another user's process; it is not ours to judge.
            Err(error) if is_denied(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Children of a process, of all its threads. `None` where the kernel does not list them (no `CONFIG_PROC_CHILDREN`).
fn children(pid: i32) -> io::Result<Option<Vec<i32>>> {
    let mut found = Vec::new();
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) if is_gone(&error) => return Ok(Some(found)),
        Err(error) => return Err(error),
    };
    for thread in threads {
        let thread = match thread {
            Ok(thread) => thread.path(),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        match fs::read_to_string(thread.join("children")) {
            Ok(list) => found.extend(
                list.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            ),
            Err(error) if is_gone(&error) => {
                if thread.exists() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(found))
}

/// What descends from a process.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Those that can be looked at, parents first.
    pub seen: Vec<Stat>,
    /// Those that cannot: where `/proc` is mounted with `hidepid=1`, set-uid programs and what made itself
    /// undumpable. What they have started cannot be found as long as they live.
    pub hidden: Vec<Hidden>,
}

/// A process whose number alone is known, from its parent's list of children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    pid: i32,
    parent: i32,
}

impl Hidden {
    /// Signals it if it is still its parent's child: then its number was nobody else's meanwhile.
    ///
    /// # Errors
    /// `EPERM` where it is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let fd = match PidFd::open(self.pid) {
            Ok(None) => return Ok(false),
            Ok(Some(fd)) => Some(fd),
            Err(error) if is_unknown(&error) => None,
            Err(error) => return Err(error),
        };
        match (children(self.parent)?, fd) {
            (Some(pids), Some(fd)) if pids.contains(&self.pid) => fd.signal(signal),
            (Some(pids), None) if pids.contains(&self.pid) => signal_number(self.pid, signal),
            _ => Ok(false),
        }
    }
}

/// Descendants of a process at this moment, zombies included. What is born meanwhile may be missing:
/// callers look again after each death. A process that may not be looked at hides nothing but itself.
pub fn descendants(of: i32) -> io::Result<Tree> {
    let mut tree = Tree::default();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        let pids = match children(parent) {
            Ok(Some(pids)) => pids,
            Ok(None) => {
                return Ok(Tree {
                    seen: descendants_among(&all()?, of),
                    hidden: Vec::new(),
                });
            }
            Err(error) if is_denied(&error) && parent != of => Vec::new(),
            Err(error) => return Err(error),
        };
        for pid in pids {
            match Stat::read(pid) {
                Ok(Some(stat)) => {
                    parents.push(pid);
                    tree.seen.push(stat);
                }
                Ok(None) => {}
                Err(error) if is_denied(&error) => tree.hidden.push(Hidden { pid, parent }),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(tree)
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// The closure of the parent relation.
fn descendants_among(processes: &[Stat], of: i32) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for stat in processes
            .iter()
            .filter(|stat| stat.ppid == parent && stat.pid != parent)
        {
            parents.push(stat.pid);
            found.push(*stat);
        }
    }
    found
}

/// Whether a process carries the marker of a container: in its environment or, between the shim's `fork` and `exec`,
/// on the command line that it still shares with the shim. What we may not read carries none.
pub fn is_marked(pid: i32, container: &str) -> bool {
    let words = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    marked_environment(&words("environ"), container) || marked_shim(&words("cmdline"), container)
}

fn marked_environment(environment: &[u8], container: &str) -> bool {
    let mark = format!("{MARKER}={container}");
    environment
        .split(|&b| b == 0)
        .any(|variable| variable == mark.as_bytes())
}

/// Whether this is the whole command line of the container's shim. A program that merely has the identity among its
/// arguments is a stranger's.
fn marked_shim(command_line: &[u8], container: &str) -> bool {
    let line = command_line.strip_suffix(b"\0").unwrap_or(command_line);
    let words: Vec<&[u8]> = line.split(|&b| b == 0).collect();
    matches!(words.as_slice(),
        [_, b"shim", _, _, _, _, _, identity, _] if *identity == container.as_bytes())
}

/// Signals a process group, whose leader is a child of ours that nobody has reaped; by number, so that real-time
/// signals can be sent as well.
pub fn signal_group(leader: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: takes two numbers.
    Errno::result(unsafe { nix::libc::killpg(leader, signal) }).map(drop)
}

/// Lets every thread of a process run on these cores alone; threads that it makes later inherit
/// that. A process of the same user can undo it.
///
/// # Errors
/// The first thread that cannot be moved; one that is gone is no error.
pub fn set_cores(pid: i32, cores: &[usize]) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for thread in threads.flatten() {
        let Some(thread) = thread.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        match nix::sched::sched_setaffinity(Pid::from_raw(thread), &set) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code.
    Code(i32),
    /// By this signal, real-time ones included.
    Signal(i32),
}

/// Reaps one child that has ended; `None` while all live. `ECHILD` when there is none.
///
/// `nix` has no name for real-time signals and would lose the child that one has ended.
pub(super) fn reap_any() -> nix::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: the pointer is to an integer of ours that outlives the call.
    let pid =
        unsafe { nix::libc::waitpid(-1, &raw mut status, nix::libc::WNOHANG | nix::libc::__WALL) };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid if nix::libc::WIFSIGNALED(status) => {
            Ok(Some((pid, Ended::Signal(nix::libc::WTERMSIG(status)))))
        }
        pid => Ok(Some((pid, Ended::Code(nix::libc::WEXITSTATUS(status))))),
    }
}

/// Ignores every signal that would end or stop a supervisor, and blocks SIGCHLD and SIGUSR1 for a `signalfd`.
///
/// Batch systems signal all processes of a job at once; the shim has to outlive its container.
pub(super) fn shield_from_signals() -> nix::Result<SigSet> {
    for signal in Signal::iterator() {
        let matters = matches!(
            signal,
            Signal::SIGKILL
                | Signal::SIGSTOP
                | Signal::SIGCHLD
                | Signal::SIGUSR1
                | Signal::SIGCONT
                // A fault of the program itself must end it.
                | Signal::SIGSEGV
                | Signal::SIGBUS
                | Signal::SIGILL
                | Signal::SIGFPE
                | Signal::SIGABRT
                | Signal::SIGTRAP
                | Signal::SIGSYS
        );
        if !matters {
            // SAFETY: SIG_IGN runs no code of ours in a handler.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn)? };
        }
    }
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGUSR1);
    mask.thread_block()?;
    Ok(mask)
}

/// Closes every descriptor from `first` on: a shim must not keep what a careless parent leaked.
///
/// Only to be called before the caller has opened anything itself.
pub(super) fn close_inherited(first: i32) {
    // SAFETY: the caller owns no descriptor at or above `first` yet; closing strangers' ones is the purpose.
    let closed =
        unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, nix::libc::c_int::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Before Linux 5.9.
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .map(|fds| {
            fds.flatten()
                .filter_map(|fd| fd.file_name().to_str()?.parse().ok())
                .collect()
        })
        .unwrap_or_default();
    for fd in open.into_iter().filter(|&fd| fd >= first) {
        // SAFETY: as above; the descriptor of the listing itself is closed already, which close reports harmlessly.
        unsafe { nix::libc::close(fd) };
    }
}

/// Takes over the descriptor that the parent passed as standard input, and puts `/dev/null` in its place.
pub(super) fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    let taken = nix::fcntl::fcntl(stdin.as_fd(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))?;
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(taken) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line =
            b"42 (tmux: server) (x) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n";
        let stat = Stat::parse(line).expect("a valid line");
        assert_eq!(
            stat,
            Stat {
                pid: 42,
                state: b'S',
                ppid: 7,
                pgrp: 8,
                session: 9,
                start_time: 987_654
            }
        );
    }

    #[test]
    fn only_the_shim_itself_and_what_inherited_the_mark_are_the_containers() {
        let line = |words: &[&str]| {
            words
                .iter()
                .flat_map(|it| [it.as_bytes(), b"\0"])
                .flatten()
                .copied()
                .collect::<Vec<u8>>()
        };
        let arguments = crate::container::shim::Arguments {
            root: "/r".into(),
            uid: "u".into(),
            name: "n".into(),
            attempt: 0,
            epoch: 1,
            container: "id".into(),
            socket: "/s".into(),
        };
        let arguments = arguments.to_args();
        let mut shim = vec!["vk-cmd", "shim"];
        shim.extend(arguments.iter().filter_map(|it| it.to_str()));
        assert!(marked_shim(&line(&shim), "id"));
        assert!(!marked_shim(&line(&shim), "u"));
        assert!(!marked_shim(&line(&["grep", "id"]), "id"));
        assert!(!marked_shim(&line(&["id"]), "id"));
        assert!(!marked_shim(b"", ""));
        let mark = format!("{MARKER}=id");
        assert!(marked_environment(&line(&["A=1", &mark]), "id"));
        assert!(!marked_environment(
            &line(&["A=1", &format!("X{mark}")]),
            "id"
        ));
    }

    #[test]
    fn a_torn_line_is_no_process() {
        assert_eq!(Stat::parse(b"42 (sh) S 7 8"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn this_process_is_alive_and_its_number_with_another_start_time_is_not() {
        let here = Here::current().expect("procfs");
        let me = here.own_process().expect("own stat");
        assert!(here.is_alive(&me).expect("procfs"));
        assert!(
            !here
                .is_alive(&ProcessId {
                    start_time: me.start_time + 1,
                    ..me.clone()
                })
                .expect("procfs")
        );
        assert!(
            !here
                .is_alive(&ProcessId {
                    boot_id: "another".into(),
                    ..me
                })
                .expect("procfs")
        );
    }

    #[test]
    fn descendants_by_scan_and_by_children_files_agree_on_a_child() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("cat");
        let own = Pid::this().as_raw();
        let pid = child.id() as i32;
        let listed = descendants(own).expect("procfs");
        let scanned = descendants_among(&all().expect("procfs"), own);
        assert!(listed.seen.iter().any(|stat| stat.pid == pid));
        assert!(scanned.iter().any(|stat| stat.pid == pid));
        drop(child.stdin.take());
        child.wait().expect("cat ends at end of input");
    }
}
