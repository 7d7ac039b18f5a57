//! Files that are torn, damaged, missing, newer or someone else's.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;
use crate::store::OpenError;
use crate::store::format::{FileKind, HEADER, Header};

/// Copies a store's files into a fresh directory.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for file in files(from, "") {
        let name = file.file_name().expect("a name");
        fs::copy(&file, to.path().join(name)).expect("a copy");
    }
    to
}

/// A store with one log of a few commits, and where each commit ends.
async fn written() -> (tempfile::TempDir, Vec<(u64, u64)>) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let log = files(directory.path(), "log-").remove(0);
    let mut ends = vec![(HEADER as u64, 1)];
    for round in 0..4 {
        set(
            &store,
            &format!("pods/a/{}", round % 2),
            &format!("text {round}"),
        )
        .await;
        ends.push((log.metadata().expect("a file").len(), store.revision()));
    }
    remove(&store, "pods/a/1").await;
    ends.push((log.metadata().expect("a file").len(), store.revision()));
    store.close().await;
    (directory, ends)
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_loses_only_the_write_it_belongs_to() {
    let (original, ends) = written().await;
    let end = ends.last().expect("commits").0;
    for length in HEADER as u64..=end {
        let torn = copy(original.path());
        let log = files(torn.path(), "log-").remove(0);
        let file = OpenOptions::new().write(true).open(&log).expect("a log");
        file.set_len(length).expect("truncation");
        let store = open(torn.path());
        let whole = ends
            .iter()
            .rev()
            .find(|(end, _)| *end <= length)
            .expect("a commit");
        assert_eq!(store.revision(), whole.1, "torn at {length}");
        assert_eq!(log.metadata().expect("a file").len(), whole.0);
        // It goes on from there, and what follows is found again.
        set(&store, "pods/a/new", "after").await;
        drop(store);
        assert_eq!(open(torn.path()).revision(), whole.1 + 1);
    }
}

#[tokio::test]
async fn sectors_that_a_crash_left_unwritten_are_a_torn_tail() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    set(&store, "pods/a/kept", "kept").await;
    let log = files(directory.path(), "log-").remove(0);
    let kept = log.metadata().expect("a file").len();
    set(&store, "pods/a/lost", &"x".repeat(4_000)).await;
    store.close().await;
    let end = log.metadata().expect("a file").len();
    let mut sector = kept - kept % 512;
    while sector < end {
        let torn = copy(directory.path());
        let log = files(torn.path(), "log-").remove(0);
        let file = OpenOptions::new().write(true).open(&log).expect("a log");
        let start = sector.max(kept);
        let zeros = vec![0; usize::try_from(end.min(sector + 512) - start).expect("small")];
        file.write_all_at(&zeros, start).expect("a write");
        let store = open(torn.path());
        assert_eq!(store.revision(), 2, "sector at {sector} is zero");
        sector += 512;
    }
}

#[tokio::test]
async fn a_lost_sector_before_a_whole_commit_is_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let log = files(directory.path(), "log-").remove(0);
    let mut starts = Vec::new();
    for name in ["a", "b", "c"] {
        starts.push(log.metadata().expect("a file").len());
        set(&store, &format!("pods/a/{name}"), &"x".repeat(4_000)).await;
    }
    store.close().await;
    // The header of the second commit, and the middle of it.
    for at in [starts[1], starts[1] + 2_000] {
        let damaged = copy(directory.path());
        let log = files(damaged.path(), "log-").remove(0);
        let file = OpenOptions::new().write(true).open(&log).expect("a log");
        let sector = at - at % 512;
        file.write_all_at(&[0; 512], sector.max(starts[1]))
            .expect("a write");
        match Store::open(damaged.path(), quick()) {
            Err(OpenError::Corrupt { offset, .. }) => assert_eq!(offset, starts[1]),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_refused_and_nothing_is_changed() {
    let (original, ends) = written().await;
    let end = ends.last().expect("commits").0;
    for offset in 0..end {
        let damaged = copy(original.path());
        let log = files(damaged.path(), "log-").remove(0);
        let mut bytes = fs::read(&log).expect("a log");
        bytes[usize::try_from(offset).expect("small")] ^= 1 << (offset % 8);
        fs::write(&log, &bytes).expect("a write");
        match Store::open(damaged.path(), quick()) {
            Err(OpenError::Corrupt {
                file,
                offset: found,
                mend,
                ..
            }) => {
                assert_eq!(file, log);
                assert!(
                    found <= offset,
                    "the damage at {offset} was found at {found}"
                );
                assert!(!mend.is_empty());
            }
            Err(OpenError::NewerFormat { .. }) => panic!("a flipped bit at {offset} is no version"),
            other => panic!("flipped at {offset}: {other:?}"),
        }
        assert_eq!(
            fs::read(&log).expect("a log"),
            bytes,
            "the file stays as it is"
        );
    }
}

#[tokio::test]
async fn the_mend_for_a_damaged_log_works() {
    let (original, ends) = written().await;
    let log = files(original.path(), "log-").remove(0);
    let mut bytes = fs::read(&log).expect("a log");
    let damaged_commit = usize::try_from(ends[2].0).expect("small");
    bytes[damaged_commit + 20] ^= 1;
    fs::write(&log, &bytes).expect("a write");
    let error = Store::open(original.path(), quick()).expect_err("a refusal");
    let OpenError::Corrupt { offset, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*offset, ends[2].0);
    let text = error.to_string();
    let command = format!("truncate -s {offset} {}", log.display());
    assert!(text.contains(&command), "{text}");
    OpenOptions::new()
        .write(true)
        .open(&log)
        .and_then(|file| file.set_len(*offset))
        .expect("truncation");
    assert_eq!(open(original.path()).revision(), ends[2].1);
}

/// A store whose snapshot is followed by a log with commits.
async fn compacted() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        compact_bytes: 2_000,
        ..quick()
    };
    let store = Store::open(directory.path(), options).expect("a store");
    while files(directory.path(), "snapshot-").is_empty() {
        set(&store, "pods/a/b", "text").await;
    }
    set(&store, "pods/a/c", "text").await;
    store.close().await;
    directory
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    let original = compacted().await;
    let snapshot = files(original.path(), "snapshot-").remove(0);
    let bytes = fs::read(&snapshot).expect("a snapshot");
    for offset in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        for broken in [&damaged[..], &bytes[..offset]] {
            fs::write(&snapshot, broken).expect("a write");
            match Store::open(original.path(), quick()) {
                Err(OpenError::Corrupt { file, .. }) => assert_eq!(file, snapshot),
                other => panic!("damaged at {offset}: {other:?}"),
            }
        }
    }
    fs::write(&snapshot, &bytes).expect("a write");
    open(original.path());
}

#[tokio::test]
async fn a_missing_log_is_refused() {
    let original = compacted().await;
    let log = files(original.path(), "log-").pop().expect("a log");
    fs::remove_file(&log).expect("a removal");
    match Store::open(original.path(), quick()) {
        Err(OpenError::Corrupt { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_between_others_may_not_be_torn() {
    let original = compacted().await;
    let log = files(original.path(), "log-").pop().expect("a log");
    let sequence: u64 = u64::from_str_radix(
        log.to_string_lossy().rsplit('-').next().expect("digits"),
        16,
    )
    .expect("a number");
    let revision = open(original.path()).revision();
    let header = Header {
        kind: FileKind::Log,
        sequence: sequence + 1,
        revision,
    };
    let following = original.path().join(format!("log-{:016x}", sequence + 1));
    fs::write(&following, header.encode()).expect("a write");
    assert_eq!(open(original.path()).revision(), revision);
    let length = log.metadata().expect("a file").len();
    let file = OpenOptions::new().write(true).open(&log).expect("a log");
    file.set_len(length - 1).expect("truncation");
    match Store::open(original.path(), quick()) {
        Err(OpenError::Corrupt { file, mend, .. }) => {
            assert_eq!(file, log);
            assert!(mend.contains("remove the log files after it"), "{mend}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_and_not_touched() {
    let (original, _) = written().await;
    let log = files(original.path(), "log-").remove(0);
    let mut bytes = fs::read(&log).expect("a log");
    bytes[8] = 2;
    let crc = crate::store::crc::crc32(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&log, &bytes).expect("a write");
    let error = Store::open(original.path(), quick()).expect_err("a refusal");
    match &error {
        OpenError::NewerFormat {
            found: 2,
            supported: 1,
            file,
        } => assert_eq!(*file, log),
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("format version 2"), "{error}");
    assert_eq!(fs::read(&log).expect("a log"), bytes);
}

#[tokio::test]
async fn a_second_open_is_refused_with_the_process_that_has_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let error = Store::open(directory.path(), quick()).expect_err("a refusal");
    match &error {
        OpenError::AlreadyOpen { pid, .. } => assert_eq!(*pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    assert_eq!(set(&store, "pods/a/b", "still works").await.revision, 2);
    drop(store);
    open(directory.path());
}

#[tokio::test]
async fn files_that_were_never_finished_are_removed_and_strangers_are_kept() {
    let (original, _) = written().await;
    let unfinished = original.path().join("snapshot-0000000000000007.tmp");
    let stranger = original.path().join("snapshot-notes.tmp");
    for path in [&unfinished, &stranger] {
        fs::File::create(path)
            .and_then(|mut file| file.write_all(b"half"))
            .expect("a file");
    }
    open(original.path());
    assert!(!unfinished.exists());
    assert!(stranger.exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("a file");
    let error = Store::open(&file.join("store"), quick()).expect_err("a refusal");
    match &error {
        OpenError::Io { path, .. } => assert_eq!(*path, file.join("store")),
        other => panic!("{other:?}"),
    }
}
