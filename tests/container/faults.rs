//! Deaths and doubles: whatever dies when, nothing starts twice, nothing is left, and the records tell what happened.

use std::{path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use vk_cmd::container::{
    Adopted, ContainerDir, Launcher, StartError, Status,
    held::{self, PidFd},
    launch::Cancellation,
    log::ReadOptions,
    process::{self, Stat},
};

use crate::support::{Bed, Gate, exit, in_time, line_comes, log};

/// A record of an attempt, as JSON.
pub(crate) fn record(dir: &ContainerDir, attempt: u32, name: &str) -> Option<serde_json::Value> {
    let text = std::fs::read(dir.attempt(attempt).path().join(name)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The shim of a claimed attempt.
fn shim(dir: &ContainerDir) -> Stat {
    let claim = record(dir, 0, "claim.json").expect("a claim");
    let pid = claim["claimant"]["pid"].as_i64().expect("a pid");
    Stat::read(pid as i32)
        .expect("procfs")
        .expect("a living shim")
}

/// Processes that carry the mark of an attempt, its shim left out.
pub(crate) fn marked(dir: &ContainerDir, attempt: u32) -> Vec<Stat> {
    let Some(intent) = record(dir, attempt, "intent.json") else {
        return Vec::new();
    };
    let container = intent["start"]["container"]
        .as_str()
        .expect("an identity")
        .to_owned();
    let shim =
        record(dir, attempt, "claim.json").and_then(|claim| claim["claimant"]["pid"].as_i64());
    let all = process::all().expect("procfs");
    all.into_iter()
        .filter(|stat| !stat.is_dead() && Some(i64::from(stat.pid)) != shim)
        .filter(|stat| process::is_marked(stat.pid, &container))
        .collect()
}

#[tokio::test]
async fn a_container_outlives_its_agent_and_the_next_one_adopts_it() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let first = bed
        .start(
            &dir,
            &[
                "sh",
                "-c",
                "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exit 9",
            ],
        )
        .await
        .expect("started");
    line_comes(&dir, "one").await;
    drop(first);

    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    let Adopted::Running(second) = adopted else {
        panic!("{adopted:?}")
    };
    assert!(matches!(second.status(), Status::Running { .. }));
    std::fs::write(dir.path().join("go"), "").expect("written");
    let status = in_time(second.wait()).await;
    assert_eq!(exit(&status).code, 9);
    assert_eq!(log(&dir, ReadOptions::default()).await, b"one\ntwo\n");

    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    assert!(
        matches!(&adopted, Adopted::Exited(found) if *found == status),
        "{adopted:?}"
    );
}

#[tokio::test]
async fn a_killed_shim_takes_everything_with_it_and_the_attempt_is_lost() {
    let bed = Bed::new();
    let dir = bed.container("c");
    // A group member, a daemon with the mark, one without the mark in the session, one of neither below a marked one.
    let script = "sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1000' & \
                  env -i sh -c 'echo $$; exec sleep 1000' & \
                  setsid sh -c 'env -i setsid sh -c \"echo \\$\\$; exec sleep 1000\" & wait' & \
                  while [ $(wc -l < stdout) -lt 4 ]; do sleep 0.01; done; echo up; wait";
    let handle = bed
        .start(&dir, &["sh", "-c", script])
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    let output = String::from_utf8(log(&dir, ReadOptions::default()).await).expect("text");
    let pids: Vec<i32> = output
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert_eq!(pids.len(), 4, "{output}");

    assert!(held::signal_seen(&shim(&dir), Signal::SIGKILL).expect("killed"));

    let status = in_time(handle.wait()).await;
    assert!(
        matches!(
            status,
            Status::Lost {
                started_at: Some(_),
                ..
            }
        ),
        "{status:?}"
    );
    for stat in process::all().expect("procfs") {
        assert!(
            !pids.contains(&stat.pid) || stat.is_dead(),
            "{stat:?} is left"
        );
    }
    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    assert!(
        matches!(&adopted, Adopted::Lost(found) if *found == status),
        "{adopted:?}"
    );
    assert!(handle.signal(15).await.is_err());
}

#[tokio::test]
async fn a_shim_that_died_while_no_agent_lived_is_found_by_the_next_one() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let handle = bed
        .start(&dir, &["sh", "-c", "echo up; exec sleep 1000"])
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    drop(handle);
    let shim = shim(&dir);
    let gone = PidFd::open(shim.pid)
        .expect("pidfd")
        .expect("a living shim");
    assert!(held::signal_seen(&shim, Signal::SIGKILL).expect("killed"));
    in_time(gone.ended()).await.expect("ended");
    assert_eq!(
        marked(&dir, 0).len(),
        1,
        "the command has outlived the shim"
    );

    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    assert!(matches!(adopted, Adopted::Lost(_)), "{adopted:?}");
    assert!(marked(&dir, 0).is_empty());
    let again = bed.start(&dir, &["true"]).await.expect_err("used up");
    assert!(matches!(again, StartError::Claimed { .. }), "{again:?}");
}

#[tokio::test]
async fn of_two_agents_with_different_epochs_one_starts() {
    let bed = Bed::new();
    for round in 0..20 {
        let dir = bed.container(&format!("c{round}"));
        let spec = bed.spec(&dir, &["sh", "-c", "echo ran >> runs; exec sleep 1000"]);
        let other = Launcher::new(
            PathBuf::from(env!("CARGO_BIN_EXE_vk-cmd")),
            bed.outside().join("s2"),
        )
        .expect("sockets");
        let (one, two) = in_time(async {
            tokio::join!(
                bed.launcher.start(&dir, 0, 1, &spec),
                other.start(&dir, 0, 2, &spec)
            )
        })
        .await;
        let started: Vec<_> = [one, two].into_iter().filter_map(Result::ok).collect();
        assert!(started.len() <= 1);
        // Where both have stepped back, the newer one's next try succeeds or the attempt was taken.
        let adopted = in_time(other.adopt(&dir, 0)).await.expect("readable");
        let handle = match adopted {
            Adopted::Running(handle) => handle,
            Adopted::NeverStarted => in_time(other.start(&dir, 0, 2, &spec))
                .await
                .expect("nobody else has it"),
            other => panic!("{other:?}"),
        };
        in_time(handle.kill_tree()).await.expect("taken");
        in_time(handle.wait()).await;
        let runs = std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default();
        assert!(runs.lines().count() <= 1, "{runs}");
    }
}

#[tokio::test]
async fn an_older_epoch_does_not_take_over_from_a_newer_one() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let gate = Gate::new(&bed);
    let spec = bed.spec(&dir, &["sh", "-c", "echo ran >> runs"]);
    let newer = tokio::spawn({
        let (launcher, dir, spec) = (gate.launcher.clone(), dir.clone(), spec.clone());
        async move { launcher.start(&dir, 0, 2, &spec).await }
    });
    // The newer agent's intent stands, its shim waits before the claim.
    let held = gate.wait().await;
    let error = in_time(bed.launcher.start(&dir, 0, 1, &spec))
        .await
        .expect_err("older");
    assert!(
        matches!(error, StartError::Superseded { ours: 1, newer: 2 }),
        "{error:?}"
    );
    held.go_on();
    let handle = in_time(newer).await.expect("no panic").expect("started");
    in_time(handle.wait()).await;
    assert_eq!(
        std::fs::read_to_string(dir.path().join("runs")).expect("ran"),
        "ran\n"
    );
}

#[tokio::test]
async fn what_is_cancelled_never_starts_however_late_its_shim_comes() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let gate = Gate::new(&bed);
    let spec = bed.spec(&dir, &["sh", "-c", "echo ran >> runs"]);
    let late = tokio::spawn({
        let (launcher, dir, spec) = (gate.launcher.clone(), dir.clone(), spec.clone());
        async move { launcher.start(&dir, 0, 1, &spec).await }
    });
    let held = gate.wait().await;
    assert!(matches!(
        in_time(bed.launcher.adopt(&dir, 0))
            .await
            .expect("readable"),
        Adopted::NeverStarted
    ));
    assert_eq!(
        in_time(bed.launcher.cancel(&dir, 0, 2))
            .await
            .expect("taken"),
        Cancellation::Cancelled
    );
    assert_eq!(
        in_time(bed.launcher.cancel(&dir, 0, 2))
            .await
            .expect("again"),
        Cancellation::Cancelled
    );
    held.go_on();

    let error = in_time(late)
        .await
        .expect("no panic")
        .expect_err("cancelled");
    assert!(
        matches!(error, StartError::Cancelled { attempt: 0 }),
        "{error:?}"
    );
    assert!(!dir.path().join("runs").exists());
    assert!(matches!(
        in_time(bed.launcher.adopt(&dir, 0))
            .await
            .expect("readable"),
        Adopted::Cancelled
    ));

    let started = bed.container("d");
    let handle = bed.start(&started, &["true"]).await.expect("started");
    assert_eq!(
        in_time(bed.launcher.cancel(&started, 0, 2))
            .await
            .expect("too late"),
        Cancellation::Claimed
    );
    in_time(handle.wait()).await;
}

#[tokio::test]
async fn an_intent_of_another_boot_is_never_started_again() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let gate = Gate::new(&bed);
    let spec = bed.spec(&dir, &["true"]);
    let start = tokio::spawn({
        let (launcher, dir) = (gate.launcher.clone(), dir.clone());
        async move { launcher.start(&dir, 0, 1, &spec).await }
    });
    let held = gate.wait().await;
    let mut intent = record(&dir, 0, "intent.json").expect("an intent");
    intent["here"]["boot_id"] = "another".into();
    std::fs::write(
        dir.attempt(0).path().join("intent.json"),
        intent.to_string(),
    )
    .expect("written");
    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    assert!(
        matches!(
            adopted,
            Adopted::Lost(Status::Lost {
                started_at: None,
                ..
            })
        ),
        "{adopted:?}"
    );
    drop(held);
    assert!(in_time(start).await.expect("no panic").is_err());
}

#[tokio::test]
async fn pids_of_another_boot_are_not_touched() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let handle = bed.start(&dir, &["true"]).await.expect("started");
    in_time(handle.wait()).await;
    // As if the machine had been restarted while it ran: the numbers are those of this very test now.
    let mut claim = record(&dir, 0, "claim.json").expect("a claim");
    let mut status = record(&dir, 0, "status.json").expect("a status");
    let mut intent = record(&dir, 0, "intent.json").expect("an intent");
    let own = process::Here::current()
        .and_then(|here| here.own_process())
        .expect("procfs");
    claim["claimant"] = serde_json::to_value(&own).expect("JSON");
    claim["claimant"]["boot_id"] = "another".into();
    intent["here"]["boot_id"] = "another".into();
    status["status"] = serde_json::json!({
        "state": "running", "process": claim["claimant"], "pgid": own.pid, "started_at": "2026-01-02T03:04:05Z",
    });
    for (name, value) in [
        ("claim.json", claim),
        ("status.json", status),
        ("intent.json", intent),
    ] {
        std::fs::write(dir.attempt(0).path().join(name), value.to_string()).expect("written");
    }
    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    let Adopted::Lost(Status::Lost { message, .. }) = adopted else {
        panic!("{adopted:?}")
    };
    assert!(message.contains("boot"), "{message}");
}

#[tokio::test]
async fn a_shim_whose_socket_was_swept_away_is_adopted_all_the_same() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let first = bed
        .start(&dir, &["sh", "-c", "echo up; exec sleep 1000"])
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    drop(first);
    let socket = record(&dir, 0, "intent.json").expect("an intent")["start"]["socket"]
        .as_str()
        .map(PathBuf::from)
        .expect("a path");
    std::fs::remove_dir_all(socket.parent().expect("a directory")).expect("swept");

    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    let Adopted::Running(second) = adopted else {
        panic!("{adopted:?}")
    };
    in_time(second.terminate(Duration::from_secs(1000)))
        .await
        .expect("taken");
    assert_eq!(exit(&in_time(second.wait()).await).signal, Some(15));
}

#[tokio::test]
async fn a_stopped_shim_is_woken_by_the_next_agent() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let first = bed
        .start(&dir, &["sh", "-c", "echo up; exec sleep 1000"])
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    drop(first);
    assert!(held::signal_seen(&shim(&dir), Signal::SIGSTOP).expect("stopped"));
    let adopted = in_time(bed.launcher.adopt(&dir, 0))
        .await
        .expect("readable");
    let Adopted::Running(second) = adopted else {
        panic!("{adopted:?}")
    };
    in_time(second.kill_tree()).await.expect("taken");
    assert_eq!(exit(&in_time(second.wait()).await).code, 137);
}

#[tokio::test]
async fn what_a_batch_system_sends_to_a_whole_job_does_not_end_the_shim() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let handle = bed.start(&dir, &["sh", "-c", "trap '' TERM HUP INT USR1 USR2 XCPU; echo up; while [ ! -e go ]; do sleep 0.01; done; exit 6"]).await.expect("started");
    line_comes(&dir, "up").await;
    let shim = shim(&dir);
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGXCPU,
        Signal::SIGTSTP,
    ] {
        assert!(held::signal_seen(&shim, signal).expect("sent"));
    }
    std::fs::write(dir.path().join("go"), "").expect("written");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 6);
}

#[tokio::test]
async fn a_container_that_removes_its_records_still_tells_its_end() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let records = dir.attempt(0).path();
    let script = format!("rm -rf '{}'; exit 8", records.display());
    let handle = bed
        .start(&dir, &["sh", "-c", &script])
        .await
        .expect("started");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 8);
}

#[tokio::test]
async fn a_shim_answers_what_it_does_not_know_and_turns_nonsense_away() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bed = Bed::new();
    let dir = bed.container("c");
    let handle = bed
        .start(&dir, &["sh", "-c", "echo up; exec sleep 1000"])
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    let socket = record(&dir, 0, "intent.json").expect("an intent")["start"]["socket"]
        .as_str()
        .map(PathBuf::from)
        .expect("a path");
    let mut client = tokio::net::UnixStream::connect(&socket)
        .await
        .expect("connected");
    let call = br#"{"id":5,"request":"dance","arguments":{"command":["true"]}}"#;
    client.write_u32(call.len() as u32 + 1).await.expect("sent");
    client.write_all(b"\0").await.expect("sent");
    client.write_all(call).await.expect("sent");
    let len = in_time(client.read_u32()).await.expect("a reply");
    let mut reply = vec![0; len as usize];
    in_time(client.read_exact(&mut reply))
        .await
        .expect("a reply");
    let reply: serde_json::Value = serde_json::from_slice(&reply[1..]).expect("JSON");
    assert_eq!(
        reply["reply"]["answer"]["refused"]["code"], "not-implemented",
        "{reply}"
    );
    for nonsense in [
        &b"\xff\xff\xff\xff rubbish"[..],
        b"\0\0\0\x05\0rubb",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut client = tokio::net::UnixStream::connect(&socket)
            .await
            .expect("connected");
        client.write_all(nonsense).await.expect("sent");
        let mut rest = Vec::new();
        // Turned away; some bytes of ours may stand unread, which shows as a reset.
        let _ = in_time(client.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    }
    in_time(handle.kill_tree()).await.expect("still served");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 137);
}

#[tokio::test]
async fn a_full_disk_costs_output_and_a_note_and_neither_the_container_nor_its_exit_code() {
    let bed = Bed::new();
    let small = bed.outside().join("small");
    std::fs::create_dir(&small).expect("mkdir");
    let flags = nix::mount::MsFlags::empty();
    if let Err(errno) = nix::mount::mount(
        Some("tmpfs"),
        &small,
        Some("tmpfs"),
        flags,
        Some("size=700k"),
    ) {
        skipped(&format!("no tmpfs can be mounted here: {errno}"));
        return;
    }
    let result = tokio::spawn(full_disk(bed.launcher.clone(), small.clone())).await;
    nix::mount::umount2(&small, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    result.expect("no panic");
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

async fn full_disk(launcher: Launcher, small: PathBuf) {
    let root = vk_cmd::container::Root::create(&small).expect("a root");
    let ballast = small.join("ballast");
    // More than what is still in the pipe when it goes takes as output and as log.
    std::fs::write(&ballast, vec![0; 300 * 1024]).expect("written");
    let dir = root.container("u", "c").expect("a name");
    dir.create().expect("created");
    let script =
        "echo first; head -c 2000000 /dev/zero | tr '\\0' x; kill -STOP $$; echo last; exit 5";
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let spec = vk_cmd::container::ContainerSpec::new(argv, vec![], dir.path());
    let handle = in_time(launcher.start(&dir, 0, 1, &spec))
        .await
        .expect("started");
    let Status::Running { process, .. } = handle.status() else {
        panic!("{:?}", handle.status())
    };
    // The command stops itself after it has written; the kernel tells its parent, the shim, and /proc everybody.
    in_time(async {
        while !Stat::read(process.pid)
            .expect("procfs")
            .is_some_and(|stat| stat.is_stopped())
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    std::fs::remove_file(&ballast).expect("removed");
    in_time(handle.signal(Signal::SIGCONT as i32))
        .await
        .expect("sent");
    let status = in_time(handle.wait()).await;
    assert_eq!(exit(&status).code, 5);
    let text = String::from_utf8(log(&dir, ReadOptions::default()).await).expect("text");
    assert!(text.starts_with("first\n"), "{}", &text[..50]);
    assert!(
        text.contains("bytes of log were dropped: No space left on device"),
        "{} bytes",
        text.len()
    );
    assert!(text.ends_with("last\n"), "{} bytes", text.len());
    let adopted = in_time(launcher.adopt(&dir, 0)).await.expect("readable");
    assert!(
        matches!(&adopted, Adopted::Exited(found) if *found == status),
        "{adopted:?}"
    );

    // Full to the last byte, the exit code has its reserve.
    let argv = [
        "sh",
        "-c",
        "dd if=/dev/zero of=fill bs=1k; dd if=/dev/zero of=fill2 bs=1; exit 6",
    ]
    .map(str::to_owned)
    .to_vec();
    let spec = vk_cmd::container::ContainerSpec::new(argv, vec![], dir.path());
    let handle = in_time(launcher.start(&dir, 1, 1, &spec))
        .await
        .expect("started");
    let status = in_time(handle.wait()).await;
    assert_eq!(exit(&status).code, 6);
    let adopted = in_time(launcher.adopt(&dir, 1)).await.expect("readable");
    assert!(
        matches!(&adopted, Adopted::Exited(found) if *found == status),
        "{adopted:?}"
    );
}
