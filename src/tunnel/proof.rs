//! Whether the far side listens where it should.
//!
//! An sshd with `GatewayPorts no` binds a reverse forward to its loopback, says that all is well, and nobody else
//! reaches it. So the far side itself is made to connect to the address that the control plane uses, over the
//! connection that is there already; no shell is needed for that.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::spec::TunnelSpec;

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
