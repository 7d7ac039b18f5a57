//! Starting, ending, exit codes, failures to start.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use vk_cmd::container::{
    Adopted, StartError, StartFailure, Status,
    log::{ReadOptions, Stream},
    process::MARKER,
};

use crate::support::{Bed, exit, in_time, line_comes, log};

#[tokio::test]
async fn a_script_runs_in_its_directory_with_its_environment_alone_and_leaves_the_documented_files()
{
    let bed = Bed::new();
    let (dir, status) = bed
        .run("pwd; echo err >&2; env; cat pgid; echo; ps -o pgid= -p $$; exit 7")
        .await;
    assert_eq!(exit(&status).code, 7);
    let stdout = std::fs::read_to_string(dir.path().join("stdout")).expect("stdout");
    let pgid = std::fs::read_to_string(dir.path().join("pgid")).expect("pgid");
    assert!(
        stdout.starts_with(&format!("{}\n", dir.path().display())),
        "{stdout}"
    );
    let variables: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    for name in &variables {
        assert!(
            ["PATH", "PWD", "SHLVL", "_", "OLDPWD", MARKER].contains(name),
            "{name} is inherited"
        );
    }
    assert!(stdout.contains(pgid.trim()), "{stdout} lacks {pgid}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("stderr")).expect("stderr"),
        "err\n"
    );
    let of_stderr = ReadOptions {
        stream: Some(Stream::Stderr),
        ..ReadOptions::default()
    };
    assert_eq!(log(&dir, of_stderr).await, b"err\n");
}

#[tokio::test]
async fn files_and_directories_are_closed_to_others() {
    let bed = Bed::new();
    let (dir, _) = bed.run("true").await;
    let mut open = vec![bed.root.path().to_owned()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("stat");
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
        seen += 1;
        if meta.is_dir() {
            open.extend(
                std::fs::read_dir(&path)
                    .expect("listing")
                    .map(|entry| entry.expect("entry").path()),
            );
        }
    }
    assert!(seen > 10, "{seen} below {}", dir.path().display());
}

#[tokio::test]
async fn every_exit_code_comes_through() {
    let bed = Bed::new();
    let dir = bed.container("c");
    for code in 0..=255 {
        let spec = bed.spec(&dir, &["sh", "-c", &format!("exit {code}")]);
        let handle = in_time(bed.launcher.start(&dir, code, 1, &spec))
            .await
            .expect("started");
        let exit = exit(&in_time(handle.wait()).await);
        assert_eq!((exit.code, exit.signal), (code as i32, None));
    }
    assert_eq!(dir.attempts().expect("listed").len(), 256);
}

#[tokio::test]
async fn a_signal_is_told_and_counts_as_128_and_more() {
    let bed = Bed::new();
    let dir = bed.container("c");
    // 34 and more have no names.
    for (attempt, signal) in [1, 2, 3, 6, 9, 11, 15, 34, 64].into_iter().enumerate() {
        let spec = bed.spec(&dir, &["sh", "-c", &format!("kill -{signal} $$")]);
        let handle = in_time(bed.launcher.start(&dir, attempt as u32, 1, &spec))
            .await
            .expect("started");
        let exit = exit(&in_time(handle.wait()).await);
        assert_eq!((exit.code, exit.signal), (128 + signal, Some(signal)));
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why_and_is_recorded() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "echo hi\n").expect("written");
    let script = dir.path().join("script");
    std::fs::write(&script, "echo hi\n").expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let orphan = dir.path().join("orphan");
    std::fs::write(&orphan, "#!/no/such/interpreter\n").expect("written");
    std::fs::set_permissions(&orphan, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let cases: [(&[&str], StartFailure, &str); 8] = [
        (
            &["no-such-command"],
            StartFailure::NotFound,
            "exec: \"no-such-command\": executable file not found in $PATH",
        ),
        (
            &["/no/such"],
            StartFailure::NotFound,
            "no such file or directory",
        ),
        (
            &["./plain"],
            StartFailure::NotExecutable,
            "permission denied",
        ),
        (&["/tmp"], StartFailure::NotExecutable, "is a directory"),
        (&["./script"], StartFailure::ExecFormat, "exec format error"),
        (&["./orphan"], StartFailure::NotFound, "interpreter"),
        (&[], StartFailure::InvalidSpec, "no command"),
        (&["a\0b"], StartFailure::InvalidSpec, "NUL"),
    ];
    for (attempt, (argv, reason, words)) in cases.into_iter().enumerate() {
        let attempt = attempt as u32;
        let error = in_time(bed.launcher.start(&dir, attempt, 1, &bed.spec(&dir, argv)))
            .await
            .expect_err("not started");
        let StartError::Failed {
            reason: found,
            message,
            no_room: false,
        } = error
        else {
            panic!("{argv:?}: {error:?}")
        };
        assert_eq!(found, reason, "{argv:?}: {message}");
        assert!(message.contains(words), "{argv:?}: {message}");
        let adopted = in_time(bed.launcher.adopt(&dir, attempt))
            .await
            .expect("readable");
        assert!(
            matches!(adopted, Adopted::Exited(Status::StartFailed { reason: r, .. }) if r == reason),
            "{adopted:?}"
        );
    }
    let mut spec = bed.spec(&dir, &["true"]);
    spec.cwd = "/no/such".into();
    let error = in_time(bed.launcher.start(&dir, 100, 1, &spec))
        .await
        .expect_err("not started");
    assert!(
        matches!(
            error,
            StartError::Failed {
                reason: StartFailure::WorkingDirectory,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn terminate_is_heard_and_after_the_grace_the_tree_is_killed() {
    let bed = Bed::new();
    let polite = bed.container("polite");
    let handle = bed
        .start(
            &polite,
            &[
                "sh",
                "-c",
                "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1000 & wait; done",
            ],
        )
        .await
        .expect("started");
    line_comes(&polite, "up").await;
    in_time(handle.terminate(Duration::from_secs(1000)))
        .await
        .expect("taken");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 3);
    assert_eq!(log(&polite, ReadOptions::default()).await, b"up\nbye\n");

    let deaf = bed.container("deaf");
    let handle = bed
        .start(
            &deaf,
            &["sh", "-c", "trap '' TERM; echo up; sleep 1000; sleep 1000"],
        )
        .await
        .expect("started");
    line_comes(&deaf, "up").await;
    in_time(handle.terminate(Duration::from_secs(1000)))
        .await
        .expect("taken");
    in_time(handle.terminate(Duration::from_millis(50)))
        .await
        .expect("shortened");
    let exit = exit(&in_time(handle.wait()).await);
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

#[tokio::test]
async fn a_stopped_container_can_be_terminated() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let handle = bed
        .start(
            &dir,
            &[
                "sh",
                "-c",
                "trap 'exit 4' TERM; echo up; while :; do sleep 0.01; done",
            ],
        )
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    in_time(handle.signal(19)).await.expect("stopped");
    in_time(handle.terminate(Duration::from_secs(1000)))
        .await
        .expect("taken");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 4);
}

#[tokio::test]
async fn children_of_a_terminated_shell_get_the_grace_too() {
    let bed = Bed::new();
    let dir = bed.container("c");
    // The shell dies of the signal at once, its child writes a checkpoint first.
    let child = "trap 'sleep 0.2; echo saved; exit' TERM; echo up; while :; do sleep 0.01; done";
    let handle = bed
        .start(&dir, &["bash", "-c", &format!("bash -c \"{child}\"; true")])
        .await
        .expect("started");
    line_comes(&dir, "up").await;
    in_time(handle.terminate(Duration::from_secs(1000)))
        .await
        .expect("taken");
    assert_eq!(exit(&in_time(handle.wait()).await).signal, Some(15));
    // The shell's own word about the signal goes to its standard error.
    let of_stdout = ReadOptions {
        stream: Some(Stream::Stdout),
        ..ReadOptions::default()
    };
    assert_eq!(log(&dir, of_stdout).await, b"up\nsaved\n");
}

#[tokio::test]
async fn daemons_and_grandchildren_in_sessions_of_their_own_end_with_the_container() {
    let bed = Bed::new();
    let script = "setsid sh -c 'setsid env -i sh -c \"echo \\$\\$; exec sleep 1000\" & echo $$; sleep 1000' & \
                  sh -c 'echo $$; sleep 1000 & echo $!; sleep 1000' & \
                  while [ $(wc -l < stdout) -lt 4 ]; do sleep 0.01; done; exit 5";
    let (dir, status) = bed.run(script).await;
    assert_eq!(exit(&status).code, 5);
    let output = String::from_utf8(log(&dir, ReadOptions::default()).await).expect("text");
    let pids: Vec<i32> = output
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    assert_eq!(pids.len(), 4, "{output}");
    for stat in vk_cmd::container::process::all()
        .expect("procfs")
        .iter()
        .filter(|stat| !stat.is_dead())
    {
        assert!(!pids.contains(&stat.pid), "{stat:?} lives on");
    }
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_does_not_hold_up_the_end() {
    let bed = Bed::new();
    let (dir, status) = bed
        .run("echo before; (sleep 1000; echo never) & exit 0")
        .await;
    assert_eq!(exit(&status).code, 0);
    assert_eq!(log(&dir, ReadOptions::default()).await, b"before\n");
}

#[tokio::test]
async fn two_hundred_start_at_once_and_leave_no_zombie() {
    let bed = Bed::new();
    let handles = futures::future::join_all((0..200).map(|number| {
        let (bed, dir) = (&bed, bed.container(&format!("c{number}")));
        async move {
            bed.start(&dir, &["sh", "-c", &format!("exit {}", number % 250)])
                .await
                .expect("started")
        }
    }));
    for (number, handle) in in_time(handles).await.into_iter().enumerate() {
        assert_eq!(
            exit(&in_time(handle.wait()).await).code as usize,
            number % 250
        );
    }
}

#[tokio::test]
async fn limits_affinity_and_umask_are_the_commands_own() {
    use vk_cmd::container::spec::{Rlimit, RlimitResource};
    let bed = Bed::new();
    let dir = bed.container("c");
    let script =
        "ulimit -n; umask; grep Cpus_allowed_list /proc/self/status; touch file; stat -c %a file";
    let mut spec = bed.spec(&dir, &["sh", "-c", script]);
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("affinity");
    let last = (0..nix::sched::CpuSet::count())
        .rev()
        .find(|&cpu| allowed.is_set(cpu).unwrap_or(false))
        .expect("a CPU");
    spec.cpu_affinity = Some(vec![last]);
    spec.rlimits = vec![Rlimit {
        resource: RlimitResource::Nofile,
        soft: 123,
    }];
    spec.umask = 0o027;
    let handle = in_time(bed.launcher.start(&dir, 0, 1, &spec))
        .await
        .expect("started");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 0);
    let output = String::from_utf8(log(&dir, ReadOptions::default()).await).expect("text");
    assert_eq!(
        output,
        format!("123\n0027\nCpus_allowed_list:\t{last}\n640\n")
    );

    spec.cpu_affinity = Some(vec![nix::sched::CpuSet::count() - 1]);
    let error = in_time(bed.launcher.start(&dir, 1, 1, &spec))
        .await
        .expect_err("no such CPU");
    assert!(
        matches!(
            error,
            StartError::Failed {
                reason: StartFailure::Limits,
                ..
            }
        ),
        "{error:?}"
    );
}
