//! The one place where an error becomes a Kubernetes `Status`.
//!
//! Every layer of the server fails with an [`ApiError`]; the HTTP layer only serialises it.
//! Codes, reasons and message shapes follow apimachinery's `pkg/api/errors`.

use std::fmt;

use http::StatusCode;
use serde_json::{Map, Value, json};

/// One cause of a refusal, as clients find it in `status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, for example `FieldValueInvalid`.
    pub reason: String,
    /// What is wrong, for people.
    pub message: String,
    /// The path of the field, for example `spec.containers[0].name`; empty where no field is meant.
    pub field: String,
}

/// What is wrong with a field: the error kinds of apimachinery's `field.ErrorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value that must be there is not.
    Required,
    /// The value has the wrong form.
    Invalid,
    /// The value is not one of those known.
    NotSupported,
    /// The same value stands twice where it may stand once.
    Duplicate,
    /// The value may not be there at all, or may not change.
    Forbidden,
    /// The value is longer than it may be.
    TooLong,
    /// There are more items than there may be.
    TooMany,
    /// The value names something that does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The `reason` of the cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

/// A refusal of one field, made by validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The path of the field, for example `spec.containers[0].name`.
    pub field: String,
    /// The value that was refused; `None` where naming it adds nothing (required, forbidden).
    pub value: Option<Value>,
    /// More words; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A value that must be there is not.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail)
    }

    /// The value has the wrong form.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(FieldErrorKind::Invalid, field, Some(value.into()), detail)
    }

    /// The value is not one of `supported`.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let list = supported
            .iter()
            .map(|value| format!("{value:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let detail = if supported.is_empty() {
            String::new()
        } else {
            format!("supported values: {list}")
        };
        Self::new(
            FieldErrorKind::NotSupported,
            field,
            Some(value.into()),
            detail,
        )
    }

    /// The same value stands twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, Some(value.into()), "")
    }

    /// The value may not be there, or may not change.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail)
    }

    /// The value is longer than `limit` bytes.
    pub fn too_long(field: impl Into<String>, limit: usize) -> Self {
        Self::new(
            FieldErrorKind::TooLong,
            field,
            None,
            format!("may not be more than {limit} bytes"),
        )
    }

    /// The value names something that does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, Some(value.into()), "")
    }

    /// Any kind.
    pub fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.into(),
            value,
            detail: detail.into(),
        }
    }

    /// The message without the field, as it stands in a cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// An error of the API: everything that a `Status` of failure carries.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub code: StatusCode,
    /// The machine-readable reason, for example `NotFound`; empty for none.
    pub reason: &'static str,
    /// What happened, for people.
    pub message: String,
    /// `details.name`.
    pub name: String,
    /// `details.group`.
    pub group: String,
    /// `details.kind`: by old custom the plural resource, or the kind for 422.
    pub kind: String,
    /// `details.uid`.
    pub uid: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`, and the header `Retry-After`; 0 for none.
    pub retry_after_seconds: u32,
    /// `metadata.continue`: a token that carries on where an expired one cannot; empty for none.
    pub continue_: String,
}

/// `pods`, or `deployments.apps`.
pub fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

impl ApiError {
    /// An error with a code, a reason and a message, and no details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            continue_: String::new(),
        }
    }

    /// Adds what the error is about.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.group = group.to_owned();
        self.kind = kind.to_owned();
        self.name = name.to_owned();
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn cause(
        mut self,
        reason: &str,
        message: impl Into<String>,
        field: impl Into<String>,
    ) -> Self {
        self.causes.push(Cause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.into(),
        });
        self
    }

    /// Asks the client to come back after `seconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = seconds;
        self
    }

    /// Adds a token with which a list can go on.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.continue_ = token;
        self
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let what = group_resource(group, resource);
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("{what} \"{name}\" not found"),
        )
        .about(group, resource, name)
    }

    /// 404 for a path that serves nothing.
    pub fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let what = group_resource(group, resource);
        Self::new(
            StatusCode::CONFLICT,
            "AlreadyExists",
            format!("{what} \"{name}\" already exists"),
        )
        .about(group, resource, name)
    }

    /// 409: somebody else was faster, or a precondition does not hold.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let what = group_resource(group, resource);
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("Operation cannot be fulfilled on {what} \"{name}\": {why}"),
        )
        .about(group, resource, name)
    }

    /// 409 for a stale resourceVersion.
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 with one cause for each wrong field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let what = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let list = match errors {
            [one] => one.to_string(),
            many => format!(
                "[{}]",
                many.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let mut error = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{what} \"{name}\" is invalid: {list}"),
        )
        .about(group, kind, name);
        for field in errors {
            error = error.cause(field.kind.reason(), field.body(), field.field.clone());
        }
        error
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403 for an object or a collection; `why` follows a colon.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let what = group_resource(group, resource);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(group, resource, name)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406: none of the accepted media types can be served.
    pub fn not_acceptable(known: &[&str]) -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            format!(
                "only the following media types are accepted: {}",
                known.join(", ")
            ),
        )
    }

    /// 415: the body's media type is unknown here.
    pub fn unsupported_media_type(got: &str, known: &[&str]) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {} (got {got:?})",
                known.join(", ")
            ),
        )
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 410: the revision asked for was compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 504: the revision asked for lies in the future.
    pub fn revision_in_future(asked: u64, current: u64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        )
        .cause("ResourceVersionTooLarge", "Too large resource version", "")
        .retry_after(1)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).retry_after(seconds)
    }

    /// 500.
    pub fn internal(what: impl fmt::Display) -> Self {
        let text = what.to_string();
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {text}"),
        )
        .cause("", text, "")
    }

    /// 501: known, and not built. Never answered with success instead.
    pub fn not_implemented(what: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "NotImplemented",
            format!("not implemented: {what}"),
        )
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        )
    }

    /// True for 404 about an object.
    pub fn is_not_found(&self) -> bool {
        self.code == StatusCode::NOT_FOUND
    }

    /// True for 409 of a stale write (and not of a taken name).
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut details = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                details.insert(key.to_owned(), Value::String(text.clone()));
            }
        }
        if !self.causes.is_empty() {
            details.insert(
                "causes".to_owned(),
                self.causes.iter().map(Cause::to_value).collect(),
            );
        }
        if self.retry_after_seconds > 0 {
            details.insert(
                "retryAfterSeconds".to_owned(),
                self.retry_after_seconds.into(),
            );
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if !self.continue_.is_empty() {
            status["metadata"]["continue"] = self.continue_.as_str().into();
        }
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !details.is_empty() || self.is_about_the_request() {
            status["details"] = Value::Object(details);
        }
        status
    }

    /// Whether the refusal is about the request as such and no object: the real server's generic
    /// answers carry details, empty ones.
    fn is_about_the_request(&self) -> bool {
        match self.code {
            StatusCode::METHOD_NOT_ALLOWED => true,
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => self.kind.is_empty(),
            StatusCode::UNPROCESSABLE_ENTITY => self.causes.is_empty(),
            _ => false,
        }
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Map::new();
        for (key, text) in [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ] {
            if !text.is_empty() {
                cause.insert(key.to_owned(), Value::String(text.clone()));
            }
        }
        Value::Object(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_field_stands_bare_and_several_stand_in_brackets() {
        let name = FieldError::required("spec.containers[0].image", "");
        let policy = FieldError::not_supported("spec.restartPolicy", "Maybe", &["Always", "Never"]);
        let one = ApiError::invalid("", "Pod", "p", std::slice::from_ref(&name));
        assert_eq!(
            one.message,
            "Pod \"p\" is invalid: spec.containers[0].image: Required value"
        );
        let two = ApiError::invalid("", "Pod", "p", &[name, policy]);
        assert_eq!(
            two.message,
            "Pod \"p\" is invalid: [spec.containers[0].image: Required value, spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\"]"
        );
        assert_eq!(
            two.to_value()["details"]["causes"][1],
            json!({"reason": "FieldValueNotSupported", "field": "spec.restartPolicy",
                   "message": "Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\""})
        );
    }

    #[test]
    fn a_grouped_resource_is_named_with_its_group() {
        let error = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(error.message, "deployments.apps \"web\" not found");
        assert_eq!(
            error.to_value()["details"],
            json!({"name": "web", "group": "apps", "kind": "deployments"})
        );
    }
}
