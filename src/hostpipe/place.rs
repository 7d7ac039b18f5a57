//! The shared directory.
//!
//! ```text
//! <dir>/vk-cmd              the FIFO, 0600
//! <dir>/kubeconfig, env     what the documented command line does not pass; 0600, the user's
//! <dir>/lines/              output of plain lines that `hostpipe serve` has run
//! <dir>/.vk/                0700, ours
//! <dir>/.vk/vk-cmd-<…>      this program, for the host
//! <dir>/.vk/s/              sockets
//! <dir>/.vk/root/           pod data
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::stat::Mode;

/// Name of the FIFO.
pub const FIFO: &str = "vk-cmd";
/// Name of our directory in the shared one.
pub const PRIVATE: &str = ".vk";
/// Longest path of a socket: `sun_path` less its NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Room that a socket's name needs: an identity and a mark.
const SOCKET_NAME: usize = 20;

/// Why a directory cannot be a hostpipe's.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The system refused.
    #[error("failed to {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else's.
    #[error(
        "{} belongs to user {owner}, and this is user {ours}: whoever owns the hostpipe runs commands as its \
         reader; give a directory of your own", path.display()
    )]
    Foreign {
        /// What.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// No FIFO.
    #[error(
        "{} is {kind} and no FIFO: something was written there before the pipe was made; look at it, remove it, and \
         start `vk-cmd hostpipe serve` on the host first", path.display()
    )]
    NoFifo {
        /// Where it should be.
        path: PathBuf,
        /// What stands there.
        kind: &'static str,
    },
    /// Nothing there.
    #[error("{} does not exist: start `vk-cmd hostpipe serve` on the host", path.display())]
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// The path is too long for sockets.
    #[error("{} is too long a path: sockets in it could have no name; use a shorter one", path.display())]
    Long {
        /// The directory.
        path: PathBuf,
    },
}

impl PlaceError {
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}

/// A directory that was checked: ours, and closed to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeDir {
    path: PathBuf,
}

impl PipeDir {
    /// Checks a directory that is there; closes it to others.
    ///
    /// # Errors
    /// Missing, no directory, another user's, or too long a path.
    pub fn open(path: &Path) -> Result<Self, PlaceError> {
        let path = std::path::absolute(path).map_err(PlaceError::io("find", path))?;
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PlaceError::Missing { path });
            }
            Err(error) => return Err(PlaceError::io("look at", &path)(error)),
        };
        if !meta.is_dir() {
            let error = io::Error::from(nix::errno::Errno::ENOTDIR);
            return Err(PlaceError::io("use as a directory", &path)(error));
        }
        check_owner(&path, &meta)?;
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .map_err(PlaceError::io("close to others", &path))?;
        }
        let dir = Self { path };
        if dir.sockets().as_os_str().len() + 1 + SOCKET_NAME > MAX_SOCKET_PATH {
            return Err(PlaceError::Long { path: dir.path });
        }
        Ok(dir)
    }

    /// Creates the directory where it is missing, `0700`, and checks it.
    ///
    /// # Errors
    /// As [`PipeDir::open`].
    pub fn create(path: &Path) -> Result<Self, PlaceError> {
        make_dir(path)?;
        Self::open(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The FIFO.
    pub fn fifo(&self) -> PathBuf {
        self.path.join(FIFO)
    }

    /// Our directory in it.
    pub fn private(&self) -> PathBuf {
        self.path.join(PRIVATE)
    }

    /// Sockets.
    pub fn sockets(&self) -> PathBuf {
        self.private().join("s")
    }

    /// Base of pod data.
    pub fn base(&self) -> PathBuf {
        self.private().join("root")
    }

    /// Checks that the FIFO is one, ours, and closed to others.
    ///
    /// # Errors
    /// Missing, no FIFO, or another user's.
    pub fn check_fifo(&self) -> Result<(), PlaceError> {
        let path = self.fifo();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PlaceError::Missing { path });
            }
            Err(error) => return Err(PlaceError::io("look at", &path)(error)),
        };
        let kind = meta.file_type();
        if !kind.is_fifo() {
            let kind = if kind.is_file() {
                "a plain file"
            } else if kind.is_dir() {
                "a directory"
            } else if kind.is_symlink() {
                "a symlink"
            } else {
                "something else"
            };
            return Err(PlaceError::NoFifo { path, kind });
        }
        check_owner(&path, &meta)?;
        if meta.mode() & 0o777 != 0o600 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .map_err(PlaceError::io("close to others", &path))?;
        }
        Ok(())
    }

    /// Makes the FIFO where nothing stands. Returns whether it was made now.
    ///
    /// # Errors
    /// As [`PipeDir::check_fifo`].
    pub fn make_fifo(&self) -> Result<bool, PlaceError> {
        let path = self.fifo();
        let made = match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) => true,
            Err(nix::errno::Errno::EEXIST) => false,
            Err(errno) => return Err(PlaceError::io("make the FIFO", &path)(errno.into())),
        };
        self.check_fifo()?;
        Ok(made)
    }

    /// Makes our directories in it, closed to others.
    ///
    /// # Errors
    /// What the system says.
    pub fn prepare(&self) -> Result<(), PlaceError> {
        for dir in [self.private(), self.sockets()] {
            make_dir(&dir)?;
            let meta = fs::symlink_metadata(&dir).map_err(PlaceError::io("look at", &dir))?;
            check_owner(&dir, &meta)?;
        }
        Ok(())
    }

    /// Puts this very program into the directory, where the host finds it, and returns its name. One that is there
    /// already is left alone: processes run it.
    ///
    /// # Errors
    /// What the system says.
    pub fn install_program(&self, program: &Path) -> Result<String, PlaceError> {
        let mut from = fs::File::open(program).map_err(PlaceError::io("read", program))?;
        let meta = from
            .metadata()
            .map_err(PlaceError::io("look at", program))?;
        let id = identity(&mut from).map_err(PlaceError::io("read", program))?;
        let name = format!("vk-cmd-{}-{id:016x}", env!("CARGO_PKG_VERSION"));
        let target = self.private().join(&name);
        if fs::symlink_metadata(&target)
            .is_ok_and(|have| have.is_file() && have.len() == meta.len())
        {
            return Ok(name);
        }
        let fresh = self
            .private()
            .join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
        let copied = fs::copy(program, &fresh)
            .and_then(|_| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o700)))
            .and_then(|()| fs::rename(&fresh, &target));
        if let Err(error) = copied {
            // Half a program is of no use; the first error is the one to tell.
            let _ = fs::remove_file(&fresh);
            return Err(PlaceError::io("put this program in", &target)(error));
        }
        Ok(name)
    }
}

fn identity(file: &mut fs::File) -> io::Result<u64> {
    use std::{hash::Hasher, io::Read};
    let mut hasher = std::hash::DefaultHasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write(&buffer[..length]),
        }
    }
}

fn make_dir(path: &Path) -> Result<(), PlaceError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .map_err(PlaceError::io("create directory", path))
}

fn check_owner(path: &Path, meta: &fs::Metadata) -> Result<(), PlaceError> {
    let ours = nix::unistd::geteuid().as_raw();
    if meta.uid() == ours {
        return Ok(());
    }
    Err(PlaceError::Foreign {
        path: path.to_owned(),
        owner: meta.uid(),
        ours,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().expect("tempdir")
    }

    #[test]
    fn directory_and_fifo_are_closed_to_others() {
        let temp = temp();
        let path = temp.path().join("hostpipe");
        fs::create_dir(&path).expect("mkdir");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        let dir = PipeDir::create(&path).expect("usable");
        assert!(dir.make_fifo().expect("made"));
        fs::set_permissions(dir.fifo(), fs::Permissions::from_mode(0o666)).expect("chmod");
        assert!(!dir.make_fifo().expect("there"));
        let mode = |path: &Path| fs::metadata(path).expect("stat").mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.fifo())), (0o700, 0o600));
    }

    #[test]
    fn a_plain_file_in_the_place_of_the_pipe_is_told_with_the_mend() {
        let temp = temp();
        let dir = PipeDir::create(temp.path()).expect("usable");
        fs::write(dir.fifo(), "docker run x").expect("write");
        let error = dir.make_fifo().expect_err("no FIFO").to_string();
        assert!(
            error.contains("a plain file") && error.contains("hostpipe serve"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(dir.fifo()).expect("kept"),
            "docker run x"
        );
    }

    #[test]
    fn another_users_directory_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let temp = temp();
        std::os::unix::fs::chown(temp.path(), Some(4711), None).expect("chown");
        let error = PipeDir::open(temp.path()).expect_err("foreign").to_string();
        assert!(error.contains("belongs to user 4711"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named_and_so_is_a_path_without_room_for_sockets() {
        let temp = temp();
        let missing = PipeDir::open(&temp.path().join("no")).expect_err("missing");
        assert!(missing.to_string().contains("hostpipe serve"), "{missing}");
        let long = temp.path().join("x".repeat(90));
        let error = PipeDir::create(&long).expect_err("long").to_string();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn the_program_is_put_there_once() {
        let temp = temp();
        let dir = PipeDir::create(temp.path()).expect("usable");
        dir.prepare().expect("prepared");
        let program = temp.path().join("program");
        fs::write(&program, "one").expect("write");
        let first = dir.install_program(&program).expect("installed");
        let inode = || {
            fs::metadata(dir.private().join(&first))
                .expect("stat")
                .ino()
        };
        let before = inode();
        assert_eq!(dir.install_program(&program).expect("there"), first);
        assert_eq!(inode(), before);
        fs::write(&program, "two").expect("write");
        assert_ne!(dir.install_program(&program).expect("another"), first);
    }
}
