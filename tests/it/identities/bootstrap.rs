//! A bootstrap token becomes a certificate, which is renewed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{Cluster, RealCluster, eventually, eventually_within, find_program};

use super::{DEPLOY, pods_work};
use crate::VK_CMD;
use crate::both::both;

both![
    a_token_becomes_a_certificate,
    a_token_that_is_wrong_is_named,
];

/// The documents' commands that make a bootstrap token, and the kubeconfig that holds it.
fn bootstrap(cluster: &Cluster, id: &str) -> PathBuf {
    let kubectl = cluster.kubectl();
    kubectl
        .run(&format!("apply -f {DEPLOY}/bootstrap.yaml"))
        .ok();
    let secret = "0123456789abcdef";
    kubectl
        .pipe(
            "apply -f -",
            &format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: bootstrap-token-{id}, namespace: kube-system}}\n\
                 type: bootstrap.kubernetes.io/token\nstringData: {{token-id: {id}, token-secret: {secret}, \
                 usage-bootstrap-authentication: 'true'}}\n"
            ),
        )
        .ok();
    super::kubeconfig_of_token(cluster, &format!("{id}.{secret}"))
}

/// The requests that ask for this node, as `NAME SIGNER CONDITIONS`.
fn requests(cluster: &Cluster) -> Vec<String> {
    let rows = cluster
        .kubectl()
        .words(&[
            "get",
            "csr",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.spec.signerName} {.spec.username} {.status.conditions[*].type}{\"\\n\"}{end}",
        ])
        .ok();
    rows.lines().map(str::to_owned).collect()
}

/// Whether the kubelet API shows a certificate of the cluster.
fn shows_a_certificate_of(cluster: &Cluster, authority: &Path) -> bool {
    let node = format!("node/{}", cluster.node("n"));
    let port = cluster.get(&node, "{.status.daemonEndpoints.kubeletEndpoint.Port}");
    let address = format!("127.0.0.1:{port}");
    Command::new("openssl")
        .args([
            "s_client",
            "-verify_return_error",
            "-connect",
            &address,
            "-CAfile",
        ])
        .arg(authority)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl runs")
        .success()
}

fn stored(agent: &testkit::Agent, file: &str) -> PathBuf {
    agent.root().join("identity").join(&agent.node).join(file)
}

fn a_token_becomes_a_certificate(cluster: &Cluster) {
    let kubeconfig = bootstrap(cluster, "abc123");
    let node = cluster.node("n");
    let words = ["--bootstrap-kubeconfig", &kubeconfig.to_string_lossy()].map(str::to_owned);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let agent = cluster.agent("n").args(&words).start();
    cluster.ready("n");
    let file = stored(&agent, "client.pem");
    let mode = file.metadata().expect("stored").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = agent.log();
    assert!(log.contains("this node has a certificate"), "{log}");

    // The serving certificate waits for an approver, who on a real cluster is a person.
    let asked = eventually(
        "a serving certificate is asked for, by the node itself",
        || {
            let all = requests(cluster);
            let mine = format!("kubernetes.io/kubelet-serving system:node:{node} ");
            match all.iter().find(|row| row.contains(&mine)) {
                Some(row) => Ok(row.split(' ').next().unwrap_or_default().to_owned()),
                None => Err(all),
            }
        },
    );
    let of_clients = cluster.pki().join("ca.crt");
    let authority = match cluster.plane() {
        testkit::Plane::Real => of_clients.clone(),
        testkit::Plane::Embedded => cluster.pki().join("kubelet-ca.crt"),
    };
    if cluster.plane() == testkit::Plane::Real {
        assert!(!shows_a_certificate_of(cluster, &authority));
        cluster
            .kubectl()
            .run(&format!("certificate approve {asked}"))
            .ok();
    }
    eventually("the kubelet API shows a certificate of the cluster", || {
        if shows_a_certificate_of(cluster, &authority) {
            Ok(())
        } else {
            Err(agent.log())
        }
    });

    if cluster.plane() == testkit::Plane::Embedded {
        // Clients of the API server do not take a kubelet for it.
        assert!(!shows_a_certificate_of(cluster, &of_clients));
    }

    // On a real cluster the label is an administrator's to give.
    if cluster.plane() == testkit::Plane::Real {
        let step = format!("kubectl label node {node} kubernetes.io/role=agent");
        assert_eq!(agent.log().matches(&step).count(), 1, "{}", agent.log());
        cluster.kubectl().run(&step["kubectl ".len()..]).ok();
    }
    pods_work(cluster, "n");
    assert!(!agent.log().contains("forbidden"), "{}", agent.log());

    // The next agent takes both up: nothing is asked for again, and the token is not needed.
    let before = requests(cluster).len();
    cluster
        .kubectl()
        .run("delete secret -n kube-system bootstrap-token-abc123")
        .ok();
    let place = agent.kill();
    let agent = cluster.restart_node(&place, &words);
    assert!(
        shows_a_certificate_of(cluster, &authority),
        "{}",
        agent.log()
    );
    assert_eq!(requests(cluster).len(), before);

    // A real API server knows a token for some seconds after its secret is gone.
    eventually("the token is refused", || {
        let kubectl = find_program("kubectl").expect("the cluster's tests have one");
        let asked = Command::new(kubectl)
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["auth", "whoami"])
            .output()
            .expect("kubectl runs");
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        if said.contains("Unauthorized") || said.contains("must be logged in") {
            Ok(())
        } else {
            Err(said)
        }
    });

    // Without a token, nobody becomes another node.
    let other = cluster.node("other");
    let mut thief = testkit::Agent::of(VK_CMD, &kubeconfig, &other)
        .args(&words)
        .start();
    assert_eq!(thief.ended().code(), Some(1));
    assert!(thief.log().contains("401"), "{}", thief.log());
}

fn a_token_that_is_wrong_is_named(cluster: &Cluster) {
    let kubeconfig = super::kubeconfig_of_token(cluster, "abcdef.aaaaaaaaaaaaaaaa");
    let mut agent = cluster
        .agent("n")
        .args(&["--bootstrap-kubeconfig", &kubeconfig.to_string_lossy()])
        .start();
    assert_eq!(agent.ended().code(), Some(1));
    let log = agent.log();
    assert!(log.contains("The bootstrap token must be valid"), "{log}");
    assert!(!log.contains("aaaaaaaaaaaaaaaa"), "{log}");
}

#[test]
fn real_certificates_are_renewed_before_they_expire() {
    let builder = RealCluster::builder().for_tests();
    let Some(real) = builder
        .controller_manager_arg("--cluster-signing-duration=30s")
        .start()
    else {
        return;
    };
    let Some(cluster) = Cluster::of(&real, VK_CMD) else {
        return;
    };
    let kubeconfig = bootstrap(&cluster, "abc124");
    let agent = cluster
        .agent("n")
        .args(&["--bootstrap-kubeconfig", &kubeconfig.to_string_lossy()])
        .start();
    cluster.ready("n");
    let first = std::fs::read(stored(&agent, "client.pem")).expect("stored");
    // The second renewal is made with the second certificate, after the first has expired.
    eventually_within(
        Duration::from_secs(150),
        "the certificate is renewed twice",
        || {
            let log = agent.log();
            if log.matches("this node has a new certificate").count() >= 2 {
                Ok(())
            } else {
                Err(log)
            }
        },
    );
    let now = std::fs::read(stored(&agent, "client.pem")).expect("stored");
    assert_ne!(first, now);
    pods_work(&cluster, "n");
    let log = agent.log();
    assert!(
        !log.contains("401") && !log.contains("Unauthorized"),
        "{log}"
    );
    cluster.ready("n");
}
