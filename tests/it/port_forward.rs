//! `kubectl port-forward`: connections to ports of a pod, through the API server and the node.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};

use testkit::{Cluster, Kubectl, eventually};

use crate::both::both;

both![
    many_connections_reach_a_port_of_a_pod,
    what_cannot_be_reached_is_said_and_the_rest_goes_on,
];

/// What answers at a port until the test ends: the length of what came, and the bytes turned round.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if connection.read_to_end(&mut bytes).is_ok() {
                    bytes.reverse();
                    let _ = connection.write_all(&bytes);
                }
            });
        }
    });
    port
}

struct Forward {
    child: Child,
    port: u16,
    said: BufReader<std::process::ChildStderr>,
    /// It writes a line for each connection, and ends where nobody could read it.
    _shown: BufReader<std::process::ChildStdout>,
}

impl Forward {
    fn start(kubectl: &Kubectl, pod: &str, port: u16) -> Self {
        let mut child = kubectl
            .command(&["port-forward", pod, &format!(":{port}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        let mut shown = BufReader::new(stdout);
        shown.read_line(&mut line).expect("a line");
        let said = BufReader::new(child.stderr.take().expect("it is piped"));
        // Forwarding from 127.0.0.1:41234 -> 8080
        let here = line
            .split_whitespace()
            .nth(2)
            .and_then(|it| it.rsplit(':').next());
        let port = here.and_then(|it| it.parse().ok());
        Self {
            child,
            port: port.unwrap_or_else(|| panic!("{line:?}")),
            said,
            _shown: shown,
        }
    }

    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let mut reader = connection.try_clone().expect("a descriptor");
        let answer = std::thread::spawn(move || {
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer).map(|_| answer)
        });
        connection.write_all(bytes).expect("it reads");
        connection.shutdown(Shutdown::Write).expect("it is open");
        answer.join().expect("no panic").expect("an answer")
    }

    /// Whether a connection is closed without an answer.
    fn refuses(&self) -> bool {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let _ = connection.write_all(b"x");
        matches!(connection.read(&mut [0; 8]), Ok(0) | Err(_))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(cluster: &Cluster) {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {restartPolicy: Never, containers: [{name: c, image: host, command: [sleep, infinity]}]}\n";
    cluster.apply(pod);
    cluster.is("pod/p", "{.status.phase}", "Running");
}

fn many_connections_reach_a_port_of_a_pod(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    start(cluster);
    let forward = Forward::start(cluster.kubectl(), "pod/p", server());
    assert_eq!(forward.ask(b"abc"), b"cba");
    std::thread::scope(|scope| {
        for number in 0..8_u8 {
            let forward = &forward;
            scope.spawn(move || {
                // More than any buffer on the way holds.
                let mut bytes: Vec<u8> = (0..3_000_000_u32)
                    .map(|it| (it % 251) as u8 ^ number)
                    .collect();
                let answer = forward.ask(&bytes);
                bytes.reverse();
                assert!(answer == bytes, "{} of {}", answer.len(), bytes.len());
            });
        }
    });
}

fn what_cannot_be_reached_is_said_and_the_rest_goes_on(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    start(cluster);
    let kubectl = cluster.kubectl();
    // Nobody listens there any more.
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let mut forward = Forward::start(kubectl, "pod/p", closed);
    assert!(forward.refuses());
    let mut said = String::new();
    while !said.contains("onnection refused") {
        assert_ne!(
            forward.said.read_line(&mut said).expect("its errors"),
            0,
            "{said}"
        );
    }
    assert!(
        said.contains(&format!("error forwarding port {closed} to pod p, uid ")),
        "{said}"
    );
    let other = Forward::start(kubectl, "pod/p", server());
    assert_eq!(other.ask(b"12"), b"21");
    // Its pod has ended.
    let done = kubectl.run("port-forward nobody :80");
    assert!(done.stderr.contains("\"nobody\" not found"), "{done:?}");
    kubectl
        .run("delete pod p --grace-period=1 --timeout=60s")
        .ok();
    eventually("a pod that is gone has no ports", || {
        let done = kubectl.run("port-forward pod/p :80");
        if done.stderr.contains("not found") {
            Ok(())
        } else {
            Err(done)
        }
    });
}
