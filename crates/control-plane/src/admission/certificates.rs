//! Certificate signing requests: who asks is recorded, and who may approve or sign is checked.

use serde_json::{Value, json};

use super::{Operation, Request, text};
use crate::auth::authz::Authorizer;
use crate::auth::csr::Csr;
use crate::auth::{Attributes, GROUP_MASTERS};
use crate::status::ApiError;

const GROUP: &str = "certificates.k8s.io";

/// The identity of the requester in the spec; only the server writes it.
const IDENTITY: [&str; 4] = ["username", "uid", "groups", "extra"];

/// Admits the write of a request.
pub(super) fn admit(
    authorizer: &Authorizer,
    request: &Request<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let may = |verb: &str, signer: &str| {
        let of = |name: &str| {
            authorizer
                .authorize(&Attributes {
                    version: "v1",
                    name,
                    ..Attributes::of_resource(request.user, verb, GROUP, "signers")
                })
                .is_allowed()
        };
        let domain = signer.split('/').next().unwrap_or_default();
        of(signer) || of(&format!("{domain}/*"))
    };
    let refuse = |verb: &str, signer: &str, object: &Value| {
        Err(request.refuse(
            object,
            format!("user not permitted to {verb} requests with signerName {signer:?}"),
        ))
    };
    match (request.operation, request.subresource) {
        (Operation::Create, _) => {
            record_requester(request, object);
            check_subject(request, object)
        }
        (Operation::Update, "approval") => {
            let signer = text(old.unwrap_or(object), "/spec/signerName");
            if may("approve", signer) {
                Ok(())
            } else {
                refuse("approve", signer, object)
            }
        }
        (Operation::Update, "status") => {
            let signer = text(old.unwrap_or(object), "/spec/signerName");
            let signs = old.is_some_and(|old| {
                old.pointer("/status/certificate") != object.pointer("/status/certificate")
            });
            if !signs || may("sign", signer) {
                Ok(())
            } else {
                refuse("sign", signer, object)
            }
        }
        (Operation::Update, _) => {
            // A request never changes after it was made.
            if let (Some(spec), Some(fields)) =
                (old.and_then(|old| old.get("spec")), object.as_object_mut())
            {
                fields.insert("spec".to_owned(), spec.clone());
            }
            Ok(())
        }
    }
}

fn record_requester(request: &Request<'_>, object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in IDENTITY {
        spec.remove(field);
    }
    let user = request.user;
    spec.insert("username".to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
}

/// No client certificate may make its holder a master. What cannot be read is refused by validation, in the words
/// of the real server, and never signed.
fn check_subject(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    if text(object, "/spec/signerName") != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    match Csr::of(object) {
        Ok(csr) if csr.groups.iter().any(|group| group == GROUP_MASTERS) => Err(request.refuse(
            object,
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not \
             allowed",
        )),
        _ => Ok(()),
    }
}
