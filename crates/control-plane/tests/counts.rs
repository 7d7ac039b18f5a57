//! What a request costs in allocations.

#[path = "it/plane.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod plane;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use plane::{Client, JSON, MAPS, Plane, config_map};

/// The system's allocator, which counts what threads other than the client's ask of it.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    // A thread that ends has no such variable any more.
    if !IS_CLIENT.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the pointer came from the same allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUESTS: usize = 200;
/// Requests before the counted ones: what grows once has grown.
const FIRST: usize = 50;

/// Allocations of the server for one request, on average.
async fn measure(
    client: &mut Client,
    method: &str,
    kind: &str,
    request: impl Fn(usize) -> (String, String),
) -> f64 {
    let mut before = 0;
    for number in 0..FIRST + REQUESTS {
        if number == FIRST {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        let (target, body) = request(number);
        let answer = client
            .send(method, &target, &[("content-type", kind)], body)
            .await;
        assert!(
            answer.status().is_success(),
            "{method} {target}: {}",
            answer.status()
        );
        answer.into_body().collect().await.expect("a whole body");
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / REQUESTS as f64
}

#[test]
fn the_allocations_of_requests_stay_within_their_bounds() {
    IS_CLIENT.set(true);
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    // Started from a thread of the server's own.
    let plane = server
        .block_on(server.spawn(Plane::start()))
        .expect("no panic");
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    client.block_on(async {
        let mut client = plane.admin().await;
        let named = |number: usize| format!("{MAPS}/m{number}");
        let create = |number: usize| {
            let body = config_map(&format!("m{number}"), "value").to_string();
            (MAPS.to_owned(), body)
        };
        let count = measure(&mut client, "POST", JSON, create).await;
        testkit::within_bound("allocations of a create", count);

        let merge = "application/merge-patch+json";
        let patch = |number: usize| (named(number), format!(r#"{{"data":{{"key":"{number}"}}}}"#));
        let count = measure(&mut client, "PATCH", merge, patch).await;
        testkit::within_bound("allocations of a merge patch", count);

        let get = |number: usize| (named(number), String::new());
        let count = measure(&mut client, "GET", JSON, get).await;
        testkit::within_bound("allocations of a read", count);

        let list = |_| (MAPS.to_owned(), String::new());
        let count = measure(&mut client, "GET", JSON, list).await;
        let each = count / (FIRST + REQUESTS) as f64;
        testkit::within_bound("allocations of a list, for each object", each);

        let delete = |number: usize| (named(number), String::new());
        let count = measure(&mut client, "DELETE", JSON, delete).await;
        testkit::within_bound("allocations of a delete", count);
    });
    server.block_on(plane.stop());
}
