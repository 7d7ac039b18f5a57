//! What is forwarded, and the command line that does it.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// One end of a forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP port.
    Tcp {
        /// Host to connect to, or address to listen on; `*` for all addresses.
        host: String,
        /// The port; 0 where the far side is to choose one.
        port: u16,
    },
    /// A socket in the file system, by its absolute path.
    Socket(PathBuf),
}

impl Place {
    /// A TCP port.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        Self::Tcp { host, port }
    }
}

/// As ssh's `-L` and `-R` write it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.is_empty() => write!(f, "{port}"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forward {
    /// We listen, the far side connects (`-L`).
    Local {
        /// Where we listen.
        listen: Place,
        /// Where the far side connects to.
        to: Place,
    },
    /// The far side listens, we connect (`-R`).
    Remote {
        /// Where the far side listens.
        listen: Place,
        /// Where we connect to.
        to: Place,
    },
}

impl Forward {
    fn words(&self) -> [String; 2] {
        match self {
            Self::Local { listen, to } => ["-L".to_owned(), format!("{listen}:{to}")],
            Self::Remote { listen, to } => ["-R".to_owned(), format!("{listen}:{to}")],
        }
    }
}

/// One connection with its forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// The program.
    pub ssh: PathBuf,
    /// Where to: `[user@]host`, or a name of the user's ssh configuration.
    pub destination: String,
    /// Port of the destination, where the configuration does not say.
    pub port: Option<u16>,
    /// Jump hosts, as `-J` takes them.
    pub jump: Vec<String>,
    /// A private key; none: as the configuration says.
    pub identity: Option<PathBuf>,
    /// A configuration file; none: the user's.
    pub config: Option<PathBuf>,
    /// A file of known hosts; none: as the configuration says.
    pub known_hosts: Option<PathBuf>,
    /// Further options, `Name=value`; the first of a name holds, so they cannot undo ours.
    pub options: Vec<String>,
    /// What is forwarded.
    pub forwards: Vec<Forward>,
    /// Between two signs of life.
    pub keep_alive: Duration,
    /// Missing signs of life after which the connection is given up.
    pub keep_alive_count: u32,
    /// For the connection to come up.
    pub connect_timeout: Duration,
}

impl TunnelSpec {
    /// A connection without forwards; all else as is usual.
    pub fn new(destination: impl Into<String>) -> Self {
        Self {
            ssh: PathBuf::from("ssh"),
            destination: destination.into(),
            port: None,
            jump: Vec::new(),
            identity: None,
            config: None,
            known_hosts: None,
            options: Vec::new(),
            forwards: Vec::new(),
            keep_alive: Duration::from_secs(15),
            keep_alive_count: 3,
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// How many forwards the far side has to confirm.
    pub fn remote_forwards(&self) -> usize {
        let remote = |forward: &&Forward| matches!(forward, Forward::Remote { .. });
        self.forwards.iter().filter(remote).count()
    }

    /// The options that every call of ssh shares.
    fn common(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut pair = |flag: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            words.push(flag.into());
            words.push(value.as_ref().to_owned());
        };
        if let Some(config) = &self.config {
            pair("-F", config);
        }
        // Nobody is there to type a password.
        pair("-o", &"BatchMode=yes");
        if let Some(identity) = &self.identity {
            pair("-i", identity);
            pair("-o", &"IdentitiesOnly=yes");
        }
        if let Some(file) = &self.known_hosts {
            pair("-o", &format!("UserKnownHostsFile={}", file.display()));
        }
        if !self.jump.is_empty() {
            pair("-J", &self.jump.join(","));
        }
        if let Some(port) = self.port {
            pair("-p", &port.to_string());
        }
        words
    }

    /// The command line of the tunnel; `control` is the socket at which it takes questions.
    pub fn command_line(&self, control: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["-v".into(), "-NT".into(), "-M".into(), "-S".into()];
        words.push(control.into());
        let timeout = format!("ConnectTimeout={}", self.connect_timeout.as_secs().max(1));
        let interval = format!("ServerAliveInterval={}", self.keep_alive.as_secs().max(1));
        let count = format!("ServerAliveCountMax={}", self.keep_alive_count.max(1));
        for option in [
            // It ends when we end it, whatever the user's configuration says about sharing.
            "ControlPersist=no",
            "ForkAfterAuthentication=no",
            // A forward that is missing would be noticed by nobody.
            "ExitOnForwardFailure=yes",
            // A socket that an earlier one of us left would be in the way.
            "StreamLocalBindUnlink=yes",
            // Only what was asked for.
            "ClearAllForwardings=no",
            "PermitLocalCommand=no",
            &timeout,
            &interval,
            &count,
        ] {
            words.push("-o".into());
            words.push(option.into());
        }
        words.extend(self.common());
        for option in &self.options {
            words.push("-o".into());
            words.push(option.into());
        }
        for forward in &self.forwards {
            words.extend(forward.words().map(OsString::from));
        }
        words.push("--".into());
        words.push(self.destination.clone().into());
        words
    }

    /// The command line that connects, over the tunnel's connection, from the far side to `host:port`.
    pub fn probe_line(&self, control: &Path, host: &str, port: u16) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["-S".into(), control.into()];
        words.extend(["-o", "ControlMaster=no"].map(OsString::from));
        words.extend(self.common());
        words.push("-W".into());
        words.push(Place::tcp(host, port).to_string().into());
        words.push("--".into());
        words.push(self.destination.clone().into());
        words
    }

    /// The command line that prints the configuration for the destination.
    pub fn configuration_line(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["-G".into()];
        words.extend(self.common());
        words.push("--".into());
        words.push(self.destination.clone().into());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_tunnels() {
        let mut spec = TunnelSpec::new("user@cp");
        spec.jump = vec!["dtn".into(), "login01".into()];
        spec.options = vec!["Compression=yes".into()];
        spec.forwards = vec![
            Forward::Local {
                listen: Place::tcp("localhost", 6443),
                to: Place::tcp("localhost", 6443),
            },
            Forward::Remote {
                listen: Place::tcp("*", 10250),
                to: Place::tcp("localhost", 10250),
            },
            Forward::Remote {
                listen: Place::Socket("/far/k.sock".into()),
                to: Place::tcp("::1", 1),
            },
        ];
        let line: Vec<String> = spec
            .command_line(Path::new("/c"))
            .into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect();
        let line = line.join(" ");
        assert!(line.starts_with("-v -NT -M -S /c -o "), "{line}");
        assert!(
            line.ends_with(
                "-o BatchMode=yes -J dtn,login01 -o Compression=yes -L localhost:6443:localhost:6443 \
                 -R *:10250:localhost:10250 -R /far/k.sock:[::1]:1 -- user@cp"
            ),
            "{line}"
        );
        assert!(line.contains("-o ExitOnForwardFailure=yes"), "{line}");
        assert_eq!(spec.remote_forwards(), 2);
    }

    #[test]
    fn a_destination_is_never_taken_for_an_option() {
        let spec = TunnelSpec::new("-oProxyCommand=touch /tmp/x");
        let line = spec.command_line(Path::new("/c"));
        assert_eq!(line[line.len() - 2], "--");
    }
}
