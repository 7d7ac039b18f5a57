//! How the store refuses.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Object;

/// Why a store could not be opened. Nothing on disk was changed, except that the torn tail of an
/// interrupted last write may have been cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another part of this one, has the store open.
    #[error("{} is in use by {}; stop that process or choose another state directory", directory.display(), owner(*pid))]
    AlreadyOpen {
        /// The directory of the store.
        directory: PathBuf,
        /// Who holds it, where the lock file tells.
        pid: Option<u32>,
    },
    /// A file is damaged in a way that no interrupted write explains. It was left as it is.
    #[error("{} is damaged at byte {offset}: {reason}; {mend}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage was found, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
        /// What can be done.
        mend: String,
    },
    /// The store was written by a newer version of the program.
    #[error("{} has format version {found} and this program reads versions up to {supported}; use the newer program that wrote it, or another state directory", file.display())]
    NewerFormat {
        /// The file that says so.
        file: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// Why a write was not done. Nothing of it can be seen, now or after a restart.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The object is not at the expected revision; `current` is what is there.
    #[error("the object is not at the expected revision")]
    Conflict {
        /// The current version; `None` where there is no such object.
        current: Option<Arc<Object>>,
    },
    /// No space is left for the log. Reads go on, and writes succeed once there is space again.
    #[error("no space is left to write {}; free some and try again", file.display())]
    Full {
        /// The log that could not grow.
        file: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log could not be written for another reason. Reads go on; a later write may succeed.
    #[error("cannot write {}", file.display())]
    Io {
        /// The log that could not be written.
        file: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The object is larger than the store takes.
    #[error("the object has {bytes} bytes and the store takes {limit}")]
    TooLarge {
        /// The size of the object.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a read or a watch at a revision is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// The revision lies before what the history still holds: HTTP 410.
    #[error("too old resource version: {requested} ({oldest})")]
    Compacted {
        /// The revision asked for.
        requested: u64,
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
    /// The revision is not reached yet: HTTP 504 with cause `ResourceVersionTooLarge`.
    #[error("Too large resource version: {requested}, current: {current}")]
    Future {
        /// The revision asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The watcher was too slow and its queue is full; everything before was delivered in order.
    #[error("the watcher fell too far behind and was closed")]
    Lagged,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
