//! Volumes on disk, in the layout that lets readers see all of an update or none:
//! the files lie in `..<stamp>/`, `..data` is a symlink to that directory, and each
//! visible name is a symlink through `..data`.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::{Content, Payload, host_path, memory};
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
    /// The host has not what the volume needs.
    #[error("{0}")]
    Host(String),
    /// A part of a volume cannot be mounted.
    #[error("{0}")]
    SubPath(String),
    /// Something that is no mount of ours stands where the mount goes.
    #[error("{} is in the way of a mount", .0.display())]
    Occupied(PathBuf),
}

/// How a volume came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// As asked for.
    AsAsked,
    /// Asked for in memory, and on the disk for want of shared memory.
    OnDisk,
}

/// Permissions of directories that hold files of ours, as a kubelet gives them. Image containers may have another user,
/// who comes by a bind of the volume alone: all above it is closed.
const READABLE: u32 = 0o755;
/// Permissions of an emptyDir, as a kubelet gives them.
const WRITABLE: u32 = 0o777;

/// Brings a volume to its place and contents.
pub fn place(
    root: &Root,
    uid: &str,
    volume: &str,
    content: &Content,
) -> Result<Placed, PlaceError> {
    let volumes = trusted(root)?
        .open_or_create("pods")?
        .open_or_create(uid)?
        .open_or_create("volumes")?;
    match content {
        Content::Files(payload) => {
            update(&volumes.open_or_create_shared(volume, READABLE)?, payload)?;
        }
        Content::Directory { memory: false } => {
            volumes.open_or_create_shared(volume, WRITABLE)?;
        }
        Content::Directory { memory: true } => match memory::directory(root, uid, volume)? {
            Some(target) => lead(&volumes, volume, &target)?,
            None => {
                volumes.open_or_create_shared(volume, WRITABLE)?;
                return Ok(Placed::OnDisk);
            }
        },
        Content::Place { path, kind, .. } => {
            let found = match kind {
                Some(kind) => host_path::set_up(path, kind),
                None => host_path::check_local(path),
            };
            found.map_err(PlaceError::Host)?;
            lead(&volumes, volume, path)?;
        }
    }
    Ok(Placed::AsAsked)
}

/// Makes a volume stand for a path that this process cannot look at: one of another host.
pub fn lead_to(root: &Root, uid: &str, volume: &str, target: &Path) -> Result<(), PlaceError> {
    let volumes = trusted(root)?
        .open_or_create("pods")?
        .open_or_create(uid)?
        .open_or_create("volumes")?;
    Ok(lead(&volumes, volume, target)?)
}

/// Makes a volume a link to somewhere else.
fn lead(volumes: &Dir, volume: &str, target: &Path) -> Result<(), DirError> {
    check_name(volume)?;
    if read_link(volumes, volume).is_some_and(|found| found == target) {
        return Ok(());
    }
    volumes.remove_file(volume)?;
    symlink(volumes, target, volume).map_err(|errno| io("link", volumes, volume, errno))
}

/// Where a volume's contents are: its own directory, or the one that it leads to.
pub(super) fn contents(root: &Root, uid: &str, volume: &str) -> Result<PathBuf, DirError> {
    check_name(volume)?;
    let dir = trusted(root)?.descend(&["pods", uid, "volumes"])?;
    let dir = dir.ok_or_else(|| missing(root.path()))?;
    Ok(read_link(&dir, volume).unwrap_or_else(|| dir.path().join(volume)))
}

/// Makes something of the pod's, or of the host, appear in a container's directory.
pub fn link(container: &ContainerDir, mount_path: &str, source: &Path) -> Result<(), PlaceError> {
    let path = mounts::relative(mount_path)?;
    let names: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
    let Some((name, parents)) = names.split_last() else {
        return Ok(());
    };
    let pod = container.root().path().join("pods").join(container.uid());
    let top = trusted(container.root())?.descend(&["pods", container.uid(), "containers"])?;
    let mut dir = top
        .ok_or_else(|| missing(&container.path()))?
        .open_or_create(container.name())?;
    for parent in parents {
        dir = dir.open_or_create(parent)?;
    }
    // What lies in the pod's directory is found from wherever that is seen.
    let target = match source.strip_prefix(&pod) {
        Ok(inside) => {
            // Out of the parents, of the container's directory, of `containers`.
            let mut target: PathBuf = (0..parents.len() + 2).map(|_| "..").collect();
            target.push(inside);
            target
        }
        Err(_) => source.to_owned(),
    };
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
/// Of a place of the host, those at its top.
pub fn files(root: &Root, uid: &str, volume: &str) -> Result<Vec<String>, PlaceError> {
    let Some(dir) = current(root, uid, volume)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    let ours = dir.path().starts_with(root.path());
    collect(&dir, "", ours, &mut found)?;
    found.sort();
    Ok(found)
}

/// The first line of a placed file (at most 256 bytes, as much as a kernel reads).
pub fn first_line(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    file.take(256).read_to_end(&mut start).ok()?;
    let text = String::from_utf8_lossy(&start);
    text.lines().next().map(str::to_owned)
}

/// A file of a volume that is in place, as it was written.
pub fn read(root: &Root, uid: &str, volume: &str, path: &str) -> Option<Vec<u8>> {
    let (parents, name) = match path.rsplit_once('/') {
        Some((parents, name)) => (parents.split('/').collect(), name),
        None => (Vec::new(), path),
    };
    let dir = current(root, uid, volume).ok()??.descend(&parents).ok()??;
    dir.read(name).ok()?
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
pub(super) fn current(root: &Root, uid: &str, volume: &str) -> Result<Option<Dir>, DirError> {
    let Some(volumes) = trusted(root)?.descend(&["pods", uid, "volumes"])? else {
        return Ok(None);
    };
    if let Some(elsewhere) = read_link(&volumes, volume) {
        return Dir::open_trusted(&elsewhere);
    }
    match volumes.open(volume)? {
        Some(dir) => match stamp(&dir) {
            Some(stamp) => dir.open(&stamp),
            None => Ok(Some(dir)),
        },
        None => Ok(None),
    }
}

fn collect(
    dir: &Dir,
    prefix: &str,
    descend: bool,
    found: &mut Vec<String>,
) -> Result<(), DirError> {
    for name in dir.names()? {
        let Some(name) = name.to_str() else { continue };
        let path = format!("{prefix}{name}");
        match dir.open(name) {
            Ok(Some(below)) if descend => collect(&below, &format!("{path}/"), descend, found)?,
            Ok(Some(_)) => {}
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
    if let Err(error) = write(&fresh, payload) {
        // On a full disk each half-written try would take room from the next; the first error is
        // the one to tell.
        let _ = dir.remove_tree(&stamp);
        return Err(error);
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

fn write(fresh: &Dir, payload: &Payload) -> Result<(), DirError> {
    for (path, file) in payload {
        let mut parent = None;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let here = parent.as_ref().unwrap_or(fresh);
            if names.peek().is_some() {
                parent = Some(here.open_or_create_shared(name, READABLE)?);
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
    Ok(())
}

fn new_stamp(dir: &Dir) -> Result<(String, Dir), DirError> {
    let stamp = format!("..{}", uuid::Uuid::new_v4().simple());
    let fresh = dir.open_or_create_shared(&stamp, READABLE)?;
    Ok((stamp, fresh))
}

fn same(dir: &Dir, payload: &Payload) -> Result<bool, DirError> {
    let mut found = Vec::new();
    collect(dir, "", true, &mut found)?;
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
        // One that its own mode keeps us from reading is written anew.
        let Ok(Some(mut file)) = here.open_file(name) else {
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

        /// Whether anything had to be written.
        fn put(&self, files: &[(&str, &str)]) -> bool {
            let data = self.volume().join(DATA);
            let before = fs::read_link(&data).ok();
            place(&self.root, "u", "v", &payload(files)).unwrap();
            fs::read_link(&data).ok() != before
        }

        fn link(&self, container: &ContainerDir, path: &str) -> Result<(), PlaceError> {
            link(container, path, &self.volume())
        }
    }

    fn payload(files: &[(&str, &str)]) -> Content {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
        };
        let files = files.iter();
        let files = files.map(|(path, text)| ((*path).to_owned(), file(text)));
        Content::Files(files.collect())
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
        assert_eq!(first_line(&volume.join("a.sh")).as_deref(), Some("B"));
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
        assert!(place(&case.root, "u", "v", &payload(&[("a", "C")])).is_err());
        assert_eq!(fs::read_to_string(outside.join("a")).unwrap(), "mine");
    }

    #[test]
    fn mounts_are_relative_links() {
        let case = Case::new();
        case.put(&[("a.sh", "A")]);
        let container = case.root.container("u", "c").unwrap();
        container.create().unwrap();
        case.link(&container, "stress/job1").unwrap();
        case.link(&container, "/abs").unwrap();
        case.link(&container, "stress/job1").unwrap();
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
            case.link(&container, "../x"),
            Err(PlaceError::Path(_))
        ));
        fs::create_dir(container.path().join("mine")).unwrap();
        assert!(matches!(
            case.link(&container, "mine"),
            Err(PlaceError::Occupied(_))
        ));
        // A link that the container made in place of a parent is not followed.
        make_link("/", container.path().join("planted")).unwrap();
        assert!(case.link(&container, "planted/x").is_err());
    }

    #[test]
    fn an_empty_directory_keeps_what_the_pod_wrote() {
        let case = Case::new();
        place(&case.root, "u", "v", &Content::Directory { memory: false }).unwrap();
        fs::write(case.volume().join("data"), "x").unwrap();
        place(&case.root, "u", "v", &Content::Directory { memory: false }).unwrap();
        assert_eq!(fs::read_to_string(case.volume().join("data")).unwrap(), "x");
    }

    #[test]
    fn places_of_the_host_are_led_to_and_never_removed() {
        let case = Case::new();
        let outside = case.root.path().parent().unwrap().join("outside");
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("a.sh"), "#!/bin/sh\n").unwrap();
        let content = Content::Place {
            path: outside.clone(),
            kind: Some("Directory".into()),
            name: "v".into(),
        };
        for _ in 0..2 {
            assert_eq!(
                place(&case.root, "u", "v", &content).unwrap(),
                Placed::AsAsked
            );
        }
        assert_eq!(contents(&case.root, "u", "v").unwrap(), outside);
        assert_eq!(files(&case.root, "u", "v").unwrap(), ["a.sh"]);
        let container = case.root.container("u", "c").unwrap();
        container.create().unwrap();
        case.link(&container, "data").unwrap();
        assert!(container.path().join("data/a.sh").exists());
        case.root.remove_pod("u").unwrap();
        assert!(outside.join("a.sh").exists() && outside.join("sub").exists());
        let missing = Content::Place {
            path: outside.join("none"),
            kind: None,
            name: "pv".into(),
        };
        let error = place(&case.root, "u", "w", &missing)
            .unwrap_err()
            .to_string();
        assert!(error.contains("does not exist"), "{error}");
    }

    #[test]
    fn ten_thousand_files_and_odd_names() {
        let case = Case::new();
        let names: Vec<String> = (0..10_000).map(|it| format!("f-{it}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        assert!(case.put(&files));
        assert_eq!(visible(&case.volume()).len(), 10_000);
        assert!(!case.put(&files));
        assert!(case.put(&[("-rf", "1"), (".hidden", "2"), ("a b", "3"), ("...", "4")]));
        let mut shown = visible(&case.volume());
        shown.retain(|it| it != "...");
        assert_eq!(shown, ["-rf", ".hidden", "a b"]);
        assert_eq!(fs::read_to_string(case.volume().join("-rf")).unwrap(), "1");
    }

    /// A small file system, unmounted when dropped.
    struct Small(PathBuf);

    impl Small {
        fn of(inodes: u32, pages: u32, at: &Path) -> Option<Self> {
            use nix::mount::{MsFlags, mount};
            let size = format!("mode=0700,nr_inodes={inodes},size={}", pages * 4096);
            let options = Some(size.as_str());
            mount(Some("small"), at, Some("tmpfs"), MsFlags::empty(), options).ok()?;
            Some(Self(at.to_owned()))
        }

        fn grow(&self) {
            use nix::mount::{MsFlags, mount};
            let options = Some("nr_inodes=1000,size=16m");
            mount(
                Some("small"),
                &self.0,
                Some("tmpfs"),
                MsFlags::MS_REMOUNT,
                options,
            )
            .unwrap();
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn a_full_disk_at_each_write_is_told_and_mended_by_room() {
        let temp = tempfile::tempdir().unwrap();
        let (old, new) = ("o".repeat(3000), "n".repeat(9000));
        let first = payload(&[("a", &old), ("d/e", "x")]);
        let second = payload(&[("a", &new), ("d/e", &new), ("b", "y")]);
        let (mut failed, mut placed) = (0, 0);
        for step in 0..60 {
            let at = temp.path().join(step.to_string());
            fs::create_dir(&at).unwrap();
            // Inodes run out in the first half, room in the second.
            let (inodes, pages) = if step < 30 {
                (2 + step, 4096)
            } else {
                (500, step - 29)
            };
            let Some(small) = Small::of(inodes, pages, &at) else {
                return testkit::skip!("this user cannot mount a small file system");
            };
            let Ok(root) = Root::create(&at.join("root")) else {
                failed += 1;
                continue;
            };
            let volume = at.join("root/pods/u/volumes/v");
            let mut tries = [&first, &second].map(|content| place(&root, "u", "v", content));
            for outcome in &mut tries {
                match outcome {
                    Ok(_) => placed += 1,
                    Err(error) => {
                        let said = crate::pod::api::chain(error);
                        assert!(said.contains("No space left on device"), "{said}");
                        failed += 1;
                    }
                }
            }
            if tries[0].is_ok() && tries[1].is_err() {
                assert_eq!(
                    fs::read_to_string(volume.join("a")).unwrap(),
                    old,
                    "step {step}"
                );
            }
            small.grow();
            place(&root, "u", "v", &second).unwrap();
            assert_eq!(visible(&volume), ["a", "b", "d"]);
            assert_eq!(fs::read_to_string(volume.join("d/e")).unwrap(), new);
            let stamps = fs::read_dir(&volume).unwrap().flatten();
            let stamps = stamps.filter(|it| it.file_name().as_bytes().starts_with(b".."));
            assert_eq!(stamps.count(), 2, "one set of contents and its link");
        }
        assert!(failed > 10 && placed > 10, "{failed} {placed}");
    }
}
