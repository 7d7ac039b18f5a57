//! Server-side apply and field ownership.
//!
//! Each entry of `metadata.managedFields` says which paths of the object one manager set. An
//! apply gives the manager the paths of its configuration, takes what it no longer names out of
//! the object unless somebody else owns it too, and conflicts with what others set to other
//! values. Every other write gives its manager what it changed.
//!
//! An entry is taken for the version the object is served in: objects are not converted between
//! versions here.

mod check;
mod fieldset;
mod managed;
mod merge;
mod shape;
mod walk;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

pub use self::fieldset::FieldSet;

use self::managed::Entry;
use self::shape::Shape;
use self::walk::{Difference, compare, paths_of};
use crate::schema::{Gvk, TypeId, schema};
use crate::status::ApiError;

/// The manager of what was in an object before anyone's fields were tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Where kubectl keeps what it applied on its own side.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Fields of the metadata that belong to the server.
const SYSTEM_METADATA: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// How an entry of `metadata.managedFields` came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else that writes.
    Update,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager as messages name it: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that would change, and the client does not force it: 409.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration cannot be applied as it is: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the schema: 500 with the words of the real server.
    #[error("{0}")]
    Schema(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.field
        );
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let own = conflicts.iter().filter(|c| c.manager == manager);
        lines.extend(own.map(|c| format!("- {}", c.field)));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::Conflicts(conflicts) => conflicts.into_iter().fold(
                ApiError::new(StatusCode::CONFLICT, "Conflict", message),
                |error, conflict| {
                    error.cause(
                        "FieldManagerConflict",
                        format!("conflict with {}", conflict.manager),
                        conflict.field,
                    )
                },
            ),
            ApplyError::BadRequest(_) => ApiError::bad_request(message),
            ApplyError::Schema(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message),
        }
    }
}

/// Who writes, through which door, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager; empty for `unknown`.
    pub manager: &'a str,
    /// The sub-resource written; empty for the object itself.
    pub subresource: &'a str,
    /// The type of the object; `None` for custom resources.
    pub kind: Option<TypeId>,
    /// The time of the write.
    pub now: Timestamp,
}

impl Writer<'_> {
    fn entry(&self, operation: Operation, object: &Value) -> Entry {
        let manager = if self.manager.is_empty() {
            "unknown"
        } else {
            self.manager
        };
        Entry {
            manager: manager.to_owned(),
            operation,
            api_version: object
                .get("apiVersion")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            subresource: self.subresource.to_owned(),
            time: managed::stamp(self.now),
            set: FieldSet::default(),
        }
    }

    fn shape(&self) -> Shape {
        Shape::of_object(self.kind)
    }

    /// What a write through this door never owns, since the server takes it from elsewhere.
    fn ignored(&self) -> FieldSet {
        let mut ignored = FieldSet::default();
        match self.subresource {
            "" => {
                let has_status = self
                    .kind
                    .is_some_and(|id| schema().get(id).field("status").is_some());
                if has_status {
                    ignored.insert(&["f:status"]);
                }
            }
            "status" => {
                ignored.insert(&["f:spec"]);
                ignored.insert(&["f:metadata", "f:deletionTimestamp"]);
                ignored.insert(&["f:metadata", "f:ownerReferences"]);
            }
            _ => {}
        }
        ignored
    }
}

/// The fields of every object that belong to the server.
fn without_system_fields(set: FieldSet) -> FieldSet {
    let mut system = FieldSet::default();
    system.insert(&["f:apiVersion"]);
    system.insert(&["f:kind"]);
    system.insert(&["f:metadata"]);
    for field in SYSTEM_METADATA {
        system.insert(&["f:metadata", field]);
    }
    set.difference(&system)
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    take_managed_fields(&mut object);
    object
}

fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object
        .get_mut("metadata")?
        .as_object_mut()?
        .remove("managedFields")
}

/// The object that results from the writer applying `applied` to `live` (`None`: it does not
/// exist yet), with its managed fields. The result is neither pruned nor defaulted; once it is,
/// [`keep_times_if_unchanged`] tells a no-op.
///
/// # Errors
/// [`ApplyError`].
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    writer: &Writer<'_>,
) -> Result<Value, ApplyError> {
    if applied
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    check(applied, writer)?;
    let zero = shape::zero(writer.kind);
    let base = live.map_or_else(|| (*zero).clone(), without_managed_fields);
    let mut entries = live.and_then(managed::decode).unwrap_or_default();
    if let Some(live) = live
        && entries.is_empty()
    {
        let untracked = Writer {
            manager: BEFORE_FIRST_APPLY,
            ..*writer
        };
        let before = compare(Some(&zero), Some(&base), writer.shape());
        track(&mut entries, before, &untracked, live);
    }
    let (object, entries) = match applied_over(&base, applied, &entries, force, writer) {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == "kubectl" => {
            upgraded(&base, applied, &entries, conflicts, writer)?
        }
        other => other?,
    };
    let mut object = object;
    managed::encode(&mut object, entries);
    if writer.manager == "kubectl" {
        refresh_last_applied(&mut object, applied);
    }
    Ok(object)
}

/// A first server-side apply by kubectl may take over what kubectl applied on its own side, as
/// long as the live object still has the values it applied.
fn upgraded(
    base: &Value,
    applied: &Value,
    entries: &[Entry],
    conflicts: Vec<Conflict>,
    writer: &Writer<'_>,
) -> Result<(Value, Vec<Entry>), ApplyError> {
    let last = base
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED))
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .filter(|last| last.get("apiVersion") == base.get("apiVersion"));
    let Some(last) = last else {
        return Err(ApplyError::Conflicts(conflicts));
    };
    let changed = compare(Some(&last), Some(base), writer.shape());
    let own = paths_of(&last, writer.shape())
        .difference(&changed.set())
        .difference(&changed.removed)
        .paths();
    let left: Vec<Conflict> = conflicts
        .into_iter()
        .filter(|conflict| !own.contains(&conflict.field))
        .collect();
    if left.is_empty() {
        applied_over(base, applied, entries, true, writer)
    } else {
        Err(ApplyError::Conflicts(left))
    }
}

fn check(applied: &Value, writer: &Writer<'_>) -> Result<(), ApplyError> {
    let problems = check::problems(applied, writer.kind);
    if problems.is_empty() {
        return Ok(());
    }
    let text = |pointer: &str| {
        applied
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let gvk = Gvk::from_api_version(text("/apiVersion"), text("/kind"));
    let errors = match problems.as_slice() {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(ApplyError::Schema(format!(
        "failed to create typed patch object ({}/{}; {gvk}): {errors}",
        text("/metadata/namespace"),
        text("/metadata/name"),
    )))
}

fn applied_over(
    base: &Value,
    applied: &Value,
    entries: &[Entry],
    force: bool,
    writer: &Writer<'_>,
) -> Result<(Value, Vec<Entry>), ApplyError> {
    let shape = writer.shape();
    let ignored = writer.ignored();
    let mut own = writer.entry(Operation::Apply, applied);
    own.set = paths_of(applied, shape).without_trees(&ignored);
    let (mine, mut others): (Vec<Entry>, Vec<Entry>) = entries
        .iter()
        .cloned()
        .partition(|entry| entry.same_manager(&own));
    let last = mine.into_iter().next();

    let merged = merge::merge(Some(base), Some(applied), shape);
    let object = match &last {
        Some(last) if !last.set.is_empty() => {
            let owned = others
                .iter()
                .fold(own.set.clone(), |all, entry| all.union(&entry.set));
            prune(&merged, &last.set, &owned, shape)
        }
        _ => merged,
    };

    let difference = compare(Some(base), Some(&object), shape).without_trees(&ignored);
    let changed = difference.set();
    if !force {
        let conflicts: Vec<Conflict> = others
            .iter()
            .flat_map(|entry| {
                let fields = entry.set.intersection(&changed).paths();
                fields.into_iter().map(|field| Conflict {
                    manager: shown(entry),
                    field,
                })
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    for entry in &mut others {
        let set = std::mem::take(&mut entry.set);
        entry.set = set.difference(&changed).difference(&difference.removed);
    }
    own.set = without_system_fields(own.set);
    if let Some(last) = last
        && object == *base
    {
        own.time = last.time;
    }
    others.push(own);
    Ok((object, others))
}

/// Takes out of the object what the manager applied last time, and neither it nor anybody else
/// owns now.
fn prune(merged: &Value, last: &FieldSet, owned: &FieldSet, shape: Shape) -> Value {
    let named = |set: &FieldSet| walk::with_named_fields(set, shape);
    let without = |gone: &FieldSet| walk::remove(merged, gone, shape).unwrap_or(Value::Null);
    let last = named(last);
    let all = named(&paths_of(merged, shape));
    let pruned = without(&last);
    let kept = named(&paths_of(&pruned, shape)).union(&named(owned));
    let pruned = without(&all.clone().difference(&kept));
    // What the manager did not own before stays, even where it stood in something that went.
    let kept = named(&paths_of(&pruned, shape));
    without(&all.difference(&kept).intersection(&last))
}

/// A manager as messages name it.
fn shown(entry: &Entry) -> String {
    let mut text = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if entry.operation == Operation::Update {
        text.push_str(&format!(" using {}", entry.api_version));
    }
    text
}

/// kubectl's own record of what it applied follows what it applies here, so that one can go back.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotation) = object
        .pointer_mut("/metadata/annotations")
        .and_then(|annotations| annotations.get_mut(LAST_APPLIED))
        .filter(|annotation| annotation.as_str().is_some_and(|text| !text.is_empty()))
    else {
        return;
    };
    let mut applied = applied.clone();
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    *annotation = format!("{applied}\n").into();
}

/// Writes `managedFields: []` as `[{}]`, which means the same. Call it before empty lists are
/// pruned.
pub fn keep_reset(object: &mut Value) {
    if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields")
        && entries.is_empty()
    {
        entries.push(Value::Object(serde_json::Map::new()));
    }
}

/// Writes into `object`, which is about to replace `live` (`None`: to be created), who owns which
/// field after a write that is not an apply: the writer gets all that it set or changed.
///
/// Call it on the pruned and defaulted object, before admission and before the strategy: what the
/// server itself writes belongs to nobody.
///
/// Through the object itself (no sub-resource) a client may write `managedFields`: those of
/// `object` count where it has some, `[{}]` drops all, and where it has none those of `live` stay.
pub fn update_managed_fields(live: Option<&Value>, object: &mut Value, writer: &Writer<'_>) {
    let reset = writer.subresource.is_empty() && managed::is_reset(object);
    let given = if writer.subresource.is_empty() {
        managed::decode(object).filter(|entries| !entries.is_empty())
    } else {
        None
    };
    take_managed_fields(object);
    let mut entries = if reset {
        Vec::new()
    } else {
        given
            .or_else(|| live.and_then(managed::decode))
            .unwrap_or_default()
    };
    // An object that is not tracked stays so until somebody applies it.
    if live.is_some() && entries.is_empty() {
        return;
    }
    let difference = match live {
        // That the entries themselves are gone from `object` is owned by nobody.
        Some(live) => compare(Some(live), Some(object), writer.shape()),
        None => compare(
            Some(&shape::zero(writer.kind)),
            Some(object),
            writer.shape(),
        ),
    };
    track(&mut entries, difference, writer, object);
    managed::cap(&mut entries);
    managed::encode(object, entries);
}

/// Takes what changed from all managers, and gives what was set to the writer.
fn track(entries: &mut Vec<Entry>, difference: Difference, writer: &Writer<'_>, object: &Value) {
    let difference = difference.without_trees(&writer.ignored());
    let set = difference.set();
    for entry in entries.iter_mut() {
        let before = std::mem::take(&mut entry.set);
        entry.set = before.difference(&set).difference(&difference.removed);
    }
    let mut own = writer.entry(Operation::Update, object);
    own.set = without_system_fields(set);
    if !own.set.is_empty() {
        match entries.iter_mut().find(|entry| entry.same_manager(&own)) {
            Some(entry) => {
                entry.set = own.set.union(&entry.set);
                entry.time = own.time;
            }
            None => entries.push(own),
        }
    }
    entries.retain(|entry| !entry.set.is_empty());
}

/// Gives `object` the managed fields of `live` where the two differ by nothing but the times in
/// them, so that a write that changes nothing is seen as one.
pub fn keep_times_if_unchanged(live: &Value, object: &mut Value) {
    let timeless = |value: &Value| {
        managed::decode(value).map(|entries| {
            entries
                .into_iter()
                .map(|mut entry| {
                    entry.time.clear();
                    entry
                })
                .collect::<Vec<_>>()
        })
    };
    let fields = live.pointer("/metadata/managedFields");
    let (Some(fields), Some(before), Some(after)) = (fields, timeless(live), timeless(object))
    else {
        return;
    };
    let same_entries =
        before.len() == after.len() && before.iter().all(|entry| after.contains(entry));
    if same_entries
        && without_managed_fields(live) == without_managed_fields(object)
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("managedFields".to_owned(), fields.clone());
    }
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
