//! What it costs to see what every container of a node uses.
//!
//! `cargo bench --profile fast --bench usage [containers, 1000 as a rule]`; `--profile dev` builds sooner.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vk_cmd::container::{ContainerSpec, Handle, Launcher, Root, Status, stats::Pass};

/// Passes that are measured; the first few fill the kernel's caches.
const PASSES: usize = 20;

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

async fn run(many: usize) {
    let temp = tempfile::tempdir().expect("a directory");
    let shim = PathBuf::from(env!("CARGO_BIN_EXE_vk-cmd"));
    let launcher = Launcher::new(shim, temp.path().join("s")).expect("sockets");
    let root = Root::create(&temp.path().join("r")).expect("a root");
    let mut handles: Vec<Handle> = Vec::new();
    for number in 0..many {
        let dir = root
            .container(&format!("uid-{number}"), "c")
            .expect("a name");
        let argv = ["sleep", "600"].map(str::to_owned).into();
        let path = vec![("PATH".into(), "/usr/bin:/bin".into())];
        dir.create().expect("a directory");
        let spec = ContainerSpec::new(argv, path, dir.path());
        handles.push(launcher.start(&dir, 0, 1, &spec).await.expect("it starts"));
    }
    let mains: Vec<_> = handles
        .iter()
        .filter_map(|handle| match handle.status() {
            Status::Running { process, .. } => Some(process),
            _ => None,
        })
        .collect();
    let mut taken: Vec<Duration> = Vec::new();
    let mut processes = 0;
    for _ in 0..PASSES {
        let begun = Instant::now();
        let pass = Pass::take().expect("procfs");
        let seen = mains
            .iter()
            .filter_map(|main| pass.usage(pass.shim_of(main)?))
            .count();
        taken.push(begun.elapsed());
        processes = pass.len();
        assert_eq!(seen, mains.len(), "every container is seen");
    }
    taken.sort_unstable();
    let (median, worst) = (taken[PASSES / 2], taken[PASSES - 1]);
    let count = mains.len();
    // A benchmark has nobody else to tell.
    #[expect(clippy::print_stdout, reason = "its result")]
    {
        println!(
            "usage of {count} containers among {processes} processes: median {median:?}, worst {worst:?}"
        );
    }
    for handle in &handles {
        let _ = handle.kill_tree().await;
    }
    for handle in handles {
        handle.wait().await;
    }
}
