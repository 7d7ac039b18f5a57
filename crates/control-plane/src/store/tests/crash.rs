//! `kill -9` of a process that writes: no acknowledged write is lost.
//!
//! The test binary runs itself again as the writing process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Names the directory to the writing process; without it that "test" does nothing.
const DIRECTORY: &str = "STORE_CRASH_TEST_DIRECTORY";
const ROUNDS: u32 = 60;
const WRITERS: usize = 4;

/// The writing process: four writers, each acknowledged write a line on stdout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let options = Options {
        compact_bytes: 20_000,
        ..Options::default()
    };
    let store = Store::open(Path::new(&directory), options).expect("a store");
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0_u64.. {
                let key = format!("pods/a/{writer}-{}", number % 10);
                let removed = number % 7 == 3 && store.get(&key).is_some();
                let object = if removed {
                    remove(&store, &key).await
                } else {
                    set(&store, &key, &"x".repeat((number % 300) as usize)).await
                };
                let line = format!("ack {} {} {}\n", object.key, object.revision, !removed);
                // One write, so that lines do not mix and none is kept in a buffer.
                if std::io::stdout().write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// The acknowledgements of one process that is killed after `lines` of them.
fn killed_after(directory: &Path, lines: usize) -> Vec<(String, u64, bool)> {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args([
            "--exact",
            "store::tests::crash::writing_process",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a process");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut acknowledged = Vec::new();
    let mut line = String::new();
    // To the end of the output: what was printed before the kill was acknowledged too.
    while output.read_line(&mut line).expect("output") > 0 {
        let whole = line.ends_with('\n');
        // The test harness prints before the first line, without ending its own.
        let words = line.find("ack ").map(|at| line[at..].split_whitespace());
        let words: Vec<&str> = words.into_iter().flatten().collect();
        if let (true, ["ack", key, revision, exists]) = (whole, &words[..]) {
            let revision = revision.parse().expect("a revision");
            acknowledged.push(((*key).to_owned(), revision, *exists == "true"));
            if acknowledged.len() == lines {
                child.kill().expect("a kill");
            }
        }
        line.clear();
    }
    child.wait().expect("an end");
    assert!(acknowledged.len() >= lines, "the process ended on its own");
    acknowledged
}

#[test]
fn no_acknowledged_write_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    // Of each key the newest revision known, and whether it was a put.
    let mut latest: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    let mut start = 1;
    for round in 0..ROUNDS {
        // Any number of writes, so that kills hit compactions and restarts as well.
        let lines = 1 + (round * 37 % 101) as usize;
        let mut acknowledged = BTreeSet::new();
        for (key, revision, exists) in killed_after(directory.path(), lines) {
            let known = latest.entry(key).or_default();
            *known = (*known).max((revision, exists));
            acknowledged.insert(revision);
        }
        let store = open(directory.path());
        let end = store.revision();
        assert!(
            acknowledged.last() <= Some(&end),
            "round {round}: the revision went back"
        );
        let mut unacknowledged: BTreeSet<u64> = (start + 1..=end)
            .filter(|revision| !acknowledged.contains(revision))
            .collect();
        // Each writer had at most one write on its way, and one line that nobody read.
        assert!(
            unacknowledged.len() <= 2 * WRITERS,
            "round {round}: {unacknowledged:?}"
        );
        for object in &store.list("").objects {
            let known = latest.entry(object.key.to_string()).or_default();
            if *known != (object.revision, true) {
                // Only a write that nobody was told of may have changed what was acknowledged.
                assert!(
                    object.revision > known.0 && unacknowledged.remove(&object.revision),
                    "round {round}: {} is at {} after {known:?}",
                    object.key,
                    object.revision
                );
                *known = (object.revision, true);
            }
        }
        for (key, known) in &mut latest {
            if known.1 && store.get(key).is_none() {
                let removed = unacknowledged.range(known.0..).next().copied();
                let removed = removed.expect("an acknowledged write is lost");
                unacknowledged.remove(&removed);
                *known = (removed, false);
            }
        }
        start = end;
    }
}
