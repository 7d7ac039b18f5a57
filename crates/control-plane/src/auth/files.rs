//! Files that hold secrets: written whole or not at all, readable by their owner alone.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried, for example `write`.
    pub operation: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// Makes `dir` and its parents with mode 0700, or narrows an existing `dir` to 0700.
pub fn private_dir(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("create directory", dir))?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
        .map_err(failed("set the mode of", dir))
}

/// Replaces `path` with `bytes` and `mode`: a reader, or a start after a crash, sees the old file
/// or the new one, never a part.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // A file that a killed process left behind may have a wider mode than ours.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &temporary)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(failed("replace", path))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

/// The text of `path`, or `None` where there is no such file.
pub fn read_if_present(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_readable_by_its_owner_alone_whatever_lay_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let private = dir.path().join("a/b");
        private_dir(&private).unwrap();
        let path = private.join("key");
        std::fs::write(&path, "old").unwrap();
        std::fs::write(private.join("key.new"), "half").unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(read_if_present(&path).unwrap().as_deref(), Some("new"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&private), 0o700);
        assert_eq!(
            std::fs::read_dir(&private).unwrap().count(),
            1,
            "no leftover"
        );
    }

    #[test]
    fn an_error_names_the_operation_and_the_path() {
        let error = write_atomic(Path::new("/proc/none/key"), b"", 0o600).unwrap_err();
        assert_eq!(error.to_string(), "cannot create /proc/none/key.new");
    }
}
