//! What of a volume a container sees: the whole, or the part that `subPath` names.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use super::{
    PlaceError,
    place::{contents, current},
};
use crate::container::Root;

/// Where parts of volumes are kept that do not follow their volume.
const PARTS: &str = "subpaths";

/// Which mount of which container.
#[derive(Clone, Copy, Debug)]
pub struct MountOf<'a> {
    /// The pod's.
    pub uid: &'a str,
    /// The container.
    pub container: &'a str,
    /// The volume's name.
    pub volume: &'a str,
    /// Its place in `volumeMounts`.
    pub index: usize,
}

/// The absolute path of what is mounted. `sub` is expanded already; none mounts the whole volume.
/// A directory that is not there is made, with the volume's own mode.
///
/// A file of a volume that follows its source is given a second name, so that the container
/// keeps the contents it was started with, as behind a bind mount.
///
/// # Errors
/// In the kubelet's words, which keep to themselves what is on the host.
pub fn source(root: &Root, of: MountOf<'_>, sub: Option<&str>) -> Result<PathBuf, PlaceError> {
    let MountOf {
        uid,
        container,
        volume,
        index: _,
    } = of;
    let own = root
        .path()
        .join("pods")
        .join(uid)
        .join("volumes")
        .join(volume);
    let Some(sub) = sub.filter(|it| !it.is_empty()) else {
        return Ok(own);
    };
    if sub.starts_with('/') {
        return Err(PlaceError::SubPath(format!(
            "error SubPath `{sub}` must not be an absolute path"
        )));
    }
    if Path::new(sub)
        .components()
        .any(|it| it == Component::ParentDir)
    {
        return Err(PlaceError::SubPath(format!(
            "unable to provision SubPath `{sub}`: must not contain '..'"
        )));
    }
    let failed = |what: &str| {
        PlaceError::SubPath(format!(
            "failed to {what} for volumeMount {volume:?} of container {container:?}"
        ))
    };
    let base = contents(root, uid, volume)?;
    let base = fs::canonicalize(&base).map_err(|error| told(&error, failed("prepare subPath")))?;
    let wanted = base.join(sub);
    if let Err(error) = fs::symlink_metadata(&wanted)
        && error.kind() == io::ErrorKind::NotFound
    {
        make(&base, &wanted).map_err(|error| told(&error, failed("create subPath directory")))?;
    }
    let found =
        fs::canonicalize(&wanted).map_err(|error| told(&error, failed("prepare subPath")))?;
    let Ok(inside) = found.strip_prefix(&base) else {
        tracing::warn!(
            uid,
            container,
            volume,
            sub,
            "a subPath leads out of its volume"
        );
        return Err(failed("prepare subPath"));
    };
    let follows = current(root, uid, volume)?
        .is_some_and(|it| it.path() != own && it.path().starts_with(&own));
    if follows && found.is_file() {
        return keep(root, of, &found).map_err(|error| told(&error, failed("prepare subPath")));
    }
    // By its visible names, which stay where they are when the volume is brought up to date.
    let inside = if follows { Path::new(sub) } else { inside };
    Ok(own.join(inside))
}

/// What a mount's source is once links of the pod's directory are followed, for those who see
/// that directory at another place, or follow no links.
///
/// # Errors
/// Where the pod's directory cannot be read.
pub fn behind(root: &Root, uid: &str, volume: &str, source: &Path) -> Result<PathBuf, PlaceError> {
    let own = root
        .path()
        .join("pods")
        .join(uid)
        .join("volumes")
        .join(volume);
    match source.strip_prefix(&own) {
        Ok(inside) if inside.as_os_str().is_empty() => Ok(contents(root, uid, volume)?),
        Ok(inside) => Ok(contents(root, uid, volume)?.join(inside)),
        Err(_) => Ok(source.to_owned()),
    }
}

fn told(error: &dyn std::error::Error, said: PlaceError) -> PlaceError {
    tracing::warn!(error = crate::pod::api::chain(error), %said, "a subPath cannot be mounted");
    said
}

/// Makes a directory below `base`; what stands is not followed out of it.
fn make(base: &Path, wanted: &Path) -> io::Result<()> {
    let mut above = wanted.ancestors();
    let standing = above.find(|it| it.exists()).unwrap_or(base);
    if !fs::canonicalize(standing)?.starts_with(base) {
        return Err(io::Error::other("a part of it leads out of the volume"));
    }
    let mode = fs::metadata(base)?.mode() & 0o777;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(wanted)
}

/// Gives a file a name of the container's own.
fn keep(root: &Root, of: MountOf<'_>, file: &Path) -> Result<PathBuf, io::Error> {
    let failed = |error: crate::container::dir::DirError| io::Error::other(error);
    let parts = root
        .create_pod(of.uid)
        .map_err(failed)?
        .join(PARTS)
        .join(of.container);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&parts)?;
    let name = parts.join(of.index.to_string());
    match fs::remove_file(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::hard_link(file, &name) {
        Ok(()) => {}
        // Some file systems have no links.
        Err(_) => {
            fs::copy(file, &name)?;
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::pod::volumes::{Content, File, place};

    struct Case {
        root: Root,
        _dir: tempfile::TempDir,
    }

    fn case() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::create(&dir.path().canonicalize().unwrap().join("root")).unwrap();
        Case { root, _dir: dir }
    }

    impl Case {
        fn files(&self, text: &str) {
            let file = File {
                bytes: text.as_bytes().to_vec(),
                mode: 0o644,
            };
            let files = [("a.sh".to_owned(), file.clone()), ("d/e".to_owned(), file)];
            place(&self.root, "u", "v", &Content::Files(files.into())).unwrap();
        }

        fn source(&self, sub: &str) -> Result<PathBuf, PlaceError> {
            let of = MountOf {
                uid: "u",
                container: "c",
                volume: "v",
                index: 3,
            };
            source(&self.root, of, Some(sub))
        }

        fn volume(&self) -> PathBuf {
            self.root.path().join("pods/u/volumes/v")
        }
    }

    #[test]
    fn a_file_stays_as_it_was_and_a_directory_follows() {
        let case = case();
        case.files("old");
        let file = case.source("a.sh").unwrap();
        assert_eq!(file, case.root.path().join("pods/u/subpaths/c/3"));
        let directory = case.source("d").unwrap();
        assert_eq!(directory, case.volume().join("d"));
        case.files("new");
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::read_to_string(directory.join("e")).unwrap(), "new");
        assert_eq!(case.source("a.sh").unwrap(), file);
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "new",
            "a new start sees what is there"
        );
    }

    #[test]
    fn directories_are_made_and_stay_inside() {
        let case = case();
        place(&case.root, "u", "v", &Content::Directory { memory: false }).unwrap();
        let made = case.source("x/y").unwrap();
        assert_eq!(made, case.volume().join("x/y"));
        assert!(made.is_dir());
        assert_eq!(case.source("").unwrap(), case.volume());
        fs::write(case.volume().join("file"), "").unwrap();
        assert_eq!(case.source("file").unwrap(), case.volume().join("file"));
        symlink("x", case.volume().join("inner")).unwrap();
        assert_eq!(case.source("inner/y").unwrap(), made);
        for (name, target) in [
            ("abs", "/etc"),
            ("up", "../.."),
            ("gone", "/nowhere/at/all"),
        ] {
            symlink(target, case.volume().join(name)).unwrap();
            let said = case.source(name).unwrap_err().to_string();
            assert!(
                said.contains("subPath")
                    && said.ends_with("for volumeMount \"v\" of container \"c\""),
                "{said}"
            );
            let said = case.source(&format!("{name}/new")).unwrap_err().to_string();
            assert!(said.starts_with("failed to"), "{said}");
        }
        assert!(!Path::new("/etc/new").exists());
        assert_eq!(
            case.source("../x").unwrap_err().to_string(),
            "unable to provision SubPath `../x`: must not contain '..'"
        );
        assert_eq!(
            case.source("/x").unwrap_err().to_string(),
            "error SubPath `/x` must not be an absolute path"
        );
    }

    #[test]
    fn parts_of_a_place_of_the_host() {
        let case = case();
        let outside = case.root.path().parent().unwrap().join("outside");
        fs::create_dir_all(outside.join("part")).unwrap();
        let content = Content::Place {
            path: outside.clone(),
            kind: None,
            name: "v".into(),
        };
        place(&case.root, "u", "v", &content).unwrap();
        let part = case.source("part").unwrap();
        assert_eq!(part.canonicalize().unwrap(), outside.join("part"));
    }
}
