//! File operations that no planted symlink can redirect.
//!
//! A pod runs under our uid and may put anything into its directory between two of our steps. So every step goes
//! through a directory descriptor, takes one path component at a time and follows no symlink.

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::dir::DirError;

/// Mode of our files.
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// Records larger than this are not ours.
const MAX_RECORD: u64 = 1024 * 1024;
/// Levels below which a removal moves sub-directories up instead of holding more descriptors.
const MAX_DEPTH: usize = 128;

/// Whether a record has to outlive a power failure, or a death of processes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Visible to every process at once; a machine that fails within seconds may forget it.
    Processes,
    /// On the medium before the call returns.
    Power,
}

/// Outcome of [`Dir::link_new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// The name is ours.
    Yes,
    /// Something of that name stands.
    Taken,
    /// The file system has no links.
    Unsupported,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether something failed because a disk is full, or a quota used up.
pub fn wants_room(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(
            kind,
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        ) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Checks that a name is one path component.
pub fn check_name(name: &str) -> Result<(), DirError> {
    let bad = name.is_empty()
        || name == "."
        || name == ".."
        || name.len() > 255
        || name.contains(['/', '\0']);
    if bad {
        Err(DirError::Name {
            name: name.to_owned(),
        })
    } else {
        Ok(())
    }
}

impl Dir {
    /// Opens a directory by its path; what lies above it is trusted.
    pub fn open_trusted(path: &Path) -> Result<Option<Self>, DirError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        match nix::fcntl::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: path.to_owned(),
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(DirError::io("open", path, errno)),
        }
    }

    /// Where it was when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a sub-directory; `None` where there is none. A symlink is an error.
    pub fn open(&self, name: &str) -> Result<Option<Self>, DirError> {
        check_name(name)?;
        self.open_entry(OsStr::new(name))
    }

    fn open_entry(&self, name: &OsStr) -> Result<Option<Self>, DirError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        match nix::fcntl::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: self.path.join(name),
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(DirError::io("open directory", &self.path.join(name), errno)),
        }
    }

    /// Opens a sub-directory, which is created `0700` where it is missing.
    pub fn open_or_create(&self, name: &str) -> Result<Self, DirError> {
        check_name(name)?;
        // Opening first spares a system call that fails in the common case of all levels but the last.
        if let Some(dir) = self.open(name)? {
            return Ok(dir);
        }
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => {
                return Err(DirError::io(
                    "create directory",
                    &self.path.join(name),
                    errno,
                ));
            }
        }
        self.open(name)?
            .ok_or_else(|| DirError::io("open directory", &self.path.join(name), Errno::ENOENT))
    }

    /// The same for one that other users may be led into, by a mount of their own: a new one gets these permissions,
    /// whatever the umask. What lies above it is closed to them.
    ///
    /// # Errors
    /// As [`Dir::open_or_create`].
    pub fn open_or_create_shared(&self, name: &str, mode: u32) -> Result<Self, DirError> {
        if let Some(dir) = self.open(name)? {
            return Ok(dir);
        }
        let dir = self.open_or_create(name)?;
        nix::sys::stat::fchmod(&dir.fd, Mode::from_bits_truncate(mode))
            .map_err(|errno| DirError::io("open to others", &dir.path, errno))?;
        Ok(dir)
    }

    /// Opens a directory some levels down, one component at a time.
    pub fn descend(self, names: &[&str]) -> Result<Option<Self>, DirError> {
        let mut dir = self;
        for name in names {
            match dir.open(name)? {
                Some(below) => dir = below,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// Reads a whole small file; `None` where there is none. Anything but a regular file is an error.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DirError> {
        let Some(file) = self.open_file(name)? else {
            return Ok(None);
        };
        let error = |source| DirError::Io {
            op: "read",
            path: self.path.join(name),
            source,
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD)
            .read_to_end(&mut bytes)
            .map_err(error)?;
        Ok(Some(bytes))
    }

    /// Opens a regular file to read; `None` where there is none.
    pub fn open_file(&self, name: &str) -> Result<Option<File>, DirError> {
        check_name(name)?;
        // O_NONBLOCK: opening a planted FIFO must not hang.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = match nix::fcntl::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(DirError::io("open", &self.path.join(name), errno)),
        };
        let stat =
            fstat(&fd).map_err(|errno| DirError::io("stat", &self.path.join(name), errno))?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(DirError::io(
                "read as a regular file",
                &self.path.join(name),
                Errno::EINVAL,
            ));
        }
        Ok(Some(File::from(fd)))
    }

    /// Creates a file that was not there; `None` where something of that name stands.
    pub fn create_new(&self, name: &str) -> Result<Option<File>, DirError> {
        check_name(name)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&self.fd, name, flags, FILE_MODE) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(DirError::io("create", &self.path.join(name), errno)),
        }
    }

    /// Creates a file in the place of whatever file, symlink or FIFO has its name. A directory is an error.
    pub fn create_fresh(&self, name: &str) -> Result<File, DirError> {
        if let Some(file) = self.create_new(name)? {
            return Ok(file);
        }
        self.remove_file(name)?;
        self.create_new(name)?
            .ok_or_else(|| DirError::io("create", &self.path.join(name), Errno::EEXIST))
    }

    /// Removes a file or symlink. Missing is fine.
    pub fn remove_file(&self, name: &str) -> Result<(), DirError> {
        check_name(name)?;
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(DirError::io("remove", &self.path.join(name), errno)),
        }
    }

    /// Gives a file a second name that was not there.
    pub fn link_new(&self, from: &str, to: &str) -> Result<Linked, DirError> {
        check_name(from)?;
        check_name(to)?;
        match nix::unistd::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            Ok(()) => Ok(Linked::Yes),
            Err(Errno::EEXIST) => Ok(Linked::Taken),
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => {
                Ok(Linked::Unsupported)
            }
            Err(errno) => Err(DirError::io("link to", &self.path.join(to), errno)),
        }
    }

    /// Makes a symlink where nothing stands.
    pub fn symlink(&self, target: &Path, name: &str) -> Result<(), DirError> {
        check_name(name)?;
        nix::unistd::symlinkat(target, &self.fd, name)
            .map_err(|errno| DirError::io("link", &self.path.join(name), errno))
    }

    /// Where a symlink leads; `None` where none of that name is.
    pub fn read_link(&self, name: &str) -> Result<Option<PathBuf>, DirError> {
        check_name(name)?;
        match nix::fcntl::readlinkat(&self.fd, name) {
            Ok(target) => Ok(Some(target.into())),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(DirError::io("read link", &self.path.join(name), errno)),
        }
    }

    /// Renames within the directory.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), DirError> {
        check_name(from)?;
        check_name(to)?;
        nix::fcntl::renameat(&self.fd, from, &self.fd, to)
            .map_err(|errno| DirError::io("rename to", &self.path.join(to), errno))
    }

    /// Writes a file whole or not at all: readers see the old or the new contents.
    pub fn write_atomic(
        &self,
        name: &str,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(), DirError> {
        let temporary = temporary_name(name);
        let error = |source| DirError::Io {
            op: "write",
            path: self.path.join(name),
            source,
        };
        let mut file = self.create_fresh(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| match durability {
            Durability::Processes => Ok(()),
            Durability::Power => file.sync_all(),
        });
        if let Err(source) = written {
            // The half-written file is of no use; the first error is the one to tell.
            let _ = self.remove_file(&temporary);
            return Err(error(source));
        }
        self.rename(&temporary, name)?;
        match durability {
            Durability::Processes => Ok(()),
            Durability::Power => self.sync(),
        }
    }

    /// Brings names to the medium.
    pub fn sync(&self) -> Result<(), DirError> {
        nix::unistd::fsync(&self.fd).map_err(|errno| DirError::io("sync", &self.path, errno))
    }

    /// Names in the directory, in no order.
    pub fn names(&self) -> Result<Vec<OsString>, DirError> {
        let error = |errno| DirError::io("list", &self.path, errno);
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let mut listing =
            nix::dir::Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(error)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(error)?;
            if !is_dot(entry.file_name()) {
                names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
        }
        Ok(names)
    }

    /// Removes whatever has the name, a directory with all in it. Follows no symlink and enters no other file system.
    /// Missing is fine.
    pub fn remove_tree(&self, name: &str) -> Result<(), DirError> {
        check_name(name)?;
        let Some(top) = self.remove_entry(OsStr::new(name))? else {
            return Ok(());
        };
        let device = fstat(&top)
            .map_err(|errno| DirError::io("stat", &top.path, errno))?
            .st_dev;
        let mut moved = 0_u32;
        // Each level is listed once; a level that stays non-empty because the pod still writes is an error of rmdir.
        let mut levels = vec![Level {
            names: top.names()?,
            dir: top,
        }];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.names.pop() else {
                let Some(done) = levels.pop() else { break };
                let (parent, name) = match levels.last() {
                    Some(parent) => (&parent.dir, done.dir.path.file_name().unwrap_or_default()),
                    None => (self, OsStr::new(name)),
                };
                unlinkat(&parent.fd, name, UnlinkatFlags::RemoveDir)
                    .or_else(|errno| {
                        if errno == Errno::ENOENT {
                            Ok(())
                        } else {
                            Err(errno)
                        }
                    })
                    .map_err(|errno| DirError::io("remove directory", &done.dir.path, errno))?;
                continue;
            };
            let Some(below) = level.dir.remove_entry(&entry)? else {
                continue;
            };
            let stat = fstat(&below).map_err(|errno| DirError::io("stat", &below.path, errno))?;
            if stat.st_dev != device {
                return Err(DirError::io(
                    "remove, which is a mount point:",
                    &below.path,
                    Errno::EBUSY,
                ));
            }
            if levels.len() >= MAX_DEPTH {
                let (deep, top) = (&levels[levels.len() - 1].dir, &levels[0]);
                let name = loop {
                    moved += 1;
                    let name = OsString::from(format!(".vk-deep-{moved}"));
                    match nix::fcntl::renameat(&deep.fd, &*entry, &top.dir.fd, &*name) {
                        Ok(()) => break name,
                        // Of a removal that was broken off, or the pod's own.
                        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
                        Err(errno) => return Err(DirError::io("move up", &below.path, errno)),
                    }
                };
                levels[0].names.push(name);
                continue;
            }
            levels.push(Level {
                names: below.names()?,
                dir: below,
            });
        }
        Ok(())
    }

    /// Removes an entry that is no directory; opens one that is.
    fn remove_entry(&self, name: &OsStr) -> Result<Option<Self>, DirError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(None),
            // Linux says EISDIR, POSIX EPERM.
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(Errno::EACCES) => {
                self.make_accessible()?;
                match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => return Ok(None),
                    Err(Errno::EISDIR | Errno::EPERM) => {}
                    Err(errno) => return Err(DirError::io("remove", &self.path.join(name), errno)),
                }
            }
            Err(errno) => return Err(DirError::io("remove", &self.path.join(name), errno)),
        }
        let stat = match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(DirError::io("stat", &self.path.join(name), errno)),
        };
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
            return Err(DirError::io("remove", &self.path.join(name), Errno::EPERM));
        }
        if stat.st_mode & 0o700 != 0o700 {
            // O_PATH opens what may not be read, and its entry in /proc changes the mode of exactly that directory.
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let fd = nix::fcntl::openat(&self.fd, name, flags, Mode::empty())
                .map_err(|errno| DirError::io("open directory", &self.path.join(name), errno))?;
            Self {
                fd,
                path: self.path.join(name),
            }
            .make_accessible()?;
        }
        self.open_entry(name)
    }

    fn make_accessible(&self) -> Result<(), DirError> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            link.as_str(),
            Mode::S_IRWXU,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .map_err(|errno| DirError::io("change the mode of", &self.path, errno))
    }
}

struct Level {
    dir: Dir,
    names: Vec<OsString>,
}

/// A name that no other writer uses, of this process, host or another one that shares the directory.
pub(super) fn temporary_name(name: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!(".{name}.{}.{count}.{}", std::process::id(), now.as_nanos())
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

impl DirError {
    pub(super) fn io(op: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            op,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn open(path: &Path) -> Dir {
        Dir::open_trusted(path).expect("openable").expect("present")
    }

    #[test]
    fn names_that_are_no_single_component_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "a\0b", &"x".repeat(256)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("c1").is_ok());
    }

    #[test]
    fn a_planted_symlink_redirects_neither_opening_nor_writing_nor_removal() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
        std::fs::create_dir_all(&inside).expect("mkdir");
        std::fs::create_dir_all(outside.join("sub")).expect("mkdir");
        std::fs::write(outside.join("precious"), "kept").expect("write");
        symlink(&outside, inside.join("dir")).expect("symlink");
        symlink(outside.join("precious"), inside.join("file")).expect("symlink");
        let dir = open(&inside);

        assert!(dir.open("dir").is_err());
        assert!(dir.open_or_create("dir").is_err());
        assert!(dir.read("file").is_err());
        dir.create_fresh("file")
            .expect("replaced")
            .write_all(b"mine")
            .expect("written");
        dir.write_atomic("dir", b"mine", Durability::Power)
            .expect("replaces the link itself");
        symlink(&outside, inside.join("again")).expect("symlink");
        dir.remove_tree("again").expect("removes the link");

        assert_eq!(
            std::fs::read_to_string(outside.join("precious")).expect("kept"),
            "kept"
        );
        assert!(outside.join("sub").is_dir());
    }

    #[test]
    fn a_fifo_in_the_place_of_a_record_is_an_error_and_no_hang() {
        let temp = tempfile::tempdir().expect("tempdir");
        nix::unistd::mkfifo(&temp.path().join("status.json"), Mode::S_IRWXU).expect("mkfifo");
        assert!(open(temp.path()).read("status.json").is_err());
    }

    #[test]
    fn a_tree_with_closed_directories_links_and_great_depth_goes_and_its_surroundings_stay() {
        let temp = tempfile::tempdir().expect("tempdir");
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::write(outside.join("precious"), "kept").expect("write");
        let mut deep = temp.path().join("tree");
        for _ in 0..(3 * MAX_DEPTH) {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).expect("mkdir");
        // As one that was broken off leaves it.
        std::fs::create_dir_all(temp.path().join("tree/.vk-deep-1/d")).expect("mkdir");
        symlink(&outside, deep.join("link")).expect("symlink");
        let closed = temp.path().join("tree/closed");
        std::fs::create_dir(&closed).expect("mkdir");
        std::fs::write(closed.join("file"), "x").expect("write");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("chmod");

        open(temp.path()).remove_tree("tree").expect("removed");

        assert!(!temp.path().join("tree").exists());
        assert_eq!(
            std::fs::read_to_string(outside.join("precious")).expect("kept"),
            "kept"
        );
        open(temp.path())
            .remove_tree("tree")
            .expect("missing is fine");
    }
}
