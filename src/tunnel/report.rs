//! What ssh says on its standard error (OpenSSH's words, with `-v`), and what it means for people.

/// What one line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// We are let in.
    Authenticated,
    /// Our own ends listen.
    Entered,
    /// The far side confirmed one forward.
    Forwarded,
    /// It chose this port for the forward to `to`.
    Allocated {
        /// The port.
        port: u16,
        /// Our end, as ssh writes it.
        to: String,
    },
    /// Something for people.
    Said(String),
    /// Chatter.
    Nothing,
}

/// Reads a line.
pub fn read(line: &str) -> Line {
    let line = line.trim_end();
    if let Some(debug) = line.strip_prefix("debug1: ") {
        if debug.starts_with("Entering interactive session") {
            return Line::Entered;
        }
        if debug.starts_with("remote forward success for: ") {
            return Line::Forwarded;
        }
        return Line::Nothing;
    }
    if line.starts_with("Authenticated to ") {
        return Line::Authenticated;
    }
    if let Some(rest) = line.strip_prefix("Allocated port ")
        && let Some((port, to)) = rest.split_once(" for remote forward to ")
        && let Ok(port) = port.parse()
    {
        let to = to.to_owned();
        return Line::Allocated { port, to };
    }
    let chatter = [
        "OpenSSH_",
        "Transferred: ",
        "Bytes per second: ",
        "Warning: Permanently added",
        "Pseudo-terminal will not be",
        "debug",
    ];
    if line.is_empty() || chatter.iter().any(|start| line.starts_with(start)) {
        return Line::Nothing;
    }
    Line::Said(line.to_owned())
}

/// Why a tunnel is down: a word in CamelCase, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A word in CamelCase.
    pub reason: &'static str,
    /// What ssh said, and the mend.
    pub message: String,
    /// Whether trying again soon can help by itself.
    pub passing: bool,
}

/// Explains an end; `said` are the last lines for people.
pub fn explain(destination: &str, said: &[String]) -> Problem {
    let words = said.join("; ");
    let has = |text: &str| words.contains(text);
    let (reason, mend, passing) = if has("Host key verification failed")
        || has("REMOTE HOST IDENTIFICATION HAS CHANGED")
    {
        if has("HAS CHANGED") {
            (
                "HostKeyChanged",
                format!(
                    "the host key of {destination} is not the known one: find out why, then remove the old one with \
                     `ssh-keygen -R HOST`"
                ),
                false,
            )
        } else {
            (
                "HostKeyUnknown",
                format!(
                    "the host key of {destination} is not known here: log in once by hand (`ssh {destination} true`) \
                     and compare it, or list it in a known_hosts file"
                ),
                false,
            )
        }
    } else if has("Permission denied (") || has("Too many authentication failures") {
        (
            "CredentialRefused",
            format!(
                "{destination} does not let this key in, and passwords cannot be typed here: try `ssh -o \
                 BatchMode=yes {destination} true`; add the public key there, load the agent, or renew the certificate"
            ),
            false,
        )
    } else if has("Load key") || has("no such identity") || has("UNPROTECTED PRIVATE KEY") {
        (
            "CredentialUnusable",
            "the private key cannot be used: it must exist, belong to this user and be closed to others (chmod 600)"
                .to_owned(),
            false,
        )
    } else if has("remote port forwarding failed") {
        (
            "RemotePortTaken",
            "the far side will not listen there: the port is taken (by the tunnel of another node, or by an ssh that \
             was left behind), or its sshd does not permit it (AllowTcpForwarding, PermitListen); choose another \
             KUBELET_PORT, or let the far side choose"
                .to_owned(),
            true,
        )
    } else if has("remote stream") || has("unix_listener") || has("streamlocal") {
        (
            "SocketRefused",
            "a socket could not be made: look at its directory on that side, and at AllowStreamLocalForwarding"
                .to_owned(),
            true,
        )
    } else if has("Address already in use")
        || has("cannot listen to port")
        || has("Could not request local forwarding")
    {
        (
            "LocalPortTaken",
            "a port that the tunnel is to listen on is taken on this host: stop what holds it (`ss -ltnp`), or set \
             APISERVER_PORT to another one"
                .to_owned(),
            true,
        )
    } else if has("Could not resolve hostname") {
        (
            "HostUnknown",
            format!(
                "the name {destination} leads nowhere from here: look at CONTROL_PLANE_IP and the ssh configuration"
            ),
            true,
        )
    } else if has("Connection refused") {
        (
            "ConnectionRefused",
            format!("no ssh server listens at {destination}"),
            true,
        )
    } else if has("Connection timed out")
        || has("No route to host")
        || has("Network is unreachable")
    {
        (
            "Unreachable",
            format!(
                "{destination} cannot be reached from this host: a compute node without a route needs a jump host \
                 (ProxyJump) through a login node"
            ),
            true,
        )
    } else if has("not responding")
        || has("Broken pipe")
        || has("Connection reset")
        || has("closed by remote host")
    {
        ("ConnectionLost", "the connection broke".to_owned(), true)
    } else if has("Bad configuration option") || has("unknown option") || has("Bad ") {
        (
            "Misconfigured",
            "ssh does not take its configuration".to_owned(),
            false,
        )
    } else {
        ("TunnelEnded", "ssh ended".to_owned(), true)
    };
    let message = if words.is_empty() {
        mend
    } else {
        format!("{mend} (ssh said: {words})")
    };
    Problem {
        reason,
        message,
        passing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of OpenSSH 9.2.
    #[test]
    fn what_a_tunnel_says_as_it_comes_up() {
        for (line, read_as) in [
            (
                "Authenticated to cp ([10.0.0.1]:22) using \"publickey\".",
                Line::Authenticated,
            ),
            ("debug1: Entering interactive session.", Line::Entered),
            (
                "debug1: remote forward success for: listen *:10250, connect localhost:10250",
                Line::Forwarded,
            ),
            (
                "Allocated port 36633 for remote forward to localhost:10250",
                Line::Allocated {
                    port: 36633,
                    to: "localhost:10250".into(),
                },
            ),
            ("debug1: channel 0: new port-listener", Line::Nothing),
            ("OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19", Line::Nothing),
            (
                "Host key verification failed.",
                Line::Said("Host key verification failed.".into()),
            ),
        ] {
            assert_eq!(read(line), read_as, "{line}");
        }
    }

    #[test]
    fn each_end_is_explained_with_a_mend() {
        for (said, reason, mend) in [
            ("Host key verification failed.", "HostKeyUnknown", "by hand"),
            (
                "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!; Host key verification failed.",
                "HostKeyChanged",
                "ssh-keygen -R",
            ),
            (
                "u@cp: Permission denied (publickey,password).",
                "CredentialRefused",
                "passwords cannot be typed",
            ),
            (
                "Error: remote port forwarding failed for listen port 10250",
                "RemotePortTaken",
                "KUBELET_PORT",
            ),
            (
                "bind [127.0.0.1]:6443: Address already in use",
                "LocalPortTaken",
                "APISERVER_PORT",
            ),
            (
                "ssh: Could not resolve hostname cp: Name or service not known",
                "HostUnknown",
                "CONTROL_PLANE_IP",
            ),
            (
                "ssh: connect to host cp port 22: No route to host",
                "Unreachable",
                "jump host",
            ),
            (
                "Timeout, server cp not responding.",
                "ConnectionLost",
                "broke",
            ),
            ("", "TunnelEnded", "ssh ended"),
        ] {
            let problem = explain("cp", &[said.to_owned()]);
            assert_eq!(problem.reason, reason, "{said}");
            assert!(problem.message.contains(mend), "{}", problem.message);
        }
    }
}
