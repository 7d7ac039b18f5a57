//! Another clock for an agent: `clock.c`, preloaded.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::time::{ClockId, clock_gettime};
use testkit::AgentBuilder;

/// The clock of the agents that were started with it.
#[derive(Debug)]
pub(crate) struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    version: i64,
    shift: i64,
    speed: i64,
    since: i64,
    gained: i64,
}

impl Clock {
    /// One that runs as any other; its files lie in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let (library, path) = (dir.join("clock.so"), dir.join("clock"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clock.c");
        let done = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .output()
            .expect("cc runs: it has linked this program");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let file = File::create(&path).expect("a file");
        let mut clock = Self {
            library,
            path,
            file,
            version: 0,
            shift: 0,
            speed: 1,
            since: 0,
            gained: 0,
        };
        clock.write();
        clock
    }

    /// Lets an agent have it.
    pub(crate) fn of(&self, agent: AgentBuilder) -> AgentBuilder {
        let text = |path: &Path| path.to_str().expect("a path of the test's own").to_owned();
        agent
            .env("LD_PRELOAD", &text(&self.library))
            .env("VK_CMD_TEST_CLOCK", &text(&self.path))
    }

    /// By how many seconds the wall clock is ahead.
    pub(crate) fn shift(&self) -> i64 {
        self.shift
    }

    /// Sets by how many seconds the wall clock is ahead.
    pub(crate) fn set_shift(&mut self, seconds: i64) {
        self.shift = seconds;
        self.write();
    }

    /// Sets how fast it runs from now on.
    pub(crate) fn set_speed(&mut self, speed: i64) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
        let now = now.tv_sec() * 1_000_000_000 + now.tv_nsec();
        self.gained += (now - self.since) * (self.speed - 1);
        (self.since, self.speed) = (now, speed);
        self.write();
    }

    /// By how many seconds it is ahead for having run faster.
    pub(crate) fn gained(&self) -> i64 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
        let now = now.tv_sec() * 1_000_000_000 + now.tv_nsec();
        (self.gained + (now - self.since) * (self.speed - 1)) / 1_000_000_000
    }

    fn write(&mut self) {
        let mut put = |at: u64, words: &[i64]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            self.file.seek(SeekFrom::Start(at)).expect("a file");
            self.file.write_all(&bytes).expect("a file");
        };
        // Odd while the words are being written: `struct page` of clock.c.
        put(0, &[self.version + 1]);
        put(8, &[self.shift, self.speed, self.since, self.gained]);
        put(0, &[self.version + 2]);
        self.version += 2;
    }
}
