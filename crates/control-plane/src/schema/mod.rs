//! The type table of the Kubernetes API: fields, protobuf numbers, list and merge keys, defaults.
//!
//! The facts stand in `data/schema.txt`, which `scripts/gen-schema.sh` makes from the published
//! Go modules. Version 1.34 is what the server serves; fields and types that came later are known
//! to the protobuf decoder alone ([`Field::newer`]), so that bytes of newer clients are understood
//! and then pruned as a 1.34 server prunes them.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

/// Group, version and kind of an object; the core group is the empty string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gvk {
    /// API group, empty for the core group.
    pub group: String,
    /// Version, for example `v1`.
    pub version: String,
    /// Kind, for example `Pod`.
    pub kind: String,
}

impl Gvk {
    /// Puts the three together.
    pub fn new(
        group: impl Into<String>,
        version: impl Into<String>,
        kind: impl Into<String>,
    ) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// From `apiVersion` (`v1`, `apps/v1`) and `kind`.
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        match api_version.split_once('/') {
            Some((group, version)) => Self::new(group, version, kind),
            None => Self::new("", api_version, kind),
        }
    }

    /// The `apiVersion`: `v1` in the core group, else `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

impl fmt::Display for Gvk {
    /// As Go prints a `GroupVersionKind`: `apps/v1, Kind=Deployment`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// A type of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(u16);

/// A type with a wire form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// RFC 3339 in seconds.
    Time,
    /// RFC 3339 with six digits of a second.
    MicroTime,
    /// Go duration as a string.
    Duration,
    /// A quantity, a string in JSON (numbers are taken too).
    Quantity,
    /// A number or a string.
    IntOrString,
    /// Any object.
    RawExtension,
    /// A field set of managed fields, an object in JSON.
    FieldsV1,
    /// Any JSON value (`apiextensions` `JSON`).
    Json,
    /// A schema or a list of schemas.
    SchemaOrArray,
    /// A schema or a boolean.
    SchemaOrBool,
    /// A schema or a list of strings.
    SchemaOrStrings,
}

/// What a field or an element holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// A signed number of 32 bits.
    Int32,
    /// A signed number of 64 bits.
    Int64,
    /// A floating-point number of 64 bits.
    Float64,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A named type: a struct, a special type, or a name for one of the other kinds.
    Named(TypeId),
    /// A list.
    List(&'static Kind),
    /// A map with string keys.
    Map(&'static Kind),
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole; also what a list without a marker is.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items with these keys.
    Map(&'static [&'static str]),
}

/// When the Go encoder leaves a field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omit {
    /// Never: an absent value is written as `""`, `0`, `false`, `{…}` or `null`.
    Never,
    /// `omitempty`: empty strings, zeroes, empty lists and maps, nil pointers; never structs.
    Empty,
    /// `omitzero`: as above, and structs that are all zero.
    Zero,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in JSON.
    pub json: &'static str,
    /// Its protobuf field number in the struct that declares it; 0 where it has none.
    pub number: u32,
    /// What it holds.
    pub kind: Kind,
    /// A pointer in Go: zero values are kept.
    pub pointer: bool,
    /// When it is left out.
    pub omit: Omit,
    /// OpenAPI lists it as required.
    pub required: bool,
    /// `+listType`; `None` where there is no marker.
    pub list: Option<ListType>,
    /// `+mapType=atomic` or `+structType=atomic` on the field.
    pub atomic: bool,
    /// `+mapType=granular` or `+structType=granular` on the field: merged field by field, even
    /// where [`Type::atomic`] says otherwise of its type.
    pub granular: bool,
    /// `patchStrategy`: any of `merge`, `replace`, `retainKeys`; empty where there is none.
    pub patch_strategy: &'static [&'static str],
    /// `patchMergeKey`.
    pub patch_merge_key: Option<&'static str>,
    /// `+default`, as JSON text.
    pub default: Option<&'static str>,
    /// Came after the served version.
    pub newer: bool,
    /// An embedded struct declares it.
    pub(crate) embedded: bool,
    /// [`Schema::resolve`] of the kind.
    pub(crate) resolved: Kind,
}

/// What a struct declares, as protobuf sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Declared {
    /// Index into all fields.
    Field(u16),
    /// An embedded struct, a message of its own that JSON flattens.
    Embedded(TypeId),
}

/// The fields of a struct; made when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Sorted by JSON name, those of the served version first.
    pub(crate) fields: Vec<Field>,
    /// How many of them the served version has.
    pub(crate) served: usize,
    /// Sorted by protobuf number; what has none is left out.
    pub(crate) declared: Vec<(u32, Declared)>,
    /// Indices of the fields that Go writes even when they are zero, in ascending order.
    pub(crate) kept: Vec<u16>,
}

/// A named type.
#[derive(Debug)]
pub struct Type {
    id: TypeId,
    package: u16,
    name: &'static str,
    special: Option<Special>,
    alias: Option<Kind>,
    wrapped: bool,
    atomic: bool,
    list: Option<ListType>,
    enumeration: &'static [&'static str],
    newer: bool,
    body: &'static str,
    layout: OnceLock<Layout>,
}

impl Field {
    /// Go writes the field even when it is zero: there is no `omitempty`, or that does not help
    /// since it never leaves a struct out.
    pub(crate) fn kept(&self) -> bool {
        match self.omit {
            Omit::Never => true,
            Omit::Zero => false,
            Omit::Empty => !self.pointer && matches!(self.resolved, Kind::Named(_)),
        }
    }
}

impl Type {
    /// Its id.
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// The OpenAPI name, for example `io.k8s.api.core.v1.Pod`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package(), self.name)
    }

    /// The OpenAPI name without its last part, for example `io.k8s.api.core.v1`.
    pub fn package(&self) -> &'static str {
        schema().packages[usize::from(self.package)].0
    }

    /// The short name, for example `Pod`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The name as Go error messages spell it, for example `v1.Pod`.
    pub fn go_name(&self) -> String {
        let package = schema().packages[usize::from(self.package)].1;
        format!("{package}.{}", self.name)
    }

    /// The fields that the served version has, those of embedded structs flattened in, sorted by
    /// JSON name. Empty for types that are not structs.
    pub fn fields(&self) -> &'static [Field] {
        let layout = self.layout();
        &layout.fields[..layout.served]
    }

    /// The field of this JSON name, where the served version has it.
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        let fields = self.fields();
        let at = fields.binary_search_by(|field| field.json.cmp(json)).ok()?;
        Some(&fields[at])
    }

    /// Its special form, where it has one.
    pub fn special(&self) -> Option<Special> {
        self.special
    }

    /// What it is another name for: `Some(String)` for `v1.PullPolicy`, `None` for structs and
    /// special types.
    pub fn alias(&self) -> Option<Kind> {
        self.alias
    }

    /// A list that protobuf wraps into a message of its own (`ExtraValue`, `Verbs`).
    pub(crate) fn wrapped(&self) -> bool {
        self.wrapped
    }

    /// `+structType=atomic` or `+mapType=atomic` on the type.
    pub fn atomic(&self) -> bool {
        self.atomic
    }

    /// `+listType` on the type.
    pub fn list(&self) -> Option<ListType> {
        self.list
    }

    /// The values of an enumeration, sorted; empty for others.
    pub fn enumeration(&self) -> &'static [&'static str] {
        self.enumeration
    }

    /// Came after the served version.
    pub fn newer(&self) -> bool {
        self.newer
    }

    /// It has fields, if only in a newer version, or none at all as an empty message.
    pub fn is_struct(&self) -> bool {
        self.special.is_none() && self.alias.is_none()
    }

    pub(crate) fn layout(&self) -> &'static Layout {
        // The types live in the table, which is static; `self` alone does not say so.
        let entry: &'static Type = &schema().types[usize::from(self.id.0)];
        entry.layout.get_or_init(|| parse::layout(schema(), entry))
    }
}

/// The table.
#[derive(Debug)]
pub struct Schema {
    packages: Vec<(&'static str, &'static str)>,
    types: Vec<Type>,
    names: HashMap<(u16, &'static str), TypeId>,
    kinds: HashMap<(&'static str, &'static str), TypeId>,
    served_types: usize,
}

/// The table; its names are read at the first call, the fields of a type when they are needed.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| parse::table(include_str!("../../data/schema.txt")))
}

/// Kinds that stand in every group version with one type of `meta/v1`.
const OPTIONS: &[&str] = &[
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "UpdateOptions",
    "WatchEvent",
];

impl Schema {
    /// The type behind a group, version and kind. Lists, options (`DeleteOptions`) and the
    /// sub-resource kinds (`Eviction`, `Scale`, `Binding`, `TokenRequest`) are there too.
    pub fn type_of(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        if OPTIONS.contains(&kind) {
            return self.kinds.get(&("v1", kind)).copied();
        }
        if group.is_empty() {
            return self.kinds.get(&(version, kind)).copied();
        }
        let api_version = format!("{group}/{version}");
        self.kinds.get(&(api_version.as_str(), kind)).copied()
    }

    /// As [`Schema::type_of`].
    pub fn type_of_gvk(&self, gvk: &Gvk) -> Option<TypeId> {
        self.type_of(&gvk.group, &gvk.version, &gvk.kind)
    }

    /// The type of an OpenAPI name, for example `io.k8s.api.core.v1.PodSpec`.
    pub fn type_by_name(&self, name: &str) -> Option<TypeId> {
        let (package, name) = name.rsplit_once('.')?;
        let at = self.packages.iter().position(|known| known.0 == package)?;
        self.names.get(&(u16::try_from(at).ok()?, name)).copied()
    }

    /// The type behind an id.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    /// All types, served and newer.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// How many of the types the served version has.
    pub fn served_types(&self) -> usize {
        self.served_types
    }

    /// All `apiVersion`s with their kinds and types, in no order; options are left out.
    pub fn kinds(&self) -> impl Iterator<Item = (Gvk, TypeId)> {
        self.kinds
            .iter()
            .filter(|((_, kind), _)| !OPTIONS.contains(kind))
            .map(|((api_version, kind), id)| (Gvk::from_api_version(api_version, kind), *id))
    }

    /// Looks through names for other kinds: `Named(PullPolicy)` becomes `String`.
    pub fn resolve(&self, kind: Kind) -> Kind {
        match kind {
            Kind::Named(id) => self.get(id).alias.map_or(kind, |alias| self.resolve(alias)),
            other => other,
        }
    }

    /// The struct (or special type) that `kind` names, seen through aliases; `None` for others.
    pub fn struct_of(&self, kind: Kind) -> Option<TypeId> {
        match self.resolve(kind) {
            Kind::Named(id) => Some(id),
            _ => None,
        }
    }

    /// How server-side apply sees the list in `field`: the marker of the field, else that of its
    /// type, else atomic.
    pub fn list_type(&self, field: &Field) -> ListType {
        let of_type = match field.kind {
            Kind::Named(id) => self.get(id).list,
            _ => None,
        };
        field.list.or(of_type).unwrap_or(ListType::Atomic)
    }
}
