//! Certificate signing requests of nodes: approved where the rules say so, and signed.
//!
//! Facts: kubernetes/kubernetes pkg/apis/certificates/helpers.go, pkg/controller/certificates.
//! The real controller manager never approves serving certificates; here one is approved where the
//! node itself asks for its own addresses, which is what people who approve by hand check.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rcgen::CertificateSigningRequestParams;
use serde_json::{Value, json};

use super::feed::Feed;
use super::queue::Queue;
use super::text;
use crate::auth::authz::Authorizer;
use crate::auth::csr::{Csr, CsrError};
use crate::auth::pki::{KUBERNETES_SERVICE_IP, KUBERNETES_SERVICE_NAMES, Pki, Usage};
use crate::auth::{Attributes, GROUP_MASTERS, GROUP_NODES, NODE_USER_PREFIX, User};
use crate::registry::{Context, Registry, rfc3339};
use crate::resource::stored;
use crate::status::ApiError;

const GROUP: &str = "certificates.k8s.io";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The real signer's default lifetime.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365);
const SHORTEST: i64 = 600;

/// Why a request that was approved cannot be signed.
#[derive(Debug, thiserror::Error)]
enum Unsignable {
    #[error(transparent)]
    Unreadable(#[from] CsrError),
    #[error("the request asks for what is not signed here: {0}")]
    Unsupported(#[from] rcgen::Error),
    #[error("{0}")]
    Rule(&'static str),
    #[error("cannot sign")]
    Pki(#[from] crate::auth::pki::PkiError),
}

/// Whether the form of a request is what its signer signs.
fn check_form(signer: &str, usages: &BTreeSet<&str>, asked: &Csr) -> Result<Usage, Unsignable> {
    let is_node = asked.groups == [GROUP_NODES]
        && asked
            .name
            .strip_prefix(NODE_USER_PREFIX)
            .is_some_and(|node| !node.is_empty());
    let usages_are = |wanted: &str| {
        let mut rest = usages.clone();
        let has_both = rest.remove("digital signature") && rest.remove(wanted);
        rest.remove("key encipherment");
        has_both && rest.is_empty()
    };
    match signer {
        KUBELET_CLIENT => {
            if !is_node {
                return Err(Unsignable::Rule(
                    "subject must be O=system:nodes and CN=system:node:NAME",
                ));
            }
            if !asked.dns.is_empty() || !asked.ips.is_empty() || asked.other_names {
                return Err(Unsignable::Rule("subject names are not allowed"));
            }
            if !usages_are("client auth") {
                return Err(Unsignable::Rule(
                    "usages must be digital signature and client auth",
                ));
            }
            Ok(Usage::Client)
        }
        KUBELET_SERVING => {
            if !is_node {
                return Err(Unsignable::Rule(
                    "subject must be O=system:nodes and CN=system:node:NAME",
                ));
            }
            if asked.other_names || (asked.dns.is_empty() && asked.ips.is_empty()) {
                return Err(Unsignable::Rule(
                    "DNS names or IP addresses are needed, and other names are not allowed",
                ));
            }
            let is_ours = |name: &String| {
                KUBERNETES_SERVICE_NAMES
                    .iter()
                    .any(|ours| name.eq_ignore_ascii_case(ours))
            };
            if asked.dns.iter().any(is_ours) || asked.ips.contains(KUBERNETES_SERVICE_IP) {
                return Err(Unsignable::Rule(
                    "the names of the API server are not a node's",
                ));
            }
            if !usages_are("server auth") {
                return Err(Unsignable::Rule(
                    "usages must be digital signature and server auth",
                ));
            }
            Ok(Usage::Server)
        }
        CLIENT => {
            if asked.groups.iter().any(|group| group == GROUP_MASTERS) {
                return Err(Unsignable::Rule(
                    "a certificate of system:masters is not signed for anybody",
                ));
            }
            if usages.contains("client auth") && !usages.contains("server auth") {
                Ok(Usage::Client)
            } else {
                Err(Unsignable::Rule("usages must be those of a client"))
            }
        }
        _ => Err(Unsignable::Rule("the signer is unknown")),
    }
}

fn usages(csr: &Value) -> BTreeSet<&str> {
    csr.pointer("/spec/usages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn has_condition(csr: &Value, wanted: &str) -> bool {
    csr.pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == wanted && condition["status"] != "False")
}

fn requester(csr: &Value) -> User {
    let groups = csr.pointer("/spec/groups").and_then(Value::as_array);
    User {
        name: text(csr, "/spec/username").to_owned(),
        uid: text(csr, "/spec/uid").to_owned(),
        groups: groups
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        ..User::default()
    }
}

/// Whether all names of a serving request are addresses of its node.
fn names_are_the_nodes(asked: &Csr, node: &Value) -> bool {
    let of = |kinds: &[&str]| -> BTreeSet<&str> {
        node.pointer("/status/addresses")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|address| kinds.contains(&text(address, "/type")))
            .map(|address| text(address, "/address"))
            .collect()
    };
    let names = of(&["Hostname", "InternalDNS", "ExternalDNS"]);
    let ips = of(&["InternalIP", "ExternalIP", "Hostname"]);
    asked.dns.iter().all(|name| names.contains(name.as_str()))
        && asked.ips.iter().all(|ip| ips.contains(ip.as_str()))
}

struct Signer {
    registry: Registry,
    authorizer: Authorizer,
    pki: Arc<Pki>,
}

/// Approves and signs until the store is closed.
pub async fn run(registry: Registry, authorizer: Authorizer, pki: Arc<Pki>) {
    let requests = stored(GROUP, "certificatesigningrequests");
    let mut feed = Feed::new(registry.store(), requests.key_prefix(""));
    let mut nodes = Feed::new(registry.store(), "nodes/");
    let mut queue: Queue<String> = Queue::default();
    let signer = Signer {
        registry,
        authorizer,
        pki,
    };
    loop {
        // All arms are cancel-safe: feeds and the queue lose nothing when another is taken.
        tokio::select! {
            news = feed.next() => {
                let Some(news) = news else { return };
                for request in news.present() {
                    queue.add(request.name().to_owned());
                }
            }
            // A serving request may come before the addresses of its node.
            news = nodes.next() => {
                let Some(news) = news else { return };
                if !news.present().is_empty() {
                    for request in signer.registry.store().list(&requests.key_prefix("")).objects {
                        queue.add(request.name().to_owned());
                    }
                }
            }
            name = queue.next() => {
                match signer.settle(&name, Timestamp::now()).await {
                    Ok(()) => queue.succeeded(&name),
                    Err(error) if error.is_not_found() => queue.succeeded(&name),
                    Err(error) => {
                        tracing::warn!(name, %error, "cannot settle the certificate signing request");
                        queue.retry(name);
                    }
                }
            }
        }
    }
}

impl Signer {
    async fn settle(&self, name: &str, now: Timestamp) -> Result<(), ApiError> {
        let requests = stored(GROUP, "certificatesigningrequests");
        let csr = self.registry.get(requests, "", name)?.value();
        let signer = text(&csr, "/spec/signerName");
        if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&signer)
            || !text(&csr, "/status/certificate").is_empty()
            || has_condition(&csr, "Denied")
            || has_condition(&csr, "Failed")
        {
            return Ok(());
        }
        let context = Context::system("system:certificate-controller");
        if !has_condition(&csr, "Approved") {
            let Some(message) = self.approves(&csr) else {
                return Ok(());
            };
            let condition = json!({
                "type": "Approved", "status": "True", "reason": "AutoApproved",
                "message": message,
                "lastUpdateTime": rfc3339(now), "lastTransitionTime": rfc3339(now),
            });
            self.registry
                .modify(&context, requests, "", name, "approval", |csr| {
                    add_condition(csr, condition.clone());
                    Ok(())
                })
                .await?;
        }
        let signed = self.sign(&csr, now);
        self.registry
            .modify(&context, requests, "", name, "status", |csr| {
                match &signed {
                    Ok(pem) => csr["status"]["certificate"] = json!(BASE64.encode(pem)),
                    Err(error) => add_condition(
                        csr,
                        json!({
                            "type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                            "message": error.to_string(),
                            "lastUpdateTime": rfc3339(now), "lastTransitionTime": rfc3339(now),
                        }),
                    ),
                }
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// Why a request is approved without a person; `None` where it is not.
    fn approves(&self, csr: &Value) -> Option<&'static str> {
        let signer = text(csr, "/spec/signerName");
        let asked = Csr::of(csr).ok()?;
        check_form(signer, &usages(csr), &asked).ok()?;
        let requester = requester(csr);
        match signer {
            KUBELET_CLIENT => {
                let may = |subresource| {
                    let attributes = Attributes {
                        version: "*",
                        subresource,
                        ..Attributes::of_resource(
                            &requester,
                            "create",
                            GROUP,
                            "certificatesigningrequests",
                        )
                    };
                    self.authorizer.authorize(&attributes).is_allowed()
                };
                if requester.name == asked.name && may("selfnodeclient") {
                    Some(
                        "Auto approving self kubelet client certificate after SubjectAccessReview.",
                    )
                } else if may("nodeclient") {
                    Some("Auto approving kubelet client certificate after SubjectAccessReview.")
                } else {
                    None
                }
            }
            KUBELET_SERVING => {
                let node = requester.node_name()?;
                let object = self.registry.get(stored("", "nodes"), "", node).ok()?;
                (requester.name == asked.name && names_are_the_nodes(&asked, &object.value()))
                    .then_some(
                        "Auto approving kubelet serving certificate for the node's own addresses.",
                    )
            }
            _ => None,
        }
    }

    fn sign(&self, csr: &Value, now: Timestamp) -> Result<String, Unsignable> {
        let signer = text(csr, "/spec/signerName");
        let asked = Csr::of(csr)?;
        let usage = check_form(signer, &usages(csr), &asked)?;
        if signer == KUBELET_SERVING && text(csr, "/spec/username") != asked.name {
            return Err(Unsignable::Rule(
                "requesting username did not match the common name of the request",
            ));
        }
        let request = CertificateSigningRequestParams::from_der(&asked.der)?;
        let lifetime = csr
            .pointer("/spec/expirationSeconds")
            .and_then(Value::as_i64)
            .map_or(LIFETIME, |seconds| {
                SignedDuration::from_secs(seconds.max(SHORTEST)).min(LIFETIME)
            });
        tracing::info!(name = asked.name, signer, "signing a certificate");
        Ok(self.pki.sign_request(request, usage, lifetime, now)?)
    }
}

fn add_condition(csr: &mut Value, condition: Value) {
    if !csr["status"]["conditions"].is_array() {
        csr["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = csr["status"]["conditions"].as_array_mut()
        && !conditions
            .iter()
            .any(|other| other["type"] == condition["type"])
    {
        conditions.push(condition);
    }
}

#[cfg(test)]
mod tests;
