//! The identities that an agent may have: administrator (all other tests), service account, node.

mod bootstrap;
mod expiry;
mod rights;

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use testkit::{Cluster, Kubectl, Plane, eventually};

use crate::both::both;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// The documents' commands that make a kubeconfig of a token.
fn kubeconfig_of_token(cluster: &Cluster, token: &str) -> PathBuf {
    let path = cluster.dir().join("agent.kubeconfig");
    let server = cluster
        .kubectl()
        .run("config view -o jsonpath={.clusters[0].cluster.server}")
        .ok();
    let authority = cluster
        .kubectl()
        .run("config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority-data}")
        .ok();
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {authority}\nusers:\n- name: u\n  user: {{token: {token}}}\n\
         contexts:\n- name: c\n  context: {{cluster: c, user: u}}\ncurrent-context: c\n"
    );
    std::fs::write(&path, text).expect("written");
    path
}

/// A pod that reads a config map and a secret, and one that is deleted, on that node.
pub(crate) fn pods_work(cluster: &Cluster, node: &str) {
    let node = cluster.node(node);
    cluster
        .kubectl()
        .run("create configmap said --from-literal=word=hello")
        .ok();
    cluster
        .kubectl()
        .run("create secret generic hidden --from-literal=word=world")
        .ok();
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  nodeName: {node}\n  restartPolicy: Never\n  \
         containers:\n  - name: c\n    image: host\n    command: [bash, -c, '[ \"$A $B\" = \"hello world\" ]']\n    \
         env:\n    - {{name: A, valueFrom: {{configMapKeyRef: {{name: said, key: word}}}}}}\n    \
         - {{name: B, valueFrom: {{secretKeyRef: {{name: hidden, key: word}}}}}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: q}}\nspec:\n  nodeName: {node}\n  containers:\n  \
         - name: c\n    image: host\n    command: [sleep, \"1000\"]\n"
    ));
    cluster.is("pod/p", "{.status.phase}", "Succeeded");
    cluster.is("pod/q", "{.status.phase}", "Running");
    cluster.kubectl().run("delete pod q --timeout=60s").ok();
    eventually("an event tells of the start", || {
        let told = cluster
            .kubectl()
            .run("get events -o custom-columns=R:.reason --no-headers")
            .ok();
        if told.contains("Started") {
            Ok(())
        } else {
            Err(told)
        }
    });
}

both![a_node_identity_works_around_what_it_may_not_do];

both! {

fn the_service_account_of_the_documents_suffices(cluster: &Cluster) {
    let anywhere = Kubectl::new(cluster.kubeconfig(), cluster.dir()).expect("it was had before");
    anywhere.run(&format!("apply -f {DEPLOY}/rbac.yaml")).ok();
    let token = anywhere.in_namespace("vk-cmd").run("create token agent --duration=1h").ok();
    let kubeconfig = kubeconfig_of_token(cluster, token.trim());
    let mut agent = cluster.agent_with(&kubeconfig, "n")
        .args(&["--drain-on-exit", "--drain-window", "5s"]).start();
    cluster.ready("n");
    assert_eq!(cluster.get(&format!("node/{}", cluster.node("n")), "{.metadata.labels.kubernetes\\.io/role}"), "agent");
    pods_work(cluster, "n");
    agent.signal(Signal::SIGUSR1);
    cluster.node_is("n", "{.spec.unschedulable}", "true");
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().success(), "{}", agent.log());
    let gone = cluster.get(&format!("node/{}", cluster.node("n")), "{.metadata.name}");
    assert!(gone.contains("NotFound"), "{gone}");
    assert!(!agent.log().contains("forbidden"), "{}", agent.log());
}

}

/// A certificate of system:node:NAME, by the cluster's CA.
fn kubeconfig_of_node(cluster: &Cluster, pki: &Path, name: &str) -> PathBuf {
    let dir = cluster.dir();
    let run = |words: &[&str]| {
        let done = std::process::Command::new("openssl")
            .args(words)
            .current_dir(dir)
            .output()
            .expect("openssl runs");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    let subject = format!("/O=system:nodes/CN=system:node:{name}");
    let (ca, key) = (pki.join("ca.crt"), pki.join("ca.key"));
    run(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        "n.key",
    ]);
    run(&[
        "req", "-new", "-key", "n.key", "-subj", &subject, "-out", "n.csr",
    ]);
    // Extensions make it a certificate of version 3, which TLS asks for.
    std::fs::write(dir.join("n.ext"), "extendedKeyUsage=clientAuth\n").expect("written");
    run(&[
        "x509",
        "-req",
        "-in",
        "n.csr",
        "-CA",
        &ca.to_string_lossy(),
        "-CAkey",
        &key.to_string_lossy(),
        "-extfile",
        "n.ext",
        "-set_serial",
        "77",
        "-days",
        "1",
        "-out",
        "n.crt",
    ]);
    let server = cluster
        .kubectl()
        .run("config view -o jsonpath={.clusters[0].cluster.server}")
        .ok();
    let path = dir.join("node.kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: \"{server}\", certificate-authority: {}}}\n\
         users:\n- name: u\n  user: {{client-certificate: {d}/n.crt, client-key: {d}/n.key}}\n\
         contexts:\n- name: c\n  context: {{cluster: c, user: u}}\ncurrent-context: c\n",
        ca.display(),
        d = dir.display()
    );
    std::fs::write(&path, text).expect("written");
    path
}

fn a_node_identity_works_around_what_it_may_not_do(cluster: &Cluster) {
    let node = cluster.node("n");
    let kubeconfig = kubeconfig_of_node(cluster, cluster.pki(), &node);
    let mut agent = cluster
        .agent_with(&kubeconfig, "n")
        .args(&["--drain-on-exit", "--drain-window", "5s"])
        .start();
    cluster.ready("n");
    let label = "{.metadata.labels.kubernetes\\.io/role}";
    let found = cluster.get(&format!("node/{node}"), label);
    let log = agent.log();
    let step = format!("kubectl label node {node} kubernetes.io/role=agent");
    if cluster.plane() == Plane::Real {
        assert_eq!(found, "", "NodeRestriction forbids it");
        assert_eq!(log.matches(&step).count(), 1, "{log}");
        cluster.kubectl().run(&step["kubectl ".len()..]).ok();
    } else {
        assert_eq!(
            found, "agent",
            "nobody else does it in a cluster of one program"
        );
        assert_eq!(log.matches(&step).count(), 0, "{log}");
    }
    pods_work(cluster, "n");
    agent.signal(Signal::SIGUSR1);
    cluster.node_is("n", "{.spec.unschedulable}", "true");
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().success(), "{}", agent.log());
    // It may not delete its Node: it says so, with the mend, and leaves it NotReady.
    let log = agent.log();
    assert!(
        log.contains(&format!("kubectl delete node {node}")),
        "{log}"
    );
    cluster.node_is(
        "n",
        "{.status.conditions[?(@.type==\"Ready\")].reason}",
        "AgentStopped",
    );
    cluster.kubectl().run(&format!("delete node {node}")).ok();
}
