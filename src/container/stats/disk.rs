//! Bytes below a directory.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

/// What lies below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes that the file system has given out.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl DiskUsage {
    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What lies below `dir`, itself included: blocks as given out, a file with many names once, no
/// symlink followed, nothing of another file system. What cannot be read, or goes meanwhile, counts
/// as nothing.
pub fn usage(dir: &Path) -> DiskUsage {
    let mut usage = DiskUsage::default();
    let Ok(top) = fs::symlink_metadata(dir) else {
        return usage;
    };
    let mut linked = HashSet::new();
    let mut dirs = Vec::new();
    let mut count = |meta: &fs::Metadata| {
        if meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino()) {
            return;
        }
        usage.bytes += meta.blocks() * 512;
        usage.inodes += 1;
    };
    count(&top);
    if top.is_dir() {
        dirs.push(dir.to_owned());
    }
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // Of the entry itself: a symlink is not followed.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            count(&meta);
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_lead_nowhere() {
        let temp = tempfile::tempdir().expect("a directory");
        let outside = temp.path().join("outside");
        let dir = temp.path().join("dir");
        fs::create_dir_all(dir.join("sub")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("huge"), vec![1; 1 << 20]).expect("written");
        fs::write(dir.join("sub/a"), vec![1; 64 << 10]).expect("written");
        let before = usage(&dir);
        assert!(before.bytes >= 64 << 10 && before.bytes < 256 << 10);
        assert_eq!(before.inodes, 3);
        fs::hard_link(dir.join("sub/a"), dir.join("b")).expect("linked");
        std::os::unix::fs::symlink(&outside, dir.join("c")).expect("linked");
        let after = usage(&dir);
        assert!(after.bytes < before.bytes + (32 << 10), "{after:?}");
        assert_eq!(usage(&temp.path().join("missing")), DiskUsage::default());
    }
}
