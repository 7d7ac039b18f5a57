//! Paths of fields, and the list of what is wrong with them.

use std::fmt;

use serde_json::{Map, Value};

use crate::status::{FieldError, FieldErrorKind};

/// A path such as `spec.containers[0].name`, kept as links so that good objects cost no text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The first field of a path.
    pub(super) fn root(field: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Field(field),
        }
    }

    /// A field below.
    pub(super) fn child<'b>(&'b self, field: &'b str) -> Path<'b> {
        Path {
            parent: Some(self),
            step: Step::Field(field),
        }
    }

    /// An item below.
    pub(super) fn index<'b>(&'b self, index: usize) -> Path<'b> {
        Path {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// A key of a map below.
    pub(super) fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path {
            parent: Some(self),
            step: Step::Key(key),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            // The path of a whole object.
            Step::Field("") => f.write_str("[]"),
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Vec<FieldError>,
}

impl Report {
    /// The errors in the order they were found, each once: updates check some things twice.
    pub(super) fn into_errors(self) -> Vec<FieldError> {
        let mut errors: Vec<FieldError> = Vec::with_capacity(self.errors.len());
        for error in self.errors {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        errors
    }

    pub(super) fn len(&self) -> usize {
        self.errors.len()
    }

    pub(super) fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    pub(super) fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::required(path.to_string(), detail));
    }

    pub(super) fn invalid(
        &mut self,
        path: &Path<'_>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldError::invalid(path.to_string(), value, detail));
    }

    /// One `Invalid` for each problem of a text.
    pub(super) fn problems(&mut self, path: &Path<'_>, value: &str, problems: Vec<String>) {
        for problem in problems {
            self.invalid(path, value, problem);
        }
    }

    pub(super) fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::forbidden(path.to_string(), detail));
    }

    pub(super) fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path.to_string(), value));
    }

    pub(super) fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::not_found(path.to_string(), value));
    }

    pub(super) fn too_long(&mut self, path: &Path<'_>, limit: usize) {
        self.push(FieldError::too_long(path.to_string(), limit));
    }

    pub(super) fn not_supported(
        &mut self,
        path: &Path<'_>,
        value: impl Into<Value>,
        supported: &[&str],
    ) {
        self.push(FieldError::not_supported(
            path.to_string(),
            value,
            supported,
        ));
    }

    /// A refusal that shows a value in the form the real server has it inside, which differs from
    /// its JSON form.
    pub(super) fn shown(
        &mut self,
        kind: FieldErrorKind,
        path: &Path<'_>,
        shown: impl std::fmt::Display,
        detail: &str,
    ) {
        let detail = if detail.is_empty() {
            shown.to_string()
        } else {
            format!("{shown}: {detail}")
        };
        self.push(FieldError::new(kind, path.to_string(), None, detail));
    }

    /// The text must be one of `allowed`, which messages list sorted.
    pub(super) fn one_of(&mut self, path: &Path<'_>, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let mut sorted = allowed.to_vec();
            sorted.sort_unstable();
            self.not_supported(path, value, &sorted);
        }
    }

    pub(super) fn not_negative(&mut self, path: &Path<'_>, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(path, value, NOT_NEGATIVE);
        }
    }
}

/// The detail of a negative number.
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// The detail of a field that may not change.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// The text of a member; empty where it has none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The number of a member.
pub(super) fn number(value: &Value, key: &str) -> Option<i64> {
    value.get(key).and_then(Value::as_i64)
}

/// The boolean of a member; false where it has none.
pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The items of a member.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The pairs of a member.
pub(super) fn map<'a>(
    value: &'a Value,
    key: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    value
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}

/// The member, where it is there and not null.
pub(super) fn member<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_messages_write_it() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let limits = first.child("limits");
        assert_eq!(
            limits.key("cpu").to_string(),
            "spec.containers[0].limits[cpu]"
        );
    }
}
