//! What a CertificateSigningRequest asks for: the one reader that validation, admission and the signer share, so
//! that what one of them has checked is what the other signs.
//!
//! Facts: kubernetes/kubernetes pkg/apis/certificates/helpers.go (`ParseCSR`), RFC 2986, RFC 7468.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateSigningRequestDer;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::AttributeTypeAndValue;

const LABEL: &str = "CERTIFICATE REQUEST";

/// Why `spec.request` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// No base64.
    #[error("the request is no base64: {0}")]
    Base64(String),
    /// No PEM, or the first block is of another kind. The words are the real server's.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Label,
    /// Something follows the request.
    #[error("exactly one PEM block is allowed, of type CERTIFICATE REQUEST")]
    More,
    /// The block is no PKCS#10 request.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// It was not signed with the key that it names.
    #[error("the signature of the request does not belong to its public key")]
    Signature,
    /// A subject that programs read in different ways.
    #[error("the subject of the request {0}")]
    Subject(&'static str),
}

/// A request whose signature was checked, and what of it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    /// The request itself.
    pub der: CertificateSigningRequestDer<'static>,
    /// The common name; empty where there is none.
    pub name: String,
    /// The organizations.
    pub groups: Vec<String>,
    /// DNS names.
    pub dns: BTreeSet<String>,
    /// IP addresses.
    pub ips: BTreeSet<String>,
    /// Whether other kinds of names (e-mail, URI) are asked for.
    pub other_names: bool,
}

impl Csr {
    /// Reads `spec.request` of a CertificateSigningRequest object: one PEM block, and nothing that another reader
    /// could take for the request in its place.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn of(object: &Value) -> Result<Self, CsrError> {
        let text = object.pointer("/spec/request").and_then(Value::as_str);
        let pem = BASE64
            .decode(text.unwrap_or_default())
            .map_err(|error| CsrError::Base64(error.to_string()))?;
        let mut blocks = Pem::iter_from_buffer(&pem);
        let block = match blocks.next() {
            Some(Ok(block)) if block.label == LABEL => block,
            _ => return Err(CsrError::Label),
        };
        if blocks.next().is_some() {
            return Err(CsrError::More);
        }
        Self::parse(block.contents)
    }

    fn parse(der: Vec<u8>) -> Result<Self, CsrError> {
        let malformed = |error: &dyn std::fmt::Display| CsrError::Malformed(error.to_string());
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"data follows it"));
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        let subject = &request.certification_request_info.subject;
        if subject.iter().any(|part| part.iter().count() != 1) {
            return Err(CsrError::Subject("has a part that is not one attribute"));
        }
        let names = texts(subject.iter_common_name())?;
        let groups = texts(subject.iter_organization())?;
        if names.len() > 1 {
            return Err(CsrError::Subject("has more than one common name"));
        }
        let mut csr = Self {
            der: CertificateSigningRequestDer::from(Vec::new()),
            name: names.into_iter().next().unwrap_or_default(),
            groups,
            dns: BTreeSet::new(),
            ips: BTreeSet::new(),
            other_names: false,
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => {
                        csr.dns.insert((*name).to_owned());
                    }
                    GeneralName::IPAddress(octets) => {
                        let address =
                            address(octets).ok_or_else(|| malformed(&"an IP address is cut"))?;
                        csr.ips.insert(address);
                    }
                    _ => csr.other_names = true,
                }
            }
        }
        csr.der = CertificateSigningRequestDer::from(der);
        Ok(csr)
    }
}

/// The texts of attributes. One in an encoding that is not read here would be read by others.
fn texts<'a>(
    parts: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Result<Vec<String>, CsrError> {
    parts
        .map(|part| match part.as_str() {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(CsrError::Subject("has a text that is not ASCII or UTF-8")),
        })
        .collect()
}

fn address(octets: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(four).to_string());
    }
    <[u8; 16]>::try_from(octets)
        .ok()
        .map(|sixteen| IpAddr::from(sixteen).to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
    use serde_json::json;

    use super::*;

    /// The PEM text of a request with this subject.
    pub(crate) fn pem(parts: &[(DnType, DnValue)], sans: &[&str]) -> String {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let sans: Vec<String> = sans.iter().map(|san| (*san).to_owned()).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    fn of(text: impl AsRef<[u8]>) -> Result<Csr, CsrError> {
        Csr::of(&json!({"spec": {"request": BASE64.encode(text)}}))
    }

    fn master() -> String {
        pem(
            &[
                (DnType::OrganizationName, "system:masters".into()),
                (DnType::CommonName, "joe".into()),
            ],
            &["a.example", "10.0.0.1"],
        )
    }

    /// A block that programs skip which look for a request alone.
    const JUNK: &str = "-----BEGIN JUNK-----\nbm8=\n-----END JUNK-----\n";

    #[test]
    fn one_request_is_read() {
        for text in [master(), format!("Certificate Request:\n{}", master())] {
            let csr = of(text).unwrap();
            assert_eq!(csr.name, "joe");
            assert_eq!(csr.groups, ["system:masters"]);
            assert_eq!(csr.dns, BTreeSet::from(["a.example".to_owned()]));
            assert_eq!(csr.ips, BTreeSet::from(["10.0.0.1".to_owned()]));
            assert!(!csr.other_names);
        }
    }

    #[test]
    fn nothing_may_stand_beside_the_request() {
        assert_eq!(of(""), Err(CsrError::Label));
        assert_eq!(of("no"), Err(CsrError::Label));
        assert_eq!(of(JUNK), Err(CsrError::Label));
        assert_eq!(of(format!("{JUNK}{}", master())), Err(CsrError::Label));
        assert_eq!(of(format!("{}{JUNK}", master())), Err(CsrError::More));
        assert_eq!(of(format!("{}{}", master(), master())), Err(CsrError::More));
        let broken =
            "-----BEGIN CERTIFICATE REQUEST-----\nbm8=\n-----END CERTIFICATE REQUEST-----\n";
        assert!(matches!(of(broken), Err(CsrError::Malformed(_))));
        assert_eq!(of(format!("{broken}{}", master())), Err(CsrError::More));
        let csr = json!({"spec": {"request": "%"}});
        assert!(matches!(Csr::of(&csr), Err(CsrError::Base64(_))));
    }

    #[test]
    fn the_key_must_have_signed_it() {
        let mut der = of(master()).unwrap().der.to_vec();
        let place = der
            .windows(3)
            .position(|three| three == b"joe")
            .expect("the name");
        der[place] = b'z';
        assert_eq!(Csr::parse(der.clone()), Err(CsrError::Signature));
        der[place] = b'j';
        assert!(Csr::parse(der.clone()).is_ok());
        der.push(0);
        assert!(matches!(Csr::parse(der), Err(CsrError::Malformed(_))));
    }

    #[test]
    fn a_text_that_others_read_does_not_hide() {
        let hidden = rcgen::string::BmpString::try_from("system:masters").unwrap();
        let text = pem(
            &[
                (DnType::OrganizationName, DnValue::BmpString(hidden)),
                (DnType::CommonName, "joe".into()),
            ],
            &[],
        );
        assert!(matches!(of(text), Err(CsrError::Subject(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300), place in 0_usize..300, byte: u8) {
            let _ = of(&bytes);
            let _ = Csr::parse(bytes);
            let mut der = of(master()).unwrap().der.to_vec();
            let place = place % der.len();
            der[place] = byte;
            let _ = Csr::parse(der);
        }
    }
}
