//! Config maps and secrets as containers see them: keys and bytes; and word of their changes
//! ([`mod@follow`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

mod follow;

pub(crate) use follow::{Follow, Interest, Key, Version, follow};

/// Which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1/ConfigMap`.
    ConfigMap,
    /// `v1/Secret`.
    Secret,
}

impl Kind {
    /// As in `couldn't find key k in ConfigMap ns/x`.
    pub fn title(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// As in `configmap "x" not found`.
    pub fn not_found(self, name: &str) -> String {
        format!("{} {name:?} not found", self.title().to_lowercase())
    }

    /// The path segment in the API.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }
}

/// One object in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Which kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// Keys and values of an object; cheap to clone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Data(Arc<Inner>);

#[derive(PartialEq, Eq, Default)]
struct Inner {
    values: BTreeMap<String, Vec<u8>>,
    /// Keys of `binaryData`: files in a volume, and nothing for an environment.
    binary: BTreeSet<String>,
    version: Option<Box<str>>,
    immutable: bool,
}

/// Leaves the values out: they may be secrets.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values.keys()).finish()
    }
}

impl Data {
    /// From pairs.
    pub fn new(pairs: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(Arc::new(Inner {
            values: pairs.into_iter().collect(),
            ..Inner::default()
        }))
    }

    /// The bytes of a key.
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.0.values.get(key).map(Vec::as_slice)
    }

    /// The value of a key as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self, key: &str) -> Option<String> {
        self.bytes(key)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The value of a key for an environment; none for `binaryData`, as a kubelet has it.
    pub fn variable(&self, key: &str) -> Option<&[u8]> {
        self.bytes(key).filter(|_| !self.0.binary.contains(key))
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// All keys and values for an environment.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter().filter(|(key, _)| !self.0.binary.contains(*key))
    }

    /// The `resourceVersion` of the object that was read.
    pub fn version(&self) -> Option<&str> {
        self.0.version.as_deref()
    }

    /// Whether the object promises never to change.
    pub fn immutable(&self) -> bool {
        self.0.immutable
    }
}

impl From<ConfigMap> for Data {
    fn from(object: ConfigMap) -> Self {
        let texts = object.data.unwrap_or_default().into_iter();
        let bytes = object.binary_data.unwrap_or_default();
        let binary = bytes.keys().cloned().collect();
        let values = texts
            .map(|(key, value)| (key, value.into_bytes()))
            .chain(bytes.into_iter().map(|(key, value)| (key, value.0)));
        Self(Arc::new(Inner {
            values: values.collect(),
            binary,
            version: object.metadata.resource_version.map(String::into_boxed_str),
            immutable: object.immutable == Some(true),
        }))
    }
}

impl From<Secret> for Data {
    fn from(object: Secret) -> Self {
        let values = object.data.unwrap_or_default().into_iter();
        Self(Arc::new(Inner {
            values: values.map(|(key, value)| (key, value.0)).collect(),
            binary: BTreeSet::new(),
            version: object.metadata.resource_version.map(String::into_boxed_str),
            immutable: object.immutable == Some(true),
        }))
    }
}

/// What was looked up for one pod; none where an object does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects(BTreeMap<Reference, Option<Data>>);

impl Objects {
    /// Adds the outcome of a look-up.
    pub fn insert(&mut self, reference: Reference, data: Option<Data>) {
        self.0.insert(reference, data);
    }

    /// The object, if it exists.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Data> {
        self.0
            .get(&Reference {
                kind,
                name: name.to_owned(),
            })?
            .as_ref()
    }

    /// All look-ups and their outcomes.
    pub fn iter(&self) -> impl Iterator<Item = (&Reference, Option<&Data>)> {
        self.0
            .iter()
            .map(|(reference, data)| (reference, data.as_ref()))
    }
}
