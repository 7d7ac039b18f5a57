//! Authentication: client certificates, tokens of service accounts, bootstrap tokens.

use std::sync::Arc;

use base64::Engine as _;
use jiff::Timestamp;
use ring::digest;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use serde_json::Value;

use super::pki::Pki;
use super::tls::{TlsError, client_verifier};
use super::tokens::{ISSUER, TokenError, Tokens};
use super::{GROUP_AUTHENTICATED, User};
use crate::store::Store;

/// The credentials of a request are no good: 401.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unauthorized {
    /// Why, for the log; the client learns `Unauthorized` alone.
    pub reason: String,
}

/// Who stands at the other end of a connection, by its client certificate. Found out once for a
/// connection.
#[derive(Debug, Clone, Default)]
pub enum Peer {
    /// There was no certificate.
    #[default]
    Unknown,
    /// A certificate of our authority.
    Known {
        /// Whose it is.
        user: Arc<User>,
        /// When it ends, in seconds since 1970.
        not_after: i64,
    },
    /// A certificate that we do not trust.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Finds out who makes a request.
#[derive(Debug)]
pub struct Authenticator {
    store: Store,
    verifier: Arc<dyn ClientCertVerifier>,
    tokens: Arc<Tokens>,
    anonymous: Arc<User>,
}

impl Authenticator {
    /// Trusts the authority and the service-account key of `pki`.
    pub fn new(store: Store, pki: &Pki, tokens: Arc<Tokens>) -> Result<Self, TlsError> {
        Ok(Self {
            store,
            verifier: client_verifier(pki)?,
            tokens,
            anonymous: Arc::new(User::anonymous()),
        })
    }

    /// Who holds the certificate chain that a connection came with (empty: none).
    pub fn peer(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Peer {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Peer::Unknown;
        };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        if let Err(error) = self.verifier.verify_client_cert(leaf, intermediates, time) {
            return Peer::Refused {
                reason: error.to_string(),
            };
        }
        match certificate_user(leaf) {
            Ok((user, not_after)) => Peer::Known {
                user: Arc::new(user),
                not_after,
            },
            Err(reason) => Peer::Refused { reason },
        }
    }

    /// Who makes a request on a connection with `peer` and the header `Authorization`.
    /// Credentials that are there and wrong are refused; none at all are `system:anonymous`.
    pub fn authenticate(
        &self,
        peer: &Peer,
        authorization: Option<&str>,
        now: Timestamp,
    ) -> Result<Arc<User>, Unauthorized> {
        let mut problem = None;
        match peer {
            Peer::Unknown => {}
            Peer::Known { user, not_after } if now.as_second() <= *not_after => {
                return Ok(Arc::clone(user));
            }
            Peer::Known { .. } => problem = Some("the client certificate has expired".to_owned()),
            Peer::Refused { reason } => problem = Some(reason.clone()),
        }
        if let Some(token) = authorization.and_then(bearer) {
            match self.authenticate_token(token, &[ISSUER.to_owned()], now) {
                Ok((user, _)) => return Ok(Arc::new(user)),
                Err(error) => problem = Some(error.to_string()),
            }
        }
        match problem {
            Some(reason) => Err(Unauthorized { reason }),
            None => Ok(Arc::clone(&self.anonymous)),
        }
    }

    /// The user of a bearer token, and those of `audiences` that it is for.
    pub fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(User, Vec<String>), TokenError> {
        if let Some((id, secret)) = bootstrap_parts(token) {
            let stored = self
                .store
                .get(&format!("secrets/kube-system/bootstrap-token-{id}"))
                .ok_or(TokenError::Invalid)?;
            let user = bootstrap_user(&stored.value(), id, secret, now)?;
            return Ok((user, audiences.to_vec()));
        }
        self.tokens.verify(&self.store, token, audiences, now)
    }

    /// What issues and verifies the tokens of service accounts.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The store that bound objects are looked up in.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

/// The token of a header `Authorization: Bearer …`; the scheme in any case.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The user that a certificate names: CN is the name, each O a group.
fn certificate_user(der: &CertificateDer<'_>) -> Result<(User, i64), String> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
    let texts = |attributes: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        attributes
            .into_iter()
            .map(|attribute| attribute.as_str().map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    };
    let subject = certificate.subject();
    let name = texts(subject.iter_common_name().collect())?
        .pop()
        .filter(|name| !name.is_empty())
        .ok_or("the client certificate has no common name")?;
    let mut groups = texts(subject.iter_organization().collect())?;
    if !groups.iter().any(|group| group == GROUP_AUTHENTICATED) {
        groups.push(GROUP_AUTHENTICATED.to_owned());
    }
    let digest = digest::digest(&digest::SHA256, der);
    let fingerprint: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let user = User {
        name,
        groups,
        extra: [(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("X509SHA256={fingerprint}")],
        )]
        .into(),
        ..User::default()
    };
    Ok((user, certificate.validity().not_after.timestamp()))
}

/// The two parts of a bootstrap token, `[a-z0-9]{6}.[a-z0-9]{16}`.
fn bootstrap_parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (fits(id, 6) && fits(secret, 16)).then_some((id, secret))
}

fn bootstrap_user(
    stored: &Value,
    id: &str,
    secret: &str,
    now: Timestamp,
) -> Result<User, TokenError> {
    let data = |key: &str| -> Option<String> {
        let encoded = stored.get("data")?.get(key)?.as_str()?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .ok()?;
        String::from_utf8(bytes).ok()
    };
    // Digests are compared, so that the time says nothing about the secret.
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    let good = stored.get("type").and_then(Value::as_str) == Some("bootstrap.kubernetes.io/token")
        && stored.pointer("/metadata/deletionTimestamp").is_none()
        && data("token-id").as_deref() == Some(id)
        && data("token-secret")
            .is_some_and(|stored| hash(&stored).as_ref() == hash(secret).as_ref())
        && data("usage-bootstrap-authentication").as_deref() == Some("true");
    if !good {
        return Err(TokenError::Invalid);
    }
    if let Some(expiration) = data("expiration") {
        // One that cannot be read counts as past, as it does for the real server.
        let ends = expiration.parse::<Timestamp>().unwrap_or(Timestamp::MIN);
        if ends <= now {
            return Err(TokenError::Time);
        }
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',') {
        let group = group.trim();
        if group.is_empty() {
            continue;
        }
        if !group.starts_with("system:bootstrappers:") {
            return Err(TokenError::Invalid);
        }
        groups.push(group.to_owned());
    }
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Ok(User {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..User::default()
    })
}
