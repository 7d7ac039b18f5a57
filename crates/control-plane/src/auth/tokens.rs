//! Tokens of service accounts: JSON Web Tokens signed with ES256, with the claims that Kubernetes
//! gives them (kubernetes/kubernetes, pkg/serviceaccount/claims.go).

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pki::Pki;
use super::{GROUP_AUTHENTICATED, GROUP_SERVICE_ACCOUNTS, SERVICE_ACCOUNT_USER_PREFIX, User};
use crate::store::Store;

/// Who issues the tokens, and their default audience.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// How far clocks may be apart, in seconds (the default of the library that the real server uses).
const LEEWAY: i64 = 60;

/// How many verified tokens are remembered; verifying one again costs some 100 µs.
const REMEMBERED: usize = 4096;

/// The name and UID of an object that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundRef {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaim {
    /// The namespace of the service account.
    pub namespace: String,
    /// The node of the pod, or the node that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundRef>,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundRef>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundRef>,
    /// The service account.
    pub serviceaccount: BoundRef,
}

/// The claims of a token. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    #[serde(rename = "aud")]
    pub audiences: Vec<String>,
    /// Expires.
    #[serde(rename = "exp")]
    pub expires: i64,
    /// Issued at.
    #[serde(rename = "iat")]
    pub issued: i64,
    /// Issuer.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// The identity of this token.
    #[serde(rename = "jti")]
    pub id: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaim,
    /// Not before.
    #[serde(rename = "nbf")]
    pub not_before: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(rename = "sub")]
    pub subject: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// Why a token is not accepted. Its text may go to a client: it says nothing of what is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token of ours, or the signature is wrong.
    #[error("invalid bearer token")]
    Invalid,
    /// Its time has not come or is over.
    #[error("service account token is not valid at this time")]
    Time,
    /// It is meant for others.
    #[error("token audiences {got:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// The token's audiences.
        got: Vec<String>,
        /// Those of which one is needed.
        wanted: Vec<String>,
    },
    /// What it is bound to is not there any more.
    #[error("service account token has been invalidated")]
    Gone,
}

/// Signing could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key cannot sign")]
pub struct KeyError;

/// Signs and verifies tokens.
#[derive(Debug)]
pub struct Tokens {
    key: EcdsaKeyPair,
    public: Vec<u8>,
    key_id: String,
    random: SystemRandom,
    /// Claims by the SHA-256 of tokens whose signature was good.
    verified: Mutex<BTreeMap<[u8; 32], Claims>>,
}

impl Tokens {
    /// Signs with the service-account key of the cluster.
    pub fn new(pki: &Pki) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &pki.service_account_key.serialize_der(),
            &random,
        )
        .map_err(|_| KeyError)?;
        let public_info = rcgen::PublicKeyData::subject_public_key_info(&pki.service_account_key);
        Ok(Self {
            public: signature::KeyPair::public_key(&key).as_ref().to_vec(),
            key,
            key_id: BASE64URL.encode(digest::digest(&digest::SHA256, &public_info)),
            random,
            verified: Mutex::default(),
        })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let claims = serde_json::to_vec(claims).map_err(|_| KeyError)?;
        let mut token = format!(
            "{}.{}",
            BASE64URL.encode(header.to_string()),
            BASE64URL.encode(claims)
        );
        let signature = self
            .key
            .sign(&self.random, token.as_bytes())
            .map_err(|_| KeyError)?;
        token.push('.');
        token.push_str(&BASE64URL.encode(signature));
        Ok(token)
    }

    /// The claims of a token that we signed, whatever the time.
    fn open(&self, token: &str) -> Result<Claims, TokenError> {
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let fingerprint: [u8; 32] = digest
            .as_ref()
            .try_into()
            .map_err(|_| TokenError::Invalid)?;
        let remembered = || {
            self.verified
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some(claims) = remembered().get(&fingerprint) {
            return Ok(claims.clone());
        }
        let claims = self.open_unknown(token).ok_or(TokenError::Invalid)?;
        let mut verified = remembered();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(fingerprint, claims.clone());
        Ok(claims)
    }

    fn open_unknown(&self, token: &str) -> Option<Claims> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, body) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64URL.decode(header).ok()?).ok()?;
        if header.alg != "ES256" || header.kid != self.key_id {
            return None;
        }
        let signature = BASE64URL.decode(signature).ok()?;
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(message.as_bytes(), &signature)
            .ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64URL.decode(body).ok()?).ok()?;
        (claims.issuer == ISSUER).then_some(claims)
    }

    /// The user of a token and those of `audiences` that it is for. What the token is bound to
    /// must still be there, with the same UID.
    pub fn verify(
        &self,
        store: &Store,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(User, Vec<String>), TokenError> {
        let claims = self.open(token)?;
        let now = now.as_second();
        if now > claims.expires.saturating_add(LEEWAY) || now < claims.not_before - LEEWAY {
            return Err(TokenError::Time);
        }
        let common: Vec<String> = audiences
            .iter()
            .filter(|audience| claims.audiences.contains(audience))
            .cloned()
            .collect();
        if common.is_empty() {
            return Err(TokenError::Audience {
                got: claims.audiences,
                wanted: audiences.to_vec(),
            });
        }
        check_bound(store, &claims.kubernetes)?;
        Ok((user(&claims), common))
    }

    /// The JSON Web Key Set with the public key.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 0x04, x, y.
        let (x, y) = self.public[1..].split_at(32);
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": BASE64URL.encode(x),
            "y": BASE64URL.encode(y),
        }]})
    }
}

/// The OpenID Connect discovery document; `server_url` is where this server is reached.
pub fn openid_configuration(server_url: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{server_url}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

#[derive(Deserialize)]
struct Stored {
    metadata: StoredMetadata,
}

#[derive(Deserialize)]
struct StoredMetadata {
    #[serde(default)]
    uid: String,
}

/// `metadata.uid` of the object under `key`.
pub(super) fn stored_uid(store: &Store, key: &str) -> Option<String> {
    let object = store.get(key)?;
    serde_json::from_slice::<Stored>(&object.json)
        .ok()
        .map(|stored| stored.metadata.uid)
}

fn check_bound(store: &Store, claim: &KubernetesClaim) -> Result<(), TokenError> {
    let namespace = &claim.namespace;
    let check = |resource: &str, namespace: &str, bound: &BoundRef| {
        let key = format!("{resource}/{namespace}/{}", bound.name);
        if stored_uid(store, &key).as_ref() == Some(&bound.uid) {
            Ok(())
        } else {
            Err(TokenError::Gone)
        }
    };
    check("serviceaccounts", namespace, &claim.serviceaccount)?;
    match (&claim.pod, &claim.secret, &claim.node) {
        // The node of a pod's token is information, not a bond.
        (Some(pod), _, _) => check("pods", namespace, pod),
        (None, Some(secret), _) => check("secrets", namespace, secret),
        (None, None, Some(node)) => check("nodes", "", node),
        (None, None, None) => Ok(()),
    }
}

/// The groups of every service account of a namespace.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        GROUP_SERVICE_ACCOUNTS.to_owned(),
        format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}"),
        GROUP_AUTHENTICATED.to_owned(),
    ]
}

/// The user name of a service account.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_USER_PREFIX}{namespace}:{name}")
}

fn user(claims: &Claims) -> User {
    let claim = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: String| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    add("credential-id", format!("JTI={}", claims.id));
    if let Some(pod) = &claim.pod {
        add("pod-name", pod.name.clone());
        add("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &claim.node {
        add("node-name", node.name.clone());
        add("node-uid", node.uid.clone());
    }
    User {
        name: service_account_name(&claim.namespace, &claim.serviceaccount.name),
        uid: claim.serviceaccount.uid.clone(),
        groups: service_account_groups(&claim.namespace),
        extra,
    }
}
