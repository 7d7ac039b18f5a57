//! Further commands in a running container.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use vk_cmd::container::{
    ContainerDir, ExecError, ExecOutcome, ExecRequest, Handle, Launcher, StartError, StartFailure,
    engine::EngineClient,
    held::PidFd,
    launch::{ExecEvent, ExecOutput},
    process::Stat,
    protocol::{ExecCall, TerminalSize},
};

use crate::support::{Bed, exit, in_time};

fn request(script: &str) -> ExecRequest {
    ExecRequest {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        timeout: None,
        capture: 10 * 1024,
    }
}

fn call(script: &str) -> ExecCall {
    ExecCall {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        stdin: true,
        terminal: None,
        timeout_ms: None,
    }
}

/// A container that does nothing until it is told to end.
async fn idle(bed: &Bed) -> (ContainerDir, Handle) {
    let dir = bed.container("c");
    let handle = bed.start(&dir, &["sleep", "infinity"]).await;
    (dir, handle.expect("started"))
}

async fn run(handle: &Handle, script: &str) -> ExecOutcome {
    in_time(handle.exec(request(script))).await.expect("run")
}

async fn end(handle: &Handle) {
    handle.kill_tree().await.expect("taken");
    in_time(handle.wait()).await;
}

/// Waits for a process that has written its number down.
async fn ended(pid_file: &Path) {
    let pid = pid(pid_file);
    match PidFd::open(pid).expect("a look at a process") {
        Some(process) => in_time(process.ended()).await.expect("its end"),
        None => assert_eq!(Stat::read(pid).expect("procfs"), None),
    }
}

fn pid(file: &Path) -> i32 {
    let text = std::fs::read_to_string(file).expect("a number was written");
    text.trim().parse().expect("a number")
}

/// Reads output until it holds a text.
async fn until(output: &mut ExecOutput, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        match in_time(output.next()).await.expect("readable") {
            ExecEvent::Stdout(piece) | ExecEvent::Stderr(piece) => {
                text.push_str(&String::from_utf8_lossy(&piece));
            }
            ExecEvent::Ended { exit, .. } => panic!("{exit:?} after {text:?}"),
        }
    }
    text
}

#[tokio::test]
async fn a_command_has_the_containers_environment_directory_and_limits_and_tells_how_it_ended() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let mut spec = bed.spec(&dir, &["sleep", "infinity"]);
    spec.env.push(("SECRET".into(), "x y".into()));
    spec.umask = 0o077;
    let handle = in_time(bed.launcher.start(&dir, 0, 1, &spec)).await;
    let handle = handle.expect("started");
    let outcome = run(
        &handle,
        "pwd; echo \"$SECRET\"; umask; cat; echo no >&2; exit 7",
    )
    .await;
    let stdout = String::from_utf8(outcome.stdout).expect("text");
    assert_eq!(stdout, format!("{}\nx y\n0077\n", dir.path().display()));
    assert_eq!(outcome.stderr, b"no\n");
    assert_eq!((outcome.exit.code, outcome.timed_out), (7, false));
    let outcome = run(&handle, "kill -KILL $$").await;
    assert_eq!((outcome.exit.code, outcome.exit.signal), (137, Some(9)));
    // None of it is the container's own output.
    assert_eq!(
        std::fs::read(dir.path().join("stdout")).expect("a file"),
        b""
    );
    end(&handle).await;
}

#[tokio::test]
async fn a_prefix_leads_into_what_the_container_runs() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let mut spec = bed.spec(&dir, &["sleep", "infinity"]);
    let mut engine = EngineClient::default();
    engine.exec.before = ["env", "INSIDE=yes"].map(str::to_owned).to_vec();
    spec.engine = Some(Box::new(engine));
    let handle = in_time(bed.launcher.start(&dir, 0, 1, &spec)).await;
    let handle = handle.expect("started");
    assert_eq!(run(&handle, "echo $INSIDE").await.stdout, b"yes\n");
    end(&handle).await;
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    for (argv, wanted) in [
        (vec!["no-such-command".to_owned()], StartFailure::NotFound),
        (vec!["/".to_owned()], StartFailure::NotExecutable),
        (Vec::new(), StartFailure::InvalidSpec),
        (vec!["a\0b".to_owned()], StartFailure::InvalidSpec),
    ] {
        let request = ExecRequest {
            argv,
            ..request("")
        };
        match in_time(handle.exec(request)).await {
            Err(ExecError::NotStarted { reason, message }) => {
                assert_eq!(reason, wanted, "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let long = ExecRequest {
        argv: vec!["x".repeat(100_000)],
        ..request("")
    };
    let refused = in_time(handle.exec(long)).await;
    assert!(
        matches!(refused, Err(ExecError::TooLong { .. })),
        "{refused:?}"
    );
    end(&handle).await;
}

#[tokio::test]
async fn at_its_timeout_a_command_dies_with_all_that_it_has_started_and_the_container_lives() {
    let bed = Bed::new();
    let (dir, handle) = idle(&bed).await;
    let script = "trap '' TERM; echo begun; setsid sh -c 'echo $$ > session; sleep infinity' & \
                  while [ ! -s session ]; do :; done; echo $$ > main; sleep infinity";
    let request = ExecRequest {
        timeout: Some(Duration::from_millis(1500)),
        ..request(script)
    };
    let outcome = in_time(handle.exec(request)).await.expect("run");
    assert!(outcome.timed_out);
    assert_eq!(outcome.exit.code, 137);
    assert_eq!(outcome.stdout, b"begun\n");
    ended(&dir.path().join("main")).await;
    ended(&dir.path().join("session")).await;
    assert!(!handle.status().is_terminal());
    end(&handle).await;
}

#[tokio::test]
async fn of_ten_megabytes_the_first_are_kept_and_none_blocks() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    let script = "yes 0123456789 | head -c 10000000; yes abc | head -c 10000000 >&2; exit 3";
    let outcome = run(&handle, script).await;
    assert_eq!(outcome.exit.code, 3);
    assert_eq!(
        (outcome.stdout.len(), outcome.stderr.len()),
        (10_240, 10_240)
    );
    assert!(outcome.stdout.starts_with(b"0123456789\n0123"));
    end(&handle).await;
}

#[tokio::test]
async fn who_stops_listening_ends_the_command() {
    let bed = Bed::new();
    let (dir, handle) = idle(&bed).await;
    let file = dir.path().join("pid");
    let mut stream = in_time(handle.exec_stream(call("echo $$ > pid; echo up; sleep infinity")))
        .await
        .expect("started");
    until(&mut stream.output, "up").await;
    // As a killed agent would: the kernel closes what it had.
    drop(stream);
    ended(&file).await;
    // One that floods a caller who does not read is found gone as well.
    let mut stream = in_time(handle.exec_stream(call("echo $$ > pid; yes"))).await;
    until(&mut stream.as_mut().expect("started").output, "y").await;
    drop(stream);
    ended(&file).await;
    let outcome = run(&handle, "echo still here").await;
    assert_eq!(outcome.stdout, b"still here\n");
    end(&handle).await;
}

#[tokio::test]
async fn a_container_that_ends_takes_its_commands_with_it() {
    let bed = Bed::new();
    let (dir, handle) = idle(&bed).await;
    let mut stream = in_time(handle.exec_stream(call("trap '' TERM; echo $$ > pid; echo up; cat")))
        .await
        .expect("started");
    until(&mut stream.output, "up").await;
    // The main process alone is told; the rest goes with it.
    handle
        .terminate(Duration::from_secs(30))
        .await
        .expect("taken");
    in_time(handle.wait()).await;
    match in_time(stream.output.next()).await {
        Ok(ExecEvent::Ended { exit, timed_out }) => {
            assert_eq!((exit.code, timed_out), (137, false))
        }
        Err(ExecError::Ended) => {}
        other => panic!("{other:?}"),
    }
    ended(&dir.path().join("pid")).await;
    let after = in_time(handle.exec(request("true"))).await;
    assert!(matches!(after, Err(ExecError::Ended)), "{after:?}");
}

#[tokio::test]
async fn a_killed_shim_ends_the_exec_and_what_it_ran_is_found() {
    let bed = Bed::new();
    let (dir, handle) = idle(&bed).await;
    let script = "echo $PPID > shim; echo $$ > pid; echo up; sleep infinity";
    let mut stream = in_time(handle.exec_stream(call(script)))
        .await
        .expect("started");
    until(&mut stream.output, "up").await;
    let shim = nix::unistd::Pid::from_raw(pid(&dir.path().join("shim")));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("our shim");
    let after = in_time(stream.output.next()).await;
    assert!(matches!(after, Err(ExecError::Ended)), "{after:?}");
    // The handle finds out, and has ended what was left.
    in_time(handle.wait()).await;
    ended(&dir.path().join("pid")).await;
}

#[tokio::test]
async fn a_daemon_that_a_command_leaves_behind_does_not_hold_it_up_and_ends_with_the_container() {
    let bed = Bed::new();
    let (dir, handle) = idle(&bed).await;
    // It keeps the output open.
    let script =
        "setsid sh -c 'echo $$ > pid; sleep infinity' & while [ ! -s pid ]; do :; done; echo done";
    let outcome = run(&handle, script).await;
    assert_eq!(outcome.stdout, b"done\n");
    let daemon = pid(&dir.path().join("pid"));
    assert!(
        Stat::read(daemon)
            .expect("procfs")
            .is_some_and(|it| !it.is_dead())
    );
    end(&handle).await;
    ended(&dir.path().join("pid")).await;
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_an_end_of_input() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    let stream = in_time(handle.exec_stream(call("cat; echo over >&2; exit 4"))).await;
    let mut stream = stream.expect("started");
    let sent: Vec<u8> = (0..3_000_000_u32).map(|it| (it % 251) as u8).collect();
    let (mut input, text) = (stream.input, sent.clone());
    // Both at once: more than all buffers on the way hold.
    let write = async move {
        input.write(&text).await.expect("taken");
        input.finish().await.expect("taken");
        input
    };
    let read = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match stream.output.next().await.expect("readable") {
                ExecEvent::Stdout(piece) => stdout.extend(piece),
                ExecEvent::Stderr(piece) => stderr.extend(piece),
                ExecEvent::Ended { exit, .. } => return (stdout, stderr, exit.code),
            }
        }
    };
    let (_, (stdout, stderr, code)) = in_time(async { tokio::join!(write, read) }).await;
    assert!(stdout == sent, "{} bytes of {}", stdout.len(), sent.len());
    assert_eq!((stderr.as_slice(), code), (b"over\n".as_slice(), 4));
    end(&handle).await;
}

#[tokio::test]
async fn closed_pipes_are_nobodys_end() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    // It closes its outputs and goes on; it closes its input, and who writes to it is not blocked.
    let script = "exec <&- >&- 2>&-; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; exit 6";
    let mut stream = in_time(handle.exec_stream(call(script)))
        .await
        .expect("started");
    let last = in_time(stream.output.next()).await.expect("its end");
    assert!(
        matches!(&last, ExecEvent::Ended { exit, .. } if exit.code == 6),
        "{last:?}"
    );
    let script = "exec <&-; echo closed; sleep infinity";
    let mut stream = in_time(handle.exec_stream(call(script)))
        .await
        .expect("started");
    until(&mut stream.output, "closed").await;
    in_time(stream.input.write(&vec![b'x'; 1_000_000]))
        .await
        .expect("taken and dropped");
    drop(stream);
    end(&handle).await;
}

#[tokio::test]
async fn a_terminal_is_one_has_a_size_and_takes_another() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    let script = "tty > /dev/null && echo terminal; stty size; read -r line; stty size; \
                  echo \"got $line\"; exit 9";
    let terminal = Some(TerminalSize {
        columns: 101,
        rows: 37,
    });
    let call = ExecCall {
        terminal,
        ..call(script)
    };
    let mut stream = in_time(handle.exec_stream(call)).await.expect("started");
    let text = until(&mut stream.output, "37 101").await;
    assert!(text.contains("terminal\r\n"), "{text:?}");
    let size = TerminalSize {
        columns: 80,
        rows: 24,
    };
    stream.input.resize(size).await.expect("taken");
    stream.input.write(b"hello\n").await.expect("taken");
    let text = until(&mut stream.output, "got hello").await;
    assert!(text.contains("24 80"), "{text:?}");
    loop {
        match in_time(stream.output.next()).await.expect("readable") {
            ExecEvent::Ended { exit, .. } => break assert_eq!(exit.code, 9),
            ExecEvent::Stdout(_) | ExecEvent::Stderr(_) => {}
        }
    }
    end(&handle).await;
}

#[tokio::test]
async fn sixty_four_commands_run_at_once_and_one_more_is_turned_away() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let stream = in_time(handle.exec_stream(call("echo up; cat"))).await;
        streams.push(stream.expect("started"));
    }
    let refused = in_time(handle.exec_stream(call("true"))).await;
    assert!(
        matches!(refused, Err(ExecError::Refused { .. })),
        "{refused:?}"
    );
    for stream in &mut streams {
        until(&mut stream.output, "up").await;
    }
    drop(streams.pop());
    // The place is free as soon as the shim has seen it.
    loop {
        match in_time(handle.exec(request("echo in"))).await {
            Ok(outcome) => break assert_eq!(outcome.stdout, b"in\n"),
            Err(ExecError::Refused { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    end(&handle).await;
}

#[tokio::test]
async fn a_socket_that_was_cleaned_away_is_made_again() {
    let bed = Bed::new();
    let (_, handle) = idle(&bed).await;
    for entry in std::fs::read_dir(bed.outside().join("s")).expect("sockets") {
        std::fs::remove_file(entry.expect("a socket").path()).expect("removed");
    }
    assert_eq!(run(&handle, "echo again").await.stdout, b"again\n");
    end(&handle).await;
}

#[tokio::test]
async fn a_shim_that_never_answers_does_not_hold_a_start_up_for_ever() {
    let bed = Bed::new();
    let program = bed.outside().join("silent");
    std::fs::write(&program, "#!/bin/sh\nexec sleep infinity\n").expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let silent = Launcher::new(program, bed.outside().join("s")).expect("a directory for sockets");
    let silent = silent.with_patience(Duration::from_millis(1));
    let dir = bed.container("c");
    let spec = bed.spec(&dir, &["true"]);
    let start = in_time(silent.start(&dir, 0, 1, &spec)).await;
    match start {
        Err(StartError::Spawn { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::TimedOut, "{source}");
        }
        other => panic!("{other:?}"),
    }
    // Nothing ran, and the attempt can be tried again.
    let handle = in_time(bed.launcher.start(&dir, 0, 1, &spec)).await;
    let status = in_time(handle.expect("started").wait()).await;
    assert_eq!(exit(&status).code, 0);
}
