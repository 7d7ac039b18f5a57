//! The directory of a test, and the processes that work in it.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::wait::eventually;

/// A directory of its own under the system's. Who drops it last ends every process that works
/// below it, and removes it.
#[derive(Debug)]
pub struct Place(TempDir);

impl Place {
    /// Makes one.
    ///
    /// # Panics
    /// Where that cannot be.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end_processes_of(self.path());
    }
}

/// Ends every process that works below `place`: containers outlive their agent by design.
pub fn end_processes_of(place: &Path) {
    eventually("processes of a test end", || {
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let below = |link: &str| {
                std::fs::read_link(entry.path().join(link))
                    .is_ok_and(|target| target.starts_with(place))
            };
            let named = || {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let place = place.as_os_str().as_encoded_bytes();
                line.windows(place.len()).any(|window| window == place)
            };
            if pid != std::process::id().cast_signed() && (below("cwd") || named()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                left.push(pid);
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
