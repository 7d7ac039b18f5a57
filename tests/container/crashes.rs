//! A shim that is killed at every system call of its life.
//!
//! The program under test is the ordinary one: the test traces it and kills it when it enters or leaves its n-th
//! system call, for every n. No step of a start can be forgotten so, and the product has no code for it.

use std::collections::BTreeMap;

use nix::{
    errno::Errno,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use vk_cmd::container::{Adopted, ContainerDir, Handle, StartError, Status, log::ReadOptions};

use crate::{
    faults::{marked, skipped},
    support::{Bed, Gate, exit, in_time, log},
};

/// Lets a stopped process run and kills it at its n-th stop after it has become a shim; returns how many there were.
pub(crate) fn run_until(pid: Pid, nth: usize) -> nix::Result<usize> {
    ptrace::attach(pid)?;
    waitpid(pid, Some(WaitPidFlag::__WALL))?;
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options)?;
    kill(pid, Signal::SIGCONT)?;
    let mut stops = 0;
    let mut deliver = None;
    loop {
        match ptrace::syscall(pid, deliver.take())
            .and_then(|()| waitpid(pid, Some(WaitPidFlag::__WALL)))
        {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                stops += usize::from(name.trim() == "vk-shim");
                if stops == nth {
                    kill(pid, Signal::SIGKILL)?;
                }
            }
            // Stops of its own, of the gate; everything else is meant for it.
            Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => {}
            Ok(WaitStatus::Stopped(_, signal)) => deliver = Some(signal),
            Ok(WaitStatus::PtraceEvent(_, _, event))
                if event == ptrace::Event::PTRACE_EVENT_VFORK as i32 =>
            {
                // The command exists and has not come to its exec.
                let child = Pid::from_raw(ptrace::getevent(pid)? as i32);
                stops += 1;
                if stops == nth {
                    kill(pid, Signal::SIGKILL)?;
                }
                waitpid(child, Some(WaitPidFlag::__WALL))?;
                ptrace::detach(child, None)?;
            }
            Ok(WaitStatus::PtraceEvent(..)) => {}
            // Whoever reaps it first, the runtime or we.
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
            | Err(Errno::ECHILD | Errno::ESRCH) => {
                return Ok(stops);
            }

            Ok(other) => panic!("{other:?}"),
            Err(errno) => return Err(errno),
        }
    }
}

/// Starts one attempt, the shim of which is killed at its n-th stop. What the agent saw, and how many stops there were.
async fn start_and_kill(
    gate: &Gate,
    bed: &Bed,
    dir: &ContainerDir,
    nth: usize,
) -> (Result<Handle, StartError>, usize) {
    let spec = bed.spec(dir, &["sh", "-c", "echo ran >> runs; echo out; exit 7"]);
    let start = tokio::spawn({
        let (launcher, dir) = (gate.launcher.clone(), dir.clone());
        async move { launcher.start(&dir, 0, 1, &spec).await }
    });
    let pid = gate.wait().await.into_pid();
    let tracer = tokio::task::spawn_blocking(move || run_until(pid, nth));
    let started = in_time(start).await.expect("no panic");
    if let Ok(handle) = &started {
        in_time(handle.wait()).await;
    }
    let stops = in_time(tracer).await.expect("no panic").expect("traced");
    (started, stops)
}

fn runs(dir: &ContainerDir) -> usize {
    std::fs::read_to_string(dir.path().join("runs")).map_or(0, |text| text.lines().count())
}

/// Whether processes can be traced here; says so where not. What a thread may trace, it may trace always.
pub(crate) fn traceable() -> bool {
    let mut sleeper = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("sleep");
    let traced = ptrace::attach(Pid::from_raw(sleeper.id() as i32));
    sleeper.kill().expect("killed");
    sleeper.wait().expect("reaped");
    if let Err(errno) = traced {
        skipped(&format!("processes cannot be traced here: {errno}"));
    }
    traced.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_at_any_system_call_starts_nothing_twice_and_leaves_nothing() {
    let bed = Bed::new();
    let gate = Gate::new(&bed);
    if !traceable() {
        return;
    }
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    // The end of a call and the beginning of the next are the same to the world, so every second stop will do.
    for nth in (1..).step_by(2) {
        let dir = bed.container(&format!("c{nth}"));
        let (seen, stops) = start_and_kill(&gate, &bed, &dir, nth).await;
        let ran_before = runs(&dir);
        // The next agent.
        let adopted = in_time(bed.launcher.adopt(&dir, 0))
            .await
            .expect("readable");
        assert!(
            marked(&dir, 0).is_empty(),
            "stop {nth}: {adopted:?} and processes are left"
        );
        let again = in_time(bed.launcher.start(
            &dir,
            0,
            2,
            &bed.spec(&dir, &["sh", "-c", "echo ran >> runs"]),
        ))
        .await;
        let outcome = match &adopted {
            Adopted::NeverStarted => {
                assert_eq!(ran_before, 0, "stop {nth}");
                assert!(seen.is_err(), "stop {nth}: {seen:?}");
                let handle = again.unwrap_or_else(|error| panic!("stop {nth}: {error:?}"));
                in_time(handle.wait()).await;
                assert_eq!(runs(&dir), 1, "stop {nth}");
                "never started"
            }
            Adopted::Lost(_) => {
                assert!(
                    matches!(again, Err(StartError::Claimed { .. })),
                    "stop {nth}: {again:?}"
                );
                if let Ok(handle) = &seen {
                    assert!(
                        matches!(handle.status(), Status::Lost { .. }),
                        "stop {nth}: {:?}",
                        handle.status()
                    );
                }
                "lost"
            }
            Adopted::Exited(status) => {
                assert!(
                    matches!(again, Err(StartError::Claimed { .. })),
                    "stop {nth}: {again:?}"
                );
                assert_eq!(exit(status).code, 7, "stop {nth}");
                assert_eq!(ran_before, 1, "stop {nth}");
                assert_eq!(
                    log(&dir, ReadOptions::default()).await,
                    b"out\n",
                    "stop {nth}"
                );
                let handle = seen.unwrap_or_else(|error| panic!("stop {nth}: {error:?}"));
                assert_eq!(&handle.status(), status, "stop {nth}");
                "exited"
            }
            other => panic!("stop {nth}: {other:?}"),
        };
        assert!(runs(&dir) <= 1, "stop {nth}: started twice");
        *outcomes.entry(outcome).or_default() += 1;
        if stops < nth {
            // It has lived to its end.
            assert_eq!(outcome, "exited");
            break;
        }
    }
    for outcome in ["never started", "lost", "exited"] {
        assert!(outcomes.contains_key(outcome), "{outcomes:?}");
    }
    assert!(outcomes.values().sum::<usize>() > 100, "{outcomes:?}");
}
