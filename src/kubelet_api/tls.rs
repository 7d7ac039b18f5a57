//! The listener's certificate, and which clients' certificates count.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
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
    /// One that is made now, signed by itself, for these names and addresses. An API server accepts
    /// it unless it was started with `--kubelet-certificate-authority`.
    SelfSigned {
        /// DNS names and IP addresses.
        names: Vec<String>,
    },
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
    let (chain, key) = match serving {
        ServingCertificate::Files { certificate, key } => read_files(certificate, key)?,
        ServingCertificate::Pem { certificate, key } => read_texts(certificate, key)?,
        ServingCertificate::SelfSigned { names } => {
            rcgen::generate_simple_self_signed(names.clone())
                .map(|made| {
                    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
                    (vec![made.cert.der().clone()], key)
                })
                .map_err(|source| TlsError::Make {
                    names: names.clone(),
                    source,
                })?
        }
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
    let mut config = builder.with_single_cert(chain, key)?;
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
        let serving = ServingCertificate::SelfSigned {
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let config = server_config(&serving, &[]).expect("a configuration");
        assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
    }
}
