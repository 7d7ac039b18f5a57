//! The listener's certificate, and which clients' certificates count.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

/// Where the serving certificate comes from.
#[derive(Clone)]
pub enum ServingCertificate {
    /// PEM files that somebody gave us.
    Files {
        /// The certificate, with its chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// PEM texts that were made for this run.
    Pem {
        /// The certificate, with its chain.
        certificate: String,
        /// Its key.
        key: String,
    },
    /// One that may be replaced while it serves. An API server accepts one that is signed by itself
    /// unless it was started with `--kubelet-certificate-authority`.
    Replaceable(Arc<Replaceable>),
}

/// A serving certificate that may be replaced. Connections that are open keep what they began with.
#[derive(Debug)]
pub struct Replaceable {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Replaceable {
    /// Begins with one that is signed by itself, for these names and addresses.
    ///
    /// # Errors
    /// [`TlsError::Make`].
    pub fn self_signed(names: &[String]) -> Result<Self, TlsError> {
        let (chain, key) = sign(names)?;
        Self::of(chain, key)
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            current: RwLock::new(certified(chain, key)?),
        })
    }

    /// Serves with these PEM texts from now on.
    ///
    /// # Errors
    /// Texts that are no certificate and its key; then nothing changes.
    pub fn replace(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        let (chain, key) = read_texts(certificate, key)?;
        let new = certified(chain, key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl ResolvesServerCert for Replaceable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
}

fn sign(
    names: &[String],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|source| TlsError::Make {
        names: names.to_vec(),
        source,
    })?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Ok((vec![made.cert.der().clone()], key))
}

/// What can be wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file does not hold what it should.
    #[error("{}: no {what} in it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// Why it could not be read.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate could not be made.
    #[error("no self-signed certificate for {names:?}")]
    Make {
        /// For whom.
        names: Vec<String>,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// Certificate and key do not fit, or the client CA cannot be used.
    #[error("the certificates of the kubelet API do not work")]
    Rustls(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("the CA of client certificates does not work")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// Builds the configuration. Clients may show a certificate of `client_ca`; where there is none,
/// tokens alone count.
///
/// # Errors
/// The file that does not fit, by name.
pub fn server_config(
    serving: &ServingCertificate,
    client_ca: &[CertificateDer<'static>],
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let of = |(chain, key)| Ok::<_, TlsError>(Arc::new(Replaceable::of(chain, key)?));
    let resolver = match serving {
        ServingCertificate::Files { certificate, key } => of(read_files(certificate, key)?)?,
        ServingCertificate::Pem { certificate, key } => of(read_texts(certificate, key)?)?,
        ServingCertificate::Replaceable(current) => Arc::clone(current),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(client_ca.iter().cloned());
    let builder = if roots.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_cert_resolver(resolver);
    // Upgraded streams (exec, port-forward) need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read_texts(
    certificate: &str,
    key: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let failed = |what| {
        move |source| TlsError::File {
            path: "(memory)".into(),
            what,
            source,
        }
    };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(failed("private key"))?;
    Ok((chain, key))
}

fn read_files(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let failed = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::File { path, what, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed(certificate, "certificate"))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key, "private key"))?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_is_named() {
        let serving = ServingCertificate::Files {
            certificate: "/nonexistent/tls.crt".into(),
            key: "/nonexistent/tls.key".into(),
        };
        let error = server_config(&serving, &[]).expect_err("no such file");
        assert_eq!(
            error.to_string(),
            "/nonexistent/tls.crt: no certificate in it"
        );
    }

    #[test]
    fn a_self_signed_certificate_serves() {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let first = Arc::new(Replaceable::self_signed(&names).expect("a certificate"));
        let serving = ServingCertificate::Replaceable(Arc::clone(&first));
        let config = server_config(&serving, &[]).expect("a configuration");
        assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_certificate_is_replaced_by_a_whole_pair_alone() {
        let make = || {
            let made = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).expect("made");
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let (first, second) = (make(), make());
        let current = Replaceable::self_signed(&["n".to_owned()]).expect("made");
        let shown = || current.current.read().expect("no panic").cert[0].clone();
        let before = shown();
        current
            .replace(&first.0, &second.1)
            .expect_err("another's key");
        assert_eq!(shown(), before);
        current.replace(&second.0, &second.1).expect("a pair");
        assert_ne!(shown(), before);
    }
}
