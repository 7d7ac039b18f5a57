//! A mount namespace of the container's own, without privileges.
//!
//! The shim itself enters it, before it starts anything, so that every command of the container
//! sees the same mounts. Root makes a mount namespace alone; others make a user namespace with
//! it, in which their own user and group are mapped to themselves and nobody else exists.
//!
//! A mount needs something to be mounted on. Where a path is missing on the host, the nearest
//! directory above it is covered by a `tmpfs` that shows the same entries and has room for one
//! more; where that directory is the root, the container gets a new root. Nothing is ever
//! created on the host.

use std::{
    borrow::Cow,
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
    unistd::{getegid, geteuid, pivot_root},
};

use crate::container::spec::Mount;

/// A directory with more entries is not covered: each would take a mount.
const MOST_ENTRIES: usize = 2_000;
/// Where the old root is for a moment.
const OLD_ROOT: &str = ".vk-old-root";

/// What went wrong, in one line.
pub(super) type Problem = String;

/// Enters a mount namespace of our own and makes the mounts in it. `staging` is an existing
/// directory that the container need not see.
///
/// # Errors
/// Where the system refuses; the process is of no use for a start then.
pub(super) fn enter(mounts: &[Mount], staging: &Path) -> Result<(), Problem> {
    enter_namespace()?;
    // What the host mounts later (home directories, above all) still appears; what we mount does
    // not get out.
    change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    // It lies at `<pod>/.vk/<container>/<attempt>/root`.
    let pod = staging.ancestors().nth(4).unwrap_or(staging);
    let pod = fs::canonicalize(pod).map_err(|error| failed("find", pod, &error))?;
    let mut wanted: Vec<_> = mounts.iter().map(Cow::Borrowed).collect();
    let above = |it: &Mount| {
        let target = fs::canonicalize(&it.target);
        pod.starts_with(target.as_deref().unwrap_or(&it.target))
    };
    if mounts.iter().any(above) {
        // What is mounted above the pod's own directory does not hide that.
        wanted.push(Cow::Owned(Mount {
            source: pod.clone(),
            target: pod.clone(),
            read_only: false,
            recursive: false,
            required: false,
            follows_host: false,
        }));
    }
    // Opened before anything is covered.
    let sources = wanted
        .iter()
        .map(|it| open_path(&it.source))
        .collect::<Result<Vec<_>, _>>()?;
    let mut order: Vec<_> = wanted.iter().zip(sources).collect();
    // What lies inside of another mount comes after it.
    order.sort_by_key(|(it, _)| it.target.components().count());
    let mut root = Root {
        replaced: false,
        covers: Vec::new(),
        places: vec![pod],
    };
    // First of all: later there may be something above the staging directory.
    for (mount, _) in &order {
        let (standing, missing) = standing(&mount.target)?;
        if standing == Path::new("/") && !missing.as_os_str().is_empty() {
            root.cover(&standing, staging)?;
            break;
        }
    }
    for (mount, source) in &order {
        root.mount(mount, source, staging)
            .map_err(|problem| format!("error mounting {:?}: {problem}", mount.target))?;
    }
    root.forget_old()
}

fn enter_namespace() -> Result<(), Problem> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|errno| {
        format!(
            "user namespaces are not to be had here (unshare: {})",
            errno.desc().to_lowercase()
        )
    })?;
    // The files below belong to root while this process is closed to others.
    let _ = nix::sys::prctl::set_dumpable(true);
    let mapped = write("/proc/self/setgroups", "deny")
        .or_else(|error| {
            // Kernels before 3.19 have no such file and need none.
            if error.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        })
        .and_then(|()| write("/proc/self/uid_map", &format!("{uid} {uid} 1")))
        .and_then(|()| write("/proc/self/gid_map", &format!("{gid} {gid} 1")));
    let closed = nix::sys::prctl::set_dumpable(false);
    mapped.map_err(|error| format!("user and group cannot be mapped: {error}"))?;
    closed.map_err(|errno| format!("prctl: {}", errno.desc()))
}

fn write(path: &str, text: &str) -> io::Result<()> {
    use io::Write;
    File::options()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

struct Root {
    replaced: bool,
    /// File systems that only we see.
    covers: Vec<u64>,
    /// Directories in which mount points may be made: the pod's own, and what is mounted.
    places: Vec<PathBuf>,
}

impl Root {
    fn mount(&mut self, wanted: &Mount, source: &OwnedFd, staging: &Path) -> Result<(), Problem> {
        let from = in_proc(source);
        let directory = fs::metadata(&from)
            .map_err(|error| failed("stat", &wanted.source, &error))?
            .is_dir();
        let target = self.point(&wanted.target, directory, staging)?;
        bind(&from, &target)?;
        let propagation = if wanted.follows_host {
            MsFlags::MS_SLAVE
        } else {
            MsFlags::MS_PRIVATE
        };
        change(&target, MsFlags::MS_REC | propagation)?;
        if wanted.read_only {
            read_only(&target, wanted.recursive, wanted.required)?;
        }
        // As with container runtimes, what is mounted inside of it is made in it.
        self.places.push(target);
        Ok(())
    }

    /// Whether something may be made in a directory without changing the host.
    fn may_create(&self, directory: &Path) -> bool {
        let covered = fs::metadata(directory).is_ok_and(|it| self.covers.contains(&it.dev()));
        covered || self.places.iter().any(|it| directory.starts_with(it))
    }

    /// An existing place for a mount, without symlinks.
    fn point(
        &mut self,
        target: &Path,
        directory: bool,
        staging: &Path,
    ) -> Result<PathBuf, Problem> {
        let (standing, missing) = standing(target)?;
        if missing.as_os_str().is_empty() {
            let is_directory = standing.is_dir();
            if is_directory != directory {
                let what = if is_directory {
                    "a directory"
                } else {
                    "not a directory"
                };
                return Err(format!("{} is {what}", standing.display()));
            }
            return Ok(standing);
        }
        let full = standing.join(&missing);
        if !standing.is_dir() {
            return Err(format!("{} is not a directory", standing.display()));
        }
        if !self.may_create(&standing) {
            self.cover(&standing, staging)?;
        }
        make_point(&full, directory).map_err(|error| failed("create mountpoint", &full, &error))?;
        Ok(full)
    }

    /// Makes room in a directory for one more entry.
    fn cover(&mut self, directory: &Path, staging: &Path) -> Result<(), Problem> {
        let old = open_path(directory)?;
        if directory != Path::new("/") {
            self.covers.push(tmpfs(directory)?);
            return mirror(&in_proc(&old), directory, None);
        }
        if self.replaced {
            return Err("the new root is not writable".to_owned());
        }
        let staging = fs::canonicalize(staging).map_err(|error| failed("find", staging, &error))?;
        self.covers.push(tmpfs(&staging)?);
        // The part of the tree with the new root in it comes first, while that is empty.
        let first = staging
            .components()
            .nth(1)
            .map(|it| it.as_os_str().to_owned());
        mirror(&in_proc(&old), &staging, first.as_deref())?;
        let old_root = staging.join(OLD_ROOT);
        fs::create_dir(&old_root).map_err(|error| failed("mkdir", &old_root, &error))?;
        pivot_root(&staging, &old_root).map_err(|errno| said("pivot_root", &staging, errno))?;
        std::env::set_current_dir("/").map_err(|error| failed("chdir", Path::new("/"), &error))?;
        self.replaced = true;
        Ok(())
    }

    /// Lets go of the root that was replaced; sources were bound out of it until now.
    fn forget_old(&self) -> Result<(), Problem> {
        if !self.replaced {
            return Ok(());
        }
        let old = Path::new("/").join(OLD_ROOT);
        umount2(&old, MntFlags::MNT_DETACH).map_err(|errno| said("unmount", &old, errno))?;
        fs::remove_dir(&old).map_err(|error| failed("rmdir", &old, &error))
    }
}

/// The deepest part of a path that is there, without symlinks, and the rest.
fn standing(target: &Path) -> Result<(PathBuf, PathBuf), Problem> {
    for ancestor in target.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(found) => {
                let rest = target.strip_prefix(ancestor).unwrap_or(Path::new(""));
                return Ok((found, rest.to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(ancestor).is_ok() {
                    return Err(format!("{} is a symlink to nothing", ancestor.display()));
                }
            }
            Err(error) => return Err(failed("find", ancestor, &error)),
        }
    }
    Err(format!("{} has no beginning", target.display()))
}

fn make_point(path: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return fs::create_dir_all(path);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create_new(path).map(drop)
}

/// Shows in `into` what a directory holds; `first` before all others.
fn mirror(directory: &Path, into: &Path, first: Option<&OsStr>) -> Result<(), Problem> {
    let listed =
        fs::read_dir(directory).map_err(|error| failed("list what is in", into, &error))?;
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|error| failed("list what is in", into, &error))?;
        names.push(entry.file_name());
        if names.len() > MOST_ENTRIES {
            return Err(format!(
                "{} is missing something to be mounted on, and has too many entries (more than \
                 {MOST_ENTRIES}) to be covered",
                into.display()
            ));
        }
    }
    names.sort_by_key(|name| Some(name.as_os_str()) != first);
    for name in names {
        let (from, to) = (directory.join(&name), into.join(&name));
        let Ok(found) = fs::symlink_metadata(&from) else {
            // Gone meanwhile.
            continue;
        };
        let kind = found.file_type();
        let shown = if kind.is_symlink() {
            fs::read_link(&from)
                .and_then(|target| std::os::unix::fs::symlink(target, &to))
                .map_err(|error| failed("link", &to, &error))
        } else {
            let made = if kind.is_dir() {
                fs::create_dir(&to)
            } else {
                File::create_new(&to).map(drop)
            };
            made.map_err(|error| failed("create", &to, &error))?;
            // What cannot be shown (a file system that has hung up, say) is an empty entry.
            let _ = bind(&from, &to);
            Ok(())
        };
        shown?;
    }
    Ok(())
}

/// An empty file system over a directory; its device.
fn tmpfs(at: &Path) -> Result<u64, Problem> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("vk-cmd"),
        at,
        Some("tmpfs"),
        flags,
        Some("mode=0755,size=16m"),
    )
    .map_err(|errno| said("cover", at, errno))?;
    fs::metadata(at)
        .map(|it| it.dev())
        .map_err(|error| failed("stat", at, &error))
}

fn bind(from: &Path, to: &Path) -> Result<(), Problem> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .map_err(|errno| said("bind", to, errno))
}

fn change(at: &Path, flags: MsFlags) -> Result<(), Problem> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>)
        .map_err(|errno| said("change the propagation of", at, errno))
}

/// Makes a mount read-only, and with `recursive` those below it where the kernel can (5.12).
fn read_only(at: &Path, recursive: bool, required: bool) -> Result<(), Problem> {
    if recursive {
        match set_read_only(at) {
            Ok(()) => return Ok(()),
            Err(errno) if required => {
                return Err(said("make read-only with all below it", at, errno));
            }
            Err(_) => {}
        }
    }
    // Flags that the host set are locked in a user namespace, and have to be said again;
    // relatime is what a mount has where nothing is said.
    let now = nix::sys::statvfs::statvfs(at).map_err(|errno| said("stat", at, errno))?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let kept = [
        (libc::ST_NOSUID, MsFlags::MS_NOSUID),
        (libc::ST_NODEV, MsFlags::MS_NODEV),
        (libc::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (libc::ST_NOATIME, MsFlags::MS_NOATIME),
        (libc::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    for (told, flag) in kept {
        if now.flags().bits() & told != 0 {
            flags |= flag;
        }
    }
    change_flags(at, flags)
}

fn change_flags(at: &Path, flags: MsFlags) -> Result<(), Problem> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>)
        .map_err(|errno| said("make read-only", at, errno))
}

/// `mount_setattr(2)` with `AT_RECURSIVE`.
fn set_read_only(at: &Path) -> Result<(), Errno> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const READ_ONLY: u64 = 1;
    let attributes = Attributes {
        set: READ_ONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let path = CString::new(at.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the path ends with a NUL byte, the struct is as long as is said, and both live
    // until the call returns; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            std::ptr::from_ref(&attributes),
            size_of::<Attributes>(),
        )
    };
    Errno::result(result).map(drop)
}

fn open_path(path: &Path) -> Result<OwnedFd, Problem> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| said("find", path, errno))
}

/// The path by which an open file is found, whatever covers it.
fn in_proc(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Problem {
    let code = error.raw_os_error();
    let why = code.map_or_else(
        || error.to_string(),
        |code| Errno::from_raw(code).desc().to_lowercase(),
    );
    format!("{what} {}: {why}", path.display())
}

fn said(what: &str, path: &Path, errno: Errno) -> Problem {
    format!("{what} {}: {}", path.display(), errno.desc().to_lowercase())
}
