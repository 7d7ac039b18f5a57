//! Which tunnels there are to be, and what the node says of them.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::cli::EntrypointArgs;
use crate::exit::UsageError;
use crate::node::{Board, Condition};
use crate::printer;
use crate::settings::env;
use crate::site::{KubeletPort, Tunnels};
use crate::tunnel::{Forward, Place, State, Tunnel, TunnelSpec, certificate, proof};

/// The type of the node condition.
const CONDITION: &str = "TunnelReady";
/// How long a local port may take to say that somebody has it.
const LOOK: Duration = Duration::from_secs(1);
/// How often the ends of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(600);
/// How soon it is looked again whether our kubelet API answers, while it does not serve yet.
const SOON: Duration = Duration::from_secs(5);

/// A tunnel, and what in it matters to the node.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) spec: TunnelSpec,
    /// Our end of the kubelet API's reverse forward, as ssh writes it, and the far side's port (0: its choice).
    kubelet: Option<(String, u16)>,
    /// The kubelet API's port on this host.
    kubelet_port: u16,
    /// Whether others than the far side itself are to reach it.
    open: bool,
}

/// What the settings ask for; `None` where no control plane is named.
pub(super) fn wanted(
    args: &EntrypointArgs,
    profile: &Tunnels,
    kubelet_port: u16,
) -> Result<Option<Wanted>, UsageError> {
    let named = args.control_plane.clone().filter(|name| !name.is_empty());
    let documented = named.is_some();
    let api_port = port(
        args.apiserver_port.as_deref(),
        "--apiserver-port",
        env::APISERVER_PORT,
    )?;
    let ssh_port = port(args.ssh_port.as_deref(), "--ssh-port", env::VK_CMD_SSH_PORT)?;
    let Some(destination) = named.or_else(|| profile.control_plane.clone()) else {
        return Ok(None);
    };
    let mut spec = TunnelSpec::new(destination);
    spec.ssh = PathBuf::from(&profile.ssh);
    spec.port = ssh_port;
    spec.jump.clone_from(&profile.jump);
    spec.identity = args
        .ssh_key
        .clone()
        .or_else(|| profile.identity_file.clone().map(Into::into));
    spec.config = profile.config_file.clone().map(Into::into);
    spec.known_hosts = args
        .ssh_known_hosts
        .clone()
        .or_else(|| profile.known_hosts_file.clone().map(Into::into));
    spec.options.clone_from(&profile.options);
    if let Some(dir) = other_home() {
        at_home(&mut spec, &dir.join(".ssh"));
    }
    spec.keep_alive = Duration::from_secs(profile.keep_alive_seconds.into());
    spec.keep_alive_count = profile.keep_alive_count;
    spec.connect_timeout = Duration::from_secs(profile.connect_timeout_seconds.into());
    if let Some(port) = api_port.or(profile.api_server_port) {
        if is_taken(port) {
            printer::note(format!(
                "port {port} of this host is served already: it is used as the tunnel to the API server"
            ));
        } else {
            spec.forwards.push(Forward::Local {
                listen: Place::tcp("localhost", port),
                to: Place::tcp(profile.api_server_host.clone(), port),
            });
        }
    }
    let reverse = profile
        .kubelet_port
        .or_else(|| documented.then_some(KubeletPort::Same));
    let mut kubelet = None;
    if let Some(reverse) = reverse {
        if kubelet_port == 0 {
            return Err(UsageError {
                key: env::KUBELET_PORT.to_owned(),
                value: "0".to_owned(),
                problem: "names no port for the reverse tunnel".to_owned(),
                origin: "command line or environment".to_owned(),
                mend: "give a port that is free on this host; the far side can choose its own with tunnels.kubeletPort: \
                       any in the site profile"
                    .to_owned(),
            });
        }
        let far = match reverse {
            KubeletPort::Same => kubelet_port,
            KubeletPort::Any => 0,
            KubeletPort::Port(port) => port,
        };
        let to = Place::tcp("localhost", kubelet_port);
        kubelet = Some((to.to_string(), far));
        let listen = Place::tcp(profile.bind_address.clone(), far);
        spec.forwards.push(Forward::Remote { listen, to });
    }
    for ports in &profile.ports {
        spec.forwards.push(Forward::Remote {
            listen: Place::tcp(profile.bind_address.clone(), ports.remote),
            to: Place::tcp("localhost", ports.local),
        });
    }
    let open = !matches!(
        profile.bind_address.as_str(),
        "localhost" | "127.0.0.1" | "::1"
    );
    Ok((!spec.forwards.is_empty()).then_some(Wanted {
        spec,
        kubelet,
        kubelet_port,
        open,
    }))
}

/// `HOME`, where ssh would not look: it takes the home of the list of users, which in a container may be another.
fn other_home() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    let listed = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
    (home.is_absolute() && home != listed.dir).then_some(home)
}

/// Has ssh use what lies in the user's own directory, where nothing else was said.
fn at_home(spec: &mut TunnelSpec, dir: &Path) {
    let find = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
    spec.config = spec.config.take().or_else(|| find("config"));
    spec.known_hosts = spec.known_hosts.take().or_else(|| find("known_hosts"));
    let keys = ["id_ed25519", "id_ecdsa", "id_rsa"];
    // Those that the configuration names are tried besides.
    spec.identity = { spec.identity.take() }.or_else(|| keys.into_iter().find_map(find));
}

fn is_taken(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, LOOK).is_ok()
}

fn port(text: Option<&str>, flag: &str, variable: &str) -> Result<Option<u16>, UsageError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.trim().parse::<u16>() {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => {
            let set = std::env::var(variable).is_ok_and(|set| set == text);
            Err(UsageError {
                key: if set { variable } else { flag }.to_owned(),
                value: text.to_owned(),
                problem: "is not a port".to_owned(),
                origin: if set { "environment" } else { "command line" }.to_owned(),
                mend: "give a number from 1 to 65535".to_owned(),
            })
        }
    }
}

/// Keeps the board true about a tunnel.
pub(super) async fn follow(
    mut tunnel: Tunnel,
    wanted: Wanted,
    address: Option<IpAddr>,
    board: Board,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            let state = tunnel.state.borrow_and_update().clone();
            let (condition, pause) = told(&state, &tunnel, &wanted, address, &board).await;
            if let Some(condition) = condition {
                board.set(CONDITION, condition);
            }
            let changed = tokio::time::timeout(pause, tunnel.state.changed()).await;
            if let Ok(Err(_)) = changed {
                return;
            }
        }
    };
    tokio::select! {
        // Dropped only here.
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn told(
    state: &State,
    tunnel: &Tunnel,
    wanted: &Wanted,
    address: Option<IpAddr>,
    board: &Board,
) -> (Option<Condition>, Duration) {
    let down = |reason: &str, message: String| {
        let reason = reason.to_owned();
        let condition = Condition {
            status: false,
            reason,
            message,
        };
        (Some(condition), CERTIFICATES)
    };
    let mut pause = CERTIFICATES;
    let allocated = match state {
        State::Connecting => return (None, CERTIFICATES),
        State::Down(problem) => return down(problem.reason, problem.message.clone()),
        State::Up { allocated, .. } => allocated,
    };
    if let Some((ours, far)) = &wanted.kubelet {
        let chosen = allocated.iter().find(|(to, _)| to == ours);
        let port = chosen.map_or(*far, |(_, port)| *port);
        if port != 0 {
            board.set_kubelet_port(Some(port));
        }
        if let Some(address) = address.filter(|_| wanted.open) {
            let (spec, control, address) = (&wanted.spec, &tunnel.control, address.to_string());
            if let Err(message) = proof::check(spec, control, &address, port).await {
                return down("ReverseNotReachable", message);
            }
            match proof::is_ours(spec, control, (&address, port), wanted.kubelet_port).await {
                Ok(Some(())) => {}
                Ok(None) => pause = SOON,
                Err(message) => return down("RemotePortOfAnother", message),
            }
        }
    }
    let notices: Vec<String> = certificate::certificates(&wanted.spec)
        .await
        .iter()
        .filter_map(|certificate| certificate.notice(Timestamp::now()))
        .collect();
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    let condition = Condition {
        status: true,
        reason: if notices.is_empty() {
            "TunnelUp"
        } else {
            "CertificateEnds"
        }
        .to_owned(),
        message: if notices.is_empty() {
            format!("the tunnel to {} is up", wanted.spec.destination)
        } else {
            notices.join("; ")
        },
    };
    (Some(condition), pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_at_home_is_used_where_nothing_was_said() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = |name: &str| temp.path().join(name);
        for name in ["known_hosts", "id_rsa"] {
            std::fs::write(path(name), "").expect("written");
        }
        let mut spec = TunnelSpec::new("cp");
        at_home(&mut spec, temp.path());
        assert_eq!(spec.known_hosts, Some(path("known_hosts")));
        assert_eq!(spec.identity, Some(path("id_rsa")));
        assert_eq!(spec.config, None);
        // What was said holds.
        std::fs::write(path("config"), "").expect("written");
        let mut spec = TunnelSpec::new("cp");
        spec.known_hosts = Some("/mine".into());
        at_home(&mut spec, temp.path());
        assert_eq!(spec.config, Some(path("config")));
        assert_eq!(spec.known_hosts, Some("/mine".into()));
    }
}
