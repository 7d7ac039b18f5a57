//! `hostPath` and `local` volumes: what has to be at a path, in the kubelet's words.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use nix::errno::Errno;

/// Sees to it that a path is what `kind` says; none is a path that may be anything, and
/// becomes a directory where nothing is, as container runtimes have it.
///
/// # Errors
/// The cause, for a `FailedMount` event.
pub(super) fn set_up(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    if path.components().any(|it| it.as_os_str() == "..") {
        return Err(format!("invalid HostPath `{shown}`: must not contain '..'"));
    }
    let found = fs::metadata(path);
    let missing = match &found {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let is =
        |what: &dyn Fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(|it| what(&it.file_type()));
    let (fits, wanted) = match kind {
        "" if missing => return make_directories(path),
        "" => return Ok(()),
        "DirectoryOrCreate" if missing => return make_directories(path),
        "FileOrCreate" if missing => return make_file(path),
        "Directory" | "DirectoryOrCreate" => (is(&fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => (is(&fs::FileType::is_file), "file"),
        "Socket" => (is(&fs::FileType::is_socket), "socket file"),
        "CharDevice" => (is(&fs::FileType::is_char_device), "character device"),
        "BlockDevice" => (is(&fs::FileType::is_block_device), "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if fits {
        Ok(())
    } else {
        Err(format!(
            "hostPath type check failed: {shown} is not a {wanted}"
        ))
    }
}

/// Sees to it that a `local` volume's path is there.
///
/// # Errors
/// The cause, for a `FailedMount` event.
pub(super) fn check_local(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err("only directory and block device are supported".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("path {path:?} does not exist"))
        }
        Err(error) => Err(format!("stat {}: {}", path.display(), cause(&error))),
    }
}

fn make_directories(path: &Path) -> Result<(), String> {
    let mut missing: Vec<_> = path.ancestors().take_while(|it| !it.exists()).collect();
    while let Some(next) = missing.pop() {
        match fs::DirBuilder::new().mode(0o755).create(next) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("mkdir {}: {}", next.display(), cause(&error)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn make_file(path: &Path) -> Result<(), String> {
    let made = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("open {}: {}", path.display(), cause(&error))),
    }
}

/// As Go says it.
fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| Errno::from_raw(code).desc().to_lowercase(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_their_type_says() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("file"), "").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("dir"), at("link")).unwrap();
        let null = Path::new("/dev/null").to_owned();
        for (kind, path) in [
            ("", at("dir")),
            ("", at("file")),
            ("Directory", at("dir")),
            ("Directory", at("link")),
            ("DirectoryOrCreate", at("dir")),
            ("DirectoryOrCreate", at("new/deep")),
            ("File", at("file")),
            ("FileOrCreate", at("made")),
            ("Socket", at("socket")),
            ("CharDevice", null.clone()),
            ("", at("unset/too")),
        ] {
            assert_eq!(set_up(&path, kind), Ok(()), "{kind} {}", path.display());
        }
        assert!(at("new/deep").is_dir() && at("made").is_file() && at("unset/too").is_dir());
        for (kind, path, what) in [
            ("Directory", at("none"), "directory"),
            ("Directory", at("file"), "directory"),
            ("DirectoryOrCreate", at("file"), "directory"),
            ("File", at("dir"), "file"),
            ("FileOrCreate", at("dir"), "file"),
            ("Socket", at("file"), "socket file"),
            ("CharDevice", at("file"), "character device"),
            ("BlockDevice", null, "block device"),
        ] {
            let said = format!(
                "hostPath type check failed: {} is not a {what}",
                path.display()
            );
            assert_eq!(set_up(&path, kind), Err(said));
        }
    }

    #[test]
    fn what_cannot_be_made_is_said_with_the_path() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        let below = temp.path().join("file/x");
        let error = set_up(&below, "DirectoryOrCreate").unwrap_err();
        assert!(
            error.contains("file/x") || error.contains("is not a directory"),
            "{error}"
        );
        let error = set_up(&temp.path().join("no/x"), "FileOrCreate").unwrap_err();
        assert_eq!(
            error,
            format!(
                "open {}/no/x: no such file or directory",
                temp.path().display()
            )
        );
        assert_eq!(
            set_up(Path::new("/a/../b"), ""),
            Err("invalid HostPath `/a/../b`: must not contain '..'".into())
        );
        assert_eq!(
            set_up(Path::new("/"), "x"),
            Err("x is an invalid volume type".into())
        );
        assert_eq!(
            check_local(&temp.path().join("none")),
            Err(format!(
                "path {:?} does not exist",
                temp.path().join("none")
            ))
        );
        assert!(check_local(temp.path()).is_ok());
    }
}
