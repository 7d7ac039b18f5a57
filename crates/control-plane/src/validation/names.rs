//! The rules for names. Each function gives the problems of a text, in the words of
//! apimachinery's `util/validation`; an empty list means the text is good.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// The longest RFC 1123 label.
pub const LABEL_LIMIT: usize = 63;
/// The longest RFC 1123 subdomain.
pub const SUBDOMAIN_LIMIT: usize = 253;

/// `must be no more than 63 characters`.
pub(super) fn max_length(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// `must be between 1 and 65535, inclusive`.
pub(super) fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// The rule, examples and the expression, as messages give them.
fn must_match(rule: &str, examples: &[&str], expression: &str) -> String {
    let examples: String = examples
        .iter()
        .enumerate()
        .map(|(index, example)| {
            let or = if index == 0 { "" } else { " or " };
            format!("{or}'{example}', ")
        })
        .collect();
    format!("{rule} (e.g. {examples}regex used for validation is '{expression}')")
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(lower_or_digit)
        && bytes.last().copied().is_some_and(lower_or_digit)
        && bytes
            .iter()
            .all(|byte| lower_or_digit(*byte) || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// RFC 1123 label: at most 63 of `[a-z0-9-]`, begins and ends with a letter or digit.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LIMIT {
        problems.push(max_length(LABEL_LIMIT));
    }
    if !is_label(text) {
        problems.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            must_match(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                &["my-name", "123-abc"],
                LABEL,
            )
        });
    }
    problems
}

/// RFC 1123 subdomain: at most 253, labels joined by dots.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_LIMIT {
        problems.push(max_length(SUBDOMAIN_LIMIT));
    }
    if !is_subdomain(text) {
        problems.push(must_match(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &["example.com"],
            &format!("{LABEL}(\\.{LABEL})*"),
        ));
    }
    problems
}

/// A domain to search names in: a RFC 1123 subdomain whose labels may have underscores.
pub fn search_domain(text: &str) -> Vec<String> {
    const UNDERSCORED: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_LIMIT {
        problems.push(max_length(SUBDOMAIN_LIMIT));
    }
    let good = text.split('.').all(|part| {
        let part = part.strip_prefix('_').unwrap_or(part);
        let inner = part.replace('_', "-");
        is_label(&inner) && !part.starts_with('_') && !part.ends_with('_')
    });
    if !good {
        problems.push(must_match(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            &["example.com"],
            &format!("{UNDERSCORED}(\\.{UNDERSCORED})*"),
        ));
    }
    problems
}

/// RFC 1035 label: as a RFC 1123 label, but begins with a letter.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LIMIT {
        problems.push(max_length(LABEL_LIMIT));
    }
    if !is_label(text) || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        problems.push(must_match(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            "[a-z]([-a-z0-9]*[a-z0-9])?",
        ));
    }
    problems
}

/// A key of a label, annotation or taint: an optional DNS prefix and a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut problems = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                must_match(RULE, EXAMPLES, QUALIFIED)
            )];
        }
        Some(("", name)) => {
            problems.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            problems.extend(
                dns1123_subdomain(prefix)
                    .into_iter()
                    .map(|problem| format!("prefix part {problem}")),
            );
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LIMIT {
        problems.push(format!("name part {}", max_length(LABEL_LIMIT)));
    }
    if !is_qualified(name) {
        problems.push(format!(
            "name part {}",
            must_match(RULE, EXAMPLES, QUALIFIED)
        ));
    }
    problems
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LIMIT {
        problems.push(max_length(LABEL_LIMIT));
    }
    if !text.is_empty() && !is_qualified(text) {
        problems.push(must_match(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            &format!("({QUALIFIED})?"),
        ));
    }
    problems
}

/// A segment of a path, as names of RBAC objects are: anything but `.`, `..`, and texts with `/`
/// or `%`.
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => ['/', '%']
            .into_iter()
            .filter(|bad| text.contains(*bad))
            .map(|bad| format!("may not contain '{bad}'"))
            .collect(),
    }
}

/// A name of a container port or of a service port's target: at most 15 of `[a-z0-9-]`.
pub fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push(max_length(15));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| lower_or_digit(byte) || byte == b'-')
    {
        problems.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65_535).contains(&port) {
        Vec::new()
    } else {
        vec![between(1, 65_535)]
    }
}

/// The name of an environment variable: printable ASCII but `=`.
pub fn environment_variable(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.is_empty() {
        problems.push("environment variable name must be non-empty".to_owned());
    }
    if !text
        .bytes()
        .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
    {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    problems
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_LIMIT {
        problems.push(max_length(SUBDOMAIN_LIMIT));
    }
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !good {
        problems.push(must_match(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            &["key.name", "KEY_NAME", "key-name"],
            "[-._a-zA-Z0-9]+",
        ));
    }
    match text {
        "." | ".." => problems.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// The name of an HTTP header.
pub fn http_header(text: &str) -> Vec<String> {
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good {
        Vec::new()
    } else {
        vec![must_match(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            &["X-Header-Name"],
            "[-A-Za-z0-9]+",
        )]
    }
}

/// A host name with a wildcard, `*.example.com`.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_LIMIT {
        problems.push(max_length(SUBDOMAIN_LIMIT));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        problems.push(must_match(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &["*.example.com"],
            &format!("\\*\\.{LABEL}(\\.{LABEL})*"),
        ));
    }
    problems
}

/// A percentage such as `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let good = text
        .strip_suffix('%')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    if good {
        Vec::new()
    } else {
        vec![must_match(
            "a valid percent string must be a numeric string followed by an ending '%'",
            &["1%", "93%"],
            "[0-9]+%",
        )]
    }
}

/// The rule for a name that may be the beginning of a generated one: a trailing dash stands for
/// what will be generated.
pub(super) fn as_prefix(text: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    match text.strip_suffix('-') {
        Some(rest) if prefix => format!("{rest}a").into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_have_no_problems() {
        for text in ["a", "a-b", "0", "a0"] {
            assert!(dns1123_label(text).is_empty(), "{text}");
        }
        for text in ["a.b", "example.com", "0.a-b.c"] {
            assert!(dns1123_subdomain(text).is_empty(), "{text}");
        }
        for text in ["a", "example.com/MyName", "A_b.c-d"] {
            assert!(qualified_name(text).is_empty(), "{text}");
        }
        assert!(label_value("").is_empty());
        assert!(config_key("a.b_c-D").is_empty());
        assert!(environment_variable("a b.c-D/0").is_empty());
        assert!(port_name("web-1").is_empty());
        assert!(percent("25%").is_empty());
        assert!(wildcard_subdomain("*.example.com").is_empty());
    }

    #[test]
    fn wrong_names_are_told_the_rule() {
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_label(&"a".repeat(64)),
            ["must be no more than 63 characters"]
        );
        assert_eq!(
            dns1123_subdomain("a_b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(qualified_name("/b"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("").len(), 2);
        assert_eq!(path_segment("a/b"), ["may not contain '/'"]);
        assert_eq!(config_key(".."), ["must not be '..'"]);
        assert_eq!(config_key("a/b").len(), 1);
        assert_eq!(as_prefix("web-", true), "weba");
        assert_eq!(as_prefix("web-", false), "web-");
    }
}
