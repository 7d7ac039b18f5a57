//! What a container costs: latency and CPU of a start, memory of a shim, latency of an end.
//!
//! `cargo bench --profile fast --bench container [containers at once, 1000 as a rule]`

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::stream::{FuturesUnordered, StreamExt};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use vk_cmd::container::{ContainerSpec, Handle, Launcher, Root, Status};

fn main() {
    let many = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(1000);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("as many descriptors as allowed");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(many));
}

struct Bed {
    launcher: Launcher,
    root: Root,
    _temp: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        // BENCH_DIR chooses the file system, since synchronising is most of an end.
        let base = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let temp = tempfile::tempdir_in(base).expect("a directory");
        let launcher = Launcher::new(
            PathBuf::from(env!("CARGO_BIN_EXE_vk-cmd")),
            temp.path().join("s"),
        )
        .expect("sockets");
        let root = Root::create(&temp.path().join("r")).expect("a root");
        Self {
            launcher,
            root,
            _temp: temp,
        }
    }

    async fn start(&self, number: usize, argv: &[&str]) -> Handle {
        let dir = self
            .root
            .container(&format!("uid-{number}"), "c")
            .expect("a name");
        let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        let spec = ContainerSpec::new(
            argv,
            vec![("PATH".into(), "/usr/bin:/bin".into())],
            dir.path(),
        );
        self.launcher
            .start(&dir, 0, 1, &spec)
            .await
            .expect("started")
    }
}

async fn run(many: usize) {
    let bed = Bed::new();
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    for number in 0..200 {
        let begin = Instant::now();
        let handle = bed.start(number, &["sleep", "1000"]).await;
        starts.push(begin.elapsed());
        let Status::Running { process, .. } = handle.status() else {
            panic!("{:?}", handle.status())
        };
        let begin = Instant::now();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(process.pid),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("our process");
        handle.wait().await;
        ends.push(begin.elapsed());
    }
    report("start to running, one after another", &mut starts);
    report("end of the process to terminal state", &mut ends);

    let bed = Bed::new();
    let (cpu, begin) = (cpu_time(), Instant::now());
    let mut starting: FuturesUnordered<_> = (0..many)
        .map(|number| bed.start(number, &["sleep", "1000"]))
        .collect();
    let mut handles = Vec::new();
    while let Some(handle) = starting.next().await {
        handles.push(handle);
    }
    let elapsed = begin.elapsed();
    let mut private: Vec<u64> = handles.iter().map(shim_private_kib).collect();
    private.sort_unstable();
    for handle in &handles {
        handle.kill_tree().await.expect("taken");
    }
    for handle in handles {
        handle.wait().await;
    }
    // Shims that are not reaped yet are not counted yet.
    let cpu = cpu_time() - cpu;
    say(format_args!(
        "{many} at once running after {elapsed:?}; ended too after {:?}, {cpu:?} of CPU",
        begin.elapsed()
    ));
    say(format_args!(
        "private memory of a shim: median {} KiB, most {} KiB",
        private[private.len() / 2],
        private[private.len() - 1]
    ));
}

/// CPU time of this process and of the children that it has reaped, their commands included.
fn cpu_time() -> Duration {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .map(|who| {
            let usage = getrusage(who).expect("usage");
            let micros =
                |time: nix::sys::time::TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()) as u64;
            Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
        })
        .sum()
}

fn shim_private_kib(handle: &Handle) -> u64 {
    let Status::Running { process, .. } = handle.status() else {
        return 0;
    };
    let command = vk_cmd::container::process::Stat::read(process.pid)
        .expect("procfs")
        .expect("our process");
    let smaps =
        std::fs::read_to_string(format!("/proc/{}/smaps_rollup", command.ppid)).unwrap_or_default();
    smaps
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100];
    say(format_args!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}",
        at(50),
        at(90),
        at(99)
    ));
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}
