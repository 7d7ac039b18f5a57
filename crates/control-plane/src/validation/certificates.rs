//! CertificateSigningRequests.

use serde_json::Value;

use super::names;
use super::report::{Path, Report, list, member, number, text};
use crate::auth::csr::Csr;

/// The signer of requests that named none, which only the first version of the API took.
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Seconds.
const SHORTEST: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Checks a request that is to be created.
pub(super) fn request(report: &mut Report, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let root = Path::root("spec");
    if let Err(error) = Csr::of(object) {
        let shown = member(spec, "request").cloned().unwrap_or(Value::Null);
        report.invalid(&root.child("request"), shown, error.to_string());
    }
    let path = root.child("usages");
    let usages = list(spec, "usages");
    if usages.is_empty() {
        report.required(&path, "");
    }
    for (index, usage) in usages.iter().enumerate() {
        let usage_text = usage.as_str().unwrap_or_default();
        report.one_of(&path.index(index), usage_text, &USAGES);
    }
    for (index, usage) in usages.iter().enumerate() {
        if usages[..index].contains(usage) {
            report.duplicate(&path.index(index), usage.clone());
        }
    }
    signer(report, text(spec, "signerName"), &root.child("signerName"));
    if let Some(seconds) = number(spec, "expirationSeconds").filter(|seconds| *seconds < SHORTEST) {
        report.invalid(
            &root.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn signer(report: &mut Report, name: &str, path: &Path<'_>) {
    if name == LEGACY {
        report.invalid(
            path,
            name,
            "the legacy signerName is not allowed via this API version",
        );
        return;
    }
    if name.is_empty() {
        report.required(path, "");
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts[..] else {
        report.invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    };
    if domain.len() > 253 {
        report.too_long(path, 253);
    }
    labels(report, path, domain, names::dns1123_label);
    if !domain.contains('.') {
        report.invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        );
    }
    labels(report, path, rest, names::dns1123_subdomain);
    // Two subdomains, a label, and what separates them.
    if name.len() > 253 + 1 + 63 + 1 + 253 {
        report.too_long(path, 253 + 1 + 63 + 1 + 253);
    }
}

/// The first label of a part that breaks a rule.
fn labels(report: &mut Report, path: &Path<'_>, part: &str, rule: fn(&str) -> Vec<String>) {
    let wrong = part.split('.').find_map(|label| {
        let problems = rule(label);
        (!problems.is_empty()).then_some((label, problems))
    });
    let Some((label, problems)) = wrong else {
        return;
    };
    for problem in problems {
        report.invalid(path, part, format!("validating label {label:?}: {problem}"));
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde_json::json;

    use super::*;
    use crate::auth::csr::tests::pem;

    fn fields(text: &str, signer: &str, usages: &[&str], seconds: i64) -> Vec<String> {
        let object = json!({"spec": {
            "request": BASE64.encode(text), "signerName": signer, "usages": usages,
            "expirationSeconds": seconds,
        }});
        let mut report = Report::default();
        request(&mut report, &object);
        let errors = report.into_errors();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn what_is_wrong_is_named() {
        const NONE: [&str; 0] = [];
        let good = pem(&[], &["a.example"]);
        let usages = ["client auth"];
        assert_eq!(fields(&good, "a.b/c", &usages, 600), NONE);
        let junk = format!("-----BEGIN JUNK-----\nbm8=\n-----END JUNK-----\n{good}");
        assert_eq!(fields(&junk, "a.b/c", &usages, 600), ["spec.request"]);
        assert_eq!(
            fields(&good, "a.b/c", &usages, 599),
            ["spec.expirationSeconds"]
        );
        assert_eq!(fields(&good, "a.b/c", &[], 600), ["spec.usages"]);
        assert_eq!(
            fields(&good, "a.b/c", &["any", "any", "x"], 600),
            ["spec.usages[2]", "spec.usages[1]"]
        );
        for signer in ["", LEGACY, "a.b", "a.b/c/d", "a/b", "A.b/c", "a.b/_"] {
            assert_eq!(
                fields(&good, signer, &usages, 600),
                ["spec.signerName"],
                "{signer}"
            );
        }
        // A domain may say two things.
        assert_eq!(fields(&good, "A/b", &usages, 600).len(), 2);
    }
}
