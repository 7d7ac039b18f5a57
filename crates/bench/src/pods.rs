//! Pods through scheduler, agent and real processes; the agent is a process of its own.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::Agent;

use crate::figures::Figures;
use crate::plane::{self, Plane};
use crate::stage::{Load, SETTLED, Stage, reach, request, until};

const NODE: &str = "bench";

/// Runs an agent of `program` on a whole control plane and measures pods.
pub(crate) async fn measure(plane: &Plane, program: &str, load: Load) -> Result<Figures> {
    let mut figures = Figures::default();
    let link = reach(plane).await?;
    let began = Instant::now();
    let agent = Agent::of(program, &plane.kubeconfig(), NODE)
        .args(&["--no-taint"])
        .start();
    let ready = until("the node is Ready", async || {
        let read = request("GET", &format!("/api/v1/nodes/{NODE}"), &Value::Null);
        let node: Value = serde_json::from_slice(&link.send(&read).await?.body)?;
        let conditions = node["status"]["conditions"].as_array();
        Ok(conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        }))
    });
    ready.await.with_context(|| agent.log())?;
    figures.low(
        "agent started to node Ready",
        "ms",
        began.elapsed().as_secs_f64() * 1e3,
    );
    tokio::time::sleep(SETTLED).await;
    let pid = agent.pid().as_raw();
    figures.low(
        "whole control plane at rest, memory",
        "MB",
        plane.resident(),
    );
    figures.low("agent at rest, memory", "MB", plane::resident(pid));

    let mut stage = Stage::new(plane, link).await?;
    stage.sequence(load, &mut figures).await?;
    stage.burst(load, &mut figures).await?;

    tokio::time::sleep(SETTLED).await;
    let many = load.burst;
    let what = |of: &str| format!("{of} with {many} pods, memory");
    figures.low(what("whole control plane"), "MB", plane.resident());
    figures.low(what("agent"), "MB", plane::resident(pid));
    let before = (
        plane.processor_time(),
        plane::processor_time(pid),
        Instant::now(),
    );
    tokio::time::sleep(load.idle).await;
    let passed = before.2.elapsed().as_secs_f64();
    let share = |now: f64, then: f64| (now - then) / passed * 100.0;
    let what = |of: &str| format!("{of} with {many} idle pods, processor time");
    figures.low(
        what("whole control plane"),
        "% of a core",
        share(plane.processor_time(), before.0),
    );
    figures.low(
        what("agent"),
        "% of a core",
        share(plane::processor_time(pid), before.1),
    );

    stage.deletion(load, &mut figures).await?;
    plane.describe();
    Ok(figures)
}
