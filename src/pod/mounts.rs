//! Where a volume appears in a container's directory.
//!
//! There is no mount namespace: a mount is a symlink in the container's directory
//! to the volume's directory beside it, so `mountPath` is always taken relative to
//! the container's directory.

use std::path::{Component, Path, PathBuf};

use crate::container::dir::RESERVED_NAMES;

/// Why a mount path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// It has a `..`.
    #[error("{0:?} must not contain '..'")]
    Escapes(String),
    /// It names the container's directory itself.
    #[error("{0:?} names the container's directory itself; name a directory in it")]
    Root(String),
    /// It names a file that the container's supervisor writes.
    #[error("{0:?} is the name of a file that this node writes; choose another")]
    Reserved(String),
    /// It has a character that no path can have.
    #[error("{0:?} must not contain a NUL byte")]
    Nul(String),
    /// Two mounts share a path.
    #[error("{0:?} is mounted twice")]
    Twice(String),
    /// One mount would lie inside of another.
    #[error("{inner:?} lies inside of the mount {outer:?}, which this node cannot do")]
    Nested {
        /// The deeper path.
        inner: String,
        /// The shallower path.
        outer: String,
    },
}

/// The path inside the container's directory, without any `.`, `..` or leading slash.
pub fn relative(mount_path: &str) -> Result<PathBuf, MountError> {
    if mount_path.contains('\0') {
        return Err(MountError::Nul(mount_path.to_owned()));
    }
    let mut path = PathBuf::new();
    for component in Path::new(mount_path).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(MountError::Escapes(mount_path.to_owned()));
            }
        }
    }
    let Some(first) = path.components().next() else {
        return Err(MountError::Root(mount_path.to_owned()));
    };
    if RESERVED_NAMES.iter().any(|name| first.as_os_str() == *name) {
        return Err(MountError::Reserved(mount_path.to_owned()));
    }
    Ok(path)
}

/// Checks the mounts of one container against each other. Paths that are bad in
/// themselves are left to [`relative`].
pub fn layout<'a>(mount_paths: impl Iterator<Item = &'a str>) -> Result<(), MountError> {
    let mut mounts: Vec<(PathBuf, &str)> = mount_paths
        .filter_map(|path| Some((relative(path).ok()?, path)))
        .collect();
    // Component-wise order puts a directory right before what lies in it.
    mounts.sort_by(|a, b| a.0.components().cmp(b.0.components()));
    for pair in mounts.windows(2) {
        let [(outer, outer_path), (inner, inner_path)] = pair else {
            continue;
        };
        if outer == inner {
            return Err(MountError::Twice((*inner_path).to_owned()));
        }
        if inner.starts_with(outer) {
            let (inner, outer) = ((*inner_path).to_owned(), (*outer_path).to_owned());
            return Err(MountError::Nested { inner, outer });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(relative("stress/job1").unwrap(), Path::new("stress/job1"));
        assert_eq!(relative("/var//run/./x/").unwrap(), Path::new("var/run/x"));
        assert_eq!(relative("..data").unwrap(), Path::new("..data"));
        for path in ["../x", "a/../../x", "..", "/..", "a/.."] {
            assert_eq!(
                relative(path),
                Err(MountError::Escapes(path.into())),
                "{path}"
            );
        }
        for path in ["", "/", ".", "./"] {
            assert_eq!(relative(path), Err(MountError::Root(path.into())), "{path}");
        }
        for path in ["pgid", "/stdout", "stderr/x"] {
            assert_eq!(
                relative(path),
                Err(MountError::Reserved(path.into())),
                "{path}"
            );
        }
        assert!(matches!(relative("a\0b"), Err(MountError::Nul(_))));
    }

    #[test]
    fn mounts_do_not_overlap() {
        assert_eq!(layout(["a", "b/c", "b/d", "ab"].into_iter()), Ok(()));
        assert_eq!(
            layout(["a", "/a/"].into_iter()),
            Err(MountError::Twice("/a/".into()))
        );
        let nested = MountError::Nested {
            inner: "a/b/c".into(),
            outer: "a".into(),
        };
        assert_eq!(layout(["a/b/c", "a-b", "a"].into_iter()), Err(nested));
    }

    proptest::proptest! {
        #[test]
        fn no_path_escapes(path in "[a./\\x00-]{0,12}") {
            if let Ok(relative) = relative(&path) {
                proptest::prop_assert!(relative.components().all(|it| matches!(it, Component::Normal(_))));
                proptest::prop_assert!(relative.is_relative());
            }
        }
    }
}
