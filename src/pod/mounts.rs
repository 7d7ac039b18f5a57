//! Where a volume appears to a container.
//!
//! Plain processes share the host's mounts: a mount is a symlink in the container's directory
//! to the volume's directory beside it, so `mountPath` is always taken relative to
//! the container's directory. A container may ask for a mount namespace of its own instead,
//! in which mounts are real.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

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
    /// It is the root of the host.
    #[error("\"/\" cannot be mounted over")]
    WholeHost,
    /// Two mounts share a path.
    #[error("{0:?} is mounted twice")]
    Twice(String),
    /// One mount would lie inside of another.
    #[error(
        "{inner:?} lies inside of the mount {outer:?}, which takes a mount namespace: set the \
         annotation {NAMESPACE_ANNOTATION} of the pod to \"private\""
    )]
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

/// Where a container's commands begin. Without a mount namespace a directory that is mounted is
/// where its link is; others are the host's.
pub fn working_directory<'a>(
    wanted: Option<&str>,
    mut mount_paths: impl Iterator<Item = &'a str>,
    directory: &Path,
    layout: Layout,
) -> PathBuf {
    let Some(wanted) = wanted
        .map(Path::new)
        .filter(|it| !it.as_os_str().is_empty())
    else {
        return directory.to_owned();
    };
    let mounted = mount_paths.any(|path| wanted.starts_with(path));
    if layout == Layout::Relative
        && mounted
        && let Ok(inside) = wanted.strip_prefix("/")
    {
        return directory.join(inside);
    }
    // An absolute path takes the place of the directory.
    directory.join(wanted)
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

/// How the mounts of a container are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Links in the container's directory.
    #[default]
    Relative,
    /// Mounts in a namespace of the container's own.
    Private,
    /// Mounts that a container engine makes.
    Engine,
}

impl Layout {
    /// Whether the container finds mounts at the very paths that its spec names.
    pub fn is_real(self) -> bool {
        matches!(self, Self::Private | Self::Engine)
    }
}

/// Annotation of a pod that says how mounts are made: `private` or `host`. With `.<container>`
/// behind it, it is about that container alone.
pub const NAMESPACE_ANNOTATION: &str = "vk-cmd.io/mount-namespace";

/// How a container wants its mounts.
///
/// # Errors
/// Where an annotation has another value.
pub fn wanted(
    annotations: Option<&BTreeMap<String, String>>,
    container: &str,
    default: Layout,
) -> Result<Layout, String> {
    let own = format!("{NAMESPACE_ANNOTATION}.{container}");
    let get = |key: &str| Some((key.to_owned(), annotations?.get(key)?));
    let Some((key, value)) = get(&own).or_else(|| get(NAMESPACE_ANNOTATION)) else {
        return Ok(default);
    };
    match value.as_str() {
        "private" => Ok(Layout::Private),
        "host" => Ok(Layout::Relative),
        other => Err(format!(
            "annotation {key} is {other:?}: it may be \"private\" (mounts in a namespace of the \
             container's own) or \"host\" (links in the container's directory)"
        )),
    }
}

/// What is said where a container wants a mount namespace that this host cannot give.
pub fn no_namespace(why: &str) -> String {
    format!(
        "this node cannot give a container a mount namespace of its own: {why}. Set the annotation \
         {NAMESPACE_ANNOTATION} to \"host\" (mount paths are then relative to the container's \
         directory), or have the site allow user namespaces (sysctl user.max_user_namespaces)"
    )
}

/// Where a container finds a mount, as an absolute path.
///
/// # Errors
/// Where the path is no good in that layout.
pub fn target(mount_path: &str, directory: &Path, layout: Layout) -> Result<PathBuf, MountError> {
    let path = Path::new(mount_path);
    let in_directory = match layout {
        Layout::Relative => true,
        Layout::Private => !path.is_absolute(),
        Layout::Engine => false,
    };
    if in_directory {
        return Ok(directory.join(relative(mount_path)?));
    }
    if mount_path.contains('\0') {
        return Err(MountError::Nul(mount_path.to_owned()));
    }
    if path.components().any(|it| it == Component::ParentDir) {
        return Err(MountError::Escapes(mount_path.to_owned()));
    }
    // In an image a path that is not absolute begins at its root.
    let path: PathBuf = Path::new("/").join(path).components().collect();
    if path == Path::new("/") {
        return Err(MountError::WholeHost);
    }
    Ok(path)
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

    #[test]
    fn a_namespace_is_asked_for_by_annotation() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let all = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            wanted(Some(&all.collect()), "c", Layout::Relative)
        };
        assert_eq!(of(&[]), Ok(Layout::Relative));
        assert_eq!(
            of(&[(NAMESPACE_ANNOTATION, "private")]),
            Ok(Layout::Private)
        );
        let own = "vk-cmd.io/mount-namespace.c";
        assert_eq!(
            of(&[(NAMESPACE_ANNOTATION, "private"), (own, "host")]),
            Ok(Layout::Relative)
        );
        assert_eq!(
            of(&[("vk-cmd.io/mount-namespace.d", "private")]),
            Ok(Layout::Relative)
        );
        let error = of(&[(own, "yes")]).unwrap_err();
        assert!(error.contains(own) && error.contains("\"yes\""), "{error}");
        assert_eq!(wanted(None, "c", Layout::Private), Ok(Layout::Private));
    }

    #[test]
    fn targets_are_real_in_a_namespace() {
        let directory = Path::new("/r/c");
        let private = |path| target(path, directory, Layout::Private);
        assert_eq!(private("/tmp/./x/").unwrap(), Path::new("/tmp/x"));
        assert_eq!(private("x").unwrap(), Path::new("/r/c/x"));
        assert_eq!(
            target("x", directory, Layout::Engine).unwrap(),
            Path::new("/x")
        );
        assert_eq!(private("/"), Err(MountError::WholeHost));
        assert_eq!(
            private("/a/../b"),
            Err(MountError::Escapes("/a/../b".into()))
        );
        let relative = target("/tmp", directory, Layout::Relative).unwrap();
        assert_eq!(relative, Path::new("/r/c/tmp"));
    }

    #[test]
    fn commands_begin_where_they_are_told() {
        let at = |wanted, layout| {
            let mounts = ["/data", "rel"].into_iter();
            working_directory(wanted, mounts, Path::new("/r/c"), layout)
        };
        for (wanted, found) in [
            (None, "/r/c"),
            (Some(""), "/r/c"),
            (Some("sub"), "/r/c/sub"),
            (Some("rel/x"), "/r/c/rel/x"),
            (Some("/data/x"), "/r/c/data/x"),
            (Some("/database"), "/database"),
            (Some("/tmp"), "/tmp"),
        ] {
            assert_eq!(at(wanted, Layout::Relative), Path::new(found), "{wanted:?}");
        }
        assert_eq!(at(Some("/data/x"), Layout::Private), Path::new("/data/x"));
    }
}
