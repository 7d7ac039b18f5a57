//! `vk-cmd agent`: joins the cluster of a kubeconfig.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Taint;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::oneshot;

use super::signals::Signals;
use crate::agent::{self, AgentSettings, Hostpipe, Outcome, Service, Shutdown};
use crate::cli::{AgentArgs, Semantics};
use crate::container::cgroup::{Choice, Delegated};
use crate::exit::{Exit, UsageError};
use crate::identity::{Identity, Serve};
use crate::kubelet_api::{self, Listener, Replaceable, ServingCertificate};
use crate::node::{Board, Limits};
use crate::pod::compat::Compat;
use crate::pod::mounts::Layout;
use crate::settings::agent::{AgentConfig, hostname};
use crate::settings::resources::Upkeep;
use crate::site::Site;
use crate::site::profile::MountNamespace;

/// The key of the documented taint; its value is the provider's name.
pub const TAINT_KEY: &str = "virtual-kubelet.io/provider";

/// Runs the agent until a signal ends it.
///
/// # Errors
/// Wrong settings, a kubeconfig that cannot be used, a port that is taken.
pub async fn run(args: AgentArgs) -> Result<Exit> {
    run_with(args, &Outfit::default()).await
}

/// What an agent has around it besides its settings.
#[derive(Debug, Default)]
pub(super) struct Outfit {
    /// The way to the host.
    pub(super) hostpipe: Option<Hostpipe>,
    /// What others say in the node's status.
    pub(super) board: Board,
}

/// Runs the agent, anew where the host behind its pipe has changed, until a signal ends it.
pub(super) async fn run_with(args: AgentArgs, outfit: &Outfit) -> Result<Exit> {
    let mut signals = super::signals::Signals::install()?;
    loop {
        let (exit, outcome) = run_once(args.clone(), outfit, &mut signals).await?;
        if outcome != Outcome::HostChanged {
            return Ok(exit);
        }
    }
}

async fn run_once(
    args: AgentArgs,
    outfit: &Outfit,
    signals: &mut Signals,
) -> Result<(Exit, Outcome)> {
    let site = crate::settings::site::resolve(&args.site)?;
    let config = AgentConfig::resolve(args)?;
    // The addresses of the Node: whoever approves a certificate compares them.
    let names = vec![hostname(), config.address.to_string()];
    let (serving, serve) = serving(&config, &names)?;
    let (kube, identity) = match &config.bootstrap {
        None => {
            let kube = read_kubeconfig(&config).await?;
            let identity = Identity::given(&kube, &config.kubeconfig);
            (kube, identity)
        }
        Some(path) => {
            let dir = config.base.join("identity").join(&config.node_name);
            let asked = Identity::bootstrap(path, dir, &config.node_name, names, serve);
            let identity = tokio::select! {
                // Dropped where a signal ends the wait for an approver.
                identity = asked => identity?,
                () = signals.next() => return Ok((Exit::Success, Outcome::Aborted)),
            };
            let kube = identity
                .config()
                .cloned()
                .context("a bootstrapped identity")?;
            (kube, identity)
        }
    };
    let client_ca = match &config.client_ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("--client-ca-file {}", path.display()))?,
        None => kube
            .root_cert
            .iter()
            .flatten()
            .map(|der| CertificateDer::from(der.clone()))
            .collect(),
    };
    let walltime = config.walltime;
    let node = Node {
        name: config.node_name,
        base: config.base,
        address: config.address,
        labels: config.labels,
        provider: config.provider,
        compat: config.compat,
        listen: SocketAddr::new(config.kubelet_address, config.kubelet_port),
        serving,
        client_ca,
        site,
        upkeep: config.upkeep,
    };
    let mut settings = settle(node, kube, identity, None, outfit.hostpipe.as_ref()).await?;
    settings.limits = walltime.limits;
    settings.kill_wait = walltime.kill_wait;
    // Where the name is the job's, the object goes with it; elsewhere the next agent takes it up again.
    settings.remove_node = walltime.drain_on_exit;
    if outfit.hostpipe.as_ref().is_some_and(|pipe| pipe.everything) {
        // The home of pods is the host's, where we cannot make links.
        settings.home = None;
    }
    settings.hostpipe.clone_from(&outfit.hostpipe);
    settings.board = outfit.board.clone();
    let shutdown = Shutdown::default();
    let outcome = tokio::select! {
        // Not polled again after it ended; the other arm never ends.
        outcome = agent::run(settings, shutdown.clone()) => outcome?,
        never = signals.steer(&shutdown, walltime.drain_on_exit) => match never {},
    };
    let exit = match outcome {
        Outcome::Drained | Outcome::Aborted => Exit::Success,
        Outcome::SteppedDown | Outcome::HostChanged => Exit::Failure,
    };
    Ok((exit, outcome))
}

/// The certificate of the kubelet API, and who takes a better one.
fn serving(config: &AgentConfig, names: &[String]) -> Result<(ServingCertificate, Option<Serve>)> {
    if let Some((certificate, key)) = config.serving.clone() {
        return Ok((ServingCertificate::Files { certificate, key }, None));
    }
    let current = Arc::new(Replaceable::self_signed(names)?);
    let serving = ServingCertificate::Replaceable(Arc::clone(&current));
    let serve: Serve = Box::new(move |pair| {
        if let Err(error) = current.replace(&pair.certificate, &pair.key) {
            tracing::warn!(%error, "the certificate that was issued for the kubelet API is not used");
        }
    });
    Ok((serving, Some(serve)))
}

/// How long all may take that runs on a node which ends by hand.
const KILL_WAIT: Duration = Duration::from_secs(40);

/// One node, as its commands describe it.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) base: PathBuf,
    pub(super) address: IpAddr,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) provider: Option<String>,
    pub(super) compat: Option<Semantics>,
    pub(super) listen: SocketAddr,
    pub(super) serving: ServingCertificate,
    pub(super) client_ca: Vec<CertificateDer<'static>>,
    pub(super) site: Site,
    pub(super) upkeep: Upkeep,
}

/// Binds the kubelet API and makes the agent's settings.
pub(super) async fn settle(
    node: Node,
    config: Config,
    identity: Identity,
    on_ready: Option<oneshot::Sender<()>>,
    hostpipe: Option<&Hostpipe>,
) -> Result<AgentSettings> {
    let listener = Listener::bind(node.listen).await?;
    let kubelet_port = listener.address().port();
    let tls = Arc::new(kubelet_api::server_config(&node.serving, &node.client_ca)?);
    let name = node.name.clone();
    let service: Service = Box::new(move |context| {
        async move {
            kubelet_api::serve(listener, tls, name, context).await;
            Ok(())
        }
        .boxed()
    });
    let groups = groups(&node.upkeep.cgroup)?;
    let layout = node
        .upkeep
        .layout
        .unwrap_or(match node.site.profile.mount_namespace {
            Some(MountNamespace::Private) => Layout::Private,
            Some(MountNamespace::Host) | None => Layout::Relative,
        });
    let job = super::engine::job(&node.site, &node.base, hostpipe);
    // What the user says holds against what was found out.
    let mut labels = crate::site::labels(&node.site);
    labels.extend(node.labels);
    tracing::info!(site = node.site.name(), chosen = %node.site.chosen, "site profile");
    Ok(AgentSettings {
        config,
        identity,
        node_name: node.name,
        base: node.base,
        home: std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute()),
        address: node.address,
        hostname: hostname(),
        kubelet_port,
        labels,
        taint: node.provider.map(|provider| Taint {
            key: TAINT_KEY.to_owned(),
            value: Some(provider),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        }),
        shim: std::env::current_exe().context("the path of this program")?,
        compat: compat(node.compat, &node.site),
        environment: job.environment,
        environment_deny: node.site.profile.environment.deny.clone(),
        images: job.means,
        engine: job.images,
        upkeep: node.upkeep,
        groups,
        layout,
        service: Some(service),
        on_ready,
        hostpipe: None,
        board: Board::default(),
        limits: Limits::default(),
        kill_wait: KILL_WAIT,
        remove_node: false,
    })
}

/// The place for control groups. Whoever names one wants it; else it is used where there is one.
fn groups(choice: &Choice) -> Result<Option<Delegated>> {
    match (Delegated::find(choice), choice) {
        (Ok(found), _) => {
            if let Some(Delegated { controllers, .. }) = &found {
                tracing::info!(?controllers, "containers get control groups");
            }
            Ok(found)
        }
        (Err(error), Choice::At(path)) => Err(UsageError {
            key: "--cgroup".to_owned(),
            value: path.display().to_string(),
            problem: format!("cannot be used: {:#}", anyhow::Error::new(error)),
            origin: "command line or environment".to_owned(),
            mend: "name a group of version 2 that was delegated to this user, such as that of \
                   `systemd-run --user --scope -p Delegate=yes`, or say off"
                .to_owned(),
        }
        .into()),
        (Err(error), _) => {
            let error = anyhow::Error::new(error);
            tracing::info!("containers get no control groups: {error:#}");
            Ok(None)
        }
    }
}

/// What the user says, else the site's profile.
fn compat(named: Option<Semantics>, site: &Site) -> Compat {
    match (named, site.profile.compat) {
        (Some(Semantics::VirtualKubeletCmd), _)
        | (None, Some(crate::site::profile::Compat::VirtualKubeletCmd)) => {
            Compat::VirtualKubeletCmd
        }
        (Some(Semantics::Kubernetes), _) | (None, None) => Compat::Kubernetes,
    }
}

async fn read_kubeconfig(config: &AgentConfig) -> Result<Config> {
    let path = &config.kubeconfig;
    let usage = |error: &dyn std::error::Error| UsageError {
        key: "KUBECONFIG".to_owned(),
        value: path.display().to_string(),
        problem: format!("cannot be used: {error}"),
        origin: "command line, environment or default".to_owned(),
        mend: "name a kubeconfig that this user may read".to_owned(),
    };
    let file = Kubeconfig::read_from(path).map_err(|error| usage(&error))?;
    Ok(
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|error| usage(&error))?,
    )
}
