//! Many connections, and silent ones.

use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::TcpStream;

use super::plane::Plane;

/// As many as the issue of half-open connections is known by, or as descriptors allow: both ends
/// of each connection are in this process.
fn half_open() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let limit = usize::try_from(hard.max(soft)).unwrap_or(usize::MAX);
    10_000.min(limit.saturating_sub(1_000) / 2)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    pages * 4096
}

#[tokio::test]
async fn silent_connections_hold_nobody_up() {
    let plane = Plane::start().await;
    let before = resident_bytes();
    let mut silent = Vec::new();
    for _ in 0..half_open() {
        silent.push(
            TcpStream::connect(plane.plane.address())
                .await
                .expect("a connection"),
        );
    }
    let began = Instant::now();
    let mut client = plane.admin().await;
    let (status, _) = client.get("/version").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "a request beside {} silent connections took {:?}",
        silent.len(),
        began.elapsed()
    );
    let each = resident_bytes().saturating_sub(before) / silent.len() as u64;
    assert!(each < 32 << 10, "a silent connection takes {each} bytes");
    drop(silent);
    plane.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_the_server_does() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let watch = client.send("GET", "/api/v1/pods?watch=true", &[], "").await;
    let began = Instant::now();
    plane.plane.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    use http_body_util::BodyExt;
    assert!(
        watch.into_body().collect().await.is_ok(),
        "the watch ends cleanly"
    );
}

#[tokio::test]
async fn a_connection_without_tls_is_dropped() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let plane = Plane::start().await;
    let mut stream = TcpStream::connect(plane.plane.address())
        .await
        .expect("a connection");
    stream
        .write_all(b"GET /version HTTP/1.1\r\n\r\n")
        .await
        .expect("a request");
    let mut answer = Vec::new();
    // Reset or closed, but no answer.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    let tls = plane.tls(None).await;
    assert!(tls.get_ref().1.alpn_protocol().is_none());
    plane.stop().await;
}
