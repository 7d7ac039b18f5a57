//! The same requests go to Kubernetes' own API server and to the embedded one; status, headers that
//! matter and bodies must agree, less what two runs of one server differ in too.
//!
//! `scenarios/` holds the requests (the language is described in `script`), `differences` what differs
//! on purpose, with the reasons, which `docs/control-plane.md` tells too. A difference that is not listed fails the test, and so
//! does a listed one that has vanished.
//!
//! For work on it: `SAME_REQUESTS_REAL` names the kubeconfig of a real server that runs already, `SAME_REQUESTS_ONLY` is a part of the names of the scenarios to run, and
//! `SAME_REQUESTS_PRINT` prints all answers of the real server.

mod body;
mod compare;
mod normal;
mod run;
mod script;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use compare::{Difference, Known};
use control_plane::{Config, ControlPlane};
use run::Server;
use script::Scenario;
use serde_json::Value;
use testkit::RealCluster;
use tokio::sync::Semaphore;

/// Scenarios under way at once.
const AT_ONCE: usize = 6;

fn scenarios() -> Result<Vec<Scenario>> {
    let dir = here().join("scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let name = file
            .file_stem()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        all.extend(script::parse(&name, &std::fs::read_to_string(&file)?)?);
    }
    Ok(all)
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/same_requests")
}

/// `file: title` as a name that an object may have.
fn namespace_of(scenario: &Scenario, run: &str) -> String {
    let words = format!("{}-{}", scenario.file, scenario.title).to_lowercase();
    let mut name: String = words
        .chars()
        .map(|part| {
            if part.is_ascii_alphanumeric() {
                part
            } else {
                '-'
            }
        })
        .collect();
    name.truncate(50);
    format!("{}{run}", name.trim_end_matches('-'))
}

struct Outcome {
    step: String,
    real: Value,
    differences: Vec<Difference>,
}

async fn play(
    scenario: Arc<Scenario>,
    run: String,
    real: Server,
    ours: Server,
) -> Result<Vec<Outcome>> {
    let namespace = namespace_of(&scenario, &run);
    let name = format!("{}: {}", scenario.file, scenario.title);
    let (left, right) = tokio::join!(
        real.play(&scenario, &namespace),
        ours.play(&scenario, &namespace)
    );
    let left = left.with_context(|| format!("{name}, the real server"))?;
    let right = right.with_context(|| format!("{name}, ours"))?;
    Ok(scenario
        .steps
        .iter()
        .zip(left.into_iter().zip(right))
        .map(|(step, (real, ours))| {
            let step = format!("{name} / {}", step.name);
            Outcome {
                differences: compare::differences(&step, &real, &ours),
                step,
                real,
            }
        })
        .collect())
}

async fn play_all(real: &Path, ours: &Path, run: &str) -> Result<Vec<Outcome>> {
    let only = std::env::var("SAME_REQUESTS_ONLY").unwrap_or_default();
    let real = Server::new(real)?;
    let ours = Server::new(ours)?;
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::new();
    for scenario in scenarios()? {
        if !format!("{}: {}", scenario.file, scenario.title).contains(&only) {
            continue;
        }
        let (real, ours, free, run) = (
            real.clone(),
            ours.clone(),
            Arc::clone(&free),
            run.to_owned(),
        );
        tasks.push(tokio::spawn(async move {
            let _place = free.acquire().await?;
            play(Arc::new(scenario), run, real, ours).await
        }));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.extend(task.await??);
    }
    Ok(outcomes)
}

fn kubeconfig(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// A suffix for names on servers that live longer than this run.
fn suffix() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    format!("-{:x}", now.as_secs() & 0xff_ffff)
}

/// The embedded control plane, without the parts that write by themselves.
async fn embedded(place: &Path) -> Result<(ControlPlane, PathBuf)> {
    let plane = ControlPlane::start(Config {
        state_dir: place.to_owned(),
        listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        scheduler: false,
        controllers: false,
        names: Vec::new(),
    })
    .await?;
    let kubeconfig = place.join("admin.kubeconfig");
    let admin = &plane.pki().admin;
    plane
        .pki()
        .write_kubeconfig(&kubeconfig, &plane.url(), "ours", admin)?;
    Ok((plane, kubeconfig))
}

#[test]
fn both_servers_answer_alike() {
    let cluster;
    let (real, run) = match kubeconfig("SAME_REQUESTS_REAL") {
        Some(real) => (real, suffix()),
        None => {
            let Some(started) = RealCluster::builder().start() else {
                return;
            };
            cluster = started;
            (cluster.kubeconfig(), String::new())
        }
    };
    let place = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcomes = runtime.block_on(async {
        let (plane, ours) = embedded(place.path()).await?;
        let outcomes = play_all(&real, &ours, &run).await;
        plane.shutdown().await;
        outcomes
    });
    let outcomes = outcomes.unwrap_or_else(|error| panic!("{error:#}"));

    if std::env::var_os("SAME_REQUESTS_PRINT").is_some() {
        for outcome in &outcomes {
            testkit::note(&format!("{}\n  {}", outcome.step, outcome.real));
        }
    }
    let list =
        std::fs::read_to_string(here().join("differences")).expect("the list of differences");
    judge(&outcomes, &Known::parse(&list));
}

#[test]
fn every_reason_is_in_the_documents() {
    let list =
        std::fs::read_to_string(here().join("differences")).expect("the list of differences");
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control-plane.md");
    let document = std::fs::read_to_string(document).expect("docs/control-plane.md");
    let list = Known::parse(&list);
    let reasons = list.reasons.iter().map(|(reason, _)| reason.as_str());
    let missing: Vec<_> = reasons
        .filter(|reason| !document.contains(reason))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/control-plane.md lacks {missing:#?}"
    );
}

/// Fails where a difference is not listed, or a listed one is gone.
fn judge(outcomes: &[Outcome], list: &Known) {
    let found: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| &outcome.differences)
        .collect();
    let listed = |difference: &Difference| {
        let line = difference.line();
        list.patterns().any(|pattern| compare::fits(pattern, &line))
    };
    let unlisted: Vec<_> = found
        .iter()
        .copied()
        .filter(|difference| !listed(difference))
        .collect();
    let vanished: Vec<_> = list
        .patterns()
        .filter(|pattern| {
            !found
                .iter()
                .any(|difference| compare::fits(pattern, &difference.line()))
        })
        // A part of the scenarios says nothing about the others.
        .filter(|_| std::env::var_os("SAME_REQUESTS_ONLY").is_none())
        .collect();
    let steps =
        |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    testkit::note(&format!(
        "{} requests: {} with equal answers, {} differences listed, {} not listed",
        outcomes.len(),
        steps(|outcome| outcome.differences.is_empty()),
        found.len() - unlisted.len(),
        unlisted.len(),
    ));
    assert!(
        unlisted.is_empty() && vanished.is_empty(),
        "unlisted differences:\n{}\nlisted differences that are gone:\n{vanished:#?}",
        compare::report(&unlisted)
    );
}
