//! Walks over objects along their schema: the paths of an object, the difference of two, an
//! object without some paths.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use super::shape::Shape;

/// Every path of the value.
pub(super) fn paths_of(value: &Value, shape: Shape) -> FieldSet {
    let mut node = FieldSet::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Deduced | Shape::Custom, Value::Object(map)) => {
            for (key, value) in map {
                let (shape, known) = shape.member(key);
                let mut below = paths_of(value, shape);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !known {
                    below.set_member();
                }
                node.attach(format!("f:{key}"), below);
            }
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(items)) => {
            let mut seen: HashMap<String, usize> = HashMap::new();
            let elements: Vec<Option<String>> =
                items.iter().map(|item| shape.element(item)).collect();
            for element in elements.iter().flatten() {
                *seen.entry(element.clone()).or_default() += 1;
            }
            for (item, element) in items.iter().zip(elements) {
                let Some(element) = element else { continue };
                // Items that share a name are owned as one.
                let mut below = if seen.get(&element) == Some(&1) {
                    paths_of(item, shape.item())
                } else {
                    FieldSet::default()
                };
                below.set_member();
                node.attach(element, below);
            }
        }
        (Shape::Struct(_) | Shape::Map(_) | Shape::Custom, _)
        | (Shape::Set | Shape::Keyed { .. }, _) => {}
        (Shape::Leaf | Shape::Deduced, _) => node.set_member(),
    }
    node
}

/// The paths by which two objects differ.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
}

impl Difference {
    /// All that the new object set: what it added and what it changed.
    pub(super) fn set(&self) -> FieldSet {
        self.added.clone().union(&self.modified)
    }

    pub(super) fn without_trees(self, ignored: &FieldSet) -> Self {
        Self {
            added: self.added.without_trees(ignored),
            removed: self.removed.without_trees(ignored),
            modified: self.modified.without_trees(ignored),
        }
    }

    fn attach(&mut self, element: &str, below: Self) {
        for (set, below) in [
            (&mut self.added, below.added),
            (&mut self.removed, below.removed),
            (&mut self.modified, below.modified),
        ] {
            if !below.is_empty() {
                set.attach(element.to_owned(), below);
            }
        }
    }

    fn leaf(old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut difference = Self::default();
        match (old, new) {
            (None, Some(_)) => difference.added.set_member(),
            (Some(_), None) => difference.removed.set_member(),
            (Some(old), Some(new)) if old != new => difference.modified.set_member(),
            _ => {}
        }
        difference
    }
}

/// The difference of two values, of which at least one is there.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> Difference {
    let mut difference = match shape {
        Shape::Leaf => return Difference::leaf(old, new),
        Shape::Struct(_) | Shape::Map(_) | Shape::Custom => {
            match compare_maps(map_of(old), map_of(new), shape) {
                Some(difference) => difference,
                None => return Difference::leaf(old, new),
            }
        }
        Shape::Set | Shape::Keyed { .. } => {
            match compare_lists(list_of(old), list_of(new), shape) {
                Some(difference) => difference,
                None => return Difference::leaf(old, new),
            }
        }
        Shape::Deduced => {
            let object = |value: Option<&Value>| value.is_none_or(Value::is_object);
            if !object(old) || !object(new) {
                return Difference::leaf(old, new);
            }
            match compare_maps(map_of(old), map_of(new), shape) {
                Some(difference) => difference,
                None => return Difference::leaf(old, new),
            }
        }
    };
    if old.is_none() {
        difference.added.set_member();
    } else if new.is_none() {
        difference.removed.set_member();
    }
    difference
}

fn map_of(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
}

fn list_of(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// `None` where both are empty: then they are compared as a whole.
fn compare_maps(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    shape: Shape,
) -> Option<Difference> {
    if old.is_none() && new.is_none() {
        return None;
    }
    let mut difference = Difference::default();
    for (key, value) in new.into_iter().flatten() {
        let before = old.and_then(|old| old.get(key));
        if before == Some(value) {
            continue;
        }
        let below = compare(before, Some(value), shape.member(key).0);
        difference.attach(&format!("f:{key}"), below);
    }
    for (key, value) in old.into_iter().flatten() {
        if new.is_none_or(|new| !new.contains_key(key)) {
            let below = compare(Some(value), None, shape.member(key).0);
            difference.attach(&format!("f:{key}"), below);
        }
    }
    Some(difference)
}

fn compare_lists(old: &[Value], new: &[Value], shape: Shape) -> Option<Difference> {
    if old.is_empty() && new.is_empty() {
        return None;
    }
    let mut difference = Difference::default();
    let olds = by_element(old, shape);
    let news = by_element(new, shape);
    let removed_only = olds
        .iter()
        .filter(|(element, _)| !news.iter().any(|(other, _)| other == element));
    for (element, now) in &news {
        let before = olds
            .iter()
            .find(|(other, _)| other == element)
            .map(|(_, items)| items.as_slice())
            .unwrap_or_default();
        difference.attach(element, compare_items(before, now, shape));
    }
    for (element, before) in removed_only {
        difference.attach(element, compare_items(before, &[], shape));
    }
    Some(difference)
}

/// The items that share a name, of which there should be one on each side.
fn compare_items(old: &[&Value], new: &[&Value], shape: Shape) -> Difference {
    let mut difference = match (old, new) {
        ([], [new]) => return compare(None, Some(new), shape.item()),
        ([old], []) => return compare(Some(old), None, shape.item()),
        ([old], [new]) => {
            if old == new {
                return Difference::default();
            }
            return compare(Some(old), Some(new), shape.item());
        }
        ([_, _, ..], [_, _, ..]) => {
            let mut difference = Difference::default();
            if old != new {
                difference.modified.set_member();
            }
            return difference;
        }
        ([_, _, ..], [one]) => compare(None, Some(one), shape.item()),
        ([one], _) => compare(Some(one), None, shape.item()),
        _ => Difference::default(),
    };
    if old.len() > 1 {
        difference.removed.set_member();
    } else {
        difference.added.set_member();
    }
    difference
}

fn by_element(items: &[Value], shape: Shape) -> Vec<(String, Vec<&Value>)> {
    let mut result: Vec<(String, Vec<&Value>)> = Vec::with_capacity(items.len());
    for item in items {
        let Some(element) = shape.element(item) else {
            continue;
        };
        match result.iter_mut().find(|(other, _)| *other == element) {
            Some((_, same)) => same.push(item),
            None => result.push((element, vec![item])),
        }
    }
    result
}

/// The value without the paths of `gone`; `None` where nothing is left of it.
pub(super) fn remove(value: &Value, gone: &FieldSet, shape: Shape) -> Option<Value> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Deduced | Shape::Custom, Value::Object(map)) => {
            let mut kept = Map::new();
            for (key, value) in map {
                let value = match gone.get(&format!("f:{key}")) {
                    Some(node) if node.is_member() => continue,
                    Some(node) => remove(value, node, shape.member(key).0).unwrap_or(Value::Null),
                    None => value.clone(),
                };
                kept.insert(key.clone(), value);
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (Shape::Set | Shape::Keyed { .. }, Value::Array(items)) => {
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|item| {
                    let node = shape.element(item).and_then(|element| gone.get(&element));
                    match node {
                        Some(node) if node.is_member() => None,
                        Some(node) => remove(item, node, shape.item()),
                        None => Some(item.clone()),
                    }
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        // Something below an atomic value is to go: the value goes.
        (Shape::Leaf, Value::Object(_) | Value::Array(_)) => None,
        _ => Some(value.clone()),
    }
}

/// The set with the named fields that it holds paths below of. A field is not a member where only
/// what is in it was set; to remove something, it must be seen as one.
pub(super) fn with_named_fields(set: &FieldSet, shape: Shape) -> FieldSet {
    let mut result = FieldSet::default();
    for (element, node) in set.below() {
        let (below, known) = match element.strip_prefix("f:") {
            Some(key) => shape.member(key),
            None => (shape.item(), false),
        };
        let mut named = with_named_fields(node, below);
        let has_below = node.below().next().is_some();
        if node.is_member() || (known && has_below) {
            named.set_member();
        }
        result.attach(element.clone(), named);
    }
    result
}
