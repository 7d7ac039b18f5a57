//! `vk-cmd up` as a user starts it: control plane and node in one process.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::figures::{Figures, percentile};
use crate::plane::{self, Plane};
use crate::stage::{Load, SETTLED, Stage, reach};

/// How often it is started.
const STARTS: usize = 10;

/// Starts `program` some times and measures pods on the last one.
pub(crate) async fn measure(program: &str, load: Load) -> Result<Figures> {
    let mut figures = Figures::default();
    let (mut starts, mut plane) = (Vec::new(), None);
    for _ in 0..STARTS {
        drop(plane.take());
        let began = Instant::now();
        plane = Some(Plane::whole(program));
        starts.push(began.elapsed().as_secs_f64());
    }
    figures.spread(
        "program start to node Ready, new state directory",
        &mut starts,
    );
    let plane = plane.context("it was started")?;
    let link = reach(&plane).await?;
    tokio::time::sleep(SETTLED).await;
    figures.low(
        "control plane and agent at rest, memory",
        "MB",
        plane.resident(),
    );

    let mut stage = Stage::new(&plane, link).await?;
    stage.sequence(load, &mut figures).await?;
    stage.burst(load, &mut figures).await?;
    let many = load.burst;
    let what = |when: &str| format!("the same with {many} pods, {when}, memory");
    figures.low(what("as the last one starts"), "MB", plane.resident());
    tokio::time::sleep(SETTLED).await;
    figures.low(what("ten seconds later"), "MB", plane.resident());
    let mut private = plane::private_memory_of_shims();
    anyhow::ensure!(
        private.len() >= many,
        "{} shims for {many} pods",
        private.len()
    );
    figures.low(
        "private memory of a shim, p50",
        "MB",
        percentile(&mut private, 0.5),
    );
    stage.deletion(load, &mut figures).await?;
    Ok(figures)
}
