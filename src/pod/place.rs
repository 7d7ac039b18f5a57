//! Where this node's pods lie, and the one agent that may touch them.
//!
//! `<base>/<cluster>/<node>/` is the root: a home is shared by many nodes and outlives
//! clusters, so both names are in the path. One agent holds `lock` at a time; each
//! run has a greater epoch than any before it.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use super::api::{Retry, chain};
use crate::container::{
    Root,
    dir::DirError,
    files::{Dir, Durability},
};

const EPOCH: &str = "epoch";
const LOCK: &str = "lock";

/// Why the root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent runs.
    #[error(
        "{} is held by another agent{}: stop it, or give this one another node name or root",
        path.display(),
        holder.as_ref().map(|it| format!(" ({it})")).unwrap_or_default()
    )]
    Held {
        /// The lock.
        path: PathBuf,
        /// What the holder wrote down of itself.
        holder: Option<String>,
    },
    /// The file system refused.
    #[error("failed to {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file system refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The epoch file is no number.
    #[error("{} holds {found:?}, which is no epoch: remove the file if no agent runs here", path.display())]
    Epoch {
        /// The file.
        path: PathBuf,
        /// Its contents.
        found: String,
    },
}

/// The root of one node, held by this agent until it is dropped.
#[derive(Debug)]
pub struct Place {
    /// The directories.
    pub root: Root,
    /// Greater than that of any earlier run.
    pub epoch: u64,
    _lock: Flock<File>,
}

impl Place {
    /// Opens and locks `<base>/<cluster>/<node>`.
    pub fn open(base: &Path, cluster: &str, node: &str) -> Result<Self, OpenError> {
        let above = base.join(cluster);
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&above).map_err(|source| OpenError::Io {
            op: "create directory",
            path: above.clone(),
            source,
        })?;
        let root = Root::create(&above.join(node))?;
        let lock = lock(&root.path().join(LOCK))?;
        let dir = open(&root)?;
        let epoch = read_epoch(&root, &dir)?.saturating_add(1);
        dir.write_atomic(EPOCH, format!("{epoch}\n").as_bytes(), Durability::Power)?;
        Ok(Self {
            root,
            epoch,
            _lock: lock,
        })
    }
}

impl Place {
    /// Whether no newer agent works here; some file systems lock nothing. What cannot be read within `patience` may
    /// well be another's by now.
    pub async fn is_ours_alone(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut retry = Retry::default();
        loop {
            let (root, ours) = (self.root.clone(), self.epoch);
            let read = spawn_blocking(move || {
                let dir = open(&root)?;
                read_epoch(&root, &dir)
            });
            let why = match timeout_at(end, read).await {
                Ok(Ok(Ok(newest))) => return newest <= ours,
                Ok(Ok(Err(error))) => chain(&error),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            tracing::warn!(error = why, "the epoch of the root cannot be read");
            if timeout_at(end, sleep(retry.failed())).await.is_err() {
                return false;
            }
        }
    }
}

fn read_epoch(root: &Root, dir: &Dir) -> Result<u64, OpenError> {
    let Some(bytes) = dir.read(EPOCH)? else {
        return Ok(0);
    };
    let found = String::from_utf8_lossy(&bytes).trim().to_owned();
    let path = root.path().join(EPOCH);
    found.parse().map_err(|_| OpenError::Epoch { path, found })
}

fn open(root: &Root) -> Result<Dir, OpenError> {
    let missing = || OpenError::Io {
        op: "open directory",
        path: root.path().to_owned(),
        source: io::ErrorKind::NotFound.into(),
    };
    Dir::open_trusted(root.path())?.ok_or_else(missing)
}

fn lock(path: &Path) -> Result<Flock<File>, OpenError> {
    let failed = |op: &'static str| {
        let path = path.to_owned();
        move |source| OpenError::Io { op, path, source }
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed("open"))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = read
                .ok()
                .map(|_| holder.trim().to_owned())
                .filter(|it| !it.is_empty());
            return Err(OpenError::Held {
                path: path.to_owned(),
                holder,
            });
        }
        Err((_, errno)) => return Err(failed("lock")(errno.into())),
    };
    let host = nix::unistd::gethostname().unwrap_or_default();
    let note = format!("pid {} on {}\n", std::process::id(), host.to_string_lossy());
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(note.as_bytes()))
        .map_err(failed("write"))?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_agent_at_a_time_and_epochs_grow() {
        let base = tempfile::tempdir().unwrap();
        let first = Place::open(base.path(), "cluster", "node").unwrap();
        assert_eq!(first.epoch, 1);
        let Err(OpenError::Held { holder, .. }) = Place::open(base.path(), "cluster", "node")
        else {
            panic!("locked twice");
        };
        assert!(
            holder
                .unwrap()
                .contains(&format!("pid {}", std::process::id()))
        );
        let other = Place::open(base.path(), "cluster", "other").unwrap();
        assert_eq!(other.epoch, 1);
        drop(first);
        assert_eq!(
            Place::open(base.path(), "cluster", "node").unwrap().epoch,
            2
        );
        let second = Place::open(base.path(), "cluster", "node").unwrap();
        let patience = Duration::from_millis(1);
        assert!(second.is_ours_alone(Duration::from_secs(60)).await);
        let epoch = second.root.path().join(EPOCH);
        std::fs::write(&epoch, "40").unwrap();
        assert!(!second.is_ours_alone(Duration::from_secs(60)).await);
        std::fs::write(&epoch, "unreadable").unwrap();
        assert!(!second.is_ours_alone(patience).await);
    }

    #[test]
    fn a_broken_epoch_is_reported_with_the_mend() {
        let base = tempfile::tempdir().unwrap();
        drop(Place::open(base.path(), "c", "n").unwrap());
        std::fs::write(base.path().join("c/n/epoch"), "what").unwrap();
        let error = Place::open(base.path(), "c", "n").unwrap_err().to_string();
        assert!(
            error.contains("\"what\"") && error.contains("remove the file"),
            "{error}"
        );
    }

    #[test]
    fn an_unwritable_base_is_named() {
        let error = Place::open(Path::new("/proc/no"), "c", "n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/proc/no"), "{error}");
    }
}
