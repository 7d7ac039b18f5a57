//! Probes and hooks, as a user meets them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU16, Ordering},
};

use testkit::{Cluster, Kubectl, eventually};

use crate::both::both;

both![
    readiness_follows_its_probe_and_touches_nothing_else,
    a_container_that_fails_its_liveness_probe_is_ended_within_the_probes_grace_and_restarted,
    the_other_probes_wait_for_the_startup_probe,
    http_and_tcp_probes_reach_the_nodes_loopback_by_number_and_by_name,
    a_probe_that_cannot_look_says_so_and_counts_for_nothing,
    hooks_run_after_the_start_and_before_sigterm,
    hooks_that_fail_or_hang_end_as_with_a_kubelet,
    a_new_agent_takes_no_pod_out_of_service_and_runs_no_hook_again,
];

/// A pod of one container; `spec` and `container` are in YAML's flow form.
fn create(kubectl: &Kubectl, name: &str, spec: &str, container: &str) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{spec} containers: [{{name: c, image: host, {container}}}]}}\n"
    );
    kubectl.pipe("create -f -", &pod).ok();
}

fn get(kubectl: &Kubectl, name: &str, path: &str) -> String {
    kubectl
        .run(&format!("get pod {name} -o jsonpath={{{path}}}"))
        .ok()
}

const STATUS: &str = ".status.containerStatuses[0]";
const READY: &str = ".status.conditions[?(@.type==\"Ready\")].status";

fn becomes(kubectl: &Kubectl, name: &str, path: &str, wanted: &str) {
    eventually(&format!("{path} of {name} is {wanted:?}"), || {
        let value = get(kubectl, name, path);
        if value == wanted { Ok(()) } else { Err(value) }
    });
}

fn event(kubectl: &Kubectl, name: &str, wanted: &str) {
    eventually(&format!("an event of {name} is {wanted:?}"), || {
        let all = kubectl
            .run(&format!(
                "get events --field-selector involvedObject.name={name} -o jsonpath={{range.items[*]}}{{.type}}|{{.reason}}|{{.message}}{{\"\\n\"}}{{end}}"
            ))
            .ok();
        if all.lines().any(|line| line.trim_end() == wanted) {
            Ok(())
        } else {
            Err(all)
        }
    });
}

fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// An HTTP server of this process, which shares the node's network as every container does.
struct Server {
    port: u16,
    status: Arc<AtomicU16>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let status = Arc::new(AtomicU16::new(500));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (status.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = vec![0; 4096];
                let len = stream.read(&mut head).unwrap_or(0);
                let text = String::from_utf8_lossy(&head[..len]).into_owned();
                if let Ok(mut seen) = seen.lock() {
                    seen.push(text);
                }
                let status = answer.load(Ordering::SeqCst);
                let reply = format!("HTTP/1.1 {status} Words\r\nContent-Length: 0\r\n\r\n");
                // A client that is gone has its answer.
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        Self {
            port,
            status,
            requests,
        }
    }
}

fn readiness_follows_its_probe_and_touches_nothing_else(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let file = agent.home().join("ready");
    let probe = format!(
        "command: [sleep, infinity], readinessProbe: {{exec: {{command: [cat, {}]}}, periodSeconds: 1, failureThreshold: 1}}",
        file.display()
    );
    create(kubectl, "web", "", &probe);
    becomes(kubectl, "web", ".status.phase", "Running");
    assert_eq!(get(kubectl, "web", READY), "False");
    assert_eq!(get(kubectl, "web", &format!("{STATUS}.started")), "true");
    let missing = format!(
        "Warning|Unhealthy|Readiness probe failed: cat: {}: No such file or directory",
        file.display()
    );
    event(kubectl, "web", &missing);
    std::fs::write(&file, "yes").expect("a file");
    becomes(kubectl, "web", READY, "True");
    std::fs::remove_file(&file).expect("removed");
    becomes(kubectl, "web", READY, "False");
    assert_eq!(get(kubectl, "web", &format!("{STATUS}.restartCount")), "0");
}

fn a_container_that_fails_its_liveness_probe_is_ended_within_the_probes_grace_and_restarted(
    cluster: &Cluster,
) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let file = agent.home().join("alive");
    std::fs::write(&file, "yes").expect("a file");
    // It would outlive the pod's grace.
    let script = format!(
        "command: [bash, -c, \"trap '' TERM; while :; do sleep 1; done\"], livenessProbe: {{exec: {{command: [test, -e, {}]}}, periodSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}}",
        file.display()
    );
    create(
        kubectl,
        "worker",
        "terminationGracePeriodSeconds: 3600,",
        &script,
    );
    becomes(kubectl, "worker", READY, "True");
    std::fs::remove_file(&file).expect("removed");
    becomes(kubectl, "worker", &format!("{STATUS}.restartCount"), "1");
    std::fs::write(&file, "yes").expect("a file");
    event(
        kubectl,
        "worker",
        "Warning|Unhealthy|Liveness probe failed:",
    );
    event(
        kubectl,
        "worker",
        "Normal|Killing|Container c failed liveness probe, will be restarted",
    );
    let last = get(
        kubectl,
        "worker",
        &format!("{STATUS}.lastState.terminated.exitCode"),
    );
    assert_eq!(last, "137");
    becomes(kubectl, "worker", READY, "True");
    kubectl.run("delete pod worker --grace-period=1").ok();
}

fn the_other_probes_wait_for_the_startup_probe(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let (started, asked) = (agent.home().join("started"), agent.home().join("asked"));
    let probe = |kind: &str, script: &str| {
        format!(
            "{kind}Probe: {{exec: {{command: [sh, -c, \"{script}\"]}}, periodSeconds: 1, failureThreshold: 60}}"
        )
    };
    let container = [
        "command: [sleep, infinity]".to_owned(),
        probe(
            "startup",
            &format!(
                "echo startup >> {0}; test -e {1}",
                asked.display(),
                started.display()
            ),
        ),
        probe(
            "readiness",
            &format!("echo readiness >> {}", asked.display()),
        ),
        probe("liveness", &format!("echo liveness >> {}", asked.display())),
    ];
    create(kubectl, "slow", "", &container.join(", "));
    eventually("two looks at the start", || {
        let lines = lines(&asked);
        if lines.len() >= 2 { Ok(()) } else { Err(lines) }
    });
    assert_eq!(get(kubectl, "slow", &format!("{STATUS}.started")), "false");
    assert_eq!(get(kubectl, "slow", READY), "False");
    assert!(lines(&asked).iter().all(|line| line == "startup"));
    std::fs::write(&started, "yes").expect("a file");
    becomes(kubectl, "slow", READY, "True");
    becomes(kubectl, "slow", &format!("{STATUS}.started"), "true");
    let lines = eventually("the others were asked", || {
        let lines = lines(&asked);
        let both = ["readiness", "liveness"]
            .iter()
            .all(|it| lines.iter().any(|line| line == it));
        if both { Ok(lines) } else { Err(lines) }
    });
    let last = lines.iter().rposition(|line| line == "startup");
    let first = lines.iter().position(|line| line != "startup");
    assert!(last < first, "{lines:?}");
}

fn http_and_tcp_probes_reach_the_nodes_loopback_by_number_and_by_name(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let server = Server::start();
    let http = format!(
        "command: [sleep, infinity], ports: [{{name: web, containerPort: {}}}], readinessProbe: {{httpGet: {{port: web, path: /health, httpHeaders: [{{name: X-From, value: pod}}]}}, periodSeconds: 1}}",
        server.port
    );
    create(kubectl, "http", "", &http);
    event(
        kubectl,
        "http",
        "Warning|Unhealthy|Readiness probe failed: HTTP probe failed with statuscode: 500",
    );
    assert_eq!(get(kubectl, "http", READY), "False");
    server.status.store(204, Ordering::SeqCst);
    becomes(kubectl, "http", READY, "True");
    let request = server.requests.lock().expect("no panic")[0].clone();
    for line in [
        "GET /health HTTP/1.1\r\n",
        "User-Agent: kube-probe/1.34\r\n",
        "X-From: pod\r\n",
    ] {
        assert!(request.contains(line), "{request}");
    }
    // A port that nobody listens on, until somebody does.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let tcp = format!(
        "command: [sleep, infinity], readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}"
    );
    create(kubectl, "tcp", "", &tcp);
    event(
        kubectl,
        "tcp",
        &format!(
            "Warning|Unhealthy|Readiness probe failed: dial tcp 127.0.0.1:{port}: connect: connection refused"
        ),
    );
    let _listener = TcpListener::bind(("127.0.0.1", port)).expect("still free");
    becomes(kubectl, "tcp", READY, "True");
    // gRPC: somebody listens who does not speak it.
    let grpc = format!(
        "command: [sleep, infinity], readinessProbe: {{grpc: {{port: {}}}, periodSeconds: 1}}",
        server.port
    );
    create(kubectl, "grpc", "", &grpc);
    eventually("the failure of the gRPC probe is told", || {
        let all = kubectl
            .run("get events --field-selector involvedObject.name=grpc")
            .ok();
        if all.contains("Readiness probe failed: error: health rpc probe failed:") {
            Ok(())
        } else {
            Err(all)
        }
    });
}

fn a_probe_that_cannot_look_says_so_and_counts_for_nothing(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let container = "command: [sleep, infinity], ports: [{name: web, containerPort: 80}], livenessProbe: {tcpSocket: {port: nosuch}, periodSeconds: 1, failureThreshold: 1}";
    create(kubectl, "named", "", container);
    event(
        kubectl,
        "named",
        "Warning|Unhealthy|Liveness probe errored and resulted in unknown state: the container has no port named \"nosuch\" (its ports are named web); a number works as well",
    );
    let container = "command: [sleep, infinity], livenessProbe: {exec: {command: [no-such-program]}, periodSeconds: 1, failureThreshold: 1}";
    create(kubectl, "program", "", container);
    event(
        kubectl,
        "program",
        "Warning|Unhealthy|Liveness probe errored and resulted in unknown state: failed to exec in container: exec: \"no-such-program\": executable file not found in $PATH",
    );
    let container = "command: [sleep, infinity], readinessProbe: {exec: {command: [sleep, infinity]}, periodSeconds: 1, timeoutSeconds: 1}";
    create(kubectl, "hangs", "", container);
    event(
        kubectl,
        "hangs",
        "Warning|Unhealthy|Readiness probe failed: command timed out: \"sleep infinity\" timed out after 1s",
    );
    for name in ["named", "program", "hangs"] {
        assert_eq!(get(kubectl, name, &format!("{STATUS}.restartCount")), "0");
    }
}

fn hooks_run_after_the_start_and_before_sigterm(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let (log, gate) = (agent.home().join("log"), agent.home().join("gate"));
    let log_to = |word: &str| format!("echo {word} >> {}", log.display());
    let container = format!(
        "command: [bash, -c, \"trap '{}; exit 0' TERM; {}; while :; do sleep 0.1; done\"], lifecycle: {{postStart: {{exec: {{command: [bash, -c, \"until [ -e {} ]; do sleep 0.05; done; {}\"]}}}}, preStop: {{exec: {{command: [bash, -c, \"{}; sleep 0.3; {}\"]}}}}}}",
        log_to("term"),
        log_to("main"),
        gate.display(),
        log_to("post-start"),
        log_to("pre-stop"),
        log_to("pre-stopped")
    );
    create(kubectl, "hooked", "", &container);
    eventually("the command runs", || {
        let lines = lines(&log);
        if lines == ["main"] {
            Ok(())
        } else {
            Err(lines)
        }
    });
    // As long as the hook runs the container does not count as running.
    assert_eq!(get(kubectl, "hooked", ".status.phase"), "Pending");
    std::fs::write(&gate, "").expect("a file");
    becomes(kubectl, "hooked", READY, "True");
    kubectl.run("delete pod hooked --timeout=60s").ok();
    assert_eq!(
        lines(&log),
        ["main", "post-start", "pre-stop", "pre-stopped", "term"]
    );
}

fn hooks_that_fail_or_hang_end_as_with_a_kubelet(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let container =
        "command: [sleep, infinity], lifecycle: {postStart: {exec: {command: [sh, -c, exit 3]}}}";
    create(kubectl, "post", "restartPolicy: Never,", container);
    event(
        kubectl,
        "post",
        "Warning|FailedPostStartHook|PostStartHook failed",
    );
    becomes(kubectl, "post", ".status.phase", "Failed");
    // What no kubelet runs fails here as well.
    let container = "command: [sleep, infinity], lifecycle: {postStart: {tcpSocket: {port: 80}}}";
    create(kubectl, "tcp", "restartPolicy: Never,", container);
    event(
        kubectl,
        "tcp",
        "Warning|FailedPostStartHook|PostStartHook failed",
    );
    // Any answer to a GET will do.
    let server = Server::start();
    let container = format!(
        "command: [sleep, infinity], lifecycle: {{postStart: {{httpGet: {{port: {}, path: /begin}}}}, preStop: {{sleep: {{seconds: 1}}}}}}",
        server.port
    );
    create(kubectl, "get", "", &container);
    becomes(kubectl, "get", READY, "True");
    let request = server.requests.lock().expect("no panic")[0].clone();
    assert!(request.starts_with("GET /begin HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains("User-Agent: kube-lifecycle/1.34\r\n"),
        "{request}"
    );
    kubectl.run("delete pod get --timeout=60s").ok();
    // A hook that hangs has the grace, no more, and its processes go with the container.
    let pid = agent.home().join("pid");
    let container = format!(
        "command: [sleep, infinity], lifecycle: {{preStop: {{exec: {{command: [bash, -c, \"echo $$ > {}; sleep infinity\"]}}}}}}",
        pid.display()
    );
    create(
        kubectl,
        "hangs",
        "terminationGracePeriodSeconds: 1,",
        &container,
    );
    becomes(kubectl, "hangs", READY, "True");
    kubectl.run("delete pod hangs --timeout=60s").ok();
    let pid = lines(&pid).concat();
    assert!(!pid.is_empty(), "the hook ran");
    assert!(!Path::new("/proc").join(pid).exists());
    let container =
        "command: [sleep, infinity], lifecycle: {preStop: {exec: {command: [sh, -c, exit 1]}}}";
    create(kubectl, "pre", "", container);
    becomes(kubectl, "pre", READY, "True");
    kubectl.run("delete pod pre --timeout=60s").ok();
    event(
        kubectl,
        "pre",
        "Warning|FailedPreStopHook|PreStopHook failed",
    );
}

fn a_new_agent_takes_no_pod_out_of_service_and_runs_no_hook_again(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let log = agent.home().join("log");
    let container = format!(
        "command: [sleep, infinity], readinessProbe: {{exec: {{command: [\"true\"]}}, periodSeconds: 1}}, startupProbe: {{exec: {{command: [\"true\"]}}, periodSeconds: 1}}, lifecycle: {{postStart: {{exec: {{command: [bash, -c, \"echo post >> {0}\"]}}}}, preStop: {{exec: {{command: [bash, -c, \"echo pre >> {0}; sleep infinity\"]}}}}}}",
        log.display()
    );
    create(
        kubectl,
        "steady",
        "terminationGracePeriodSeconds: 20,",
        &container,
    );
    becomes(kubectl, "steady", READY, "True");
    let since = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime";
    let before = (
        get(kubectl, "steady", since),
        get(kubectl, "steady", &format!("{STATUS}.containerID")),
    );
    let place = agent.kill();
    let agent = cluster.restart_node(&place, &[]);
    becomes(kubectl, "steady", READY, "True");
    let after = (
        get(kubectl, "steady", since),
        get(kubectl, "steady", &format!("{STATUS}.containerID")),
    );
    assert_eq!(before, after);
    kubectl.run("delete pod steady --wait=false").ok();
    eventually("the hook runs", || {
        let lines = lines(&log);
        if lines == ["post", "pre"] {
            Ok(())
        } else {
            Err(lines)
        }
    });
    let place = agent.kill();
    let _agent = cluster.restart_node(&place, &[]);
    // SIGTERM at once: the hook has had its turn.
    kubectl
        .run("wait --for=delete pod/steady --timeout=60s")
        .ok();
    assert_eq!(lines(&log), ["post", "pre"]);
}
