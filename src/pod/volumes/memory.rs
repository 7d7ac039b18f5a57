//! Where `emptyDir` volumes of medium `Memory` lie: a private directory of ours in the host's
//! shared memory, since mounting a tmpfs of one's own takes privileges.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::container::{Root, dir::DirError, files::Dir};

const SHARED_MEMORY: &str = "/dev/shm";

/// The directory of a pod's volume, made where it is missing; none where the host has no
/// shared memory that we may write to.
///
/// # Errors
/// Where the directory that should be ours is not.
pub(super) fn directory(root: &Root, uid: &str, volume: &str) -> Result<Option<PathBuf>, DirError> {
    directory_in(Path::new(SHARED_MEMORY), root, uid, volume)
}

/// Removes what a pod has in memory.
///
/// # Errors
/// Where something of it stays.
pub fn remove(root: &Root, uid: &str) -> Result<(), DirError> {
    remove_in(Path::new(SHARED_MEMORY), root, uid)
}

fn directory_in(
    shared: &Path,
    root: &Root,
    uid: &str,
    volume: &str,
) -> Result<Option<PathBuf>, DirError> {
    if !statfs(shared).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC) {
        return Ok(None);
    }
    let base = base(shared, root);
    let io = |op, source| DirError::Io {
        op,
        path: base.clone(),
        source,
    };
    match fs::DirBuilder::new().mode(0o700).create(&base) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(io("create directory", error)),
    }
    let Some(dir) = ours(&base)? else {
        return Err(io(
            "use a directory of another user:",
            io::ErrorKind::PermissionDenied.into(),
        ));
    };
    let dir = dir.open_or_create(uid)?.open_or_create(volume)?;
    Ok(Some(dir.path().to_owned()))
}

fn remove_in(shared: &Path, root: &Root, uid: &str) -> Result<(), DirError> {
    let base = base(shared, root);
    let Some(dir) = ours(&base)? else {
        return Ok(());
    };
    dir.remove_tree(uid)?;
    // The last pod takes the directory with it; others may have come.
    let _ = fs::remove_dir(&base);
    Ok(())
}

/// Opens the base if it is a directory of ours that is closed to others.
fn ours(base: &Path) -> Result<Option<Dir>, DirError> {
    let Ok(found) = fs::symlink_metadata(base) else {
        return Ok(None);
    };
    let private = found.is_dir()
        && found.uid() == nix::unistd::geteuid().as_raw()
        && found.permissions().mode() & 0o077 == 0;
    if private {
        Dir::open_trusted(base)
    } else {
        Ok(None)
    }
}

/// One per root: several nodes may run on a host.
fn base(shared: &Path, root: &Root) -> PathBuf {
    // FNV-1a, since the name has to be the same in each version of this program.
    let hash = root
        .path()
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    shared.join(format!("vk-cmd-{}-{hash:016x}", nix::unistd::geteuid()))
}

#[cfg(test)]
mod tests {
    use testkit::skip;

    use super::*;

    #[test]
    fn volumes_in_memory_are_private_and_go_with_their_pod() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::create(&temp.path().join("root")).unwrap();
        let Some(path) = directory(&root, "u", "v").unwrap() else {
            return skip!("/dev/shm is no tmpfs that this user may write to");
        };
        fs::write(path.join("x"), "y").unwrap();
        assert_eq!(directory(&root, "u", "v").unwrap(), Some(path.clone()));
        let base = path.parent().unwrap().parent().unwrap();
        assert_eq!(
            fs::metadata(base).unwrap().permissions().mode() & 0o777,
            0o700
        );
        remove(&root, "other").unwrap();
        assert!(path.join("x").exists());
        remove(&root, "u").unwrap();
        assert!(!base.exists());
        remove(&root, "u").unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_used() {
        let shared = Path::new(SHARED_MEMORY);
        if !statfs(shared).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC) {
            return skip!("/dev/shm is no tmpfs");
        }
        let temp = tempfile::tempdir().unwrap();
        let root = Root::create(&temp.path().join("root")).unwrap();
        let base = base(shared, &root);
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
        let used = directory(&root, "u", "v");
        fs::remove_dir(&base).unwrap();
        assert!(used.is_err());
    }

    #[test]
    fn a_host_without_shared_memory_has_none() {
        let root = Root::create(&tempfile::tempdir().unwrap().keep().join("root")).unwrap();
        let nowhere = directory_in(Path::new("/proc"), &root, "u", "v").unwrap();
        assert_eq!(nowhere, None);
        fs::remove_dir_all(root.path().parent().unwrap()).unwrap();
    }
}
