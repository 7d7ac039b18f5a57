//! Which certificate the kubelet of each node may show.
//!
//! One that an authority of the cluster signed is checked as usual, and holds for the node in its subject alone.
//! Once a node has shown such a one, nothing less is taken for it. Until then the first certificate of another
//! origin (kubelets often sign their own) is taken and remembered for that run of the node: on a machine that is
//! shared, anybody may listen where a kubelet listened before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::Value;

use crate::auth::NODE_USER_PREFIX;

/// One run of a node's agent: a later one may come with another certificate. None of it can be written by other
/// nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// The UID of the Node.
    pub(super) uid: String,
    /// The boot of its machine.
    pub(super) boot: String,
    /// Who holds the node's lease, and since when.
    pub(super) holder: [String; 2],
    /// `HOST:PORT` of its kubelet.
    pub(super) endpoint: String,
}

impl Run {
    pub(super) fn of(node: &Value, lease: Option<&Value>, endpoint: &str) -> Self {
        let text = |value: &Value, pointer: &str| {
            let text = value.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let held = |field: &str| lease.map_or_else(String::new, |lease| text(lease, field));
        Self {
            uid: text(node, "/metadata/uid"),
            boot: text(node, "/status/nodeInfo/bootID"),
            holder: [held("/spec/holderIdentity"), held("/spec/acquireTime")],
            endpoint: endpoint.to_owned(),
        }
    }
}

/// SHA-256 of a certificate.
type Fingerprint = [u8; 32];

/// What a kubelet showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// A certificate that the cluster signed.
    Signed,
    /// One of another origin.
    Other(Fingerprint),
}

/// What a kubelet may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// What it likes.
    Any,
    /// A certificate that the cluster signed.
    Signed,
    /// That, or the one that it showed before.
    This(Fingerprint),
}

/// What the kubelets have shown, by the names of their nodes.
#[derive(Debug, Default)]
pub(super) struct Known {
    nodes: Mutex<HashMap<String, (Run, Shown)>>,
}

impl Known {
    pub(super) fn expected(&self, node: &str, run: &Run) -> Expected {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match nodes.get(node) {
            Some((known, _)) if known.uid != run.uid => Expected::Any,
            Some((_, Shown::Signed)) => Expected::Signed,
            Some((known, Shown::Other(fingerprint))) if known == run => {
                Expected::This(*fingerprint)
            }
            _ => Expected::Any,
        }
    }

    /// Remembers what was shown in a handshake that ended well. `lives` tells of a name whether there is such a
    /// node; the others are forgotten now and then.
    pub(super) fn record(&self, node: &str, run: Run, shown: Shown, lives: impl Fn(&str) -> bool) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len().is_power_of_two() && !nodes.contains_key(node) {
            nodes.retain(|name, _| lives(name));
        }
        nodes.insert(node.to_owned(), (run, shown));
    }
}

/// Checks the certificate of one node's kubelet.
#[derive(Debug)]
pub(super) struct OfNode {
    inner: Arc<WebPkiServerVerifier>,
    node: String,
    expected: Expected,
    shown: OnceLock<Shown>,
}

impl OfNode {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>, node: &str, expected: Expected) -> Self {
        Self {
            inner,
            node: node.to_owned(),
            expected,
            shown: OnceLock::new(),
        }
    }

    /// What was shown, after a handshake.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.shown.get().copied()
    }

    fn refuse(&self, what: &str) -> Error {
        Error::General(format!(
            "the kubelet of node {node} shows {what}; if that is in order, restart its agent, or delete the Node \
             {node} so that it registers anew",
            node = self.node
        ))
    }

    fn take(&self, shown: Shown) -> ServerCertVerified {
        let _: &Shown = self.shown.get_or_init(|| shown);
        ServerCertVerified::assertion()
    }
}

/// The node that a certificate is for, where it is for one.
fn node_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject().iter_common_name();
    let name = names.last()?.as_str().ok()?;
    name.strip_prefix(NODE_USER_PREFIX).map(str::to_owned)
}

impl ServerCertVerifier for OfNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Nodes may share an address, and each names its own.
            Ok(_) => match node_of(end_entity) {
                Some(other) if other != self.node => {
                    Err(self.refuse(&format!("the certificate of node {other}")))
                }
                _ => Ok(self.take(Shown::Signed)),
            },
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                let fingerprint = fingerprint(end_entity);
                match self.expected {
                    Expected::Signed => Err(self.refuse(
                        "a certificate that the cluster did not sign, after one that it did sign",
                    )),
                    Expected::This(known) if known != fingerprint => {
                        Err(self.refuse("another certificate than before"))
                    }
                    _ => Ok(self.take(Shown::Other(fingerprint))),
                }
            }
            Err(other) => Err(other),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(uid: &str, boot: &str, holder: &str, endpoint: &str) -> Run {
        let node = json!({"metadata": {"uid": uid}, "status": {"nodeInfo": {"bootID": boot}}});
        let lease = json!({"spec": {"holderIdentity": holder}});
        Run::of(&node, Some(&lease), endpoint)
    }

    #[test]
    fn a_certificate_of_its_own_holds_for_one_run() {
        let known = Known::default();
        let first = run("u", "b", "h", "e");
        assert_eq!(known.expected("n", &first), Expected::Any);
        known.record("n", first.clone(), Shown::Other([1; 32]), |_| true);
        assert_eq!(known.expected("n", &first), Expected::This([1; 32]));
        assert_eq!(known.expected("m", &first), Expected::Any);
        for later in [
            run("u2", "b", "h", "e"),
            run("u", "b2", "h", "e"),
            run("u", "b", "h2", "e"),
            run("u", "b", "h", "e2"),
        ] {
            assert_eq!(known.expected("n", &later), Expected::Any);
        }
    }

    #[test]
    fn a_signed_one_holds_as_long_as_the_node() {
        let known = Known::default();
        known.record("n", run("u", "b", "h", "e"), Shown::Signed, |_| true);
        let later = run("u", "b2", "h2", "e2");
        assert_eq!(known.expected("n", &later), Expected::Signed);
        let another = run("u2", "b", "h", "e");
        assert_eq!(known.expected("n", &another), Expected::Any);
    }

    #[test]
    fn nodes_that_are_gone_are_forgotten() {
        let known = Known::default();
        for number in 0..1000 {
            let name = format!("n{number}");
            known.record(&name, Run::default(), Shown::Signed, |name| name == "n0");
        }
        let nodes = known.nodes.lock().unwrap();
        assert!(nodes.len() <= 2, "{}", nodes.len());
        assert!(nodes.contains_key("n0"));
    }
}
