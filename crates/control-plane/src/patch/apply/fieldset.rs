//! Sets of paths into an object, and their written form `FieldsV1`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A set of paths. It is a tree: each node is one path, may be a member of the set itself, and
/// has the nodes below it. The elements of paths are kept as they are written: `f:spec` for a
/// field, `k:{"name":"c"}` for an item of a keyed list, `v:"x"` for an item of a set.
///
/// No node but the root is empty: a node without nodes below is a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// True where no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    pub(super) fn set_member(&mut self) {
        self.member = true;
    }

    /// The nodes right below.
    pub(super) fn below(&self) -> impl Iterator<Item = (&String, &FieldSet)> {
        self.below.iter()
    }

    pub(super) fn get(&self, element: &str) -> Option<&FieldSet> {
        self.below.get(element)
    }

    /// Puts a node right below; an empty one is left out.
    pub(super) fn attach(&mut self, element: String, node: FieldSet) {
        if !node.is_empty() {
            self.below.insert(element, node);
        }
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[&str]) {
        let node = path.iter().fold(self, |node, element| {
            node.below.entry((*element).to_owned()).or_default()
        });
        node.member = true;
    }

    /// True where the path is in the set.
    pub fn contains(&self, path: &[&str]) -> bool {
        path.iter()
            .try_fold(self, |node, element| node.below.get(*element))
            .is_some_and(|node| node.member)
    }

    /// The paths that are in one of the two.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.member |= other.member;
        for (element, node) in &other.below {
            match self.below.remove(element) {
                Some(own) => self.below.insert(element.clone(), own.union(node)),
                None => self.below.insert(element.clone(), node.clone()),
            };
        }
        self
    }

    /// The paths that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut result = Self {
            member: self.member && other.member,
            below: BTreeMap::new(),
        };
        for (element, node) in &self.below {
            if let Some(theirs) = other.below.get(element) {
                result.attach(element.clone(), node.intersection(theirs));
            }
        }
        result
    }

    /// The paths that are not in the other.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other);
        self
    }

    fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        if other.below.is_empty() {
            return;
        }
        self.below.retain(|element, node| {
            if let Some(theirs) = other.below.get(element) {
                node.subtract(theirs);
            }
            !node.is_empty()
        });
    }

    /// The paths that are not in the other, and not below a path of the other.
    #[must_use]
    pub fn without_trees(mut self, other: &Self) -> Self {
        self.below = std::mem::take(&mut self.below)
            .into_iter()
            .filter_map(|(element, node)| {
                let node = match other.below.get(&element) {
                    Some(theirs) if theirs.member => return None,
                    Some(theirs) => node.without_trees(theirs),
                    None => node,
                };
                (!node.is_empty()).then_some((element, node))
            })
            .collect();
        self
    }

    /// The written form. The nodes below a member stand beside a dot.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, node) in &self.below {
            map.insert(element.clone(), node.to_value());
        }
        Value::Object(map)
    }

    /// Reads the written form of a whole set; `None` where it is none.
    pub fn from_value(value: &Value) -> Option<Self> {
        let mut set = Self::node(value)?;
        set.member = false;
        Some(set)
    }

    fn node(value: &Value) -> Option<Self> {
        let map = value.as_object()?;
        let mut node = Self {
            member: map.is_empty() || map.contains_key("."),
            below: BTreeMap::new(),
        };
        for (element, below) in map.iter().filter(|(element, _)| *element != ".") {
            if !matches!(element.as_bytes(), [b'f' | b'k' | b'v' | b'i', b':', ..]) {
                return None;
            }
            node.below.insert(element.clone(), Self::node(below)?);
        }
        Some(node)
    }

    /// Every path as messages show it, members of a node before what is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.below {
            if node.member {
                paths.push(format!("{prefix}{}", shown(element)));
            }
        }
        for (element, node) in &self.below {
            if !node.below.is_empty() {
                node.collect(&format!("{prefix}{}", shown(element)), paths);
            }
        }
    }
}

/// An element of a path as messages show it: `.spec`, `[name="c"]`, `[="x"]`.
fn shown(element: &str) -> String {
    let (kind, rest) = element.split_at(2.min(element.len()));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => match serde_json::from_str::<Map<String, Value>>(rest) {
            Ok(keys) => {
                let mut text = String::from("[");
                for (index, (key, value)) in keys.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{comma}{key}={value}");
                }
                text.push(']');
                text
            }
            Err(_) => format!("[{rest}]"),
        },
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_set() -> impl Strategy<Value = FieldSet> {
        prop::collection::vec(prop::collection::vec("f:[a-c]", 1..4), 0..8).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in paths {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                set.insert(&path);
            }
            set
        })
    }

    fn set(value: Value) -> FieldSet {
        FieldSet::from_value(&value).expect("a field set")
    }

    #[test]
    fn a_set_reads_and_writes_its_form() {
        let value = json!({"f:data": {".": {}, "f:k": {}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:port": {}}}}});
        let fields = set(value.clone());
        assert_eq!(fields.to_value(), value);
        assert!(fields.contains(&["f:data"]));
        assert!(!fields.contains(&["f:spec"]));
        assert_eq!(
            fields.paths(),
            [
                ".data",
                ".data.k",
                ".spec.ports[port=80,protocol=\"TCP\"].port"
            ]
        );
        assert_eq!(FieldSet::from_value(&json!({"x": {}})), None);
        assert_eq!(FieldSet::from_value(&json!([])), None);
    }

    #[test]
    fn trees_go_with_their_root() {
        let fields = set(json!({"f:status": {"f:phase": {}}, "f:spec": {"f:a": {}}}));
        assert_eq!(
            fields.without_trees(&set(json!({"f:status": {}}))),
            set(json!({"f:spec": {"f:a": {}}}))
        );
    }

    proptest! {
        #[test]
        fn union_and_intersection_commute(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.clone().union(&b), b.clone().union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        }

        #[test]
        fn union_associates_and_takes_in(a in any_set(), b in any_set(), c in any_set()) {
            prop_assert_eq!(
                a.clone().union(&b).union(&c),
                a.clone().union(&b.clone().union(&c))
            );
            prop_assert_eq!(a.clone().union(&a), a.clone());
            prop_assert_eq!(a.intersection(&a.clone().union(&b)), a);
        }

        #[test]
        fn difference_and_intersection_split_a_set(a in any_set(), b in any_set()) {
            let rest = a.clone().difference(&b);
            let common = a.intersection(&b);
            prop_assert!(rest.intersection(&common).is_empty());
            prop_assert_eq!(rest.union(&common), a.clone());
            prop_assert!(a.clone().difference(&a).is_empty());
        }

        #[test]
        fn the_written_form_loses_nothing(a in any_set()) {
            prop_assert_eq!(FieldSet::from_value(&a.to_value()), Some(a));
        }

        #[test]
        fn trees_contain_their_paths(a in any_set(), b in any_set()) {
            let rest = a.clone().without_trees(&b);
            prop_assert!(rest.intersection(&b).is_empty());
            prop_assert_eq!(rest.clone().difference(&a), FieldSet::default());
        }
    }
}
