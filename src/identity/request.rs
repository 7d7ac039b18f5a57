//! A certificate by a CertificateSigningRequest.

use futures::StreamExt;
use http::Method;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::json;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::pair::Pair;
use crate::pod::api::{ApiProblem, Retry, send};

/// Why no certificate came of a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It cannot be made.
    #[error("the request for a certificate of {subject} cannot be made")]
    Make {
        /// For whom.
        subject: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// The API server does not take it.
    #[error(
        "the API server refuses a certificate request for {subject}: {problem}. The bootstrap token must be valid, \
         and its group bound to the cluster role system:node-bootstrapper (docs/identities.md)"
    )]
    Refused {
        /// For whom.
        subject: String,
        /// Its words.
        problem: String,
    },
    /// An approver said no.
    #[error("the certificate request {name} was denied: {why}")]
    Denied {
        /// The request.
        name: String,
        /// Their words.
        why: String,
    },
    /// The signer cannot sign it.
    #[error("the certificate request {name} failed: {why}")]
    Failed {
        /// The request.
        name: String,
        /// Its words.
        why: String,
    },
    /// Nobody signed it before it was removed.
    #[error("the certificate request {name} was removed before it was signed")]
    Gone {
        /// The request.
        name: String,
    },
    /// What was issued does not fit.
    #[error("the certificate that was issued {name} cannot be used: {why}")]
    Unusable {
        /// For what.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    signer: &'static str,
    usage: &'static str,
    subject: String,
    names: Vec<String>,
}

impl Wanted {
    /// What a node shows to the API server.
    pub(super) fn client(node: &str) -> Self {
        Self {
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            usage: "client auth",
            subject: super::subject(node),
            names: Vec::new(),
        }
    }

    /// What its kubelet API shows.
    pub(super) fn serving(node: &str, names: &[String]) -> Self {
        Self {
            signer: "kubernetes.io/kubelet-serving",
            usage: "server auth",
            subject: super::subject(node),
            names: names.to_vec(),
        }
    }

    /// The request in PEM, and its key, which is new.
    fn sign(&self) -> Result<(String, KeyPair), rcgen::Error> {
        let mut params = CertificateParams::new(self.names.clone())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params
            .distinguished_name
            .push(DnType::CommonName, self.subject.as_str());
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?.pem()?;
        Ok((request, key))
    }
}

/// What became of a request so far.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pending,
    Issued(String),
    Denied(String),
    Failed(String),
}

fn verdict(request: &CertificateSigningRequest) -> Verdict {
    let Some(status) = &request.status else {
        return Verdict::Pending;
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let told = |type_: &str| {
        let found = conditions.iter().find(|it| it.type_ == type_)?;
        let words = [&found.reason, &found.message].map(|it| it.as_deref().unwrap_or_default());
        Some(words.join(" ").trim().to_owned())
    };
    if let Some(why) = told("Denied") {
        return Verdict::Denied(why);
    }
    if let Some(why) = told("Failed") {
        return Verdict::Failed(why);
    }
    match &status.certificate {
        Some(pem) if !pem.0.is_empty() => {
            Verdict::Issued(String::from_utf8_lossy(&pem.0).into_owned())
        }
        _ => Verdict::Pending,
    }
}

/// Asks for a certificate and waits, as long as it takes, for approver and signer. Dropped, it leaves a
/// request that nobody takes; the cluster removes such.
pub(super) async fn obtain(client: &Client, wanted: &Wanted) -> Result<Pair, RequestError> {
    let subject = wanted.subject.clone();
    let (pem, key) = wanted.sign().map_err(|source| RequestError::Make {
        subject: subject.clone(),
        source,
    })?;
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "vk-cmd-"},
        "spec": {
            "request": BASE64.encode(pem),
            "signerName": wanted.signer,
            "usages": ["digital signature", wanted.usage],
        },
    });
    let collection = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let mut retry = Retry::default();
    let made: CertificateSigningRequest = loop {
        match send(client, Method::POST, collection, "application/json", &body).await {
            Ok(made) => break made,
            Err(problem @ ApiProblem::Unreachable(_)) => {
                let pause = retry.failed();
                tracing::warn!(%problem, ?pause, "the request for a certificate could not be made yet");
                tokio::time::sleep(pause).await;
            }
            Err(problem) => {
                return Err(RequestError::Refused {
                    subject,
                    problem: problem.to_string(),
                });
            }
        }
    };
    let name = made.name_any();
    tracing::info!(
        signer = wanted.signer,
        "asked for a certificate; where nobody approves by rule: kubectl certificate approve {name}"
    );
    let certificate = answer(client, &name).await?;
    Ok(Pair {
        cluster: String::new(),
        certificate,
        key: key.serialize_pem(),
    })
}

/// Waits for the answer to a request.
async fn answer(client: &Client, name: &str) -> Result<String, RequestError> {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(requests, one).default_backoff());
    let name = name.to_owned();
    let gone = || RequestError::Gone { name: name.clone() };
    let mut listed = true;
    // The stream does not end.
    while let Some(event) = events.next().await {
        let request = match event {
            Ok(watcher::Event::Apply(request) | watcher::Event::InitApply(request)) => request,
            Ok(watcher::Event::Init) => {
                listed = false;
                continue;
            }
            Ok(watcher::Event::InitDone) if listed => continue,
            Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => return Err(gone()),
            Err(error) => {
                tracing::warn!(%error, request = name, "the request for a certificate is not watched now");
                continue;
            }
        };
        listed = true;
        match verdict(&request) {
            Verdict::Pending => {}
            Verdict::Issued(certificate) => return Ok(certificate),
            Verdict::Denied(why) => return Err(RequestError::Denied { name, why }),
            Verdict::Failed(why) => return Err(RequestError::Failed { name, why }),
        }
    }
    Err(gone())
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer as _;

    use super::*;

    #[test]
    fn a_request_names_the_node_and_its_addresses() {
        let names = ["n.site".to_owned(), "10.0.0.1".to_owned()];
        for wanted in [Wanted::client("n"), Wanted::serving("n", &names)] {
            let (text, _) = wanted.sign().unwrap();
            let parsed = pem_of(&text);
            let (_, request) = X509CertificationRequest::from_der(&parsed).unwrap();
            let subject = request.certification_request_info.subject.to_string();
            assert_eq!(subject, "O=system:nodes, CN=system:node:n");
            let asked = request.requested_extensions().is_some();
            assert_eq!(asked, !wanted.names.is_empty());
        }
    }

    fn pem_of(text: &str) -> Vec<u8> {
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        BASE64.decode(body).unwrap()
    }

    #[test]
    fn an_answer_is_read() {
        let of = |status: serde_json::Value| {
            let request = json!({"metadata": {}, "spec": {"request": "", "signerName": "s"}, "status": status});
            verdict(&serde_json::from_value(request).unwrap())
        };
        let condition = |type_: &str| json!([{"type": type_, "status": "True", "reason": "No", "message": "not you"}]);
        assert_eq!(of(json!({})), Verdict::Pending);
        assert_eq!(
            of(json!({"conditions": condition("Approved")})),
            Verdict::Pending
        );
        assert_eq!(
            of(json!({"conditions": condition("Approved"), "certificate": BASE64.encode("PEM")})),
            Verdict::Issued("PEM".to_owned())
        );
        assert_eq!(
            of(json!({"conditions": condition("Denied")})),
            Verdict::Denied("No not you".to_owned())
        );
        assert_eq!(
            of(json!({"conditions": condition("Failed")})),
            Verdict::Failed("No not you".to_owned())
        );
    }
}
