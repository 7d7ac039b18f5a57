//! A certificate and its key, as PEM, in one file.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A certificate with its chain, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The API server of the cluster that issued it.
    pub cluster: String,
    /// PEM, the certificate first.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: Timestamp,
    /// The last.
    pub until: Timestamp,
}

/// Why a pair cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The file system will not.
    #[error("{}: the certificate of this node cannot be {what}; --root must be a directory that this user may write", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Before the certificate stands the cluster; readers of PEM skip it.
const CLUSTER: &str = "cluster: ";
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

impl Pair {
    /// The pair in a file; none where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load(path: &Path) -> Result<Option<Self>, PairError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(PairError::Io {
                    path: path.to_owned(),
                    what: "read",
                    source,
                });
            }
        };
        // Without a key it is found unusable later.
        let at = text.find(KEY).unwrap_or(text.len());
        let (rest, key) = text.split_at(at);
        let (cluster, certificate) = rest
            .strip_prefix(CLUSTER)
            .and_then(|rest| rest.split_once('\n'))
            .unwrap_or(("", rest));
        Ok(Some(Self {
            cluster: cluster.to_owned(),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }))
    }

    /// Writes the pair, whole or not at all, for this user alone.
    ///
    /// # Errors
    /// A directory that cannot be made or written.
    pub fn store(&self, path: &Path) -> Result<(), PairError> {
        let failed = |source| PairError::Io {
            path: path.to_owned(),
            what: "written",
            source,
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        let new = path.with_extension(format!("new-{}", std::process::id()));
        // What an earlier run of this number left may have any permissions.
        let _ = std::fs::remove_file(&new);
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            writeln!(file, "{CLUSTER}{}", self.cluster)?;
            file.write_all(self.certificate.as_bytes())?;
            file.write_all(self.key.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, path)
        };
        write().map_err(failed)
    }

    /// How long it is good for, as the certificate of `subject`; else what is wrong with it.
    ///
    /// # Errors
    /// In words: it is over, it is another's, key and certificate do not fit.
    pub fn usable(&self, subject: &str, now: Timestamp) -> Result<Validity, String> {
        let found = validity(self.certificate.as_bytes())?;
        if found.until <= now {
            return Err(format!("it expired at {}", found.until));
        }
        let chain = chain(self.certificate.as_bytes())?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| error.to_string())?;
        let name = parsed
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .unwrap_or_default();
        if name != subject {
            return Err(format!("it is of {name:?}, not of {subject:?}"));
        }
        let key = rcgen::KeyPair::from_pem(&self.key)
            .map_err(|error| format!("its key cannot be used: {error}"))?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) != parsed.public_key().raw {
            return Err("it is of another key".to_owned());
        }
        Ok(found)
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    if chain.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(chain)
}

/// The validity of the first certificate of a PEM text.
pub(super) fn validity(pem: &[u8]) -> Result<Validity, String> {
    let chain = chain(pem)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| error.to_string())?;
    let time = |at: x509_parser::time::ASN1Time| {
        Timestamp::from_second(at.timestamp()).map_err(|error| error.to_string())
    };
    Ok(Validity {
        from: time(parsed.validity().not_before)?,
        until: time(parsed.validity().not_after)?,
    })
}

/// The organizations of the first certificate of a PEM text, which are the groups of a user.
pub(super) fn organizations(pem: &[u8]) -> Vec<String> {
    let Ok(chain) = chain(pem) else {
        return Vec::new();
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&chain[0]) else {
        return Vec::new();
    };
    let names = parsed.subject().iter_organization();
    names
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn made(name: &str) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        Pair {
            cluster: "https://127.0.0.1:6443/".to_owned(),
            certificate: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    #[test]
    fn what_was_stored_is_loaded_and_for_this_user_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/er/client.pem");
        assert!(Pair::load(&path).unwrap().is_none());
        let (one, two) = (made("system:node:n"), made("system:node:n"));
        for pair in [&one, &two] {
            pair.store(&path).unwrap();
            assert!(Pair::load(&path).unwrap() == Some(pair.clone()));
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let now = Timestamp::now();
        let (mine, other) = (made("system:node:n"), made("system:node:n"));
        let validity = mine.usable("system:node:n", now).unwrap();
        assert!(validity.from < now && now < validity.until);
        let why = |pair: &Pair, name: &str, at| pair.usable(name, at).unwrap_err();
        assert_eq!(
            why(&mine, "system:node:m", now),
            "it is of \"system:node:n\", not of \"system:node:m\""
        );
        assert!(why(&mine, "system:node:n", validity.until).starts_with("it expired at "));
        let mixed = Pair {
            key: other.key,
            ..mine.clone()
        };
        assert_eq!(why(&mixed, "system:node:n", now), "it is of another key");
        let bare = Pair {
            key: String::new(),
            ..mine
        };
        assert!(why(&bare, "system:node:n", now).starts_with("its key cannot be used"));
    }
}
