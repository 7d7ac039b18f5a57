//! `sizeLimit` of `emptyDir` volumes: who has one, and who is beyond it.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use k8s_openapi::api::core::v1::Pod;

use super::place::contents;
use crate::{container::Root, quantity::Quantity};

/// A volume that may not grow at will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The volume.
    pub volume: String,
    /// Bytes.
    bytes: u64,
    /// The limit as its author wrote it.
    text: String,
}

impl Limit {
    /// What a kubelet says of a volume that uses so many bytes, if that is too many.
    pub fn exceeded(&self, used: u64) -> Option<String> {
        (used > self.bytes).then(|| {
            format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                self.volume, self.text
            )
        })
    }
}

/// The limits of a pod's volumes.
pub fn limits(pod: &Pod) -> Vec<Limit> {
    let spec = pod.spec.iter();
    let volumes = spec.flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            let text = &volume.empty_dir.as_ref()?.size_limit.as_ref()?.0;
            let limit = Quantity::parse(text).filter(|it| it.is_positive())?;
            Some(Limit {
                volume: volume.name.clone(),
                bytes: limit.to_units()?,
                text: text.clone(),
            })
        })
        .collect()
}

/// Bytes that a volume takes of its disk. What cannot be looked at counts nothing.
pub fn usage(root: &Root, uid: &str, volume: &str) -> u64 {
    contents(root, uid, volume).map_or(0, |path| disk_usage(&path))
}

/// Allocated blocks, files with several names once; follows no symlink and stays on the disk.
fn disk_usage(top: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(top) else {
        return 0;
    };
    let device = found.dev();
    let mut bytes = found.blocks() * 512;
    let mut named_twice = HashSet::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.dev() != device {
                continue;
            }
            let directory = found.is_dir();
            if directory || found.nlink() < 2 || named_twice.insert(found.ino()) {
                bytes += found.blocks() * 512;
            }
            if directory {
                left.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_beyond_the_limit_is_told_in_the_kubelets_words() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "b", "emptyDir": {}},
            {"name": "c", "emptyDir": {"sizeLimit": "0"}},
        ]}}))
        .unwrap();
        let limits = limits(&pod);
        assert_eq!(limits.len(), 1);
        assert_eq!(limits[0].exceeded(1 << 20), None);
        assert_eq!(
            limits[0].exceeded((1 << 20) + 1).as_deref(),
            Some("Usage of EmptyDir volume \"a\" exceeds the limit \"1Mi\". ")
        );
    }

    #[test]
    fn usage_counts_blocks_once_and_stays_inside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("v");
        fs::create_dir_all(dir.join("d")).unwrap();
        let empty = disk_usage(&dir);
        fs::write(dir.join("d/a"), vec![1; 1 << 20]).unwrap();
        let one = disk_usage(&dir);
        assert!(one >= empty + (1 << 20), "{empty} {one}");
        fs::hard_link(dir.join("d/a"), dir.join("b")).unwrap();
        fs::write(temp.path().join("outside"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(temp.path(), dir.join("link")).unwrap();
        let again = disk_usage(&dir);
        assert!(again < one + (1 << 19), "{one} {again}");
        assert_eq!(disk_usage(Path::new("/nowhere")), 0);
    }
}
