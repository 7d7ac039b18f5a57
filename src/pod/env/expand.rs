//! `$(VAR)` and home expansion.

/// Expands `$(NAME)` as Kubernetes does: `$$` is a dollar sign, a name that
/// `lookup` does not know stays as it is, and any other dollar sign is itself.
pub fn references<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..rest.len() - tail.len()]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Expands `$(NAME)` where every name must have a value that is not empty.
///
/// # Errors
/// In the kubelet's words, with the names that have none.
pub fn all_references<'a>(
    text: &str,
    lookup: impl Fn(&str) -> Option<&'a str>,
) -> Result<String, String> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let expanded = references(text, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing = Vec::from_iter(missing.into_inner());
    if missing.is_empty() {
        Ok(expanded)
    } else {
        Err(format!("missing value for {}", missing.join(", ")))
    }
}

/// Replaces `~/` or `$HOME/` at the start (or the whole of `~`, `$HOME`).
pub fn home(text: String, home: Option<&str>) -> String {
    let Some(home) = home else { return text };
    for prefix in ["~", "$HOME"] {
        if let Some(rest) = text.strip_prefix(prefix)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return format!("{home}{rest}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_in_kubernetes() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            "LOOP" => Some("$(A)"),
            _ => None,
        };
        for (text, expanded) in [
            ("x$(A)y$(A)", "x1y1"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(LOOP)", "$(A)"),
            ("$A ${A} $1 $", "$A ${A} $1 $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
            ("ä$(A)ß", "ä1ß"),
        ] {
            assert_eq!(references(text, lookup), expanded, "{text}");
        }
    }

    #[test]
    fn strict_expansion_names_what_has_no_value() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            _ => None,
        };
        assert_eq!(
            all_references("x/$(A)/$$(B)", lookup),
            Ok("x/1/$(B)".into())
        );
        assert_eq!(
            all_references("$(Z)$(A)$(EMPTY)$(Z)", lookup),
            Err("missing value for EMPTY, Z".into())
        );
    }

    #[test]
    fn home_is_expanded_at_the_start_alone() {
        for (text, expanded) in [
            ("~/x", "/h/x"),
            ("~", "/h"),
            ("$HOME/x", "/h/x"),
            ("$HOME", "/h"),
            ("$HOMER/x", "$HOMER/x"),
            ("~root/x", "~root/x"),
            ("a~/x", "a~/x"),
            ("x:$HOME/y", "x:$HOME/y"),
        ] {
            assert_eq!(home(text.to_owned(), Some("/h")), expanded);
        }
        assert_eq!(home("~/x".to_owned(), None), "~/x");
    }

    proptest::proptest! {
        #[test]
        fn text_without_dollar_is_itself(text in "[^$]{0,40}") {
            proptest::prop_assert_eq!(references(&text, |_| Some("no")), text);
        }

        #[test]
        fn any_text_expands(text in "[$()A~/é]{0,20}") {
            references(&text, |_| None);
        }
    }
}
