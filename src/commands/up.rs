//! `vk-cmd up`: the embedded control plane and one local node in this process.
//!
//! The agent joins through the TLS API with the identity of a node, as any agent does.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use control_plane::ControlPlane;
use control_plane::auth::pki::{Pki, kubeconfig};
use jiff::Timestamp;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::agent::{Node, settle};
use super::signals::Signals;
use super::workload;
use crate::agent::{self, AgentError, Outcome, Shutdown};
use crate::cli::UpArgs;
use crate::client::{Connection, Manifest};
use crate::exit::{Exit, UsageError};
use crate::identity::Identity;
use crate::kubelet_api::ServingCertificate;
use crate::printer;
use crate::settings::{
    agent::{node_labels, node_name},
    default_state_dir,
};

/// The kubeconfig of the administrator, in the state directory.
const ADMIN: &str = "admin.kubeconfig";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs until a signal, or until what `--apply` started has ended.
///
/// # Errors
/// A state directory that cannot be used or is in use, manifests that are wrong, a node that does
/// not become Ready.
pub async fn run(args: UpArgs) -> Result<Exit> {
    let mut signals = Signals::install()?;
    let state = match &args.state_dir {
        Some(path) => std::path::absolute(path).context("--state-dir")?,
        None => default_state_dir()?,
    };
    let name = node_name(args.nodename.clone())?;
    private_dir(&state)?;
    let manifests = crate::client::read_manifests(&args.apply)?;

    let plane = ControlPlane::start(control_plane::Config {
        state_dir: state.clone(),
        listen: SocketAddr::new(LOOPBACK, args.port),
        scheduler: !args.no_scheduler,
        controllers: !args.no_controllers,
        names: Vec::new(),
    })
    .await?;
    let admin = state.join(ADMIN);
    plane
        .pki()
        .write_kubeconfig(&admin, &plane.url(), "vk-cmd", &plane.pki().admin)?;
    printer::note(format!(
        "control plane: {} (state in {})",
        plane.url(),
        state.display()
    ));

    let shutdown = Shutdown::default();
    let mut node = None;
    if !args.no_node {
        let (ready, is_ready) = oneshot::channel();
        let settings = node_settings(&args, &plane, &state, &name, ready).await?;
        let mut task = tokio::spawn(agent::run(settings, shutdown.clone()));
        tokio::select! {
            // Cancel-safe: polling a join handle or a receiver by reference loses nothing.
            ended = &mut task => {
                plane.shutdown().await;
                return Err(ended_early(ended));
            }
            ready = is_ready => ready.context("the node did not become Ready")?,
            () = signals.next() => {
                task.abort();
                plane.shutdown().await;
                return Ok(Exit::Failure);
            }
        }
        printer::note(format!("node: {name} is Ready"));
        node = Some(task);
    }
    printer::line(format!("export KUBECONFIG={}", shell_word(&admin)))?;

    let outcome = tokio::select! {
        // What was applied is dropped with the node: nothing of it is left but its objects.
        error = ended(&mut node) => Err(error),
        outcome = attend(&args, &admin, manifests, &mut signals) => outcome,
    };
    stop(node, &shutdown, &mut signals).await;
    plane.shutdown().await;
    outcome
}

/// Waits for a signal, or for the end of what `--apply` started.
async fn attend(
    args: &UpArgs,
    admin: &Path,
    manifests: Vec<Manifest>,
    signals: &mut Signals,
) -> Result<Exit> {
    if args.apply.is_empty() {
        signals.next().await;
        return Ok(Exit::Success);
    }
    let connection = Connection::open(Some(admin), Some("default".to_owned())).await?;
    let work = workload::run(&connection, manifests, args.wait, args.logs);
    tokio::select! {
        // The workload is dropped with a signal: nothing of it is left but its objects.
        outcome = work => match outcome? {
            Some(exit) => Ok(exit),
            None => {
                signals.next().await;
                Ok(Exit::Success)
            }
        },
        () = signals.next() => Ok(Exit::Failure),
    }
}

/// Waits for the end of a node that nobody told to end, and takes it out.
async fn ended(node: &mut Option<JoinHandle<Result<Outcome, AgentError>>>) -> anyhow::Error {
    let Some(task) = node else {
        return std::future::pending().await;
    };
    let end = task.await;
    *node = None;
    match end {
        Ok(Ok(outcome)) => anyhow!("the agent ended by itself: {outcome:?}"),
        Ok(Err(error)) => anyhow::Error::new(error).context("the agent ended"),
        Err(error) => anyhow::Error::new(error).context("the agent broke"),
    }
}

async fn stop(
    node: Option<JoinHandle<Result<Outcome, AgentError>>>,
    shutdown: &Shutdown,
    signals: &mut Signals,
) {
    let Some(mut task) = node else { return };
    printer::note("ending the pods of this node; signal again to stop at once");
    shutdown.drain.cancel();
    tokio::select! {
        // Cancel-safe: by reference.
        _ = &mut task => return,
        () = signals.next() => shutdown.abort.cancel(),
    }
    if let Err(error) = task.await {
        tracing::warn!(%error, "the agent did not end well");
    }
}

fn ended_early(
    ended: Result<Result<Outcome, AgentError>, tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok(Ok(outcome)) => anyhow!("the agent ended before its node was Ready: {outcome:?}"),
        Ok(Err(error)) => anyhow::Error::new(error).context("the agent could not start"),
        Err(error) => anyhow::Error::new(error).context("the agent broke"),
    }
}

async fn node_settings(
    args: &UpArgs,
    plane: &ControlPlane,
    state: &Path,
    name: &str,
    ready: oneshot::Sender<()>,
) -> Result<crate::agent::AgentSettings> {
    let dir = state.join("node");
    private_dir(&dir)?;
    let config = node_config(plane.pki(), &plane.url(), name).await?;
    let serving = plane.pki().issue_serving(
        name,
        &[name.to_owned(), LOOPBACK.to_string()],
        Timestamp::now(),
    )?;
    let node = Node {
        name: name.to_owned(),
        base: dir,
        address: LOOPBACK,
        labels: node_labels(&args.node_labels)?,
        provider: args.taint.then(|| "mock".to_owned()),
        compat: args.compat,
        listen: SocketAddr::new(LOOPBACK, 0),
        serving: ServingCertificate::Pem {
            certificate: serving.cert_pem,
            key: serving.key_pem,
        },
        client_ca: vec![plane.pki().ca_der.clone()],
        site: crate::settings::site::resolve(&args.site)?,
        upkeep: crate::settings::resources::resolve(&args.resources)?,
    };
    let identity = Identity::Given {
        origin: "(memory)".to_owned(),
        // A year: it is made anew with each run.
        validity: None,
        known: true,
    };
    settle(node, config, identity, Some(ready), None).await
}

/// The configuration of a client with the identity of node `name`. Its key is made now and lives
/// in memory alone.
async fn node_config(pki: &Pki, url: &str, name: &str) -> Result<Config> {
    let user = format!("system:node:{name}");
    let pair = pki.issue_client(&user, Some("system:nodes"), Timestamp::now())?;
    let text = kubeconfig(url, "vk-cmd", &pki.ca_pem, &pair);
    let parsed = Kubeconfig::from_yaml(&text)?;
    Ok(Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?)
}

/// Makes a directory that only this user may enter, or checks the one that is there.
fn private_dir(path: &Path) -> Result<(), UsageError> {
    let wrong = |problem: String, mend: &str| UsageError {
        key: "--state-dir".to_owned(),
        value: path.display().to_string(),
        problem,
        origin: "command line, environment or default".to_owned(),
        mend: mend.to_owned(),
    };
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(wrong("is not a directory".to_owned(), "name a directory"));
        }
        Err(error) => {
            return Err(wrong(
                format!("cannot be made: {error}"),
                "name a directory that this user may write",
            ));
        }
    }
    if is_of_others(path) {
        return Err(wrong(
            "holds files that are not of vk-cmd, and others may enter it".to_owned(),
            "name a new or empty directory, or close it with chmod 700",
        ));
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .and_then(|()| tempfile_probe(path))
        .map_err(|error| {
            wrong(
                format!("cannot be written: {error}"),
                "name a directory that this user owns, on a file system that is not read-only or full",
            )
        })
}

/// Whether a directory has another purpose and others need it open: its permissions are not ours to
/// change (`--state-dir /tmp`, a home).
fn is_of_others(path: &Path) -> bool {
    let open = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    let filled = || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    open && filled() && !path.join(ADMIN).exists()
}

/// Writing is the only honest test of whether a directory can be written.
fn tempfile_probe(dir: &Path) -> std::io::Result<()> {
    let probe: PathBuf = dir.join(format!(".probe-{}", std::process::id()));
    std::fs::File::create(&probe)?;
    std::fs::remove_file(&probe)
}

/// A path as a word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_survives_the_shell() {
        assert_eq!(shell_word(Path::new("/a/b-c")), "/a/b-c");
        assert_eq!(shell_word(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn the_permissions_of_a_directory_with_another_purpose_stay() {
        let temp = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path| {
            let meta = std::fs::metadata(path).expect("present");
            meta.permissions().mode() & 0o777
        };
        let dir = temp.path().join("shared");
        std::fs::create_dir(&dir).expect("made");
        let open = || std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755));
        open().expect("opened");
        private_dir(&dir).expect("an empty one is taken");
        assert_eq!(mode(&dir), 0o700);

        std::fs::write(dir.join("other"), "").expect("written");
        private_dir(&dir).expect("a closed one is taken");
        open().expect("opened");
        private_dir(&dir).expect_err("another's");
        assert_eq!(mode(&dir), 0o755);
        std::fs::write(dir.join(ADMIN), "").expect("written");
        private_dir(&dir).expect("one of ours");
        assert_eq!(mode(&dir), 0o700);
    }
}
