//! The combined log, from the command to the reader.

use vk_cmd::container::{
    LogPolicy,
    log::{ReadOptions, Reader},
};

use crate::support::{Bed, exit, in_time, log};

#[tokio::test]
async fn long_lines_binary_output_and_a_line_without_end_come_back_byte_for_byte() {
    let bed = Bed::new();
    let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo; head -c 300000 /dev/urandom | tee copy; printf end";
    let (dir, status) = bed.run(script).await;
    assert_eq!(exit(&status).code, 0);
    let mut wanted = vec![b'x'; 1_000_000];
    wanted.push(b'\n');
    wanted.extend(std::fs::read(dir.path().join("copy")).expect("the copy"));
    wanted.extend(b"end");
    assert!(log(&dir, ReadOptions::default()).await == wanted);
    assert!(std::fs::read(dir.path().join("stdout")).expect("stdout") == wanted);
}

#[tokio::test]
async fn a_follower_sees_every_line_once_over_many_rotations_and_ends_with_the_container() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let mut spec = bed.spec(
        &dir,
        &[
            "sh",
            "-c",
            "read_go() { while [ ! -e go ]; do sleep 0.01; done; }; read_go; seq 1 20000",
        ],
    );
    spec.log = LogPolicy {
        max_bytes: 64 * 1024,
        max_files: 1000,
    };
    let handle = in_time(bed.launcher.start(&dir, 0, 1, &spec))
        .await
        .expect("started");
    let options = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let mut reader = Reader::open(&dir.attempt(0), options).await.expect("a log");
    std::fs::write(dir.path().join("go"), "").expect("written");
    let mut text = String::new();
    while let Some(piece) = in_time(reader.next()).await.expect("readable") {
        text.push_str(std::str::from_utf8(&piece).expect("text"));
    }
    let wanted: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(text == wanted, "{} bytes of {}", text.len(), wanted.len());
    assert_eq!(exit(&in_time(handle.wait()).await).code, 0);
    let segments = std::fs::read_dir(dir.attempt(0).path())
        .expect("listing")
        .count();
    assert!(segments > 10, "{segments}");
}

#[tokio::test]
async fn tail_since_limit_and_timestamps_do_what_they_say() {
    let bed = Bed::new();
    let dir = bed.container("c");
    let mut spec = bed.spec(&dir, &["sh", "-c", "seq 1 3000; printf partial"]);
    spec.log = LogPolicy {
        max_bytes: 4096,
        max_files: 100,
    };
    let handle = in_time(bed.launcher.start(&dir, 0, 1, &spec))
        .await
        .expect("started");
    in_time(handle.wait()).await;
    let all = ReadOptions::default();
    let dir = &dir;
    let text = |options| async move { String::from_utf8(log(dir, options).await).expect("text") };
    assert_eq!(
        text(ReadOptions {
            tail: Some(0),
            ..all
        })
        .await,
        ""
    );
    assert_eq!(
        text(ReadOptions {
            tail: Some(1),
            ..all
        })
        .await,
        "partial"
    );
    assert_eq!(
        text(ReadOptions {
            tail: Some(3),
            ..all
        })
        .await,
        "2999\n3000\npartial"
    );
    let thousand: String = (2002..=3000).map(|n| format!("{n}\n")).collect();
    assert_eq!(
        text(ReadOptions {
            tail: Some(1000),
            ..all
        })
        .await,
        format!("{thousand}partial")
    );
    assert_eq!(
        text(ReadOptions {
            tail: Some(u64::MAX),
            ..all
        })
        .await,
        text(all).await
    );
    assert_eq!(
        text(ReadOptions {
            limit_bytes: Some(5),
            ..all
        })
        .await,
        "1\n2\n3"
    );
    let stamped = text(ReadOptions {
        tail: Some(2),
        timestamps: true,
        ..all
    })
    .await;
    let times: Vec<jiff::Timestamp> = stamped
        .lines()
        .map(|line| {
            line.split(' ')
                .next()
                .expect("a time")
                .parse()
                .expect("RFC 3339")
        })
        .collect();
    assert_eq!(times.len(), 2);
    assert_eq!(
        text(ReadOptions {
            since: Some(times[0]),
            ..all
        })
        .await
        .lines()
        .last(),
        Some("partial")
    );
    let later = times[1]
        .checked_add(jiff::SignedDuration::from_nanos(1))
        .expect("a time");
    assert_eq!(
        text(ReadOptions {
            since: Some(later),
            ..all
        })
        .await,
        ""
    );
}

#[tokio::test]
async fn an_attempt_that_never_started_has_an_empty_log() {
    let bed = Bed::new();
    assert_eq!(
        log(
            &bed.container("c"),
            ReadOptions {
                follow: true,
                ..ReadOptions::default()
            }
        )
        .await,
        b""
    );
}
