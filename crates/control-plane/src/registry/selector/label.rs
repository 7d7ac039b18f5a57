//! Label selectors: `app=web, tier in (a, b), !legacy, generation > 3`.
//!
//! The grammar is that of apimachinery's `labels.Parse`, with its messages, since users see them.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::CharIndices;

use serde_json::Value;

use crate::status::FieldError;
use crate::validation::names;

/// A parsed selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Requirement {
    fn matches(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        let value = labels
            .iter()
            .find(|(key, _)| **key == *self.key)
            .map(|(_, value)| &**value);
        match (self.operator, value) {
            (Operator::In, value) => value.is_some_and(|value| self.values.contains(value)),
            (Operator::NotIn, value) => value.is_none_or(|value| !self.values.contains(value)),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::GreaterThan, value) => self.compare(value, |have, want| have > want),
            (Operator::LessThan, value) => self.compare(value, |have, want| have < want),
        }
    }

    fn compare(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let have = value.and_then(|value| value.parse().ok());
        let want = self.values.first().and_then(|value| value.parse().ok());
        matches!((have, want), (Some(have), Some(want)) if holds(have, want))
    }
}

impl LabelSelector {
    /// Parses a selector; the empty one chooses everything.
    ///
    /// # Errors
    /// The message for a 400.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            tokens: tokens(text),
            position: 0,
        };
        parser.selector().map(|requirements| Self { requirements })
    }

    /// The text of a `LabelSelector` object (`matchLabels`, `matchExpressions`).
    pub fn text_of(selector: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let mut parts: Vec<String> = labels
            .map(|(key, value)| format!("{key}={}", text(value)))
            .collect();
        let expressions = selector["matchExpressions"].as_array();
        for expression in expressions.into_iter().flatten() {
            let key = text(&expression["key"]);
            let values = expression["values"].as_array().into_iter().flatten();
            let values: Vec<String> = values.map(text).collect();
            let values = values.join(",");
            parts.push(match expression["operator"].as_str() {
                Some("In") => format!("{key} in ({values})"),
                Some("NotIn") => format!("{key} notin ({values})"),
                Some("DoesNotExist") => format!("!{key}"),
                _ => key,
            });
        }
        parts.join(",")
    }

    /// Whether everything is chosen.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object is chosen by its labels.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object["metadata"]["labels"].as_object();
        let labels: Vec<_> = labels
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
            .collect();
        self.matches(&labels)
    }

    /// Whether an object with these labels is chosen.
    pub fn matches(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Identifier,
    Comma,
    Open,
    Close,
    Not,
    In,
    NotIn,
    Equals,
    NotEquals,
    Greater,
    Less,
    Error,
}

const SYMBOLS: [(&str, Token); 9] = [
    (")", Token::Close),
    (",", Token::Comma),
    ("!", Token::Not),
    ("==", Token::Equals),
    ("=", Token::Equals),
    (">", Token::Greater),
    ("<", Token::Less),
    ("!=", Token::NotEquals),
    ("(", Token::Open),
];

fn is_symbol(c: char) -> bool {
    "=!(),><".contains(c)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn take_while<'a>(
    text: &'a str,
    start: usize,
    chars: &mut Peekable<CharIndices<'a>>,
    keep: impl Fn(&str, char) -> bool,
) -> &'a str {
    let mut end = start;
    while let Some(&(at, c)) = chars.peek() {
        if !keep(&text[start..at + c.len_utf8()], c) {
            break;
        }
        end = at + c.len_utf8();
        chars.next();
    }
    &text[start..end]
}

fn tokens(text: &str) -> Vec<(Token, &str)> {
    let mut found = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        if is_space(c) {
            chars.next();
        } else if is_symbol(c) {
            // The longest symbol: `!=` before `!`.
            let literal = take_while(text, start, &mut chars, |so_far, c| {
                is_symbol(c) && SYMBOLS.iter().any(|(symbol, _)| *symbol == so_far)
            });
            let token = SYMBOLS
                .iter()
                .find(|(symbol, _)| *symbol == literal)
                .map_or(Token::Error, |(_, token)| *token);
            found.push((token, literal));
        } else {
            let literal = take_while(text, start, &mut chars, |_, c| {
                !is_symbol(c) && !is_space(c)
            });
            found.push((
                match literal {
                    "in" => Token::In,
                    "notin" => Token::NotIn,
                    _ => Token::Identifier,
                },
                literal,
            ));
        }
    }
    found
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    position: usize,
}

impl<'a> Parser<'a> {
    /// The next token as it stands.
    fn raw(&self) -> (Token, &'a str) {
        self.tokens
            .get(self.position)
            .copied()
            .unwrap_or((Token::End, ""))
    }

    /// The next token where a key or a value is expected: `in` and `notin` are words there.
    fn look(&self) -> (Token, &'a str) {
        match self.raw() {
            (Token::In | Token::NotIn, literal) => (Token::Identifier, literal),
            other => other,
        }
    }

    fn take(&mut self) -> (Token, &'a str) {
        let token = self.look();
        self.position += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.look() {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self
                        .requirement()
                        .map_err(|why| format!("unable to parse requirement: {why}"))?;
                    requirements.push(requirement);
                    match self.take() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.look() {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, literal) => {
                                return Err(format!(
                                    "found '{literal}', expected: identifier after ','"
                                ));
                            }
                        },
                        (_, literal) => {
                            return Err(format!(
                                "found '{literal}', expected: ',' or 'end of string'"
                            ));
                        }
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, literal) => {
                    return Err(format!(
                        "found '{literal}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let problems = names::qualified_name(key);
        if !problems.is_empty() {
            return Err(FieldError::invalid("<nil>", key, problems.join("; ")).to_string());
        }
        if negated {
            return Ok(requirement(key, Operator::DoesNotExist, []));
        }
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(requirement(key, Operator::Exists, []));
        }
        let (token, literal) = self.raw();
        self.position += 1;
        let operator = match token {
            Token::In | Token::Equals => Operator::In,
            Token::NotIn | Token::NotEquals => Operator::NotIn,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => {
                return Err(format!(
                    "found '{literal}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        let values = if matches!(token, Token::In | Token::NotIn) {
            self.values()?
        } else {
            [self.exact_value()?].into()
        };
        check_values(key, operator, &values)?;
        Ok(requirement(key, operator, values))
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Identifier, literal) => Ok(literal.to_owned()),
            (_, literal) => Err(format!("found '{literal}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, literal) = self.take();
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        match self.look() {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.value_list()?;
                match self.take() {
                    (Token::Close, _) => Ok(values),
                    (_, literal) => Err(format!("found '{literal}', expected: ')'")),
                }
            }
            (Token::Close, _) => {
                self.position += 1;
                Ok([String::new()].into())
            }
            (_, literal) => Err(format!(
                "found '{literal}', expected: ',', ')' or identifier"
            )),
        }
    }

    /// Values between parentheses; nothing before or after a comma is the empty value.
    fn value_list(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        loop {
            match self.take() {
                (Token::Identifier, literal) => {
                    values.insert(literal.to_owned());
                    match self.look() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => {
                            return Err(format!("found '{literal}', expected: ',' or ')'"));
                        }
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.look().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.position += 1;
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, literal) => {
                    return Err(format!("found '{literal}', expected: ',', or identifier"));
                }
            }
        }
    }
}

fn requirement(
    key: &str,
    operator: Operator,
    values: impl IntoIterator<Item = String>,
) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator,
        values: values.into_iter().collect(),
    }
}

fn check_values(key: &str, operator: Operator, values: &BTreeSet<String>) -> Result<(), String> {
    let mut errors = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if matches!(operator, Operator::GreaterThan | Operator::LessThan)
            && value.parse::<i64>().is_err()
        {
            errors.push(FieldError::invalid(
                format!("values[{index}]"),
                value.as_str(),
                "for 'Gt', 'Lt' operators, the value must be an integer",
            ));
        }
    }
    for (index, value) in values.iter().enumerate() {
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(
                format!("values[{index}][{key}]"),
                value.as_str(),
                problems.join("; "),
            ));
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.to_string()),
        many => Err(format!(
            "[{}]",
            many.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn every_operator_chooses_as_documented() {
        let web = labels(&[("app", "web"), ("n", "5"), ("in", "x")]);
        for (selector, chosen) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app=web", true),
            ("app==web,n=5", true),
            ("app != web", false),
            ("other!=web", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("other notin (db)", true),
            ("other in (db)", false),
            ("n>4", true),
            ("n>5", false),
            ("n < 6", true),
            ("app>1", false),
            ("in", true),
            ("in=x", true),
            ("app in (),n", false),
            ("app=", false),
        ] {
            let parsed = LabelSelector::parse(selector).expect(selector);
            assert_eq!(parsed.matches(&web), chosen, "{selector}");
        }
    }

    /// Messages as kube-apiserver 1.34 gives them.
    #[test]
    fn what_does_not_parse_is_refused_in_known_words() {
        for (selector, message) in [
            (
                "a in (",
                "unable to parse requirement: found '', expected: ',', ')' or identifier",
            ),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            (
                "a notin (b",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            ("a==b,,c", "found ',', expected: identifier after ','"),
            (
                "a foo (b)",
                "unable to parse requirement: found 'foo', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                ",a",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
        ] {
            assert_eq!(
                LabelSelector::parse(selector),
                Err(message.to_owned()),
                "{selector}"
            );
        }
    }
}
