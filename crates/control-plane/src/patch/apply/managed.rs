//! `metadata.managedFields`: who owns which field.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Operation;
use super::fieldset::FieldSet;

/// More entries of updates than this are folded into one.
const MOST_UPDATERS: usize = 10;
/// The manager of what was folded.
const ANCIENT: &str = "ancient-changes";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// When the set last changed, RFC 3339 in seconds; empty for unknown.
    pub(super) time: String,
    pub(super) set: FieldSet,
}

impl Entry {
    /// True where both are entries of one manager. An applier is one in all versions.
    pub(super) fn same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    fn decode(value: &Value) -> Option<Self> {
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: match value.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::default(),
                Some(fields) => FieldSet::from_value(fields)?,
            },
        })
    }

    fn encode(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": self.operation.word(),
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_value(),
        });
        if !self.time.is_empty() {
            value["time"] = self.time.as_str().into();
        }
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }
}

/// Now, as entries give it.
pub(super) fn stamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The entries of an object. `None` where one of them is not understood: then none of them is
/// trusted.
pub(super) fn decode(object: &Value) -> Option<Vec<Entry>> {
    match object.pointer("/metadata/managedFields") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(entries)) => entries.iter().map(Entry::decode).collect(),
        Some(_) => None,
    }
}

/// True for `[]` and `[{}]`, by which a client drops all entries.
pub(super) fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields") {
        Some(Value::Array(entries)) => match entries.as_slice() {
            [] => true,
            [Value::Object(entry)] => entry.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

/// Writes the entries into the object, in the order of the API.
pub(super) fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(|a, b| {
        (
            a.operation,
            &a.time,
            &a.manager,
            &a.api_version,
            &a.subresource,
        )
            .cmp(&(
                b.operation,
                &b.time,
                &b.manager,
                &b.api_version,
                &b.subresource,
            ))
    });
    let Some(object) = object.as_object_mut() else {
        return;
    };
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert(
                "managedFields".to_owned(),
                entries.iter().map(Entry::encode).collect(),
            );
        }
    }
}

/// Folds the oldest entries of updates together where there are too many of them.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let mut updaters = entries
        .iter()
        .filter(|entry| entry.operation == Operation::Update)
        .count();
    if updaters <= MOST_UPDATERS {
        return;
    }
    let (mut oldest, mut rest): (Vec<Entry>, Vec<Entry>) = std::mem::take(entries)
        .into_iter()
        .partition(|entry| entry.operation == Operation::Update);
    oldest.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut kept: Vec<Entry> = Vec::new();
    for entry in oldest {
        let first = kept
            .iter_mut()
            .find(|first| first.api_version == entry.api_version);
        match first {
            Some(first) if updaters > MOST_UPDATERS => {
                ANCIENT.clone_into(&mut first.manager);
                first.subresource.clear();
                first.set = std::mem::take(&mut first.set).union(&entry.set);
                first.time = entry.time;
                updaters -= 1;
            }
            _ => kept.push(entry),
        }
    }
    rest.append(&mut kept);
    *entries = rest;
}
