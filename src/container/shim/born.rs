//! A process that begins in a control group.
//!
//! `posix_spawn` of neither C library can do that everywhere, and a process that is moved afterwards may have had
//! children before. The supervisor must not go there itself: it would be killed with the group. So this is
//! `clone3(2)` with `CLONE_INTO_CGROUP` (Linux 5.7), as a fork.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::Read,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::Pid,
};

/// What the new process does before it becomes the command.
pub(super) struct Plan<'a> {
    /// Descriptors and the numbers that they get.
    pub(super) files: &'a [(RawFd, RawFd)],
    /// The slave of the terminal that it gets, with a session of its own; else it gets a process group.
    pub(super) terminal: Option<&'a CStr>,
}

/// `struct clone_args` of its first version with a group (`CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP`, which does not fit into the type of the flags of `clone(2)`.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts a program in a group; what goes wrong until it runs is the error, as with `posix_spawn`.
pub(super) fn spawn(
    group: BorrowedFd<'_>,
    program: &Path,
    argv: &[CString],
    environment: &[CString],
    plan: &Plan<'_>,
) -> nix::Result<Pid> {
    use std::os::unix::ffi::OsStrExt;
    let program = CString::new(program.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let argv = pointers(argv);
    let environment = pointers(environment);
    let (heard, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let mut arguments = CloneArgs {
        flags: INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: group.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // A signal before its handlers are reset would be handled by ours.
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    // SAFETY: the struct is as long as is said and lives until the call returns. There is no other thread whose locks
    // the copy could hold, and memory is not shared.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut arguments),
            size_of::<CloneArgs>(),
        )
    };
    if pid == 0 {
        // SAFETY: we are the new process, and all pointers are to memory that was made before.
        let errno = unsafe { become_command(&program, &argv, &environment, plan) };
        let bytes = (errno as i32).to_ne_bytes();
        // SAFETY: the descriptor is ours, and the buffer is as long as is said.
        unsafe {
            libc::write(told.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }
    let cloned = Errno::result(pid);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    drop(told);
    let pid = Pid::from_raw(i32::try_from(cloned?).map_err(|_| Errno::EOVERFLOW)?);
    let mut bytes = [0; 4];
    // Its end closes with the `exec`.
    if File::from(heard).read_exact(&mut bytes).is_ok() {
        // It has said why, so that it ends at once.
        let _ = nix::sys::wait::waitpid(pid, None);
        return Err(Errno::from_raw(i32::from_ne_bytes(bytes)));
    }
    Ok(pid)
}

/// Pointers to texts, and a null pointer behind them.
fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    let all = texts.iter().map(|text| text.as_ptr());
    all.chain(std::iter::once(std::ptr::null())).collect()
}

/// Turns this process into the command; returns only what keeps it from that. Allocates nothing.
///
/// # Safety
/// In a new process alone; the lists end with a null pointer.
unsafe fn become_command(
    program: &CStr,
    argv: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    plan: &Plan<'_>,
) -> Errno {
    // SAFETY: calls of the system with numbers and with pointers that the caller vouches for.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            // SIGKILL, SIGSTOP and those of the C library cannot be set.
            libc::signal(signal, libc::SIG_DFL);
        }
        match plan.terminal {
            None => {
                if libc::setpgid(0, 0) < 0 {
                    return Errno::last();
                }
            }
            Some(path) => {
                // A session leader without a terminal gets the first one that it opens.
                if libc::setsid() < 0 {
                    return Errno::last();
                }
                let terminal = libc::open(path.as_ptr(), libc::O_RDWR);
                if terminal < 0 {
                    return Errno::last();
                }
                for number in 0..3 {
                    if libc::dup2(terminal, number) < 0 {
                        return Errno::last();
                    }
                }
                if terminal > 2 {
                    libc::close(terminal);
                }
            }
        }
        for &(from, to) in plan.files {
            if libc::dup2(from, to) < 0 {
                return Errno::last();
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr());
        Errno::last()
    }
}
