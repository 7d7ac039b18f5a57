//! What of a pod must outlive the agent: `pod.json` beside its containers, and the
//! link in the user's home.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::resources::Assigned;
use crate::container::{
    Root,
    dir::DirError,
    files::{Dir, Durability},
};

const FILE: &str = "pod.json";
const VERSION: u32 = 1;

/// Enough to end a pod whose object is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Format.
    pub(super) version: u32,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// `terminationGracePeriodSeconds`.
    pub(super) grace_seconds: u64,
    /// Cores and devices that its containers have for themselves.
    #[serde(default, skip_serializing_if = "Assigned::is_empty")]
    pub(super) assigned: Arc<Assigned>,
}

impl Record {
    /// A record in the current format.
    pub(super) fn new(namespace: String, name: String, grace_seconds: u64) -> Self {
        Self {
            version: VERSION,
            namespace,
            name,
            grace_seconds,
            assigned: Arc::default(),
        }
    }

    /// The same with what was given to its containers.
    pub(super) fn with(self, assigned: Arc<Assigned>) -> Self {
        Self { assigned, ..self }
    }

    /// Writes it, unless it stands there already.
    pub(super) fn write(&self, root: &Root, uid: &str) -> Result<(), DirError> {
        let dir = root.create_pod(uid)?;
        let Some(dir) = Dir::open_trusted(&dir)? else {
            return Ok(());
        };
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if dir.read(FILE)?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        dir.write_atomic(FILE, &bytes, Durability::Processes)
    }

    /// Reads it; none where there is none or a newer program wrote it.
    pub(super) fn read(root: &Root, uid: &str) -> Option<Self> {
        let dir = Dir::open_trusted(root.path())
            .ok()??
            .descend(&["pods", uid])
            .ok()??;
        let record: Self = serde_json::from_slice(&dir.read(FILE).ok()??).ok()?;
        (record.version == VERSION).then_some(record)
    }
}

/// The documented way to a pod's files, `<home>/<pod name>`. Nothing is ever run or
/// removed through it.
#[derive(Clone, Debug)]
pub(super) struct HomeLink {
    link: PathBuf,
    target: PathBuf,
    pods: PathBuf,
}

impl HomeLink {
    /// The link of a pod.
    pub(super) fn new(home: &Path, root: &Root, name: &str, uid: &str) -> Self {
        let pods = root.path().join("pods");
        Self {
            link: home.join(name),
            target: pods.join(uid),
            pods,
        }
    }

    /// Makes the link where nothing stands, or where a link stands that led to a pod of
    /// this root which is gone. Returns whether it is there now.
    pub(super) fn make(&self) -> io::Result<bool> {
        match symlink(&self.target, &self.link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| true),
        }
        let Ok(found) = fs::read_link(&self.link) else {
            return Ok(false);
        };
        if found == self.target {
            return Ok(true);
        }
        if found.parent() == Some(&*self.pods) && !found.exists() {
            fs::remove_file(&self.link)?;
            return symlink(&self.target, &self.link).map(|()| true);
        }
        Ok(false)
    }

    /// Removes the link if it is ours.
    pub(super) fn remove(&self) -> io::Result<()> {
        if fs::read_link(&self.link).is_ok_and(|found| found == self.target) {
            fs::remove_file(&self.link)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::create(&dir.path().join("root")).unwrap();
        assert_eq!(Record::read(&root, "u"), None);
        let record = Record::new("ns".into(), "p".into(), 7);
        record.write(&root, "u").unwrap();
        record.write(&root, "u").unwrap();
        assert_eq!(Record::read(&root, "u"), Some(record));
        fs::write(root.path().join("pods/u/pod.json"), "{\"version\": 9}").unwrap();
        assert_eq!(Record::read(&root, "u"), None);
    }

    #[test]
    fn what_the_user_has_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        let root = Root::create(&dir.path().join("root")).unwrap();
        for uid in ["u1", "u2"] {
            root.create_pod(uid).unwrap();
        }
        let (first, second) = (
            HomeLink::new(&home, &root, "p1", "u1"),
            HomeLink::new(&home, &root, "p1", "u2"),
        );
        fs::create_dir(home.join("p1")).unwrap();
        fs::write(home.join("p1/precious"), "x").unwrap();
        assert!(!first.make().unwrap());
        first.remove().unwrap();
        assert_eq!(fs::read_to_string(home.join("p1/precious")).unwrap(), "x");
        fs::remove_dir_all(home.join("p1")).unwrap();

        assert!(first.make().unwrap());
        assert!(first.make().unwrap());
        assert!(
            !second.make().unwrap(),
            "another namespace has a pod of that name"
        );
        second.remove().unwrap();
        assert!(home.join("p1").exists());
        root.remove_pod("u1").unwrap();
        assert!(
            second.make().unwrap(),
            "a link to a pod that is gone is ours to take"
        );
        second.remove().unwrap();
        assert!(!home.join("p1").is_symlink());
        assert!(root.path().join("pods/u2").exists());

        symlink(dir.path(), home.join("p1")).unwrap();
        assert!(!first.make().unwrap());
        first.remove().unwrap();
        assert!(home.join("p1").is_symlink(), "a link of the user's stays");
    }
}
