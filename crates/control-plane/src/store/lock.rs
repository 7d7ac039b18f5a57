//! The lock that makes a store one process's own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::OpenError;

/// Held as long as the store is open; the kernel frees it when the process dies.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: Flock<File>,
}

impl DirectoryLock {
    pub(super) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("lock");
        let failed = |operation, source| OpenError::Io {
            operation,
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("open", source))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // A hint for people; the refusal stands without it.
                let pid = match file.read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(OpenError::AlreadyOpen {
                    directory: directory.into(),
                    pid,
                });
            }
            Err((_, errno)) => return Err(failed("lock", errno.into())),
        };
        // Neither is needed for the lock to hold: on a full disk the file just stays empty.
        if let Err(error) = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
        {
            tracing::warn!(path = %path.display(), %error, "cannot note the process in the lock file");
        }
        Ok(Self { _file: file })
    }
}
