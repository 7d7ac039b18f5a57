//! At most one start per attempt.
//!
//! The agent records the intent, then one shim takes the claim: a file that comes to be whole and once only, so
//! that the file system decides between a late shim, a second agent and a cancellation. An attempt without a claim has started
//! nothing; an attempt with one has started at most once.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    dir::DirError,
    files::{Dir, Durability, Linked, temporary_name},
    process::{Here, ProcessId},
    status::{FORMAT_VERSION, StatusFile},
};

const INTENT: &str = "intent.json";
const CLAIM: &str = "claim.json";
/// Name of the status file; readers of logs wait for it to be replaced.
pub const STATUS: &str = "status.json";

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A record of a newer format.
    #[error("{} has format version {found}, this program knows {supported}: run a newer vk-cmd", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
}

/// What an agent means to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// The attempt.
    pub attempt: u32,
    /// Epoch of the agent; a shim that comes with another one must not start.
    pub epoch: u64,
    /// The start that is meant.
    pub start: Start,
    /// Where it was meant to start.
    pub here: Here,
}

/// One try to start an attempt; two agents may try at once, and one of them gets the claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Random identity, also in the environment of its processes.
    pub container: String,
    /// Control socket of its shim, as the shim sees it.
    pub socket: PathBuf,
    /// Whether the shim is started on the host, through the hostpipe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_host: bool,
    /// Its control group, where it was to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<PathBuf>,
}

/// Who took an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// The epoch of the intent that was claimed.
    pub epoch: u64,
    /// What for.
    pub purpose: Purpose,
    /// The shim, or the agent that cancelled.
    pub claimant: ProcessId,
}

/// What an attempt was claimed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To start the command.
    Start(Start),
    /// To make sure that nothing starts.
    Cancel,
}

/// What a claim file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody has claimed.
    No,
    /// Whole.
    By(Claim),
    /// Where the file system has no links, the claimant died between creating and filling the file.
    Torn,
}

/// Parses a record; `None` where it is torn.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Option<T>, RecordError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Ok(Version { version: found }) = serde_json::from_slice(bytes) else {
        return Ok(None);
    };
    if found > FORMAT_VERSION {
        return Err(RecordError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    Ok(serde_json::from_slice(bytes).ok())
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(record).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Writes the intent. Not synchronised: see [`Durability`]; what a power failure takes with it has ended anyway.
pub fn write_intent(dir: &Dir, intent: &Intent) -> Result<(), DirError> {
    dir.write_atomic(INTENT, &encode(intent), Durability::Processes)
}

/// Reads the intent; `None` where there is none or it is torn.
pub fn read_intent(dir: &Dir) -> Result<Option<Intent>, RecordError> {
    match dir.read(INTENT)? {
        Some(bytes) => parse(&dir.path().join(INTENT), &bytes),
        None => Ok(None),
    }
}

/// Takes the claim. `None` where it is taken already. The file comes back to be synchronised at leisure.
///
/// A link to a finished file: as exclusive as `O_EXCL`, on network file systems too, and never half-written.
pub fn take(dir: &Dir, claim: &Claim) -> Result<Option<std::fs::File>, DirError> {
    let bytes = encode(claim);
    let write = |mut file: std::fs::File, name: &str| {
        file.write_all(&bytes).map_err(|source| DirError::Io {
            op: "write",
            path: dir.path().join(name),
            source,
        })?;
        Ok(file)
    };
    let temporary = temporary_name(CLAIM);
    let file = write(dir.create_fresh(&temporary)?, &temporary)?;
    let linked = dir.link_new(&temporary, CLAIM);
    dir.remove_file(&temporary)?;
    match linked? {
        Linked::Yes => Ok(Some(file)),
        Linked::Taken => Ok(None),
        Linked::Unsupported => match dir.create_new(CLAIM)? {
            Some(file) => write(file, CLAIM).map(Some),
            None => Ok(None),
        },
    }
}

/// Reads the claim.
pub fn read(dir: &Dir) -> Result<Claimed, RecordError> {
    match dir.read(CLAIM)? {
        None => Ok(Claimed::No),
        Some(bytes) => {
            Ok(parse(&dir.path().join(CLAIM), &bytes)?.map_or(Claimed::Torn, Claimed::By))
        }
    }
}

/// Reads the status; `None` where there is none or it is torn.
pub fn read_status(dir: &Dir) -> Result<Option<StatusFile>, RecordError> {
    match dir.read(STATUS)? {
        Some(bytes) => parse(&dir.path().join(STATUS), &bytes),
        None => Ok(None),
    }
}

/// Writes the status.
pub fn write_status(
    dir: &Dir,
    status: &StatusFile,
    durability: Durability,
) -> Result<(), DirError> {
    dir.write_atomic(STATUS, &encode(status), durability)
}

/// Room on the medium for the last status of an attempt, taken while there still is some.
#[derive(Debug)]
pub struct Reserve(std::fs::File);

const RESERVE: &str = ".status.reserve";
const RESERVE_BYTES: usize = 4096;

impl Reserve {
    /// Takes the room.
    pub fn take(dir: &Dir) -> Result<Self, DirError> {
        let mut file = dir.create_fresh(RESERVE)?;
        // Written, not only allocated: not every file system can allocate.
        file.write_all(&[b' '; RESERVE_BYTES])
            .map_err(|source| DirError::Io {
                op: "reserve room in",
                path: dir.path().join(RESERVE),
                source,
            })?;
        Ok(Self(file))
    }

    /// Uses the room up for a status, on the medium before it returns.
    pub fn write_status(&self, dir: &Dir, status: &StatusFile) -> Result<(), DirError> {
        use std::os::unix::fs::FileExt;
        let mut bytes = encode(status);
        // White space after the record is nothing to a JSON reader; the room stays as it is.
        bytes.resize(bytes.len().max(RESERVE_BYTES), b' ');
        self.0
            .write_all_at(&bytes, 0)
            .and_then(|()| self.0.sync_all())
            .map_err(|source| DirError::Io {
                op: "write",
                path: dir.path().join(STATUS),
                source,
            })?;
        dir.rename(RESERVE, STATUS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};

    fn start() -> Purpose {
        Purpose::Start(Start {
            container: "id".into(),
            socket: "/s".into(),
            on_host: false,
            group: None,
        })
    }

    fn claim(purpose: Purpose) -> Claim {
        let claimant = Here::current()
            .and_then(|here| here.own_process())
            .expect("procfs");
        Claim {
            version: FORMAT_VERSION,
            epoch: 1,
            purpose,
            claimant,
        }
    }

    fn open(path: &Path) -> Dir {
        Dir::open_trusted(path).expect("openable").expect("present")
    }

    #[test]
    fn of_many_claimants_exactly_one_wins() {
        let temp = tempfile::tempdir().expect("tempdir");
        let barrier = Arc::new(Barrier::new(16));
        let winners: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    let path = temp.path();
                    scope.spawn(move || {
                        let dir = open(path);
                        let claim = claim(start());
                        barrier.wait();
                        usize::from(take(&dir, &claim).expect("no failure").is_some())
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum()
        });
        assert_eq!(winners, 1);
        assert_eq!(
            read(&open(temp.path())).expect("readable"),
            Claimed::By(claim(start()))
        );
    }

    #[test]
    fn torn_records_are_told_from_missing_and_newer_ones() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = open(temp.path());
        assert_eq!(read(&dir).expect("readable"), Claimed::No);
        std::fs::write(temp.path().join(CLAIM), "").expect("written");
        assert_eq!(read(&dir).expect("readable"), Claimed::Torn);
        std::fs::write(temp.path().join(STATUS), r#"{"version":1,"att"#).expect("written");
        assert_eq!(read_status(&dir).expect("readable"), None);
        std::fs::write(temp.path().join(STATUS), r#"{"version":2,"of":"tomorrow"}"#)
            .expect("written");
        assert!(matches!(
            read_status(&dir),
            Err(RecordError::NewerFormat { found: 2, .. })
        ));
    }

    #[test]
    fn the_reserve_becomes_the_status() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = open(temp.path());
        let writer = Here::current()
            .and_then(|here| here.own_process())
            .expect("procfs");
        let status = StatusFile {
            version: FORMAT_VERSION,
            attempt: 3,
            epoch: 4,
            writer,
            status: super::super::status::Status::Created,
        };
        let reserve = Reserve::take(&dir).expect("room");
        reserve.write_status(&dir, &status).expect("written");
        assert_eq!(read_status(&dir).expect("readable"), Some(status));
    }
}
