//! Where the files of a container are.
//!
//! ```text
//! <root>/pods/<uid>/containers/<name>/            working directory: mounts, pgid, stdout, stderr of the running attempt
//! <root>/pods/<uid>/.vk/<name>/<attempt>/         intent.json, claim.json, status.json, log.<n>
//! ```
//!
//! The records of an attempt are beside the working directory and not in it, so that a script that cleans up after
//! itself cannot remove them by mistake.

use std::path::{Path, PathBuf};

/// Names in a container's working directory that belong to the shim; mounts must not use them.
pub const RESERVED_NAMES: [&str; 3] = ["pgid", "stdout", "stderr"];

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// A name that is no single path component (empty, `.`, `..`, with a slash or a NUL byte, or longer than 255 bytes).
    #[error("{name:?} cannot be a directory's name: it must be one path component")]
    Name {
        /// The name.
        name: String,
    },
    /// The system refused.
    #[error("failed to {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// The private root of one node: `0700`.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Creates the root (`0700`) where it is missing. `path` must be absolute; what lies above it is trusted.
    pub fn create(path: &Path) -> Result<Self, DirError> {
        let _ = path;
        todo!()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// UIDs of the pods that have a directory.
    pub fn pods(&self) -> Result<Vec<String>, DirError> {
        todo!()
    }

    /// `<root>/pods/<uid>`, for what the pod layer keeps beside the containers; created `0700`.
    pub fn create_pod(&self, uid: &str) -> Result<PathBuf, DirError> {
        let _ = uid;
        todo!()
    }

    /// Names of the containers of a pod that have records.
    pub fn containers(&self, uid: &str) -> Result<Vec<String>, DirError> {
        let _ = uid;
        todo!()
    }

    /// Removes `<root>/pods/<uid>` with all in it; follows no symlink, crosses into nothing outside. Missing is fine.
    pub fn remove_pod(&self, uid: &str) -> Result<(), DirError> {
        let _ = uid;
        todo!()
    }

    /// One container's directories; creates nothing.
    pub fn container(&self, uid: &str, name: &str) -> Result<ContainerDir, DirError> {
        let _ = (uid, name);
        todo!()
    }
}

/// Directories of one container.
#[derive(Clone, Debug)]
pub struct ContainerDir {
    root: Root,
    uid: String,
    name: String,
}

impl ContainerDir {
    /// The working directory, `<root>/pods/<uid>/containers/<name>`.
    pub fn path(&self) -> PathBuf {
        self.root
            .path
            .join("pods")
            .join(&self.uid)
            .join("containers")
            .join(&self.name)
    }

    /// Creates the working directory (`0700`) where it is missing.
    pub fn create(&self) -> Result<(), DirError> {
        todo!()
    }

    /// Attempts with records, ascending.
    pub fn attempts(&self) -> Result<Vec<u32>, DirError> {
        todo!()
    }

    /// Records of one attempt; creates nothing.
    pub fn attempt(&self, attempt: u32) -> AttemptDir {
        AttemptDir {
            container: self.clone(),
            attempt,
        }
    }

    /// Removes the records of one attempt. Missing is fine.
    pub fn remove_attempt(&self, attempt: u32) -> Result<(), DirError> {
        let _ = attempt;
        todo!()
    }
}

/// Records of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptDir {
    container: ContainerDir,
    attempt: u32,
}

impl AttemptDir {
    /// Number of the attempt.
    pub fn number(&self) -> u32 {
        self.attempt
    }

    /// The container it belongs to.
    pub fn container(&self) -> &ContainerDir {
        &self.container
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        let c = &self.container;
        c.root
            .path
            .join("pods")
            .join(&c.uid)
            .join(".vk")
            .join(&c.name)
            .join(self.attempt.to_string())
    }
}
