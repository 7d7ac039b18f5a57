//! Who asks, and whether they may.
//!
//! Answers of reviews are kept as a kubelet keeps them: tokens two minutes, "yes" five minutes,
//! "no" thirty seconds. The maps are locked for a lookup alone, never across a request.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// So that strangers who try tokens cannot fill the memory.
const CACHE_LIMIT: usize = 4096;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The user name: the certificate's common name, or what the token review says.
    pub user: String,
    /// The groups: the certificate's organizations, or what the token review says.
    pub groups: Vec<String>,
}

impl Caller {
    /// The caller of a certificate that was verified against the CA.
    pub(super) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|organization| organization.as_str().ok())
            .map(str::to_owned)
            .collect();
        Some(Self { user, groups })
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// 401.
    Unknown,
    /// 403, with the words that a kubelet uses.
    Forbidden(String),
    /// 500: the review itself failed.
    Failed(String),
}

#[derive(Debug, Default)]
struct Cache<T>(Mutex<HashMap<u64, (Instant, T)>>);

impl<T: Clone> Cache<T> {
    fn get(&self, key: u64, now: Instant) -> Option<T> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, value) = map.get(&key)?;
        (*until > now).then(|| value.clone())
    }

    fn put(&self, key: u64, until: Instant, value: T, now: Instant) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= CACHE_LIMIT {
            map.retain(|_, (until, _)| *until > now);
        }
        if map.len() < CACHE_LIMIT {
            map.insert(key, (until, value));
        }
    }
}

/// Asks the API server about callers and their rights.
pub(super) struct Guard {
    client: kube::Client,
    node: String,
    hasher: std::hash::RandomState,
    tokens: Cache<Caller>,
    rights: Cache<bool>,
}

impl Guard {
    pub(super) fn new(client: kube::Client, node: String) -> Self {
        Self {
            client,
            node,
            hasher: std::hash::RandomState::new(),
            tokens: Cache(Mutex::default()),
            rights: Cache(Mutex::default()),
        }
    }

    fn key(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    /// Who asks: by certificate, else by the `Authorization` header.
    pub(super) async fn caller(
        &self,
        certificate: Option<Caller>,
        authorization: Option<&str>,
    ) -> Result<Caller, Refused> {
        if let Some(caller) = certificate {
            return Ok(caller);
        }
        let token = authorization
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim)
            .filter(|token| !token.is_empty())
            .ok_or(Refused::Unknown)?;
        let key = self.key(token);
        if let Some(caller) = self.tokens.get(key, Instant::now()) {
            return Ok(caller);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviewed = Api::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| Refused::Failed(format!("token review failed: {error}")))?;
        let user = reviewed
            .status
            .filter(|status| status.authenticated == Some(true))
            .and_then(|status| status.user)
            .ok_or(Refused::Unknown)?;
        let caller = Caller {
            user: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        };
        let now = Instant::now();
        self.tokens.put(key, now + TOKEN_TTL, caller.clone(), now);
        Ok(caller)
    }

    /// Whether `caller` may do `verb` on one of the node's `subresources`.
    pub(super) async fn authorize(
        &self,
        caller: &Caller,
        verb: &str,
        subresources: &[&str],
    ) -> Result<(), Refused> {
        for subresource in subresources {
            if self.allowed(caller, verb, subresource).await? {
                return Ok(());
            }
        }
        Err(Refused::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            caller.user,
            subresources.join(" ")
        )))
    }

    async fn allowed(
        &self,
        caller: &Caller,
        verb: &str,
        subresource: &str,
    ) -> Result<bool, Refused> {
        let key = self.key((caller, verb, subresource));
        if let Some(allowed) = self.rights.get(key, Instant::now()) {
            return Ok(allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.user.clone()),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviewed = Api::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| Refused::Failed(format!("access review failed: {error}")))?;
        let allowed = reviewed.status.is_some_and(|status| status.allowed);
        let now = Instant::now();
        let ttl = if allowed { ALLOWED_TTL } else { DENIED_TTL };
        self.rights.put(key, now + ttl, allowed, now);
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_user_and_groups() {
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let caller = Caller::of_certificate(certificate.der()).expect("a caller");
        assert_eq!(caller.user, "kube-apiserver-kubelet-client");
        assert_eq!(caller.groups, ["system:masters"]);
        assert_eq!(Caller::of_certificate(b"nonsense"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time_and_no_longer() {
        let cache = Cache::<bool>::default();
        let now = Instant::now();
        cache.put(1, now + DENIED_TTL, false, now);
        assert_eq!(
            cache.get(1, now + DENIED_TTL - Duration::from_millis(1)),
            Some(false)
        );
        assert_eq!(cache.get(1, now + DENIED_TTL), None);
    }
}
