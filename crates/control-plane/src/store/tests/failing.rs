//! Disks that are full, fail, or lose power.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::store::lock::DirectoryLock;
use crate::store::log::{Log, Medium};
use crate::store::{CommitError, replay};

/// What the disk does with the next operations.
#[derive(Debug, Default)]
struct Faults {
    /// Only this many bytes more can be written.
    space: Option<u64>,
    sync_fails: bool,
    truncate_fails: bool,
    /// The length that would survive a loss of power.
    durable: u64,
}

struct Faulty {
    file: File,
    faults: Arc<Mutex<Faults>>,
}

impl Medium for Faulty {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut faults = self.faults.lock().expect("faults");
        if let Some(space) = &mut faults.space {
            let fits = usize::try_from(*space).expect("small").min(bytes.len());
            *space -= fits as u64;
            FileExt::write_all_at(&self.file, &bytes[..fits], offset)?;
            return if fits == bytes.len() {
                Ok(())
            } else {
                Err(io::ErrorKind::StorageFull.into())
            };
        }
        FileExt::write_all_at(&self.file, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut faults = self.faults.lock().expect("faults");
        if faults.sync_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        faults.durable = self.file.metadata()?.len();
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let faults = self.faults.lock().expect("faults");
        if faults.truncate_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.set_len(length)
    }
}

/// A store on a disk that can be told to fail.
fn on_faulty_disk(directory: &Path) -> (Store, Arc<Mutex<Faults>>) {
    drop(open(directory));
    let options = Options {
        fsync: true,
        ..quick()
    };
    let lock = DirectoryLock::acquire(directory).expect("the lock");
    let mut replayed = replay::replay(directory, options.attributes).expect("a replay");
    let path = replayed.log.path().to_path_buf();
    let file = OpenOptions::new().write(true).open(&path).expect("a log");
    let length = file.metadata().expect("a file").len();
    let faults = Arc::new(Mutex::new(Faults {
        durable: length,
        ..Faults::default()
    }));
    let medium = Faulty {
        file,
        faults: faults.clone(),
    };
    replayed.log = Log::new(Box::new(medium), path, replayed.log.sequence(), length);
    let store = Store::start(directory, options, lock, replayed).expect("a store");
    (store, faults)
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_is_survived() {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, faults) = on_faulty_disk(directory.path());
    set(&store, "pods/a/before", "1").await;
    let mut watcher = store.watch("pods/", store.revision()).expect("a watch");
    // Room for less and less of the record, down to none.
    for space in (0..60).rev() {
        faults.lock().expect("faults").space = Some(space);
        match store
            .put("pods/a/refused", Expected::Absent, draft("2"))
            .await
        {
            Err(CommitError::Full { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(store.revision(), 2);
        assert!(store.get("pods/a/refused").is_none());
        assert!(watcher.try_next().expect("an open watch").is_none());
    }
    faults.lock().expect("faults").space = None;
    assert_eq!(set(&store, "pods/a/after", "3").await.revision, 3);
    assert_eq!(watcher.next().await.expect("an event").revision(), 3);
    drop(store);
    let keys = contents(&open(directory.path()).list("").objects);
    assert_eq!(
        keys,
        [
            ("pods/a/after".into(), 3, "3".into()),
            ("pods/a/before".into(), 2, "1".into())
        ]
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_cut_back_takes_nothing_more_until_it_can() {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, faults) = on_faulty_disk(directory.path());
    *faults.lock().expect("faults") = Faults {
        sync_fails: true,
        truncate_fails: true,
        ..Faults::default()
    };
    let put = || store.put("pods/a/b", Expected::Absent, draft("1"));
    assert!(matches!(put().await, Err(CommitError::Io { .. })));
    faults.lock().expect("faults").sync_fails = false;
    assert!(matches!(put().await, Err(CommitError::Io { .. })));
    faults.lock().expect("faults").truncate_fails = false;
    assert_eq!(put().await.expect("a put").revision, 2);
    drop(store);
    assert_eq!(open(directory.path()).revision(), 2);
}

#[tokio::test]
async fn all_requests_of_a_failed_commit_fail() {
    let directory = tempfile::tempdir().expect("a directory");
    let (store, faults) = on_faulty_disk(directory.path());
    faults.lock().expect("faults").space = Some(0);
    // The first may be alone in its commit; the others conflict with one that is never durable.
    let puts = (0..10).map(|_| store.put("pods/a/b", Expected::Absent, draft("1")));
    for result in futures::future::join_all(puts).await {
        assert!(
            matches!(result, Err(CommitError::Full { .. })),
            "{result:?}"
        );
    }
}

/// A file system of this size, or why there is none.
fn small_file_system(directory: &Path) -> Result<(), nix::Error> {
    nix::mount::mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=256k"),
    )
}

#[test]
fn a_really_full_file_system_is_survived() {
    let directory = tempfile::tempdir().expect("a directory");
    if let Err(error) = small_file_system(directory.path()) {
        // The injected faults above cover the rest.
        tell(&format!(
            "skipped: cannot mount a small file system: {error}"
        ));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let outcome = std::panic::catch_unwind(|| runtime.block_on(fill(directory.path())));
    let unmounted = nix::mount::umount(directory.path());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    unmounted.expect("the file system can go");
}

#[expect(
    clippy::print_stderr,
    reason = "the reason of a skip is for whoever runs the tests"
)]
fn tell(text: &str) {
    eprintln!("{text}");
}

async fn fill(directory: &Path) {
    let ballast = directory.join("ballast");
    fs::write(&ballast, vec![1; 100 << 10]).expect("ballast");
    let store_directory = directory.join("store");
    let store = open(&store_directory);
    let text = "x".repeat(1_000);
    let mut written = 0;
    let refusal = loop {
        let key = format!("pods/a/{written:04}");
        match store.put(&key, Expected::Absent, draft(&text)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the file system is never full");
    };
    assert!(matches!(refusal, CommitError::Full { .. }), "{refusal:?}");
    assert_eq!(store.list("").objects.len(), written, "reads go on");
    fs::remove_file(&ballast).expect("a removal");
    set(&store, "pods/a/after", "1").await;
    drop(store);
    assert_eq!(open(&store_directory).list("").objects.len(), written + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// After a loss of power of what was not synced any part may be there.
    #[test]
    fn a_loss_of_power_loses_no_acknowledged_write(
        acknowledged in 0_usize..6,
        lost_sizes in prop::collection::vec(1_usize..3_000, 0..4),
        keep in any::<prop::sample::Index>(),
        zeroed in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let (log, durable) = runtime.block_on(async {
            let (store, faults) = on_faulty_disk(directory.path());
            for number in 0..acknowledged {
                set(&store, &format!("pods/a/{number}"), &"y".repeat(number * 300)).await;
            }
            {
                let mut faults = faults.lock().expect("faults");
                faults.sync_fails = true;
                faults.truncate_fails = true;
            }
            // One commit of several writes reaches the cache, but never the disk.
            let puts = lost_sizes.iter().enumerate().map(|(number, size)| {
                let text = "z".repeat(*size);
                let store = &store;
                async move {
                    store.put(&format!("pods/b/{number}"), Expected::Absent, draft(&text)).await
                }
            });
            for result in futures::future::join_all(puts).await {
                assert!(result.is_err());
            }
            let durable = faults.lock().expect("faults").durable;
            (files(directory.path(), "log-").remove(0), durable)
        });
        let file = OpenOptions::new().read(true).write(true).open(&log).expect("a log");
        let length = file.metadata().expect("a file").len();
        let cached = usize::try_from(length - durable).expect("small");
        if cached > 0 {
            for index in zeroed {
                let at = durable + index.index(cached) as u64;
                let start = (at - at % 512).max(durable);
                let end = (at - at % 512 + 512).min(length);
                let zeros = vec![0; usize::try_from(end - start).expect("small")];
                file.write_all_at(&zeros, start).expect("a write");
            }
            file.set_len(durable + keep.index(cached + 1) as u64).expect("truncation");
        }
        let store = open(directory.path());
        prop_assert_eq!(store.list("pods/a/").objects.len(), acknowledged);
        prop_assert_eq!(store.revision(), 1 + acknowledged as u64);
    }
}
