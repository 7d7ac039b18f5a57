//! What field ownership needs to know of the schema: where a value is owned as a whole, and what
//! names the items of a list.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};

use serde_json::{Map, Value};

use crate::schema::{Field, Kind, ListType, Omit, Special, TypeId, schema};

/// How a value is owned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// As a whole: scalars, and whatever is atomic.
    Leaf,
    /// Field by field, of this type.
    Struct(TypeId),
    /// Key by key; values are of this kind.
    Map(Kind),
    /// Item by item, named by their values.
    Set,
    /// Item by item, named by these fields of theirs.
    Keyed {
        item: Kind,
        keys: &'static [&'static str],
    },
    /// Nothing is known: objects key by key, the rest as a whole.
    Deduced,
    /// An object of an unknown type, with metadata as all objects have.
    Custom,
}

impl Shape {
    pub(super) fn of_object(kind: Option<TypeId>) -> Self {
        kind.map_or(Self::Custom, Self::Struct)
    }

    fn of_field(field: &'static Field) -> Self {
        if field.atomic {
            return Self::Leaf;
        }
        let Kind::List(item) = schema().resolve(field.kind) else {
            return Self::of_kind(field.kind);
        };
        // Where no list type is given, the merge strategy of patches tells it.
        if field.list.is_none() && field.patch_strategy.contains(&"merge") {
            return match &field.patch_merge_key {
                Some(key) => Self::Keyed {
                    item: *item,
                    keys: std::slice::from_ref(key),
                },
                None => Self::Set,
            };
        }
        match schema().list_type(field) {
            ListType::Atomic => Self::Leaf,
            ListType::Set => Self::Set,
            ListType::Map(keys) => Self::Keyed { item: *item, keys },
        }
    }

    pub(super) fn of_kind(kind: Kind) -> Self {
        match schema().resolve(kind) {
            Kind::Map(value) => Self::Map(*value),
            Kind::Named(id) => {
                let named = schema().get(id);
                match named.special() {
                    Some(Special::RawExtension) => Self::Deduced,
                    Some(_) => Self::Leaf,
                    None if named.atomic() => Self::Leaf,
                    None => Self::Struct(id),
                }
            }
            _ => Self::Leaf,
        }
    }

    /// The shape of the member `key`, and whether the schema names it.
    pub(super) fn member(self, key: &str) -> (Self, bool) {
        match self {
            Self::Struct(id) => match schema().get(id).field(key) {
                Some(field) => (Self::of_field(field), true),
                None => (Self::Deduced, false),
            },
            Self::Map(kind) => (Self::of_kind(kind), false),
            Self::Custom if key == "metadata" => (object_meta(), true),
            _ => (Self::Deduced, false),
        }
    }

    /// The shape of the items of a list.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Keyed { item, .. } => Self::of_kind(item),
            _ => Self::Leaf,
        }
    }

    /// The element that names an item of this list. `None` where the item has none of the keys.
    pub(super) fn element(self, item: &Value) -> Option<String> {
        match self {
            Self::Set if !item.is_null() && !item.is_object() && !item.is_array() => {
                Some(format!("v:{item}"))
            }
            Self::Keyed { item: kind, keys } => {
                let map = item.as_object()?;
                let mut named = Map::new();
                for key in keys {
                    if let Some(value) = map.get(*key) {
                        named.insert((*key).to_owned(), value.clone());
                    } else if let Some(value) = default_of(kind, key) {
                        named.insert((*key).to_owned(), value);
                    }
                }
                (!named.is_empty()).then(|| format!("k:{}", Value::Object(named)))
            }
            _ => None,
        }
    }
}

fn object_meta() -> Shape {
    static META: OnceLock<Option<TypeId>> = OnceLock::new();
    let id = META
        .get_or_init(|| schema().type_by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
    id.map_or(Shape::Deduced, Shape::Struct)
}

/// The default of a key: what the schema says, as for the `protocol` of a port, else the zero value
/// of a field that is always written.
fn default_of(kind: Kind, key: &str) -> Option<Value> {
    let id = schema().struct_of(kind)?;
    let field = schema().get(id).field(key)?;
    if let Some(default) = field.default {
        return serde_json::from_str(default).ok();
    }
    if field.pointer || field.omit != Omit::Never {
        return None;
    }
    match schema().resolve(field.kind) {
        Kind::String => Some("".into()),
        Kind::Int32 | Kind::Int64 => Some(0.into()),
        _ => None,
    }
}

/// The object that the Go type's zero value is encoded to: what an object is compared with that
/// did not exist before.
pub(super) fn zero(kind: Option<TypeId>) -> Arc<Value> {
    static ZEROES: OnceLock<RwLock<HashMap<TypeId, Arc<Value>>>> = OnceLock::new();
    let Some(id) = kind else {
        return Arc::new(Value::Object(Map::new()));
    };
    let zeroes = ZEROES.get_or_init(RwLock::default);
    if let Ok(known) = zeroes.read()
        && let Some(value) = known.get(&id)
    {
        return Arc::clone(value);
    }
    let value = Arc::new(zero_of(id));
    if let Ok(mut known) = zeroes.write() {
        known.insert(id, Arc::clone(&value));
    }
    value
}

fn zero_of(id: TypeId) -> Value {
    let mut map = Map::new();
    for field in schema().get(id).fields() {
        if field.pointer {
            continue;
        }
        let kind = schema().resolve(field.kind);
        let structure = match kind {
            Kind::Named(inner) if schema().get(inner).special().is_none() => Some(inner),
            _ => None,
        };
        let value = match (structure, field.omit) {
            (Some(inner), Omit::Never | Omit::Empty) => zero_of(inner),
            (_, Omit::Empty | Omit::Zero) => continue,
            (None, Omit::Never) => match kind {
                Kind::String => "".into(),
                Kind::Bool => false.into(),
                Kind::Int32 | Kind::Int64 | Kind::Float64 => 0.into(),
                _ => Value::Null,
            },
        };
        map.insert(field.json.to_owned(), value);
    }
    Value::Object(map)
}
