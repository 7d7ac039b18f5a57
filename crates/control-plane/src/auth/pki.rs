//! The cluster's keys and certificates: loaded from a directory, made where they are missing.
//!
//! There are two authorities. `ca` signs what clients of the API server trust and what the API server takes for a
//! client; `kubelet-ca` signs what kubelets serve with, and the API server alone trusts it, towards kubelets
//! (docs/decisions/0007-authority-of-kubelets.md).
//!
//! All keys are ECDSA P-256. A key is written before its certificate, so that a start after a
//! crash at any point finds either a whole pair or makes the missing half again. The
//! authorities and the service-account key are never replaced; the certificates that `ca`
//! issues are, when they near their end, come from another authority, or (the server's) lack a
//! name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::files::{self, FileError};

/// The address that the Service `default/kubernetes` has.
pub const KUBERNETES_SERVICE_IP: &str = "10.96.0.1";

/// Certificates are valid from a little before now, for clocks that are behind
/// (the real signer takes five minutes too).
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3650);
const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365);
/// A certificate with less than this left is issued anew at start.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 90);

/// Why the keys could not be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or a certificate could not be made.
    #[error("cannot make {what}")]
    Make {
        /// What should have been made.
        what: String,
        /// Why that failed.
        #[source]
        source: rcgen::Error,
    },
    /// A file that may not be replaced is damaged.
    #[error("{} is damaged: {problem}; restore it, or remove the state directory to start a new cluster", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A name that cannot stand in a certificate.
    #[error("{name:?} cannot be a subject name of a certificate")]
    BadName {
        /// The name.
        name: String,
    },
}

/// A certificate and its key, both as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub cert_pem: String,
    /// The key (PKCS#8).
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Pair {
    /// The certificate and the key as rustls takes them.
    pub fn to_rustls(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rustls::pki_types::pem::Error>
    {
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())?;
        Ok((chain, key))
    }
}

/// The keys and certificates of one cluster.
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    kubelet_issuer: Issuer<'static, KeyPair>,
    /// The certificate of the authority of kubelets, DER. It says nothing of who is the API server.
    pub kubelet_ca_der: CertificateDer<'static>,
    /// The certificate of the authority, PEM.
    pub ca_pem: String,
    /// The certificate of the authority, DER.
    pub ca_der: CertificateDer<'static>,
    /// What the API server shows its clients.
    pub server: Pair,
    /// `kubernetes-admin` in `system:masters`.
    pub admin: Pair,
    /// What the API server shows a kubelet: `kube-apiserver-kubelet-client`.
    pub kubelet_client: Pair,
    /// What signs the tokens of service accounts.
    pub service_account_key: KeyPair,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS client authentication.
    Client,
    /// TLS server authentication.
    Server,
}

impl Pki {
    /// Loads the files in `dir`, makes those that are missing, and renews those that must be
    /// renewed. `names` are the host names and addresses, beyond the usual ones (loopback, this
    /// host's name, the `kubernetes` Service), under which clients reach the server.
    ///
    /// Safe to call again after it was killed at any point. Two processes must not call it for one
    /// directory at once; the lock of the store sees to that.
    pub fn load_or_create(dir: &Path, names: &[String], now: Timestamp) -> Result<Self, PkiError> {
        files::private_dir(dir)?;
        let ca = Authority::load_or_make(dir, "ca", "kubernetes", now)?;
        let kubelets = Authority::load_or_make(dir, "kubelet-ca", "kubernetes-kubelets", now)?;

        let service_account_key = load_or_make_key(&dir.join("sa.key"))?;
        let public = service_account_key.public_key_pem();
        let public_path = dir.join("sa.pub");
        if files::read_if_present(&public_path)?.as_deref() != Some(&public) {
            files::write_atomic(&public_path, public.as_bytes(), 0o644)?;
        }

        let folder = Folder {
            dir,
            issuer: &ca.issuer,
            ca: &ca.facts,
            now,
        };
        let server = folder.load_or_issue("apiserver", || {
            leaf("kube-apiserver", None, &server_names(names), Usage::Server)
        })?;
        let admin = folder.load_or_issue("admin", || {
            leaf(
                "kubernetes-admin",
                Some(super::GROUP_MASTERS),
                &[],
                Usage::Client,
            )
        })?;
        // In kubeadm's clusters it is a member of system:masters too or of kubeadm:cluster-admins;
        // a kubelet asks by SubjectAccessReview what it may do.
        let kubelet_client = folder.load_or_issue("apiserver-kubelet-client", || {
            leaf(
                "kube-apiserver-kubelet-client",
                Some(super::GROUP_MASTERS),
                &[],
                Usage::Client,
            )
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer: ca.issuer,
            kubelet_issuer: kubelets.issuer,
            kubelet_ca_der: kubelets.der,
            ca_pem: ca.pem,
            ca_der: ca.der,
            server,
            admin,
            kubelet_client,
            service_account_key,
        })
    }

    /// The directory that holds the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new key and a client certificate for the user `name` in `group`, valid for a year.
    pub fn issue_client(
        &self,
        name: &str,
        group: Option<&str>,
        now: Timestamp,
    ) -> Result<Pair, PkiError> {
        issue(&self.issuer, leaf(name, group, &[], Usage::Client)?, now)
    }

    /// A new key and a serving certificate for the kubelet endpoint of node `node` at `names`
    /// (host names or addresses), valid for a year.
    pub fn issue_serving(
        &self,
        node: &str,
        names: &[String],
        now: Timestamp,
    ) -> Result<Pair, PkiError> {
        let params = leaf(
            &format!("{}{node}", super::NODE_USER_PREFIX),
            Some(super::GROUP_NODES),
            names,
            Usage::Server,
        )?;
        issue(&self.kubelet_issuer, params, now)
    }

    /// Signs a certificate signing request as it stands (subject and subject names are taken from
    /// it, usages and lifetime are not); the caller has checked it. Servers are kubelets, and get
    /// theirs from the authority of kubelets.
    pub fn sign_request(
        &self,
        request: CertificateSigningRequestParams,
        usage: Usage,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let mut params = request.params;
        set_usage(&mut params, usage);
        params.is_ca = IsCa::ExplicitNoCa;
        set_validity(&mut params, lifetime.min(LEAF_LIFETIME), now);
        let issuer = match usage {
            Usage::Client => &self.issuer,
            Usage::Server => &self.kubelet_issuer,
        };
        let certificate = params
            .signed_by(&request.public_key, issuer)
            .map_err(making("a certificate"))?;
        Ok(certificate.pem())
    }

    /// Writes a kubeconfig (mode 0600) with the client certificate inline. `cluster` also names
    /// the context and the user.
    pub fn write_kubeconfig(
        &self,
        path: &Path,
        server_url: &str,
        cluster: &str,
        client: &Pair,
    ) -> Result<(), PkiError> {
        let text = kubeconfig(server_url, cluster, &self.ca_pem, client);
        files::write_atomic(path, text.as_bytes(), 0o600)?;
        Ok(())
    }
}

/// A certificate authority that lies in `STEM.key` and `STEM.crt`.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
    facts: CertificateFacts,
}

impl Authority {
    fn load_or_make(dir: &Path, stem: &str, name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key_file = format!("{stem}.key");
        let key = load_or_make_key(&dir.join(&key_file))?;
        let path = dir.join(format!("{stem}.crt"));
        let pem = match files::read_if_present(&path)? {
            Some(pem) => pem,
            None => {
                let pem = make_ca(&key, name, now)?;
                files::write_atomic(&path, pem.as_bytes(), 0o644)?;
                pem
            }
        };
        let damaged = |problem: String| PkiError::Damaged {
            path: path.clone(),
            problem,
        };
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let facts = CertificateFacts::parse(&der).map_err(&damaged)?;
        if facts.public_key != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(damaged(format!("it does not belong to {key_file}")));
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|error| damaged(error.to_string()))?;
        Ok(Self {
            issuer,
            pem,
            der,
            facts,
        })
    }
}

/// A kubeconfig with one cluster, one user and one context, all named `cluster`.
pub fn kubeconfig(server_url: &str, cluster: &str, ca_pem: &str, client: &Pair) -> String {
    use base64::Engine as _;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    // Names and addresses come as JSON strings, which are YAML too.
    let name = serde_json::Value::from(cluster);
    let server = serde_json::Value::from(server_url);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {name}\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {ca}\n\
         contexts:\n\
         - name: {name}\n\
         \x20 context:\n\
         \x20   cluster: {name}\n\
         \x20   user: {name}\n\
         current-context: {name}\n\
         preferences: {{}}\n\
         users:\n\
         - name: {name}\n\
         \x20 user:\n\
         \x20   client-certificate-data: {cert}\n\
         \x20   client-key-data: {key}\n",
        ca = encode(ca_pem),
        cert = encode(&client.cert_pem),
        key = encode(&client.key_pem),
    )
}

/// What of a certificate matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CertificateFacts {
    /// SubjectPublicKeyInfo, DER.
    public_key: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    not_before: i64,
    not_after: i64,
    names: BTreeSet<String>,
}

impl CertificateFacts {
    fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
        let mut facts = Self {
            public_key: certificate.public_key().raw.to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
            subject_key_id: None,
            authority_key_id: None,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            names: BTreeSet::new(),
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    facts.subject_key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts
                        .names
                        .extend(names.general_names.iter().filter_map(name_text));
                }
                _ => {}
            }
        }
        Ok(facts)
    }
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => {
            if let Ok(four) = <[u8; 4]>::try_from(*octets) {
                Some(IpAddr::from(four).to_string())
            } else {
                <[u8; 16]>::try_from(*octets)
                    .ok()
                    .map(|sixteen| IpAddr::from(sixteen).to_string())
            }
        }
        _ => None,
    }
}

/// The directory with all that is needed to decide whether a pair in it can stay.
struct Folder<'a> {
    dir: &'a Path,
    issuer: &'a Issuer<'static, KeyPair>,
    ca: &'a CertificateFacts,
    now: Timestamp,
}

impl Folder<'_> {
    fn load_or_issue(
        &self,
        stem: &str,
        params: impl FnOnce() -> Result<CertificateParams, PkiError>,
    ) -> Result<Pair, PkiError> {
        let params = params()?;
        let cert_path = self.dir.join(format!("{stem}.crt"));
        let key_path = self.dir.join(format!("{stem}.key"));
        if let (Some(cert_pem), Some(key_pem)) = (
            files::read_if_present(&cert_path)?,
            files::read_if_present(&key_path)?,
        ) && self.is_good(&cert_pem, &key_pem, &params)
        {
            return Ok(Pair { cert_pem, key_pem });
        }
        let pair = issue(self.issuer, params, self.now)?;
        files::write_atomic(&key_path, pair.key_pem.as_bytes(), 0o600)?;
        files::write_atomic(&cert_path, pair.cert_pem.as_bytes(), 0o644)?;
        Ok(pair)
    }

    fn is_good(&self, cert_pem: &str, key_pem: &str, wanted: &CertificateParams) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(cert_pem.as_bytes()) else {
            return false;
        };
        let (Ok(facts), Ok(key)) = (CertificateFacts::parse(&der), KeyPair::from_pem(key_pem))
        else {
            return false;
        };
        let now = self.now.as_second();
        facts.public_key == rcgen::PublicKeyData::subject_public_key_info(&key)
            && facts.issuer == self.ca.subject
            && facts.authority_key_id == self.ca.subject_key_id
            && facts.not_before <= now
            && now < facts.not_after - RENEW_BEFORE.as_secs()
            && wanted
                .subject_alt_names
                .iter()
                .all(|name| facts.names.contains(&san_text(name)))
    }
}

fn san_text(name: &SanType) -> String {
    match name {
        SanType::DnsName(name) => name.to_string(),
        SanType::IpAddress(address) => address.to_string(),
        other => format!("{other:?}"),
    }
}

fn making(what: impl Into<String>) -> impl FnOnce(rcgen::Error) -> PkiError {
    let what = what.into();
    move |source| PkiError::Make { what, source }
}

fn make_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(making("a key"))
}

fn load_or_make_key(path: &Path) -> Result<KeyPair, PkiError> {
    match files::read_if_present(path)? {
        Some(pem) => {
            let key = KeyPair::from_pem(&pem).map_err(|error| PkiError::Damaged {
                path: path.to_owned(),
                problem: error.to_string(),
            })?;
            if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
                return Err(PkiError::Damaged {
                    path: path.to_owned(),
                    problem: "it is no ECDSA P-256 key".to_owned(),
                });
            }
            Ok(key)
        }
        None => {
            let key = make_key()?;
            files::write_atomic(path, key.serialize_pem().as_bytes(), 0o600)?;
            Ok(key)
        }
    }
}

fn make_ca(key: &KeyPair, name: &str, now: Timestamp) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    set_validity(&mut params, CA_LIFETIME, now);
    let certificate = params
        .self_signed(key)
        .map_err(making("the certificate authority"))?;
    Ok(certificate.pem())
}

/// Names of the Service of the API server.
pub const KUBERNETES_SERVICE_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

fn server_names(extra: &[String]) -> Vec<String> {
    let mut names: Vec<String> = KUBERNETES_SERVICE_NAMES.map(str::to_owned).into();
    names.extend(["localhost", "127.0.0.1", "::1", KUBERNETES_SERVICE_IP].map(str::to_owned));
    if let Ok(host) = nix::unistd::gethostname()
        && let Ok(host) = host.into_string()
        && is_dns_name(&host)
    {
        names.push(host);
    }
    names.extend(extra.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// Host names may hold anything on Linux; only those that may stand in a certificate go in.
fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

fn leaf(
    name: &str,
    group: Option<&str>,
    names: &[String],
    usage: Usage,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    for name in names {
        let san = if let Ok(address) = name.parse::<IpAddr>() {
            SanType::IpAddress(address)
        } else if is_dns_name(name) {
            SanType::DnsName(
                name.as_str()
                    .try_into()
                    .map_err(|_| PkiError::BadName { name: name.clone() })?,
            )
        } else {
            return Err(PkiError::BadName { name: name.clone() });
        };
        params.subject_alt_names.push(san);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    set_usage(&mut params, usage);
    Ok(params)
}

fn set_usage(params: &mut CertificateParams, usage: Usage) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match usage {
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.use_authority_key_identifier_extension = true;
}

fn set_validity(params: &mut CertificateParams, lifetime: SignedDuration, now: Timestamp) {
    let at = |seconds: i64| {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let now = now.as_second();
    params.not_before = at(now - BACKDATE.as_secs());
    params.not_after = at(now + lifetime.as_secs());
    let mut serial = *uuid::Uuid::new_v4().as_bytes();
    // A serial number is a positive integer.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    mut params: CertificateParams,
    now: Timestamp,
) -> Result<Pair, PkiError> {
    let key = make_key()?;
    set_validity(&mut params, LEAF_LIFETIME, now);
    let certificate = params
        .signed_by(&key, issuer)
        .map_err(making("a certificate"))?;
    Ok(Pair {
        cert_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}
