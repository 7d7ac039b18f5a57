//! YAML values into types, with errors that a person can act upon: where, what, and the nearest
//! key or word that is known.

use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde_norway::Value;

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Keys from the top, `tunnels.ports[0]`; empty for the document itself.
    pub key: String,
    /// What stands there, as YAML, cut to one line.
    pub value: String,
    /// A verb phrase: `is no known key`.
    pub problem: String,
    /// What would be right.
    pub mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            problem,
            mend,
        } = self;
        let key = if key.is_empty() { "the document" } else { key };
        write!(f, "{key}: {value:?} {problem}; {mend}")
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), "see docs/sites.md for the schema")
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            it if it.starts_with("struct ") || it == "a map" => "keys with values",
            "a sequence" => "a list",
            "a boolean" => "true or false",
            "a string" => "text",
            other => other,
        };
        Self::new("does not fit".to_owned(), &format!("give {expected}"))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new("does not fit".to_owned(), &format!("give {expected}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut problem = Self::new("is no known key".to_owned(), &nearest(field, expected));
        problem.value = field.to_owned();
        problem
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        let mut problem = Self::new("is no known word".to_owned(), &nearest(word, expected));
        problem.value = word.to_owned();
        problem
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(
            format!("lacks the key {field:?}"),
            &format!("add {field}: …"),
        )
    }
}

impl Problem {
    fn new(problem: String, mend: &str) -> Self {
        Self {
            key: String::new(),
            value: String::new(),
            problem,
            mend: mend.to_owned(),
        }
    }

    /// The same problem, one key further from the top.
    fn under(mut self, key: &str) -> Self {
        self.key = match self.key.as_str() {
            "" => key.to_owned(),
            below if below.starts_with('[') => format!("{key}{below}"),
            below => format!("{key}.{below}"),
        };
        self
    }

    /// The value it is about, where none was named yet.
    fn about(mut self, value: &Value) -> Self {
        if self.value.is_empty() {
            self.value = show(value);
        }
        self
    }
}

/// A value in one line of at most 60 characters.
fn show(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => serde_norway::to_string(other).unwrap_or_default(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// `did you mean "engine"?`, or all that would do.
pub fn nearest(word: &str, known: &[&str]) -> String {
    let best = known
        .iter()
        .map(|candidate| {
            let lower =
                strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
            (lower, candidate)
        })
        .min();
    match best {
        // A third of the letters may be wrong.
        Some((distance, candidate)) if distance <= 1.max(candidate.len() / 3) => {
            format!("did you mean {candidate:?}?")
        }
        _ if known.is_empty() => "nothing may stand here".to_owned(),
        _ => format!("use one of {}", known.join(", ")),
    }
}

/// Makes a `T` of a value.
///
/// # Errors
/// The first thing that does not fit.
pub fn decode<T: de::DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    T::deserialize(Node(value))
}

/// A value as serde sees it.
struct Node<'a>(&'a Value);

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let value = self.0;
        let result = match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(it) => visitor.visit_bool(*it),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(it), _) => visitor.visit_u64(it),
                (None, Some(it)) => visitor.visit_i64(it),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(list) => visitor.visit_seq(Items { list, index: 0 }),
            Value::Mapping(map) => visitor.visit_map(Entries {
                entries: map.iter(),
                current: None,
            }),
            Value::Tagged(tagged) => Err(Problem::new(
                format!("has the tag {}", tagged.tag),
                "leave the tag out",
            )),
        };
        result.map_err(|problem| problem.about(value))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// Words that YAML takes for numbers or truths are words where a word is wanted.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(it) => visitor.visit_string(it.to_string()),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_string(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let value = self.0;
        let result = match value {
            Value::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            Value::Mapping(map) if map.len() == 1 => visitor.visit_enum(Variant(map)),
            _ => Err(Problem::new(
                "is no word".to_owned(),
                "give one of the words that docs/sites.md lists here",
            )),
        };
        result.map_err(|problem| problem.about(value))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    list: &'a [Value],
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Problem> {
        let Some(value) = self.list.get(self.index) else {
            return Ok(None);
        };
        let at = format!("[{}]", self.index);
        self.index += 1;
        seed.deserialize(Node(value))
            .map(Some)
            .map_err(|problem| problem.about(value).under(&at))
    }
}

struct Entries<'a> {
    entries: serde_norway::mapping::Iter<'a>,
    current: Option<(&'a Value, &'a Value)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Problem;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Problem> {
        self.current = self.entries.next();
        let Some((key, _)) = self.current else {
            return Ok(None);
        };
        seed.deserialize(Node(key))
            .map(Some)
            .map_err(|problem| problem.about(key).under(&show(key)))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Problem> {
        let (key, value) = self.current.unwrap_or((&Value::Null, &Value::Null));
        seed.deserialize(Node(value))
            .map_err(|problem| problem.about(value).under(&show(key)))
    }
}

/// `{word: contents}`.
struct Variant<'a>(&'a serde_norway::Mapping);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Problem;
    type Variant = Contents<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Problem> {
        let (key, value) = self.0.iter().next().unwrap_or((&Value::Null, &Value::Null));
        let word = seed.deserialize(Node(key))?;
        Ok((word, Contents { key, value }))
    }
}

struct Contents<'a> {
    key: &'a Value,
    value: &'a Value,
}

impl<'de> VariantAccess<'de> for Contents<'de> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        Err(Problem::new(
            "has contents".to_owned(),
            "give the word alone",
        ))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Problem> {
        seed.deserialize(Node(self.value))
            .map_err(|problem| problem.about(self.value).under(&show(self.key)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        Node(self.value).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        Node(self.value).deserialize_any(visitor)
    }
}
