//! Lists: resource versions, selectors, pages.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::selector::Selection;
use super::{ListOptions, Listed, Registry, ResourceVersionMatch};
use crate::resource::ResourceDef;
use crate::status::{ApiError, FieldError};
use crate::store::{RevisionError, Snapshot};

/// Where a page ended, as clients send it back.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    /// The revision of the list; -1 for whatever is newest.
    rv: i64,
    /// The key that the next page starts with, after the resource's prefix.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn encode(revision: i64, start: &str) -> String {
        let token = Self {
            v: TOKEN_VERSION.to_owned(),
            rv: revision,
            start: start.to_owned(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::json!(token).to_string())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: String| ApiError::bad_request(format!("invalid continue token: {why}"));
        let json = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|_| invalid("continue key is not valid: illegal base64 data".to_owned()))?;
        let token: Self = serde_json::from_slice(&json)
            .map_err(|error| invalid(format!("continue key is not valid: {error}")))?;
        if token.v != TOKEN_VERSION {
            return Err(invalid(format!(
                "continue key is not valid: server does not recognize this encoded version {:?}",
                token.v
            )));
        }
        if token.rv == 0 || token.start.is_empty() {
            return Err(invalid(
                "continue key is not valid: incorrect encoded start resourceVersion".to_owned(),
            ));
        }
        Ok(token)
    }
}

impl Registry {
    pub(super) fn list_objects(
        &self,
        def: &'static ResourceDef,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed, ApiError> {
        check(options)?;
        let selection = Selection::parse(def, &options.label_selector, &options.field_selector)?;
        let prefix = def.key_prefix(namespace);
        let (snapshot, start) = self.snapshot(&prefix, options)?;
        // Keys within the resource's prefix, so that a token does not name the prefix.
        let root = def.key_prefix("").len();
        let first = snapshot
            .objects
            .partition_point(|object| &object.key[root..] < start.as_str());
        let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
        let everything = selection.is_everything();
        let mut objects = Vec::new();
        let mut continue_ = String::new();
        let mut remaining = None;
        for (index, object) in snapshot.objects.iter().enumerate().skip(first) {
            if !everything && !selection.matches(object) {
                continue;
            }
            if limit > 0 && objects.len() == limit {
                let revision = i64::try_from(snapshot.revision).unwrap_or(i64::MAX);
                continue_ = Token::encode(revision, &object.key[root..]);
                remaining = everything.then(|| (snapshot.objects.len() - index) as u64);
                break;
            }
            objects.push(object.clone());
        }
        Ok(Listed {
            revision: snapshot.revision,
            objects,
            continue_,
            remaining,
        })
    }

    /// The objects at the revision that the options ask for, and the key to start with.
    fn snapshot(
        &self,
        prefix: &str,
        options: &ListOptions,
    ) -> Result<(Snapshot, String), ApiError> {
        if !options.continue_.is_empty() {
            let token = Token::decode(&options.continue_)?;
            if !matches!(options.resource_version.as_str(), "" | "0") {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let Ok(revision) = u64::try_from(token.rv) else {
                return Ok((self.store.list(prefix), token.start));
            };
            return match self.store.list_at(prefix, revision) {
                Ok(snapshot) => Ok((snapshot, token.start)),
                Err(_) => Err(ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                )
                .with_continue(Token::encode(-1, &token.start))),
            };
        }
        let revision = parse_revision(&options.resource_version)
            .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
        let exact = match options.resource_version_match {
            Some(how) => how == ResourceVersionMatch::Exact,
            // A page of an old list was always meant exactly.
            None => options.limit > 0,
        };
        let snapshot = match revision {
            0 => self.store.list(prefix),
            revision if exact => self
                .store
                .list_at(prefix, revision)
                .map_err(|error| revision_error(&error))?,
            revision => {
                let snapshot = self.store.list(prefix);
                if revision > snapshot.revision {
                    return Err(ApiError::revision_in_future(revision, snapshot.revision));
                }
                snapshot
            }
        };
        Ok((snapshot, String::new()))
    }
}

fn revision_error(error: &RevisionError) -> ApiError {
    match *error {
        RevisionError::Compacted { .. } => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        RevisionError::Future { requested, current } => {
            ApiError::revision_in_future(requested, current)
        }
    }
}

/// A resourceVersion of a query; empty is 0.
pub(super) fn parse_revision(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        FieldError::invalid(
            "resourceVersion",
            text,
            format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
        )
        .to_string()
    })
}

/// The 422 for options that contradict each other.
pub(super) fn invalid_options(error: FieldError) -> ApiError {
    ApiError::invalid("meta.k8s.io", "ListOptions", "", &[error])
}

fn check(options: &ListOptions) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let Some(how) = options.resource_version_match else {
        return Ok(());
    };
    let why = match (how, options.resource_version.as_str()) {
        (_, "") => "resourceVersionMatch is forbidden unless resourceVersion is provided",
        (ResourceVersionMatch::Exact, "0") => {
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""
        }
        _ if !options.continue_.is_empty() => {
            "resourceVersionMatch is forbidden when continue is provided"
        }
        _ => return Ok(()),
    };
    Err(invalid_options(FieldError::forbidden(FIELD, why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_round_trip_and_nonsense_is_refused() {
        let token = Token::decode(&Token::encode(264, "default/a")).expect("a token");
        assert_eq!((token.rv, token.start.as_str()), (264, "default/a"));
        for nonsense in ["abc", "!!", "e30", ""] {
            let error = Token::decode(nonsense).expect_err(nonsense);
            assert!(
                error.message.starts_with("invalid continue token: "),
                "{}",
                error.message
            );
        }
    }
}
