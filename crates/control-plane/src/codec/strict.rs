//! JSON text to a value, with what strict validation has to say about it: unknown and duplicate
//! fields, in the order of the text.

use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::StrictProblem;
use crate::schema::{Kind, TypeId, schema};

/// Go stops to collect after so many.
const MOST: usize = 100;

/// Reads JSON; without a type only duplicates are found.
pub(super) fn read(
    body: &[u8],
    type_id: Option<TypeId>,
) -> Result<(Value, Vec<StrictProblem>), serde_json::Error> {
    // Problems are rare, and their paths cost time: the first reading only tells whether there is
    // any.
    let mut log = Log::new(false);
    let value = read_into(body, type_id, &mut log)?;
    if !log.any {
        return Ok((value, Vec::new()));
    }
    let mut log = Log::new(true);
    let value = read_into(body, type_id, &mut log)?;
    Ok((value, log.problems))
}

fn read_into(
    body: &[u8],
    type_id: Option<TypeId>,
    log: &mut Log,
) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let place = type_id.map_or(Place::Free, |id| Place::Typed(Kind::Named(id)));
    let value = Seed { log, place }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The unknown fields of a value that is read already, in the order of its keys.
pub(super) fn unknown(value: &Value, type_id: TypeId) -> Vec<StrictProblem> {
    let mut log = Log::new(true);
    walk(value, Place::Typed(Kind::Named(type_id)), &mut log);
    log.problems
}

struct Log {
    /// Paths are followed and problems are kept; else only [`Log::any`] is.
    detailed: bool,
    any: bool,
    path: String,
    problems: Vec<StrictProblem>,
}

impl Log {
    fn new(detailed: bool) -> Self {
        Self {
            detailed,
            any: false,
            path: String::new(),
            problems: Vec::new(),
        }
    }

    fn report(&mut self, problem: fn(String) -> StrictProblem, name: &str) {
        self.any = true;
        if !self.detailed || self.problems.len() >= MOST {
            return;
        }
        let problem = problem(if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        });
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if self.detailed {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(name);
        }
        length
    }

    fn enter_item(&mut self, at: usize) -> usize {
        let length = self.path.len();
        if self.detailed {
            // Writing to a string cannot fail.
            let _ = write!(self.path, "[{at}]");
        }
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }
}

/// What is known about the value that follows.
#[derive(Clone, Copy)]
enum Place {
    /// Any value; duplicates count.
    Free,
    /// A value of this kind.
    Typed(Kind),
    /// A value that nothing is said about: below an unknown field, or read by a type of its own.
    Silent,
}

impl Place {
    fn resolved(self) -> Self {
        match self {
            Self::Typed(kind) => match schema().resolve(kind) {
                Kind::Named(id) if schema().get(id).special().is_some() => Self::Silent,
                kind => Self::Typed(kind),
            },
            other => other,
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Typed(Kind::List(element)) => Self::Typed(*element),
            Self::Typed(_) => Self::Silent,
            other => other,
        }
    }

    /// The place of a member; `None` where the type has no such field.
    fn member(self, name: &str) -> Option<Self> {
        match self {
            Self::Typed(Kind::Map(element)) => Some(Self::Typed(*element)),
            Self::Typed(Kind::Named(id)) => {
                let field = schema().get(id).field(name)?;
                Some(Self::Typed(field.kind))
            }
            Self::Typed(_) => Some(Self::Silent),
            other => Some(other),
        }
    }
}

fn walk(value: &Value, place: Place, log: &mut Log) {
    let place = place.resolved();
    if matches!(place, Place::Silent) {
        return;
    }
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let length = log.enter_item(at);
                walk(item, place.item(), log);
                log.leave(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                match place.member(name) {
                    None => log.report(StrictProblem::Unknown, name),
                    Some(place) => {
                        let length = log.enter(name);
                        walk(member, place, log);
                        log.leave(length);
                    }
                }
            }
        }
        _ => {}
    }
}

struct Seed<'a> {
    log: &'a mut Log,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Self {
            place: self.place.resolved(),
            log: self.log,
        })
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let place = self.place.item();
        let mut items = Vec::new();
        loop {
            let length = self.log.enter_item(items.len());
            let item = access.next_element_seed(Seed {
                log: self.log,
                place,
            });
            self.log.leave(length);
            match item? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let place = self.place.member(&name);
            let entry = members.entry(name);
            let name = entry.key();
            match (place, &entry) {
                (None, _) => self.log.report(StrictProblem::Unknown, name),
                (Some(Place::Free | Place::Typed(_)), Entry::Occupied(_)) => {
                    self.log.report(StrictProblem::Duplicate, name);
                }
                _ => {}
            }
            let length = self.log.enter(name);
            let member = access.next_value_seed(Seed {
                log: self.log,
                place: place.unwrap_or(Place::Silent),
            })?;
            self.log.leave(length);
            match entry {
                Entry::Vacant(entry) => {
                    entry.insert(member);
                }
                Entry::Occupied(mut entry) => {
                    entry.insert(member);
                }
            }
        }
        Ok(Value::Object(members))
    }
}
