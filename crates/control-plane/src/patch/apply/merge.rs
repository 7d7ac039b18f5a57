//! The object that results from laying an applied configuration over a live object.

use serde_json::{Map, Value};

use super::shape::Shape;

/// The live value with the applied one over it. Lists that merge keep the live order where they
/// can, and the applied order where the two disagree.
pub(super) fn merge(live: Option<&Value>, applied: Option<&Value>, shape: Shape) -> Value {
    let (live, applied) = match (live, applied) {
        (None, None) => return Value::Null,
        (Some(only), None) | (None, Some(only)) => return only.clone(),
        (Some(live), Some(applied)) => (live, applied),
    };
    match (shape, live, applied) {
        (
            Shape::Struct(_) | Shape::Map(_) | Shape::Deduced | Shape::Custom,
            Value::Object(old),
            Value::Object(new),
        ) if !(old.is_empty() && new.is_empty()) => {
            let mut merged = Map::new();
            for (key, value) in old {
                merged.insert(
                    key.clone(),
                    merge(Some(value), new.get(key), shape.member(key).0),
                );
            }
            for (key, value) in new {
                if !old.contains_key(key) {
                    merged.insert(key.clone(), value.clone());
                }
            }
            Value::Object(merged)
        }
        // A null says nothing about what is owned piece by piece.
        (Shape::Struct(_) | Shape::Map(_) | Shape::Custom, Value::Object(old), Value::Null)
            if !old.is_empty() =>
        {
            live.clone()
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(old), Value::Array(new))
            if !(old.is_empty() && new.is_empty()) =>
        {
            Value::Array(merge_lists(old, new, shape))
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(old), Value::Null) if !old.is_empty() => {
            live.clone()
        }
        _ => applied.clone(),
    }
}

fn merge_lists(live: &[Value], applied: &[Value], shape: Shape) -> Vec<Value> {
    let elements = |items: &[Value]| -> Vec<Option<String>> {
        items.iter().map(|item| shape.element(item)).collect()
    };
    let olds = elements(live);
    let news = elements(applied);
    let find = |list: &[Option<String>], element: &Option<String>| {
        element
            .as_ref()
            .and_then(|_| list.iter().position(|other| other == element))
    };
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let mut next = 0;
    for (index, element) in olds.iter().enumerate() {
        let Some(place) = find(&news, element) else {
            // Only the live object has it: it stays where it is.
            merged.push(live[index].clone());
            continue;
        };
        // Of what both have, the applied order holds: an item waits until it is the next.
        let due = (next..news.len()).find(|place| find(&olds, &news[*place]).is_some());
        if due == Some(place) {
            for (item, element) in applied[next..=place].iter().zip(&news[next..=place]) {
                let old = find(&olds, element).map(|old| &live[old]);
                merged.push(merge(old, Some(item), shape.item()));
            }
            next = place + 1;
        }
    }
    for (item, element) in applied[next..].iter().zip(&news[next..]) {
        let old = find(&olds, element).map(|old| &live[old]);
        merged.push(merge(old, Some(item), shape.item()));
    }
    merged
}
