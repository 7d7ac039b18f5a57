//! The type table of the Kubernetes API: fields, protobuf numbers, list and merge keys, defaults.
//!
//! The facts stand in `data/schema.txt`, which `scripts/gen-schema.sh` makes from the published
//! Go modules. Version 1.34 is what the server serves; fields and types that came later are known
//! to the protobuf decoder alone ([`Field::newer`]), so that bytes of newer clients are understood
//! and then pruned as a 1.34 server prunes them.

use std::fmt;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// A signed number of 32 bits.
    Int32,
    /// A signed number of 64 bits (Go `int64` and `int`).
    Int64,
    /// A floating-point number of 64 bits.
    Float64,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A named type: a struct, a special type, or a name for one of the other kinds.
    Named(TypeId),
    /// A list.
    List(Box<Kind>),
    /// A map with string keys.
    Map(Box<Kind>),
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole; also what a list without a marker is.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items with keys.
    Map(Vec<&'static str>),
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

/// A field of a struct, with its inlined embedded structs flattened in.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in JSON.
    pub json: &'static str,
    /// Its protobuf field number; 0 where it has none.
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
    /// `patchStrategy`: any of `merge`, `replace`, `retainKeys`; empty where there is none.
    pub patch_strategy: &'static [&'static str],
    /// `patchMergeKey`.
    pub patch_merge_key: Option<&'static str>,
    /// `+default`, as JSON text.
    pub default: Option<&'static str>,
    /// Came after the served version.
    pub newer: bool,
}

/// A named type.
#[derive(Debug)]
pub struct Type {
    package: &'static str,
    name: &'static str,
    fields: Vec<Field>,
    special: Option<Special>,
}

impl Type {
    /// The OpenAPI name, for example `io.k8s.api.core.v1.Pod`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }

    /// The short name, for example `Pod`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The fields that the served version has, inlined ones flattened in, sorted by JSON name.
    /// Empty for types that are not structs.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of this JSON name.
    pub fn field(&self, json: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.json == json)
    }

    /// Its special form, where it has one.
    pub fn special(&self) -> Option<Special> {
        self.special
    }

    /// What it is another name for: `Some(String)` for `v1.PullPolicy`, `None` for structs and
    /// special types.
    pub fn alias(&self) -> Option<&Kind> {
        None
    }

    /// `+structType=atomic`.
    pub fn atomic(&self) -> bool {
        false
    }

    /// The values of an enumeration, sorted; empty for others.
    pub fn enumeration(&self) -> &[&'static str] {
        &[]
    }
}

/// The table.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
}

/// The table; parsed at the first call.
pub fn schema() -> &'static Schema {
    todo!()
}

impl Schema {
    /// The type behind a group, version and kind. Lists, options (`DeleteOptions`) and the
    /// sub-resource kinds (`Eviction`, `Scale`, `Binding`, `TokenRequest`) are there too.
    pub fn type_of(&self, _group: &str, _version: &str, _kind: &str) -> Option<TypeId> {
        todo!()
    }

    /// As [`Schema::type_of`].
    pub fn type_of_gvk(&self, gvk: &Gvk) -> Option<TypeId> {
        self.type_of(&gvk.group, &gvk.version, &gvk.kind)
    }

    /// The type of an OpenAPI name, for example `io.k8s.api.core.v1.PodSpec`.
    pub fn type_by_name(&self, _name: &str) -> Option<TypeId> {
        todo!()
    }

    /// The type behind an id.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    /// Looks through names for other kinds: `Named(PullPolicy)` becomes `String`.
    pub fn resolve<'a>(&'a self, kind: &'a Kind) -> &'a Kind {
        match kind {
            Kind::Named(id) => self
                .get(*id)
                .alias()
                .map_or(kind, |alias| self.resolve(alias)),
            other => other,
        }
    }

    /// The struct (or special type) that `kind` names, seen through aliases; `None` for others.
    pub fn struct_of(&self, kind: &Kind) -> Option<TypeId> {
        match self.resolve(kind) {
            Kind::Named(id) => Some(*id),
            _ => None,
        }
    }
}
