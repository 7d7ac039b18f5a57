//! Field selectors: `spec.nodeName=n1,status.phase!=Failed`.
//!
//! The grammar is that of apimachinery's `fields.ParseSelector`, with its messages.

use crate::resource::ResourceDef;
use crate::store::Object;

/// A parsed selector: all terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    /// What the term reads, by its stored label.
    field: &'static str,
    /// The label as the client wrote it.
    label: String,
    equal: bool,
    value: String,
}

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

impl FieldSelector {
    /// Parses a selector over the fields of a resource; the empty one chooses everything.
    ///
    /// # Errors
    /// The message for a 400: bad syntax, or a field that is not selectable.
    pub fn parse(def: &ResourceDef, text: &str) -> Result<Self, String> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (label, equal, value) = split_term(part)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push((label, equal, unescape(value)?));
        }
        let terms = terms
            .into_iter()
            .map(|(label, equal, value)| {
                Ok(Term {
                    field: known_field(def, label)?,
                    label: label.to_owned(),
                    equal,
                    value,
                })
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { terms })
    }

    /// Whether everything is chosen.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a stored object is chosen.
    pub fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|term| {
            let value = match term.field {
                NAME => object.name(),
                NAMESPACE => object.namespace(),
                field => object.attributes.field(field).unwrap_or_default(),
            };
            (value == term.value) == term.equal
        })
    }

    /// The terms with `=`, as authorizers want them.
    pub fn requirements(&self) -> Vec<(String, String)> {
        self.terms
            .iter()
            .filter(|term| term.equal)
            .map(|term| (term.label.clone(), term.value.clone()))
            .collect()
    }

    /// The one name that is chosen, where the selector names it.
    pub fn name(&self) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.field == NAME)
            .map(|term| term.value.as_str())
    }
}

/// The label under which the stored form keeps the field.
fn known_field(def: &ResourceDef, label: &str) -> Result<&'static str, String> {
    if label == NAME {
        return Ok(NAME);
    }
    let plain = def.fields.is_empty();
    if label == NAMESPACE && (def.namespaced || plain) {
        return Ok(NAMESPACE);
    }
    if let Some(field) = def.fields.iter().find(|field| field.label == label) {
        return Ok(field.stored);
    }
    Err(if plain {
        format!(
            "\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    } else if def.group == "batch" {
        format!("field label {label:?} not supported for {}", def.kind)
    } else {
        format!("field label not supported: {label}")
    })
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for at in 0..term.len() {
        let Some(rest) = term.get(at..) else { continue };
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    ));
                }
            },
            ',' | '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {c}"
                ));
            }
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::stored;

    fn check(resource: &str, selector: &str, message: &str) {
        assert_eq!(
            FieldSelector::parse(stored("", resource), selector)
                .err()
                .as_deref(),
            Some(message),
            "{selector}"
        );
    }

    /// Messages as kube-apiserver 1.34 gives them.
    #[test]
    fn what_is_not_selectable_is_refused_in_known_words() {
        check("pods", "foo=bar", "field label not supported: foo");
        check(
            "configmaps",
            "foo=bar",
            "\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        );
        check(
            "nodes",
            "metadata.namespace=x",
            "field label not supported: metadata.namespace",
        );
        check(
            "pods",
            "metadata.name=a,b",
            "invalid selector: 'metadata.name=a,b'; can't understand 'b'",
        );
        check(
            "pods",
            "metadata.name=\\z",
            "invalid field selector: invalid escape sequence: \\z",
        );
    }

    #[test]
    fn terms_split_at_plain_commas_and_keep_escaped_ones() {
        let selector = FieldSelector::parse(
            stored("", "pods"),
            "metadata.name==a\\,b,spec.nodeName!=n,,",
        )
        .expect("a selector");
        assert_eq!(
            selector.requirements(),
            [("metadata.name".to_owned(), "a,b".to_owned())]
        );
        assert_eq!(selector.name(), Some("a,b"));
        assert_eq!(selector.terms.len(), 2);
    }
}
