//! Measures the embedded control plane and Kubernetes' own side by side, in one run on one machine.
//!
//! `scripts/bench-planes` builds and runs it. Figures go to stderr as they come; the table, in Markdown, to
//! standard output; the same as data to the file of `--data`.

#![expect(clippy::print_stdout, reason = "the table is the result")]

mod api;
mod figures;
mod plane;
mod pods;
mod stage;
mod watch;
mod whole;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use figures::Figures;
use plane::Plane;

/// Measures the embedded control plane and Kubernetes' own side by side.
#[derive(Debug, Parser)]
struct Args {
    /// The vk-cmd to measure; $VK_CMD or the one beside this program otherwise.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// A tenth of everything: does it still work?
    #[arg(long)]
    small: bool,
    /// Only the API servers, or only pods; or `vk-cmd up` as a whole, by itself.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Only the embedded control plane.
    #[arg(long)]
    embedded: bool,
    /// Writes the figures with tabs between them too.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Api,
    Pods,
    Whole,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let program = plane::program(args.program.clone())?;
    testkit::note(&format!("embedded: {program}"));
    if args.only == Some(Part::Whole) {
        let figures = whole::measure(&program, load(&args)).await?;
        print!("{}", figures::table(&figures, None));
        return Ok(());
    }
    let ours = measure(
        &args,
        |workers| Ok(Some(Plane::embedded(&program, workers))),
        &program,
    )
    .await?
    .context("the embedded control plane is always there")?;
    let theirs = if args.embedded {
        None
    } else {
        testkit::note("Kubernetes v1.34:");
        measure(&args, Plane::real, &program).await?
    };
    print!("{}", figures::table(&ours, theirs.as_ref()));
    if let Some(path) = &args.data {
        let text = figures::data(&ours, theirs.as_ref());
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn share(args: &Args) -> usize {
    if args.small { 10 } else { 1 }
}

fn load(args: &Args) -> stage::Load {
    stage::Load {
        single: 100 / share(args),
        burst: 1_000 / share(args),
        idle: Duration::from_secs(20),
    }
}

/// `start(workers)` gives a new control plane: one for the API server alone, one for pods.
async fn measure(
    args: &Args,
    start: impl Fn(bool) -> Result<Option<Plane>>,
    program: &str,
) -> Result<Option<Figures>> {
    let share = share(args);
    let mut all = Figures::default();
    if args.only != Some(Part::Pods) {
        let Some(plane) = start(false)? else {
            return Ok(None);
        };
        let load = api::Load {
            single: 1_000 / share,
            pods: 10_000 / share,
            clients: 32,
            lists: 5,
            watchers: 1_000 / share,
            events: 50,
        };
        all.0.extend(api::measure(&plane, load).await?.0);
    }
    if args.only != Some(Part::Api) {
        let Some(plane) = start(true)? else {
            return Ok(None);
        };
        all.0
            .extend(pods::measure(&plane, program, load(args)).await?.0);
    }
    Ok(Some(all))
}
