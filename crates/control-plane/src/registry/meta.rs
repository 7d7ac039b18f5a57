//! The system fields of `metadata`.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::resource::ResourceDef;
use crate::status::{ApiError, FieldError};

/// A timestamp as the API writes it: RFC 3339 in whole seconds.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The text of a field of `metadata`; empty where it is absent.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata`, made where it is missing.
pub(super) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    match object["metadata"].as_object_mut() {
        Some(metadata) => metadata,
        None => unreachable!("metadata was made an object just now"),
    }
}

pub(super) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(super) fn finalizers(object: &Value) -> Vec<String> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|finalizer| Some(finalizer.as_str()?.to_owned()))
        .collect()
}

/// Sets, or removes where it is empty, the list of finalizers.
pub(super) fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Raises `metadata.generation`, where the kind has one.
pub(super) fn raise_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"]
        .as_i64()
        .filter(|generation| *generation > 0)
    {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Makes the object's namespace that of the request.
pub(super) fn settle_namespace(
    def: &ResourceDef,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let metadata = metadata_mut(object);
    if !def.namespaced {
        metadata.remove("namespace");
        return Ok(());
    }
    match metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default()
    {
        "" => {
            metadata.insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
        own if own == namespace => Ok(()),
        _ => Err(other_namespace()),
    }
}

/// The refusal of an object that names another namespace than the request.
pub(super) fn other_namespace() -> ApiError {
    ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    )
}

/// The parsed `metadata.resourceVersion`, or `None` where there is none.
pub(super) fn resource_version(def: &ResourceDef, object: &Value) -> Result<Option<u64>, ApiError> {
    match text(object, "resourceVersion") {
        "" | "0" => Ok(None),
        version => version.parse().map(Some).map_err(|_| {
            ApiError::invalid(
                def.group,
                def.kind,
                text(object, "name"),
                &[FieldError::invalid(
                    "metadata.resourceVersion",
                    version,
                    "must be an unsigned integer",
                )],
            )
        }),
    }
}

/// What the server appends to a `generateName`: letters and digits that make no words and are
/// not mistaken for each other.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Names of most kinds fit into a DNS label.
const LONGEST_NAME: usize = 63;

/// A name from a `generateName` and random bytes.
pub(super) fn generated_name(base: &str, random: &[u8; 16]) -> String {
    let mut end = base.len().min(LONGEST_NAME - SUFFIX_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = random
        .iter()
        .take(SUFFIX_LENGTH)
        .map(|byte| char::from(SUFFIX_ALPHABET[usize::from(*byte) % SUFFIX_ALPHABET.len()]));
    base[..end].chars().chain(suffix).collect()
}

/// The system fields of an object that is created now.
pub(super) fn fill_system_fields(object: &mut Value, now: Timestamp) {
    let metadata = metadata_mut(object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), rfc3339(now).into());
}

/// Copies from `old` the system fields that a client may leave out.
pub(super) fn keep_system_fields(object: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let metadata = metadata_mut(object);
    metadata.remove("selfLink");
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if metadata
            .get(field)
            .is_none_or(|value| value.is_null() || value == "")
            && !old[field].is_null()
        {
            metadata.insert(field.to_owned(), old[field].clone());
        }
    }
    for field in ["generation", "resourceVersion"] {
        match &old[field] {
            Value::Null => metadata.remove(field),
            value => metadata.insert(field.to_owned(), value.clone()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_into_a_label() {
        let name = generated_name(&"x".repeat(80), &[7; 16]);
        assert_eq!(name.len(), LONGEST_NAME);
        assert_eq!(generated_name("job-", &[0; 16]), "job-bbbbb");
    }

    #[test]
    fn times_are_in_whole_seconds() {
        let time: Timestamp = "2026-01-02T03:04:05.678Z".parse().expect("a timestamp");
        assert_eq!(rfc3339(time), "2026-01-02T03:04:05Z");
    }
}
