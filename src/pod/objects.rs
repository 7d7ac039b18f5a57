//! Config maps and secrets as containers see them: keys and bytes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

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
pub struct Data(Arc<BTreeMap<String, Vec<u8>>>);

/// Leaves the values out: they may be secrets.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Data {
    /// From pairs.
    pub fn new(pairs: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(Arc::new(pairs.into_iter().collect()))
    }

    /// The bytes of a key.
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// The value of a key as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self, key: &str) -> Option<String> {
        self.bytes(key)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// All keys and values as text. Binary values have no place in an environment,
    /// but a secret's are bytes by type.
    pub fn texts(&self) -> impl Iterator<Item = (&str, String)> {
        self.iter()
            .map(|(key, value)| (key, String::from_utf8_lossy(value).into_owned()))
    }
}

impl From<ConfigMap> for Data {
    fn from(object: ConfigMap) -> Self {
        let texts = object.data.unwrap_or_default().into_iter();
        let binary = object.binary_data.unwrap_or_default().into_iter();
        Self::new(
            texts
                .map(|(key, value)| (key, value.into_bytes()))
                .chain(binary.map(|(key, value)| (key, value.0))),
        )
    }
}

impl From<Secret> for Data {
    fn from(object: Secret) -> Self {
        Self::new(
            object
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0)),
        )
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
}
