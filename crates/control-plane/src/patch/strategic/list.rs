//! Lists of a strategic merge patch: merged by key, or as sets of scalars, and put in order.

use serde_json::{Map, Value};

use super::{Member, PATCH, merge_map, rejected};
use crate::patch::PatchError;
use crate::patch::gofmt::go_value;

/// Merges two lists of a member whose strategy is `merge`.
pub(super) fn merge(
    live: Vec<Value>,
    patch: Vec<Value>,
    member: Member,
) -> Result<Vec<Value>, PatchError> {
    let Some(first) = live.first().or(patch.first()) else {
        return Ok(live);
    };
    same_type(&live, &patch)?;
    if !first.is_object() {
        let mut merged: Vec<Value> = Vec::with_capacity(live.len() + patch.len());
        for item in live.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return in_order(merged, &patch, &live, None);
    }
    let Some(key) = member.merge_key else {
        return Err(rejected("cannot merge lists without merge key"));
    };
    let (live, patch) = obey_items(live, patch, key)?;
    let mut merged = live.clone();
    for item in &patch {
        let Value::Object(item) = item else { continue };
        let wanted = key_of(item, key)?;
        match merged.iter_mut().find(|old| old.get(key) == Some(wanted)) {
            Some(old) => {
                if let Value::Object(map) = old.take() {
                    *old = Value::Object(merge_map(map, item.clone(), member.below)?);
                }
            }
            None => merged.push(Value::Object(item.clone())),
        }
    }
    in_order(merged, &patch, &live, Some(key))
}

/// Obeys the `$patch` directives among the items, and returns the live list and the patch
/// without them.
fn obey_items(
    mut live: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = &item else { continue };
        let Some(directive) = map.get(PATCH) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let unwanted = key_of(map, key)?;
                live.retain(|old| old.get(key) != Some(unwanted));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(rejected(
                    "merging lists cannot yet be specified in the patch",
                ));
            }
            _ => {
                return Err(rejected(format!(
                    "unknown patch type: {} in map: {}",
                    go_value(directive),
                    go_value(&item)
                )));
            }
        }
    }
    Ok(if replace {
        (plain, Vec::new())
    } else {
        (live, plain)
    })
}

fn key_of<'a>(item: &'a Map<String, Value>, key: &str) -> Result<&'a Value, PatchError> {
    item.get(key).ok_or_else(|| {
        rejected(format!(
            "map: {} does not contain declared merge key: {key}",
            go_value(&Value::Object(item.clone()))
        ))
    })
}

/// All items of both lists must have one type, and it may not be a list.
fn same_type(live: &[Value], patch: &[Value]) -> Result<(), PatchError> {
    let mut items = live.iter().chain(patch);
    let Some(first) = items.next() else {
        return Ok(());
    };
    if first.is_array() {
        return Err(PatchError::Unfit(
            "lists of lists are not supported".to_owned(),
        ));
    }
    if items.all(|item| std::mem::discriminant(item) == std::mem::discriminant(first)) {
        return Ok(());
    }
    let shown = |items: &[Value]| go_value(&Value::Array(items.to_vec()));
    Err(rejected(format!(
        "list element types are not identical: [{} {}]",
        shown(live),
        shown(patch)
    )))
}

/// The text that names an item: its merge key, or itself where there is none.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    let wanted = identity(item, key)?;
    list.iter()
        .position(|other| identity(other, key) == Some(wanted))
}

/// Puts the items that `order` names in its order, and slips the others, in their live order,
/// in front of the first named item that stood behind them in the live list.
pub(super) fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    live: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    for item in &merged {
        match (key, item) {
            (Some(key), Value::Object(map)) => drop(key_of(map, key)?),
            (Some(_), other) => {
                return Err(super::rejected(format!(
                    "expected a map[string]interface {{}}, but received a {}",
                    super::go_type(other)
                )));
            }
            (None, _) => {}
        }
    }
    let (mut named, mut others): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .partition(|item| position(order, item, key).is_some());
    named.sort_by_key(|item| position(order, item, key));
    others.sort_by_key(|item| position(live, item, key).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let here = position(live, &item, key);
        while let Some(other) = others.next_if(|other| {
            matches!((position(live, other, key), here), (Some(there), Some(here)) if there < here)
        }) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others);
    Ok(result)
}

/// The items of a patch must stand in the order that its `$setElementOrder` gives.
pub(super) fn check_order(
    patch: &[Value],
    order: &[Value],
    key: Option<&str>,
) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        let wanted = match (key, item) {
            (Some(key), Value::Object(map)) => Some(key_of(map, key)?),
            _ => identity(item, key),
        };
        if !rest.any(|ordered| identity(ordered, key) == wanted) {
            return Err(rejected(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                go_value(&Value::Array(patch.to_vec())),
                go_value(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}
