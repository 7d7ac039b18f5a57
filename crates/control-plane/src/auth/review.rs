//! What the review resources answer: access reviews, rules reviews, token reviews, and
//! `SelfSubjectReview`. Bodies and answers are objects of `authorization.k8s.io/v1` and
//! `authentication.k8s.io/v1`; nothing is stored.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::authn::Authenticator;
use super::authz::Authorizer;
use super::rules::PolicyRule;
use super::tokens::ISSUER;
use super::{Attributes, Decision, User};
use crate::status::{ApiError, FieldError};

const AUTHORIZATION: &str = "authorization.k8s.io";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Answers a `SubjectAccessReview`.
///
/// # Errors
/// 422 where the subject or the attributes are missing.
pub fn subject_access(authorizer: &Authorizer, review: Value) -> Result<Value, ApiError> {
    let mut problems = check_attributes(&review);
    let user = reviewed_user(&review);
    if user.name.is_empty() && user.groups.is_empty() {
        problems.push(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ));
    }
    decide(authorizer, &user, review, &problems)
}

/// Answers a `LocalSubjectAccessReview` in `namespace`.
///
/// # Errors
/// 422 as [`subject_access`], and where the namespaces differ.
pub fn local_subject_access(
    authorizer: &Authorizer,
    namespace: &str,
    review: Value,
) -> Result<Value, ApiError> {
    let mut problems = check_attributes(&review);
    let asked = text(&review, "/spec/resourceAttributes/namespace");
    if review.pointer("/spec/nonResourceAttributes").is_some() {
        problems.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            Value::Null,
            "disallowed on this kind of request",
        ));
    } else if asked != namespace {
        problems.push(FieldError::invalid(
            "spec.resourceAttributes.namespace",
            asked,
            "must match metadata.namespace",
        ));
    }
    let user = reviewed_user(&review);
    if user.name.is_empty() && user.groups.is_empty() {
        problems.push(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ));
    }
    decide(authorizer, &user, review, &problems)
}

/// Answers a `SelfSubjectAccessReview` of `user`.
///
/// # Errors
/// 422 where the attributes are missing.
pub fn self_subject_access(
    authorizer: &Authorizer,
    user: &User,
    review: Value,
) -> Result<Value, ApiError> {
    let problems = check_attributes(&review);
    decide(authorizer, user, review, &problems)
}

fn check_attributes(review: &Value) -> Vec<FieldError> {
    let resource = review
        .pointer("/spec/resourceAttributes")
        .filter(|value| !value.is_null());
    let path = review
        .pointer("/spec/nonResourceAttributes")
        .filter(|value| !value.is_null());
    match (resource, path) {
        (None, None) => vec![FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )],
        (Some(_), Some(path)) => vec![FieldError::invalid(
            "spec.nonResourceAttributes",
            // The real server prints its internal type, with these names.
            json!({"Path": path["path"], "Verb": path["verb"]}),
            "cannot be specified in combination with resourceAttributes",
        )],
        _ => Vec::new(),
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn reviewed_user(review: &Value) -> User {
    User {
        name: text(review, "/spec/user").to_owned(),
        uid: text(review, "/spec/uid").to_owned(),
        groups: strings(review.pointer("/spec/groups")),
        extra: review
            .pointer("/spec/extra")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.to_lowercase(), strings(Some(values))))
            .collect(),
    }
}

fn decide(
    authorizer: &Authorizer,
    user: &User,
    mut review: Value,
    problems: &[FieldError],
) -> Result<Value, ApiError> {
    if !problems.is_empty() {
        return Err(ApiError::invalid(AUTHORIZATION, "", "", problems));
    }
    let fields: Vec<(String, String)> = review
        .pointer("/spec/resourceAttributes/fieldSelector/requirements")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|requirement| text(requirement, "/operator") == "In")
        .filter_map(|requirement| {
            let values = strings(requirement.get("values"));
            match values.as_slice() {
                [one] => Some((text(requirement, "/key").to_owned(), one.clone())),
                _ => None,
            }
        })
        .collect();
    let resource = |field: &str| text(&review, &format!("/spec/resourceAttributes/{field}"));
    let is_resource = review
        .pointer("/spec/resourceAttributes")
        .is_some_and(|value| !value.is_null());
    let attributes = if is_resource {
        Attributes {
            version: resource("version"),
            subresource: resource("subresource"),
            namespace: resource("namespace"),
            name: resource("name"),
            fields: &fields,
            ..Attributes::of_resource(
                user,
                resource("verb"),
                resource("group"),
                resource("resource"),
            )
        }
    } else {
        Attributes::of_path(
            user,
            text(&review, "/spec/nonResourceAttributes/verb"),
            text(&review, "/spec/nonResourceAttributes/path"),
        )
    };
    let mut status = Map::new();
    let (allowed, reason) = match authorizer.authorize(&attributes) {
        Decision::Allow { reason } => (true, reason),
        Decision::Deny { reason } => (false, reason),
    };
    status.insert("allowed".to_owned(), json!(allowed));
    if !reason.is_empty() {
        status.insert("reason".to_owned(), json!(reason));
    }
    if let Some(fields) = review.as_object_mut() {
        fields.entry("metadata").or_insert_with(|| json!({}));
        fields.insert("status".to_owned(), Value::Object(status));
    }
    Ok(review)
}

/// Answers a `SelfSubjectRulesReview` of `user`.
///
/// # Errors
/// 400 without `spec.namespace`.
pub fn self_subject_rules(
    authorizer: &Authorizer,
    user: &User,
    review: &Value,
) -> Result<Value, ApiError> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, problems) = authorizer.rules_for(user, namespace);
    let (paths, resources): (Vec<&PolicyRule>, Vec<&PolicyRule>) = rules
        .iter()
        .partition(|rule| !rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": resources,
        "nonResourceRules": paths,
        "incomplete": !problems.is_empty(),
    });
    if !problems.is_empty() {
        status["evaluationError"] = json!(problems.join(", "));
    }
    Ok(json!({
        "kind": "SelfSubjectRulesReview",
        "apiVersion": format!("{AUTHORIZATION}/v1"),
        "metadata": {},
        "spec": {},
        "status": status,
    }))
}

/// What the reviews of `authentication.k8s.io` say of a user.
fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Answers a `SelfSubjectReview` (`kubectl auth whoami`).
pub fn self_subject(user: &User, now: Timestamp) -> Value {
    json!({
        "kind": "SelfSubjectReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": crate::auth::rfc3339(now)},
        "status": {"userInfo": user_info(user)},
    })
}

/// Answers a `TokenReview`.
///
/// # Errors
/// 400 without a token.
pub fn token(
    authenticator: &Authenticator,
    mut review: Value,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let token = text(&review, "/spec/token");
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let mut audiences = strings(review.pointer("/spec/audiences"));
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let status = match authenticator.authenticate_token(token, &audiences, now) {
        Ok((user, audiences)) => json!({
            "authenticated": true,
            "audiences": audiences,
            "user": user_info(&user),
        }),
        Err(error) => {
            let error = error.to_string();
            let general = "invalid bearer token";
            let error = if error == general {
                error
            } else {
                format!("[{general}, {error}]")
            };
            json!({"error": error, "user": {}})
        }
    };
    if let Some(fields) = review.as_object_mut() {
        fields.entry("metadata").or_insert_with(|| json!({}));
        fields.insert("status".to_owned(), status);
    }
    Ok(review)
}

/// The user that the headers `Impersonate-…` ask for, if they do and `user` may.
/// `headers` are all of them, names in lower case, in their order.
///
/// # Errors
/// 403 for the first thing that may not be impersonated; 400 where groups, a UID or extra facts
/// come without a user.
pub fn impersonate(
    authorizer: &Authorizer,
    user: &User,
    headers: &[(&str, &str)],
) -> Result<Option<User>, ApiError> {
    let mut wanted = User::default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let Some(what) = name.strip_prefix("impersonate-") else {
            continue;
        };
        match what {
            "user" => wanted.name = (*value).to_owned(),
            "uid" => wanted.uid = (*value).to_owned(),
            "group" => wanted.groups.push((*value).to_owned()),
            _ => {
                if let Some(key) = what.strip_prefix("extra-") {
                    let key = percent_encoding::percent_decode_str(key)
                        .decode_utf8_lossy()
                        .to_lowercase();
                    extra.entry(key).or_default().push((*value).to_owned());
                }
            }
        }
    }
    if wanted.name.is_empty() {
        if wanted.uid.is_empty() && wanted.groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(
            "requested impersonation of groups, a UID or extra fields without impersonating a user",
        ));
    }
    let check = |attributes: Attributes<'_>| match authorizer.authorize(&attributes) {
        Decision::Allow { .. } => Ok(()),
        Decision::Deny { reason } => Err(super::forbidden(&attributes, &reason)),
    };
    let service_account = wanted
        .name
        .strip_prefix(super::SERVICE_ACCOUNT_USER_PREFIX)
        .and_then(|rest| rest.split_once(':'))
        .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let of = |group, resource| Attributes::of_resource(user, "impersonate", group, resource);
    match &service_account {
        Some((namespace, name)) => check(Attributes {
            namespace,
            name,
            ..of("", "serviceaccounts")
        })?,
        None => check(Attributes {
            name: &wanted.name,
            ..of("", "users")
        })?,
    }
    for group in &wanted.groups {
        check(Attributes {
            name: group,
            ..of("", "groups")
        })?;
    }
    for (key, values) in &extra {
        for value in values {
            check(Attributes {
                version: "v1",
                subresource: key,
                name: value,
                ..of("authentication.k8s.io", "userextras")
            })?;
        }
    }
    if !wanted.uid.is_empty() {
        check(Attributes {
            version: "v1",
            name: &wanted.uid,
            ..of("authentication.k8s.io", "uids")
        })?;
    }
    if wanted.groups.is_empty()
        && let Some((namespace, _)) = &service_account
    {
        wanted.groups = super::tokens::service_account_groups(namespace);
    }
    let last = if wanted.name == super::USER_ANONYMOUS {
        super::GROUP_UNAUTHENTICATED
    } else {
        super::GROUP_AUTHENTICATED
    };
    if !wanted.in_group(last) {
        wanted.groups.push(last.to_owned());
    }
    wanted.extra = extra;
    Ok(Some(wanted))
}
