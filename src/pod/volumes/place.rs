//! Volumes on disk, in the layout that lets readers see all of an update or none:
//! the files lie in `..<stamp>/`, `..data` is a symlink to that directory, and each
//! visible name is a symlink through `..data`.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::Payload;
use crate::container::{
    ContainerDir, Root,
    dir::DirError,
    files::{Dir, check_name},
};
use crate::pod::mounts::{self, MountError};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Why a volume or a mount could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The file system refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The mount path is no good.
    #[error("mountPath {0}")]
    Path(#[from] MountError),
    /// Something that is no mount of ours stands where the mount goes.
    #[error("{} is in the way of a mount", .0.display())]
    Occupied(PathBuf),
}

/// Brings a volume's directory to the given contents; none makes sure that it exists.
/// Returns whether anything had to be written.
pub fn place(
    root: &Root,
    uid: &str,
    volume: &str,
    payload: Option<&Payload>,
) -> Result<bool, PlaceError> {
    let pods = trusted(root)?.open_or_create("pods")?;
    let dir = pods
        .open_or_create(uid)?
        .open_or_create("volumes")?
        .open_or_create(volume)?;
    match payload {
        Some(payload) => Ok(update(&dir, payload)?),
        None => Ok(false),
    }
}

/// Makes a volume appear in a container's directory.
pub fn link(container: &ContainerDir, mount_path: &str, volume: &str) -> Result<(), PlaceError> {
    check_name(volume).map_err(PlaceError::Dir)?;
    let path = mounts::relative(mount_path)?;
    let names: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
    let Some((name, parents)) = names.split_last() else {
        return Ok(());
    };
    let top = trusted(container.root())?.descend(&["pods", container.uid(), "containers"])?;
    let mut dir = top
        .ok_or_else(|| missing(&container.path()))?
        .open_or_create(container.name())?;
    for parent in parents {
        dir = dir.open_or_create(parent)?;
    }
    let mut target = PathBuf::new();
    // Out of the parents, of the container's directory, of `containers`.
    for _ in 0..parents.len() + 2 {
        target.push("..");
    }
    target.push("volumes");
    target.push(volume);
    match symlink(&dir, &target, name) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => match read_link(&dir, name) {
            Some(found) if found == target => Ok(()),
            Some(_) => {
                dir.remove_file(name)?;
                symlink(&dir, &target, name).map_err(|errno| io("link", &dir, name, errno))?;
                Ok(())
            }
            None => Err(PlaceError::Occupied(dir.path().join(name))),
        },
        Err(errno) => Err(io("link", &dir, name, errno).into()),
    }
}

/// Names of the files of a placed volume, sorted; those in sub-directories with their path.
pub fn files(root: &Root, uid: &str, volume: &str) -> Result<Vec<String>, PlaceError> {
    let Some(dir) = current(root, uid, volume)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    collect(&dir, "", &mut found)?;
    found.sort();
    Ok(found)
}

/// The first line of a placed file (at most 256 bytes, as much as a kernel reads).
pub fn first_line(root: &Root, uid: &str, volume: &str, file: &str) -> Option<String> {
    let (parents, name) = match file.rsplit_once('/') {
        Some((parents, name)) => (parents.split('/').collect(), name),
        None => (Vec::new(), file),
    };
    let dir = current(root, uid, volume).ok()??.descend(&parents).ok()??;
    let mut start = Vec::new();
    dir.open_file(name)
        .ok()??
        .take(256)
        .read_to_end(&mut start)
        .ok()?;
    let text = String::from_utf8_lossy(&start);
    text.lines().next().map(str::to_owned)
}

fn trusted(root: &Root) -> Result<Dir, DirError> {
    Dir::open_trusted(root.path())?.ok_or_else(|| missing(root.path()))
}

fn missing(path: &Path) -> DirError {
    DirError::Io {
        op: "open",
        path: path.to_owned(),
        source: Errno::ENOENT.into(),
    }
}

fn io(op: &'static str, dir: &Dir, name: &str, errno: Errno) -> DirError {
    DirError::Io {
        op,
        path: dir.path().join(name),
        source: errno.into(),
    }
}

/// The directory that holds the files now.
fn current(root: &Root, uid: &str, volume: &str) -> Result<Option<Dir>, DirError> {
    let dir = trusted(root)?.descend(&["pods", uid, "volumes", volume])?;
    match dir {
        Some(dir) => match stamp(&dir) {
            Some(stamp) => dir.open(&stamp),
            None => Ok(Some(dir)),
        },
        None => Ok(None),
    }
}

fn collect(dir: &Dir, prefix: &str, found: &mut Vec<String>) -> Result<(), DirError> {
    for name in dir.names()? {
        let Some(name) = name.to_str() else { continue };
        let path = format!("{prefix}{name}");
        match dir.open(name) {
            Ok(Some(below)) => collect(&below, &format!("{path}/"), found)?,
            _ => found.push(path),
        }
    }
    Ok(())
}

/// The name that `..data` points to, if it is one of ours.
fn stamp(dir: &Dir) -> Option<String> {
    let target = read_link(dir, DATA)?;
    let name = target.to_str()?;
    (name.starts_with("..") && name.len() > 2 && !name.contains('/')).then(|| name.to_owned())
}

fn update(dir: &Dir, payload: &Payload) -> Result<bool, DirError> {
    let old = stamp(dir);
    if let Some(old) = &old
        && let Some(old) = dir.open(old)?
        && same(&old, payload)?
    {
        show(dir, payload)?;
        return Ok(false);
    }
    let (stamp, fresh) = new_stamp(dir)?;
    for (path, file) in payload {
        let mut parent = None;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let here = parent.as_ref().unwrap_or(&fresh);
            if names.peek().is_some() {
                parent = Some(here.open_or_create(name)?);
                continue;
            }
            let mut out = here.create_fresh(name)?;
            let written = out
                .set_permissions(std::fs::Permissions::from_mode(file.mode))
                .and_then(|()| out.write_all(&file.bytes));
            written.map_err(|source| DirError::Io {
                op: "write",
                path: here.path().join(name),
                source,
            })?;
        }
    }
    dir.remove_file(DATA_NEXT)?;
    symlink(dir, Path::new(&stamp), DATA_NEXT)
        .map_err(|errno| io("link", dir, DATA_NEXT, errno))?;
    dir.rename(DATA_NEXT, DATA)?;
    show(dir, payload)?;
    // What is left of earlier contents, also of a writer that died half-way.
    for name in dir.names()? {
        if let Some(name) = name.to_str()
            && name.starts_with("..")
            && name != DATA
            && name != stamp
        {
            dir.remove_tree(name)?;
        }
    }
    Ok(true)
}

fn new_stamp(dir: &Dir) -> Result<(String, Dir), DirError> {
    let stamp = format!("..{}", uuid::Uuid::new_v4().simple());
    let fresh = dir.open_or_create(&stamp)?;
    Ok((stamp, fresh))
}

fn same(dir: &Dir, payload: &Payload) -> Result<bool, DirError> {
    let mut found = Vec::new();
    collect(dir, "", &mut found)?;
    if found.len() != payload.len() {
        return Ok(false);
    }
    for path in found {
        let Some(wanted) = payload.get(&path) else {
            return Ok(false);
        };
        let (parents, name) = match path.rsplit_once('/') {
            Some((parents, name)) => (parents.split('/').collect(), name),
            None => (Vec::new(), path.as_str()),
        };
        let mut below = None;
        for parent in parents {
            let here = below.as_ref().unwrap_or(dir);
            match here.open(parent)? {
                Some(next) => below = Some(next),
                None => return Ok(false),
            }
        }
        let here = below.as_ref().unwrap_or(dir);
        let Some(mut file) = here.open_file(name)? else {
            return Ok(false);
        };
        let mut bytes = Vec::new();
        let mode = file.metadata().map(|it| it.permissions().mode() & 0o7777);
        let read = file.read_to_end(&mut bytes);
        if read.is_err() || mode.ok() != Some(wanted.mode) || bytes != wanted.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One symlink for each first component; links to names that are gone go too.
fn show(dir: &Dir, payload: &Payload) -> Result<(), DirError> {
    let wanted: BTreeSet<&str> = payload
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in dir.names()? {
        let ours = read_link(dir, &name).is_some_and(|target| target.starts_with(DATA));
        if let Some(name) = name.to_str()
            && ours
            && !wanted.contains(name)
        {
            dir.remove_file(name)?;
        }
    }
    for name in wanted {
        let target = Path::new(DATA).join(name);
        match symlink(dir, &target, name) {
            Err(Errno::EEXIST) if read_link(dir, name).is_some_and(|found| found == target) => {}
            Err(Errno::EEXIST) => {
                dir.remove_tree(name)?;
                symlink(dir, &target, name).map_err(|errno| io("link", dir, name, errno))?;
            }
            other => other.map_err(|errno| io("link", dir, name, errno))?,
        }
    }
    Ok(())
}

fn symlink(dir: &Dir, target: &Path, name: &str) -> Result<(), Errno> {
    nix::unistd::symlinkat(target, dir.as_fd(), name)
}

fn read_link(dir: &Dir, name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = name.as_ref();
    let target = nix::fcntl::readlinkat(dir.as_fd(), name).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink as make_link};

    use super::*;
    use crate::pod::volumes::File;

    struct Case {
        root: Root,
        _dir: tempfile::TempDir,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::create(&dir.path().join("root")).unwrap();
            Self { root, _dir: dir }
        }

        fn volume(&self) -> PathBuf {
            self.root.path().join("pods/u/volumes/v")
        }

        fn put(&self, files: &[(&str, &str)]) -> bool {
            let payload = payload(files);
            place(&self.root, "u", "v", Some(&payload)).unwrap()
        }
    }

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
        };
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), file(text)))
            .collect()
    }

    fn visible(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn contents_appear_and_are_replaced_whole() {
        let case = Case::new();
        assert!(case.put(&[("a.sh", "A"), ("d/e", "E")]));
        let volume = case.volume();
        assert_eq!(visible(&volume), ["a.sh", "d"]);
        assert_eq!(fs::read_to_string(volume.join("d/e")).unwrap(), "E");
        let mode = fs::metadata(volume.join("a.sh"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(files(&case.root, "u", "v").unwrap(), ["a.sh", "d/e"]);
        assert!(!case.put(&[("a.sh", "A"), ("d/e", "E")]), "nothing changed");
        let before = fs::read_link(volume.join("..data")).unwrap();
        assert!(case.put(&[("a.sh", "B")]));
        assert_ne!(fs::read_link(volume.join("..data")).unwrap(), before);
        assert_eq!(visible(&volume), ["a.sh"]);
        assert_eq!(fs::read_to_string(volume.join("a.sh")).unwrap(), "B");
        assert!(!volume.join(before).exists(), "old contents are gone");
        assert_eq!(
            first_line(&case.root, "u", "v", "a.sh").as_deref(),
            Some("B")
        );
    }

    #[test]
    fn planted_links_lead_nowhere() {
        let case = Case::new();
        case.put(&[("a", "A")]);
        let outside = case.root.path().parent().unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a"), "mine").unwrap();
        fs::remove_file(case.volume().join("..data")).unwrap();
        make_link(&outside, case.volume().join("..data")).unwrap();
        case.put(&[("a", "B")]);
        assert_eq!(fs::read_to_string(outside.join("a")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(case.volume().join("a")).unwrap(), "B");
        fs::rename(case.volume(), case.root.path().join("pods/u/volumes/w")).unwrap();
        make_link(&outside, case.volume()).unwrap();
        assert!(place(&case.root, "u", "v", Some(&payload(&[("a", "C")]))).is_err());
        assert_eq!(fs::read_to_string(outside.join("a")).unwrap(), "mine");
    }

    #[test]
    fn mounts_are_relative_links() {
        let case = Case::new();
        case.put(&[("a.sh", "A")]);
        let container = case.root.container("u", "c").unwrap();
        container.create().unwrap();
        link(&container, "stress/job1", "v").unwrap();
        link(&container, "/abs", "v").unwrap();
        link(&container, "stress/job1", "v").unwrap();
        for path in ["stress/job1/a.sh", "abs/a.sh"] {
            assert_eq!(
                fs::read_to_string(container.path().join(path)).unwrap(),
                "A"
            );
        }
        assert!(
            fs::read_link(container.path().join("abs"))
                .unwrap()
                .is_relative()
        );
        assert!(matches!(
            link(&container, "../x", "v"),
            Err(PlaceError::Path(_))
        ));
        fs::create_dir(container.path().join("mine")).unwrap();
        assert!(matches!(
            link(&container, "mine", "v"),
            Err(PlaceError::Occupied(_))
        ));
        // A link that the container made in place of a parent is not followed.
        make_link("/", container.path().join("planted")).unwrap();
        assert!(link(&container, "planted/x", "v").is_err());
    }

    #[test]
    fn an_empty_directory_keeps_what_the_pod_wrote() {
        let case = Case::new();
        place(&case.root, "u", "v", None).unwrap();
        fs::write(case.volume().join("data"), "x").unwrap();
        place(&case.root, "u", "v", None).unwrap();
        assert_eq!(fs::read_to_string(case.volume().join("data")).unwrap(), "x");
    }
}
