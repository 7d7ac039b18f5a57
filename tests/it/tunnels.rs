//! ssh tunnels through a real sshd, run by an ordinary user's means on loopback.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::{Up, eventually, skip};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use vk_cmd::tunnel::{Forward, Place, State, Tunnel, TunnelSpec, proof, tunnel};

const SSHD: &str = "/usr/sbin/sshd";

struct Sshd {
    dir: TempDir,
    port: u16,
    gateway: &'static str,
    child: Option<Child>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Sshd {
    fn new(gateway: &'static str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        for key in ["host", "id"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.path().join(key))
                .status()
                .expect("ssh-keygen");
            assert!(made.success());
        }
        if nix::unistd::geteuid().is_root() {
            // For sshd's separation of privileges.
            std::fs::create_dir_all("/run/sshd").expect("mkdir");
        }
        let mut sshd = Self {
            dir,
            port: free_port(),
            gateway,
            child: None,
        };
        sshd.start();
        Some(sshd)
    }

    fn start(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nGatewayPorts {}\n",
            self.port,
            at("host"),
            at("id.pub"),
            self.gateway
        );
        std::fs::write(at("config"), config).expect("written");
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f", &at("config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd");
        self.child = Some(child);
        let port = self.port;
        eventually("sshd listens", || TcpStream::connect(("127.0.0.1", port)));
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its sessions are processes of their own.
            let sessions = children(child.id());
            let _ = child.kill();
            child.wait().expect("our child");
            for session in sessions {
                let _ = kill(Pid::from_raw(session), Signal::SIGKILL);
            }
        }
    }

    fn spec(&self, forwards: Vec<Forward>) -> TunnelSpec {
        let known = self.dir.path().join("known");
        if !known.exists() {
            let key = std::fs::read_to_string(self.dir.path().join("host.pub")).expect("a key");
            let line = format!("[127.0.0.1]:{} {key}", self.port);
            std::fs::write(&known, line).expect("written");
        }
        let empty = self.dir.path().join("empty");
        std::fs::write(&empty, "").expect("written");
        let mut spec = TunnelSpec::new("127.0.0.1");
        spec.port = Some(self.port);
        spec.identity = Some(self.dir.path().join("id"));
        spec.known_hosts = Some(known);
        spec.config = Some(empty);
        spec.forwards = forwards;
        spec
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn children(of: u32) -> Vec<i32> {
    let path = format!("/proc/{of}/task/{of}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// A tunnel, kept up until it is dropped.
struct Kept {
    runtime: Runtime,
    tunnel: Tunnel,
    spec: TunnelSpec,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
    _sockets: TempDir,
}

impl Kept {
    fn new(spec: TunnelSpec) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let sockets = tempfile::tempdir().expect("a directory");
        let stop = CancellationToken::new();
        let (tunnel, keeper) = tunnel(spec.clone(), sockets.path(), stop.clone());
        let task = runtime.spawn(keeper);
        Self {
            runtime,
            tunnel,
            spec,
            stop,
            task: Some(task),
            _sockets: sockets,
        }
    }

    fn state(&self) -> State {
        self.tunnel.state.borrow().clone()
    }

    /// Waits until it came up for the `times`th time; the ports that the far side chose.
    fn up(&self, wanted: u32) -> Vec<(String, u16)> {
        eventually("the tunnel is up", || match self.state() {
            State::Up { allocated, times } if times >= wanted => Ok(allocated),
            other => Err(other),
        })
    }

    fn reason(&self) -> (&'static str, String) {
        eventually("the tunnel is down", || match self.state() {
            State::Down(problem) => Ok((problem.reason, problem.message)),
            other => Err(other),
        })
    }

    /// Our ssh.
    fn child(&self) -> Pid {
        let control = self.tunnel.control.display().to_string();
        eventually("ssh runs", || {
            children(std::process::id())
                .into_iter()
                .chain(threads_children())
                .find(|pid| {
                    std::fs::read(format!("/proc/{pid}/cmdline"))
                        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&control))
                })
                .map(Pid::from_raw)
                .ok_or("no child")
        })
    }

    fn end(mut self) -> Tunnel {
        self.stop.cancel();
        let task = self.task.take().expect("once");
        self.runtime.block_on(task).expect("no panic");
        self.tunnel.clone()
    }
}

/// Children of every thread: whichever thread has made them.
fn threads_children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            let pids: Vec<i32> = list
                .split_whitespace()
                .filter_map(|it| it.parse().ok())
                .collect();
            pids
        })
        .collect()
}

/// Answers every connection with one word.
fn word_server(word: &'static str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(word.as_bytes());
        }
    });
    port
}

fn word(port: u16) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn remote(bind: &str, port: u16, to: u16) -> Forward {
    Forward::Remote {
        listen: Place::tcp(bind, port),
        to: Place::tcp("127.0.0.1", to),
    }
}

#[test]
fn both_directions_and_a_port_that_the_far_side_chooses() {
    let Some(sshd) = Sshd::new("no") else {
        return skip!("{SSHD} is missing (Debian: apt-get install openssh-server)");
    };
    let (api, kubelet) = (word_server("api"), word_server("kubelet"));
    let local = free_port();
    let kept = Kept::new(sshd.spec(vec![
        Forward::Local {
            listen: Place::tcp("127.0.0.1", local),
            to: Place::tcp("127.0.0.1", api),
        },
        remote("127.0.0.1", 0, kubelet),
    ]));
    let allocated = kept.up(1);
    let [(to, far)] = allocated.as_slice() else {
        panic!("{allocated:?}");
    };
    assert_eq!(*to, format!("127.0.0.1:{kubelet}"));
    assert_eq!(word(local).expect("forwarded"), "api");
    assert_eq!(word(*far).expect("forwarded"), "kubelet");
    let far = *far;
    let tunnel = kept.end();
    assert!(!tunnel.control.exists());
    assert!(TcpStream::connect(("127.0.0.1", local)).is_err());
    eventually("the far side listens no more", || {
        TcpStream::connect(("127.0.0.1", far))
            .err()
            .ok_or("it listens")
    });
}

#[test]
fn the_far_side_proves_where_it_listens() {
    for (gateway, reached) in [("no", false), ("clientspecified", true), ("yes", true)] {
        let Some(sshd) = Sshd::new(gateway) else {
            return skip!("{SSHD} is missing (Debian: apt-get install openssh-server)");
        };
        let far = free_port();
        let kept = Kept::new(sshd.spec(vec![remote("*", far, word_server("x"))]));
        kept.up(1);
        // An address of the far side that is not the one of its loopback binds.
        let check = proof::check(&kept.spec, &kept.tunnel.control, "127.0.0.2", far);
        let proven = kept.runtime.block_on(check);
        assert_eq!(proven.is_ok(), reached, "{gateway}: {proven:?}");
        if let Err(message) = proven {
            assert!(
                message.contains("GatewayPorts clientspecified"),
                "{message}"
            );
        }
        kept.end();
    }
}

#[test]
fn a_tunnel_heals() {
    let Some(mut sshd) = Sshd::new("no") else {
        return skip!("{SSHD} is missing (Debian: apt-get install openssh-server)");
    };
    let far = free_port();
    let kept = Kept::new(sshd.spec(vec![remote("127.0.0.1", far, word_server("x"))]));
    kept.up(1);
    // What a batch system sends to every process of a job is nothing to it.
    let child = kept.child();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGUSR1,
    ] {
        kill(child, signal).expect("it runs");
    }
    assert_eq!(word(far).expect("forwarded"), "x");
    kill(child, Signal::SIGKILL).expect("it runs");
    kept.up(2);
    assert_eq!(word(far).expect("forwarded"), "x");
    kill(kept.child(), Signal::SIGSTOP).expect("it runs");
    kept.up(3);
    assert_eq!(word(far).expect("forwarded"), "x");
    sshd.stop();
    sshd.start();
    kept.up(4);
    assert_eq!(word(far).expect("forwarded"), "x");
    kept.end();
}

#[test]
fn what_keeps_a_tunnel_down_is_said_with_the_mend() {
    let Some(sshd) = Sshd::new("no") else {
        return skip!("{SSHD} is missing (Debian: apt-get install openssh-server)");
    };
    type Change<'a> = dyn Fn(&mut TunnelSpec) + 'a;
    let cases: [(&str, &str, &Change); 5] = [
        ("HostKeyUnknown", "by hand", &|spec| {
            spec.known_hosts = Some("/dev/null".into());
        }),
        ("CredentialRefused", "passwords cannot be typed", &|spec| {
            let other = sshd.dir.path().join("host");
            std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600))
                .expect("chmod");
            spec.identity = Some(other);
        }),
        ("ConnectionRefused", "no ssh server", &|spec| {
            spec.port = Some(free_port());
        }),
        ("LocalPortTaken", "APISERVER_PORT", &|spec| {
            spec.forwards = vec![Forward::Local {
                listen: Place::tcp("127.0.0.1", word_server("taken")),
                to: Place::tcp("127.0.0.1", 1),
            }];
        }),
        ("RemotePortTaken", "KUBELET_PORT", &|spec| {
            spec.forwards = vec![remote("127.0.0.1", word_server("taken"), 1)];
        }),
    ];
    for (reason, mend, change) in cases {
        let mut spec = sshd.spec(vec![]);
        change(&mut spec);
        if reason == "HostKeyUnknown" {
            spec.options.push("GlobalKnownHostsFile=/dev/null".into());
        }
        let kept = Kept::new(spec);
        let (found, message) = kept.reason();
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(mend), "{message}");
        kept.end();
    }
}

/// The port of a server that shows a certificate of its own.
fn tls_port(up: &Up) -> u16 {
    let text = std::fs::read_to_string(&up.kubeconfig).expect("a kubeconfig");
    let server = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: "));
    let port = server.and_then(|url| {
        url.rsplit(':')
            .next()?
            .trim_matches(['"', '/'])
            .parse()
            .ok()
    });
    port.expect("a port")
}

#[test]
fn what_answers_on_the_far_side_has_to_be_ours() {
    let Some(sshd) = Sshd::new("yes") else {
        return skip!("{SSHD} is missing (Debian: apt-get install openssh-server)");
    };
    let start = || Up::of(crate::VK_CMD).args(&["--no-node"]).start();
    let (first, second) = (start(), start());
    let (own, other) = (tls_port(&first), tls_port(&second));
    for (to, kubelet, wanted) in [
        (own, own, Ok(Some(()))),
        (other, own, Err("another server")),
        (word_server("x"), own, Err("is no kubelet API")),
        (other, free_port(), Ok(None)),
    ] {
        let far = free_port();
        let kept = Kept::new(sshd.spec(vec![remote("*", far, to)]));
        kept.up(1);
        let check = proof::is_ours(
            &kept.spec,
            &kept.tunnel.control,
            ("127.0.0.1", far),
            kubelet,
        );
        let found = kept.runtime.block_on(check);
        match (&found, wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(*found, wanted),
            (Err(message), Err(words)) => assert!(message.contains(words), "{message}"),
            (found, wanted) => panic!("{found:?} where {wanted:?} was wanted"),
        }
        kept.end();
    }
}
