//! A certificate that somebody gave, and that expires while the agent runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testkit::{Cluster, eventually};

use crate::both::both;

both![a_given_certificate_that_expires_is_told];

/// A kubeconfig of an administrator for so many seconds.
fn administrator_for(cluster: &Cluster, seconds: u64) -> PathBuf {
    let pki = cluster.pki();
    let key = Command::new("openssl")
        .args(["pkey", "-in"])
        .arg(pki.join("ca.key"))
        .output()
        .expect("openssl runs");
    assert!(key.status.success());
    let key = String::from_utf8(key.stdout).expect("PEM");
    let authority = std::fs::read_to_string(pki.join("ca.crt")).expect("the authority");
    let key = rcgen::KeyPair::from_pem(&key).expect("its key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&authority, key).expect("the authority");
    let mut params = rcgen::CertificateParams::default();
    let name = &mut params.distinguished_name;
    name.push(rcgen::DnType::OrganizationName, "system:masters");
    name.push(rcgen::DnType::CommonName, "for-a-moment");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(Duration::from_secs(60));
    params.not_after = epoch + now + Duration::from_secs(seconds);
    let own = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&own, &issuer).expect("a certificate");
    let dir = cluster.dir();
    std::fs::write(dir.join("moment.crt"), certificate.pem()).expect("written");
    std::fs::write(dir.join("moment.key"), own.serialize_pem()).expect("written");
    kubeconfig(cluster, dir)
}

fn kubeconfig(cluster: &Cluster, dir: &Path) -> PathBuf {
    let path = dir.join("moment.kubeconfig");
    std::fs::copy(cluster.kubeconfig(), &path).expect("a kubeconfig");
    let at = path.to_string_lossy();
    let d = dir.display();
    for line in [
        format!(
            "config set-credentials moment --kubeconfig={at} --embed-certs --client-certificate={d}/moment.crt --client-key={d}/moment.key"
        ),
        format!("config set-context --current --kubeconfig={at} --user=moment"),
    ] {
        cluster.kubectl().run(&line).ok();
    }
    path
}

fn a_given_certificate_that_expires_is_told(cluster: &Cluster) {
    let config = administrator_for(cluster, 30);
    let agent = cluster.agent_with(&config, "n").start();
    cluster.ready("n");
    let node = cluster.node("n");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  nodeName: {node}\n  restartPolicy: Never\n  containers:\n  \
         - {{name: c, image: host, command: [bash, -c, 'echo s >> ~/starts; until [ -e ~/end ]; do sleep 0.1; done; exit 3']}}\n"
    ));
    cluster.is("pod/p", "{.status.phase}", "Running");
    let log = eventually("the end of the certificate is told", || {
        let log = agent.log();
        if log.contains("expired at") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    for words in [
        "expires at",
        "expired at",
        "moment.kubeconfig",
        "Renew it there",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(log.matches("expired at").count(), 1, "{log}");
    std::fs::write(agent.home().join("end"), "").expect("written");
    // Who has a new one starts the agent anew, and all is told.
    let home = agent.home();
    let place = agent.kill();
    let config = administrator_for(cluster, 600);
    let _agent = cluster.agent_with(&config, "n").at(&place).start();
    let ended = "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}";
    cluster.is("pod/p", ended, "Failed 3");
    assert_eq!(
        std::fs::read_to_string(home.join("starts")).expect("written"),
        "s\n"
    );
    cluster.ready("n");
}
