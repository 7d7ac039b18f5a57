//! The parameters of a request.

use std::borrow::Cow;

use crate::registry::{
    DeleteOptions, FieldValidation, ListOptions, Propagation, ResourceVersionMatch, WatchOptions,
};
use crate::status::{ApiError, FieldError};

/// The decoded query of a request, in order.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

fn decode(text: &str) -> String {
    let spaced: Cow<'_, str> = if text.contains('+') {
        Cow::Owned(text.replace('+', " "))
    } else {
        Cow::Borrowed(text)
    };
    percent_encoding::percent_decode_str(&spaced)
        .decode_utf8_lossy()
        .into_owned()
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(key), decode(value))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    fn text(&self, key: &str) -> String {
        self.get(key).unwrap_or_default().to_owned()
    }

    /// A parameter that is true unless it says otherwise: Go's conversion of query values.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)
            .map(|value| !matches!(value.to_lowercase().as_str(), "false" | "0"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }

    pub(super) fn is_watch(&self) -> bool {
        self.flag("watch").unwrap_or(false)
    }

    fn resource_version_match(&self) -> Result<Option<ResourceVersionMatch>, ApiError> {
        match self.get("resourceVersionMatch").unwrap_or_default() {
            "" => Ok(None),
            "Exact" => Ok(Some(ResourceVersionMatch::Exact)),
            "NotOlderThan" => Ok(Some(ResourceVersionMatch::NotOlderThan)),
            other => Err(ApiError::invalid(
                "meta.k8s.io",
                "ListOptions",
                "",
                &[FieldError::not_supported(
                    "resourceVersionMatch",
                    other,
                    &["Exact", "NotOlderThan", ""],
                )],
            )),
        }
    }

    pub(super) fn list_options(&self) -> Result<ListOptions, ApiError> {
        self.number("timeoutSeconds")?;
        if self.get("sendInitialEvents").is_some() {
            return Err(ApiError::invalid(
                "meta.k8s.io",
                "ListOptions",
                "",
                &[FieldError::forbidden(
                    "sendInitialEvents",
                    "sendInitialEvents is forbidden for list",
                )],
            ));
        }
        Ok(ListOptions {
            label_selector: self.text("labelSelector"),
            field_selector: self.text("fieldSelector"),
            limit: u64::try_from(self.number("limit")?.unwrap_or(0)).unwrap_or(0),
            continue_: self.text("continue"),
            resource_version: self.text("resourceVersion"),
            resource_version_match: self.resource_version_match()?,
        })
    }

    pub(super) fn watch_options(&self) -> Result<WatchOptions, ApiError> {
        Ok(WatchOptions {
            label_selector: self.text("labelSelector"),
            field_selector: self.text("fieldSelector"),
            resource_version: self.text("resourceVersion"),
            resource_version_match: self.resource_version_match()?,
            bookmarks: self.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: self.flag("sendInitialEvents"),
        })
    }

    /// `dryRun=All`.
    pub(super) fn dry_run(&self, options_kind: &str) -> Result<bool, ApiError> {
        let mut dry = false;
        for value in self.all("dryRun") {
            match value {
                "All" => dry = true,
                "" => {}
                other => {
                    return Err(ApiError::invalid(
                        "meta.k8s.io",
                        options_kind,
                        "",
                        &[FieldError::not_supported(
                            "dryRun",
                            serde_json::json!([other]),
                            &["All"],
                        )],
                    ));
                }
            }
        }
        Ok(dry)
    }

    pub(super) fn field_validation(&self, options_kind: &str) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(ApiError::invalid(
                "meta.k8s.io",
                options_kind,
                "",
                &[FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                )],
            )),
        }
    }

    /// The parameters of a delete without a body.
    pub(super) fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        Ok(DeleteOptions {
            grace_period_seconds: self.number("gracePeriodSeconds")?,
            propagation: propagation(
                self.get("propagationPolicy").unwrap_or_default(),
                self.flag("orphanDependents"),
            )?,
            ..DeleteOptions::default()
        })
    }
}

/// `propagationPolicy`, or the older `orphanDependents`.
pub(super) fn propagation(
    policy: &str,
    orphan: Option<bool>,
) -> Result<Option<Propagation>, ApiError> {
    match (policy, orphan) {
        ("", None) => Ok(None),
        ("", Some(true)) | ("Orphan", None) => Ok(Some(Propagation::Orphan)),
        ("", Some(false)) | ("Background", None) => Ok(Some(Propagation::Background)),
        ("Foreground", None) => Ok(Some(Propagation::Foreground)),
        (_, Some(_)) => Err(invalid_delete(FieldError::invalid(
            "propagationPolicy",
            policy,
            "orphanDependents and deletionPropagation cannot be both set",
        ))),
        (other, None) => Err(invalid_delete(FieldError::not_supported(
            "propagationPolicy",
            other,
            &["Foreground", "Background", "Orphan", "nil"],
        ))),
    }
}

fn invalid_delete(error: FieldError) -> ApiError {
    ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_flags_are_lenient() {
        let query = Query::parse(Some("labelSelector=a%20in+(b)&watch=x&limit=5&dryRun=All"));
        assert_eq!(query.get("labelSelector"), Some("a in (b)"));
        assert!(query.is_watch());
        assert_eq!(query.list_options().expect("options").limit, 5);
        assert!(query.dry_run("CreateOptions").expect("a flag"));
        assert!(Query::parse(Some("limit=x")).list_options().is_err());
        assert!(Query::parse(Some("dryRun=Some")).dry_run("X").is_err());
    }
}
