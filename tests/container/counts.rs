//! What a container costs the kernel.

use crate::crashes::{run_until, traceable};
use crate::support::{Bed, Gate, in_time};

/// From the shim's exec to its end, with the command's fork.
#[tokio::test(flavor = "multi_thread")]
async fn the_system_calls_of_a_shim_stay_within_their_bound() {
    if !traceable() {
        return;
    }
    let bed = Bed::new();
    let gate = Gate::new(&bed);
    let mut least = usize::MAX;
    // A wake-up more or less is the scheduler's doing; the least of a few is the shim's own.
    for number in 0..5 {
        let dir = bed.container(&format!("c{number}"));
        let spec = bed.spec(&dir, &["true"]);
        let start = tokio::spawn({
            let (launcher, dir) = (gate.launcher.clone(), dir.clone());
            async move { launcher.start(&dir, 0, 1, &spec).await }
        });
        let pid = gate.wait().await.into_pid();
        let tracer = tokio::task::spawn_blocking(move || run_until(pid, usize::MAX));
        let handle = in_time(start).await.expect("no panic").expect("it starts");
        in_time(handle.wait()).await;
        let stops = in_time(tracer).await.expect("no panic").expect("traced");
        // The kernel stops it when it enters a call and when it leaves it.
        least = least.min(stops / 2);
    }
    testkit::within_bound("system calls of a shim's life", least as f64);
}
