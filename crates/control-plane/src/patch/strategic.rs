//! Strategic merge patch: a merge patch that knows the lists whose items have keys.
//!
//! The merge keys and strategies are facts of the type table. Directives: `$patch` in maps and in
//! items of lists, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.

mod list;

use serde_json::{Map, Value};

use super::PatchError;
use super::gofmt::{go_type, go_value};
use crate::schema::{Field, Kind, TypeId, schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Parses the body of a strategic merge patch, which must be an object.
///
/// # Errors
/// [`PatchError::Malformed`] with the message of the real server.
pub fn parse_strategic(body: &[u8]) -> Result<Value, PatchError> {
    super::merge::parse_object(body, "")
}

/// The document, an object of the type, with the patch applied. The result is neither pruned nor
/// defaulted.
///
/// # Errors
/// [`PatchError::Malformed`] and [`PatchError::Rejected`] where directives are wrong or an item
/// has no merge key; [`PatchError::Unfit`] for lists of lists.
pub fn strategic(document: &Value, patch: &Value, kind: TypeId) -> Result<Value, PatchError> {
    let (Value::Object(document), Value::Object(patch)) = (document, patch) else {
        return Err(rejected(format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(if document.is_object() {
                patch
            } else {
                document
            })
        )));
    };
    merge_map(document.clone(), patch.clone(), Place::Struct(kind)).map(Value::Object)
}

fn rejected(words: impl Into<String>) -> PatchError {
    PatchError::Rejected(words.into())
}

/// What the schema knows of a map in the document.
#[derive(Clone, Copy)]
enum Place {
    /// An object of this type.
    Struct(TypeId),
    /// A map with free keys, whose values are of this kind.
    Map(Kind),
    /// Nothing is known: all lists are replaced.
    Unknown,
}

/// How one member is merged, and what is known below it.
#[derive(Clone, Copy)]
struct Member {
    strategy: &'static [&'static str],
    merge_key: Option<&'static str>,
    below: Place,
}

impl Member {
    fn has(&self, strategy: &str) -> bool {
        self.strategy.contains(&strategy)
    }
}

impl Place {
    fn of(kind: Kind) -> Self {
        match schema().resolve(kind) {
            Kind::Named(id) if schema().get(id).special().is_none() => Self::Struct(id),
            Kind::Map(value) => Self::Map(*value),
            _ => Self::Unknown,
        }
    }

    /// What the schema says of the member `key`; for a list, `below` is its items' place.
    fn member(self, key: &str) -> Member {
        match self {
            Self::Struct(id) => match schema().get(id).field(key) {
                Some(field) => Member::of(field),
                None => Member::plain(Self::Unknown),
            },
            Self::Map(kind) => Member::plain(Self::of(items_of(kind))),
            Self::Unknown => Member::plain(Self::Unknown),
        }
    }
}

impl Member {
    fn of(field: &'static Field) -> Self {
        Self {
            strategy: field.patch_strategy,
            merge_key: field.patch_merge_key,
            below: Place::of(items_of(field.kind)),
        }
    }

    fn plain(below: Place) -> Self {
        Self {
            strategy: &[],
            merge_key: None,
            below,
        }
    }
}

fn items_of(kind: Kind) -> Kind {
    match schema().resolve(kind) {
        Kind::List(items) => *items,
        other => other,
    }
}

/// Merges `patch` into `original`.
fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    place: Place,
) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(rejected(format!(
                "unknown patch type: {} in map: {}",
                go_value(directive),
                go_value(&Value::Object(patch.clone()))
            ))),
        };
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    order_lists(&mut original, &mut patch, place)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            let list = list_name(list, &key)?;
            if let Some(Value::Array(items)) = original.get_mut(list) {
                let Value::Array(unwanted) = &value else {
                    return Err(PatchError::Malformed(
                        "invalid patch format of primitive list".to_owned(),
                    ));
                };
                items.retain(|item| !unwanted.contains(item));
            }
            continue;
        }
        merge_member(&mut original, key, value, place)?;
    }
    Ok(original)
}

fn merge_member(
    original: &mut Map<String, Value>,
    key: String,
    value: Value,
    place: Place,
) -> Result<(), PatchError> {
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let member = place.member(&key);
    let merged = match (original.get_mut(&key).map(Value::take), value) {
        (Some(Value::Object(_)), Value::Object(patch)) if member.has("replace") => {
            Some(Value::Object(patch))
        }
        (Some(Value::Object(old)), Value::Object(patch)) => {
            Some(Value::Object(merge_map(old, patch, member.below)?))
        }
        (Some(Value::Array(old)), Value::Array(patch)) if member.has("merge") => {
            Some(Value::Array(list::merge(old, patch, member)?))
        }
        (Some(Value::Array(_)), Value::Array(patch)) => Some(Value::Array(patch)),
        (_, mut value) => {
            drop_nulls(&mut value);
            without_directives(value)
        }
    };
    match merged {
        Some(value) => original.insert(key, value),
        None => original.remove(&key),
    };
    Ok(())
}

/// The name of the list that a directive such as `$setElementOrder/containers` is about.
fn list_name<'k>(name: &'k str, key: &str) -> Result<&'k str, PatchError> {
    if name.is_empty() || name.contains('/') {
        return Err(rejected(format!("key {key:?} names no list")));
    }
    Ok(name)
}

/// Drops the members that `$retainKeys` does not list; all that the patch sets must be listed.
fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keys: &Value,
) -> Result<(), PatchError> {
    let wrong = || PatchError::Malformed("invalid patch format of retainKeys".to_owned());
    let keys = keys.as_array().ok_or_else(wrong)?;
    let listed = |key: &str| keys.iter().any(|listed| listed.as_str() == Some(key));
    for (key, value) in patch {
        let directive = key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
        if !directive && !value.is_null() && !listed(key) {
            return Err(wrong());
        }
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Merges each list that has a `$setElementOrder` beside it and puts it in that order; takes both
/// out of the patch.
fn order_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    place: Place,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else {
            continue;
        };
        let Value::Array(order) = order else {
            return Err(bad_list(&order));
        };
        let name = list_name(&directive[ELEMENT_ORDER.len()..], &directive)?;
        let member = place.member(name);
        let changes = match patch.remove(name) {
            None => None,
            Some(Value::Array(changes)) => Some(changes),
            Some(other) => return Err(bad_list(&other)),
        };
        if let Some(changes) = &changes {
            list::check_order(changes, &order, member.merge_key)?;
        }
        let live = match original.get(name) {
            None => None,
            Some(Value::Array(live)) => Some(live.clone()),
            Some(other) => return Err(bad_list(other)),
        };
        let merged = match (live.clone(), changes) {
            (Some(live), None) => live,
            (None, Some(changes)) => changes.into_iter().filter_map(without_directives).collect(),
            (Some(live), Some(changes)) if member.has("merge") => {
                list::merge(live, changes, member)?
            }
            (Some(_), Some(changes)) => changes,
            (None, None) => continue,
        };
        let ordered = list::in_order(
            merged,
            &order,
            live.as_deref().unwrap_or_default(),
            member.merge_key,
        )?;
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

fn bad_list(value: &Value) -> PatchError {
    rejected(format!(
        "expected a []interface {{}}, but received a {}",
        go_type(value)
    ))
}

/// The value without nulls in its maps, at any depth: a null of a patch has nothing to remove in
/// a member that is new.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value without the maps that hold a `$patch`; `None` where it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(PATCH) {
                return None;
            }
            Some(Value::Object(
                map.into_iter()
                    .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                    .collect(),
            ))
        }
        Value::Array(items) => Some(Value::Array(
            items.into_iter().filter_map(without_directives).collect(),
        )),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests;
