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

use nix::{errno::Errno, sys::stat::fstat};

use super::files::{Dir, check_name};

/// Names in a container's working directory that belong to the shim; mounts must not use them.
pub const RESERVED_NAMES: [&str; 5] = ["pgid", "stdout", "stderr", "stdout.1", "stderr.1"];

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

/// The private root of one node: `0700`, owned by us.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Creates the root (`0700`) where it is missing. `path` must be absolute; what lies above it is trusted.
    pub fn create(path: &Path) -> Result<Self, DirError> {
        if !path.is_absolute() {
            return Err(DirError::io(
                "use a relative path as root:",
                path,
                Errno::EINVAL,
            ));
        }
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .recursive(true)
            .create(path)
            .map_err(|source| DirError::Io {
                op: "create directory",
                path: path.to_owned(),
                source,
            })?;
        let root = Self {
            path: path.to_owned(),
        };
        check_private(&root.open()?)?;
        Ok(root)
    }

    /// A root that is there; for those who must not bring back what was removed.
    pub(super) fn existing(path: &Path) -> Result<Self, DirError> {
        let root = Self {
            path: path.to_owned(),
        };
        check_private(&root.open()?)?;
        Ok(root)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// UIDs of the pods that have a directory.
    pub fn pods(&self) -> Result<Vec<String>, DirError> {
        match self.open()?.open("pods")? {
            Some(pods) => directory_names(&pods),
            None => Ok(Vec::new()),
        }
    }

    /// `<root>/pods/<uid>`, for what the pod layer keeps beside the containers; created `0700`.
    pub fn create_pod(&self, uid: &str) -> Result<PathBuf, DirError> {
        self.open()?.open_or_create("pods")?.open_or_create(uid)?;
        Ok(self.path.join("pods").join(uid))
    }

    /// Names of the containers of a pod that have records.
    pub fn containers(&self, uid: &str) -> Result<Vec<String>, DirError> {
        match self.open()?.descend(&["pods", uid, RECORDS])? {
            Some(records) => directory_names(&records),
            None => Ok(Vec::new()),
        }
    }

    /// Removes `<root>/pods/<uid>` with all in it; follows no symlink, crosses into nothing outside. Missing is fine.
    pub fn remove_pod(&self, uid: &str) -> Result<(), DirError> {
        check_name(uid)?;
        match self.open()?.open("pods")? {
            Some(pods) => pods.remove_tree(uid),
            None => Ok(()),
        }
    }

    /// One container's directories; creates nothing.
    pub fn container(&self, uid: &str, name: &str) -> Result<ContainerDir, DirError> {
        check_name(uid)?;
        check_name(name)?;
        Ok(ContainerDir {
            root: self.clone(),
            uid: uid.to_owned(),
            name: name.to_owned(),
        })
    }

    pub(super) fn open(&self) -> Result<Dir, DirError> {
        Dir::open_trusted(&self.path)?
            .ok_or_else(|| DirError::io("open directory", &self.path, Errno::ENOENT))
    }
}

/// Directory, inside a pod's, of the records of its containers.
const RECORDS: &str = ".vk";

/// Names of entries, ascending, those left out that are no valid UTF-8 (not ours).
fn directory_names(dir: &Dir) -> Result<Vec<String>, DirError> {
    let mut names: Vec<String> = dir
        .names()?
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Checks that a directory is ours and closed to others.
pub(super) fn check_private(dir: &Dir) -> Result<(), DirError> {
    let stat = fstat(dir).map_err(|errno| DirError::io("stat", dir.path(), errno))?;
    if stat.st_uid != nix::unistd::geteuid().as_raw() {
        return Err(DirError::io(
            "use a directory of another user:",
            dir.path(),
            Errno::EPERM,
        ));
    }
    if stat.st_mode & 0o077 != 0 {
        nix::sys::stat::fchmod(dir, nix::sys::stat::Mode::S_IRWXU)
            .map_err(|errno| DirError::io("close to others", dir.path(), errno))?;
    }
    Ok(())
}

/// Directories of one container.
#[derive(Clone, Debug)]
pub struct ContainerDir {
    root: Root,
    uid: String,
    name: String,
}

impl ContainerDir {
    /// The root it belongs to.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// UID of the pod.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Name of the container.
    pub fn name(&self) -> &str {
        &self.name
    }

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
        self.open_or_create().map(drop)
    }

    pub(super) fn open_or_create(&self) -> Result<Dir, DirError> {
        self.root
            .open()?
            .open_or_create("pods")?
            .open_or_create(&self.uid)?
            .open_or_create("containers")?
            .open_or_create(&self.name)
    }

    /// Where the records and logs of its attempts are.
    pub fn records_path(&self) -> PathBuf {
        let pod = self.root.path.join("pods").join(&self.uid);
        pod.join(RECORDS).join(&self.name)
    }

    fn open_records(&self) -> Result<Option<Dir>, DirError> {
        self.root
            .open()?
            .descend(&["pods", &self.uid, RECORDS, &self.name])
    }

    /// Attempts with records, ascending.
    pub fn attempts(&self) -> Result<Vec<u32>, DirError> {
        let Some(records) = self.open_records()? else {
            return Ok(Vec::new());
        };
        let mut attempts: Vec<u32> = records
            .names()?
            .iter()
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        attempts.sort_unstable();
        Ok(attempts)
    }

    /// Records of one attempt; creates nothing.
    pub fn attempt(&self, attempt: u32) -> AttemptDir {
        AttemptDir {
            container: self.clone(),
            attempt,
        }
    }

    /// Makes `path`, relative to the working directory, a link to a file among the records of an attempt. A link that
    /// leads to another attempt's is replaced; anything else that stands there stays, and is an error.
    pub fn link_record(&self, path: &Path, attempt: u32, name: &str) -> Result<(), DirError> {
        let names: Vec<&str> = path.iter().filter_map(|it| it.to_str()).collect();
        let Some((link, parents)) = names.split_last() else {
            return Ok(());
        };
        let mut dir = self.open_or_create()?;
        for parent in parents {
            dir = dir.open_or_create(parent)?;
        }
        // Out of the parents, of the working directory, of `containers`.
        let mut records = PathBuf::new();
        for _ in 0..parents.len() + 2 {
            records.push("..");
        }
        records.push(RECORDS);
        records.push(&self.name);
        let target = records.join(attempt.to_string()).join(name);
        let found = match dir.read_link(link)? {
            Some(found) if found == target => return Ok(()),
            Some(found) => Some(found),
            None => None,
        };
        if found.is_some_and(|found| found.starts_with(&records)) {
            dir.remove_file(link)?;
        }
        dir.symlink(&target, link)
    }

    /// Removes the records of one attempt. Missing is fine.
    pub fn remove_attempt(&self, attempt: u32) -> Result<(), DirError> {
        match self.open_records()? {
            Some(records) => records.remove_tree(&attempt.to_string()),
            None => Ok(()),
        }
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
        let container = &self.container;
        container
            .root
            .path
            .join("pods")
            .join(&container.uid)
            .join(RECORDS)
            .join(&container.name)
            .join(self.attempt.to_string())
    }

    /// Creates an empty file among the records, unless it is there.
    pub fn create_file(&self, name: &str) -> Result<(), DirError> {
        self.open_or_create()?.create_new(name).map(drop)
    }

    /// Opens a file among the records to read; `None` where there is none.
    pub fn open_file(&self, name: &str) -> Result<Option<std::fs::File>, DirError> {
        match self.open()? {
            Some(records) => records.open_file(name),
            None => Ok(None),
        }
    }

    /// Opens the directory; `None` where there are no records.
    pub(crate) fn open(&self) -> Result<Option<Dir>, DirError> {
        match self.container.open_records()? {
            Some(records) => records.open(&self.attempt.to_string()),
            None => Ok(None),
        }
    }

    pub(super) fn open_or_create(&self) -> Result<Dir, DirError> {
        let container = &self.container;
        container
            .root
            .open()?
            .open_or_create("pods")?
            .open_or_create(&container.uid)?
            .open_or_create(RECORDS)?
            .open_or_create(&container.name)?
            .open_or_create(&self.attempt.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_root_is_private_even_where_it_stood_open() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("a/root");
        std::fs::create_dir_all(&path).expect("mkdir");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        Root::create(&path).expect("created");
        assert_eq!(
            std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777,
            0o700
        );
        assert!(Root::create(Path::new("relative")).is_err());
    }

    #[test]
    fn a_pod_is_removed_with_its_records_and_its_neighbour_stays() {
        let temp = tempfile::tempdir().expect("tempdir");
        let root = Root::create(temp.path()).expect("root");
        for uid in ["u1", "u2"] {
            let container = root.container(uid, "c").expect("names");
            container.create().expect("created");
            container.attempt(0).open_or_create().expect("created");
            container.attempt(10).open_or_create().expect("created");
        }
        assert_eq!(root.pods().expect("listed"), ["u1", "u2"]);
        assert_eq!(root.containers("u1").expect("listed"), ["c"]);
        let container = root.container("u1", "c").expect("names");
        assert_eq!(container.attempts().expect("listed"), [0, 10]);
        container.remove_attempt(0).expect("removed");
        assert_eq!(container.attempts().expect("listed"), [10]);

        root.remove_pod("u1").expect("removed");

        assert_eq!(root.pods().expect("listed"), ["u2"]);
        assert!(root.container("u2", "c").expect("names").path().is_dir());
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let root = Root::create(temp.path()).expect("root");
        assert!(root.container("..", "c").is_err());
        assert!(root.container("u", "../c").is_err());
        assert!(root.remove_pod("..").is_err());
        assert!(root.remove_pod("").is_err());
    }
}
