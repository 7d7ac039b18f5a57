//! Whether the far side listens where it should.
//!
//! An sshd with `GatewayPorts no` binds a reverse forward to its loopback, says that all is well, and nobody else
//! reaches it. So the far side itself is made to connect to the address that the control plane uses, over the
//! connection that is there already; no shell is needed for that. And what answers there has to show the certificate
//! that our own kubelet API shows: another node's may hold the port.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    process::Command,
};
use tokio_rustls::TlsConnector;

use super::spec::TunnelSpec;
use crate::tls;

/// For the far side to connect to itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Has the far side connect to `host:port`.
///
/// # Errors
/// Why it cannot, for people, with the mend.
pub async fn check(spec: &TunnelSpec, control: &Path, host: &str, port: u16) -> Result<(), String> {
    let mut command = Command::new(&spec.ssh);
    command
        .args(spec.probe_line(control, host, port))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = match ended {
        Err(_) => return Err(format!("{host}:{port} does not answer from the far side")),
        Ok(Err(error)) => return Err(format!("{}: {error}", spec.ssh.display())),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim();
    let far = &spec.destination;
    if words.contains("administratively prohibited") {
        return Err(format!(
            "{far} does not let us look (PermitOpen in its sshd_config, or permitopen of the key); permit \
             {host}:{port}"
        ));
    }
    Err(format!(
        "{host}:{port} is not reached from {far}: its sshd has bound the reverse forward to loopback alone. Set \
         `GatewayPorts clientspecified` (or yes) in /etc/ssh/sshd_config there and restart it, or use an address that \
         it has (VKUBELET_POD_IP) (ssh said: {words})"
    ))
}

/// Whether what the far side reaches at `host:port` is what serves `kubelet` on this host; `None` while nothing serves
/// there yet.
///
/// # Errors
/// For people, where somebody else answers.
pub async fn is_ours(
    spec: &TunnelSpec,
    control: &Path,
    (host, port): (&str, u16),
    kubelet: u16,
) -> Result<Option<()>, String> {
    let Ok(Ok(own)) = tokio::time::timeout(PATIENCE, of_this_host(kubelet)).await else {
        return Ok(None);
    };
    let seen = tokio::time::timeout(PATIENCE, of_far_side(spec, control, host, port)).await;
    match seen {
        Ok(Ok(seen)) if seen == own => Ok(Some(())),
        Ok(Ok(_)) => Err(format!(
            "another server than this node's answers at {host}:{port}, seen from {}: another node has the port there; \
             give this one its own KUBELET_PORT, or kubeletPort: any in the site profile",
            spec.destination
        )),
        Ok(Err(error)) => Err(format!(
            "what answers at {host}:{port}, seen from {}, is no kubelet API ({error}): another program has the port \
             there; give this node another KUBELET_PORT, or kubeletPort: any in the site profile",
            spec.destination
        )),
        // The connection is slow or gone, which is said elsewhere.
        Err(_) => Ok(None),
    }
}

async fn of_this_host(port: u16) -> io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    shown(TcpStream::connect(address).await?).await
}

async fn of_far_side(
    spec: &TunnelSpec,
    control: &Path,
    host: &str,
    port: u16,
) -> io::Result<Vec<u8>> {
    let mut child = Command::new(&spec.ssh)
        .args(spec.probe_line(control, host, port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(out), Some(input)) => shown(tokio::io::join(out, input)).await,
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// The certificate that a TLS server shows, and has the key of.
async fn shown(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    let config = tls::unverified().map_err(io::Error::other)?;
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let chain = stream.get_ref().1.peer_certificates();
    let first = chain.and_then(<[_]>::first);
    Ok(first.ok_or(io::ErrorKind::InvalidData)?.to_vec())
}
