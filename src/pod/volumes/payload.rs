//! The files of a volume, from its source and the objects it refers to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume,
};

use super::claim::Claimed;
use crate::pod::{
    Host, fields,
    objects::{Data, Kind, Objects, Reference},
};

/// One file.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Leaves the contents out: they may be secret.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:o}", self.bytes.len(), self.mode)
    }
}

/// Files by their path in the volume; every path is relative and has no `..`.
pub type Payload = BTreeMap<String, File>;

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Files that follow their source.
    Files(Payload),
    /// An empty directory of the pod's.
    Directory {
        /// In the host's memory rather than on its disk.
        memory: bool,
    },
    /// A place of the host.
    Place {
        /// Where.
        path: PathBuf,
        /// `hostPath.type`; none for a `local` volume.
        kind: Option<String>,
        /// What failures call the volume.
        name: String,
    },
}

/// Why a volume cannot be filled, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It could not be set up.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
    SetUp {
        /// Which volume.
        volume: String,
        /// Why.
        cause: String,
    },
    /// What it refers to is not there.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
         failed to process volumes=[{volume}]: {cause}"
    )]
    Process {
        /// Which volume.
        volume: String,
        /// Why.
        cause: String,
    },
}

/// Everything that was looked up for the volumes of a pod.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Config maps and secrets.
    pub objects: Objects,
    /// Tokens by what was asked for.
    pub tokens: Tokens,
    /// Claims by their name, or why they cannot be used.
    pub claims: BTreeMap<String, Result<Claimed, String>>,
}

/// A service account token that a volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    /// Empty for the API server's own audience.
    pub audience: String,
    /// Wanted life time in seconds.
    pub expiration: i64,
}

/// Tokens by what was asked for.
pub type Tokens = BTreeMap<TokenRequest, String>;

/// Permission bits of files whose source says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// Objects that the volume refers to.
pub fn needs(volume: &Volume) -> BTreeSet<Reference> {
    let mut needs = BTreeSet::new();
    let mut need = |kind, name: &str| {
        needs.insert(Reference {
            kind,
            name: name.to_owned(),
        });
    };
    if let Some(source) = &volume.config_map {
        need(Kind::ConfigMap, &source.name);
    }
    if let Some(source) = &volume.secret {
        need(
            Kind::Secret,
            source.secret_name.as_deref().unwrap_or_default(),
        );
    }
    for source in volume
        .projected
        .iter()
        .flat_map(|it| it.sources.iter().flatten())
    {
        if let Some(source) = &source.config_map {
            need(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &source.secret {
            need(Kind::Secret, &source.name);
        }
    }
    needs
}

/// Tokens that the volume asks for.
pub fn tokens(volume: &Volume) -> BTreeSet<TokenRequest> {
    token_files(volume).map(|(_, request)| request).collect()
}

/// The files of the volume that hold tokens.
pub fn token_files(volume: &Volume) -> impl Iterator<Item = (&str, TokenRequest)> {
    let sources = volume
        .projected
        .iter()
        .flat_map(|it| it.sources.iter().flatten());
    sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| {
            let request = request(token.audience.as_deref(), token.expiration_seconds);
            (token.path.as_str(), request)
        })
}

fn request(audience: Option<&str>, expiration: Option<i64>) -> TokenRequest {
    TokenRequest {
        audience: audience.unwrap_or_default().to_owned(),
        expiration: expiration.unwrap_or(3600),
    }
}

/// Name of the claim that the volume refers to.
pub fn claim(volume: &Volume) -> Option<&str> {
    let source = volume.persistent_volume_claim.as_ref()?;
    Some(&source.claim_name)
}

/// Whether files of the volume show the pod's labels or annotations, which may change.
pub fn shows_metadata(volume: &Volume) -> bool {
    let projected = volume.projected.iter();
    let projected = projected.flat_map(|it| it.sources.iter().flatten());
    let items = projected
        .filter_map(|it| it.downward_api.as_ref())
        .flat_map(|it| it.items.iter().flatten());
    let own = volume.downward_api.iter();
    let own = own.flat_map(|it| it.items.iter().flatten());
    let paths = |item: &DownwardAPIVolumeFile| {
        let path = item.field_ref.as_ref().map(|it| it.field_path.as_str());
        path.is_some_and(|it| {
            it.starts_with("metadata.labels") || it.starts_with("metadata.annotations")
        })
    };
    { own.chain(items) }.any(paths)
}

/// What a volume is made of.
///
/// # Errors
/// Where something is missing that is not optional.
pub fn content(pod: &Pod, host: &Host, volume: &Volume, found: &Found) -> Result<Content, Problem> {
    if let Some(name) = claim(volume) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claimed = match found.claims.get(name) {
            Some(Ok(claimed)) => claimed.clone(),
            missing => {
                let why = match missing {
                    Some(Err(why)) => why.as_str(),
                    _ => "PVC is not bound",
                };
                return Err(Problem::Process {
                    volume: volume.name.clone(),
                    cause: format!("error processing PVC {namespace}/{name}: {why}"),
                });
            }
        };
        return Ok(Content::Place {
            path: claimed.path,
            kind: claimed.kind,
            name: claimed.volume,
        });
    }
    if let Some(source) = &volume.host_path {
        return Ok(Content::Place {
            path: source.path.clone().into(),
            kind: Some(source.type_.clone().unwrap_or_default()),
            name: volume.name.clone(),
        });
    }
    let mut filler = Filler {
        pod,
        host,
        objects: &found.objects,
        tokens: &found.tokens,
        files: Payload::new(),
    };
    let filled = if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        filler.object(
            Kind::ConfigMap,
            &source.name,
            source.items.as_deref(),
            optional,
            mode,
        )
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        filler.object(Kind::Secret, name, source.items.as_deref(), optional, mode)
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        filler.downward(source.items.as_deref().unwrap_or_default(), mode)
    } else if let Some(source) = &volume.projected {
        filler.projected(source)
    } else {
        let medium = volume
            .empty_dir
            .as_ref()
            .and_then(|it| it.medium.as_deref());
        return Ok(Content::Directory {
            memory: medium == Some("Memory"),
        });
    };
    match filled.and_then(|()| check_overlap(&filler.files)) {
        Ok(()) => Ok(Content::Files(filler.files)),
        Err(cause) => Err(Problem::SetUp {
            volume: volume.name.clone(),
            cause,
        }),
    }
}

struct Filler<'a> {
    pod: &'a Pod,
    host: &'a Host,
    objects: &'a Objects,
    tokens: &'a Tokens,
    files: Payload,
}

impl Filler<'_> {
    fn object(
        &mut self,
        kind: Kind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: i32,
    ) -> Result<(), String> {
        let empty = Data::default();
        let data = match self.objects.get(kind, name) {
            Some(data) => data,
            None if optional => &empty,
            None => return Err(kind.not_found(name)),
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in data.iter() {
                if key.contains('/') {
                    let title = kind.title();
                    return Err(format!(
                        "key {key:?} of {title} {name:?} is not a file name"
                    ));
                }
                self.add(kind, key, bytes.to_vec(), mode)?;
            }
            return Ok(());
        };
        for item in items {
            match data.bytes(&item.key) {
                Some(bytes) => {
                    self.add(kind, &item.path, bytes.to_vec(), item.mode.unwrap_or(mode))?;
                }
                None if optional => {}
                None if kind == Kind::Secret => {
                    return Err(format!("references non-existent secret key: {}", item.key));
                }
                None => {
                    return Err(format!(
                        "configmap references non-existent config key: {}",
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<(), String> {
        for item in items {
            let value = if let Some(selector) = &item.resource_field_ref {
                fields::resource::value(self.pod, None, self.host, selector)?
            } else {
                let field = item.field_ref.as_ref();
                let path = field.map(|it| it.field_path.as_str()).unwrap_or_default();
                fields::value(self.pod, self.host, path)
                    .ok_or_else(|| format!("unsupported fieldPath: {path}"))?
            };
            let mode = item.mode.unwrap_or(mode);
            self.add(Kind::ConfigMap, &item.path, value.into_bytes(), mode)?;
        }
        Ok(())
    }

    fn projected(&mut self, source: &ProjectedVolumeSource) -> Result<(), String> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for source in source.sources.iter().flatten() {
            if let Some(it) = &source.config_map {
                let optional = it.optional == Some(true);
                self.object(
                    Kind::ConfigMap,
                    &it.name,
                    it.items.as_deref(),
                    optional,
                    mode,
                )?;
            }
            if let Some(it) = &source.secret {
                let optional = it.optional == Some(true);
                self.object(Kind::Secret, &it.name, it.items.as_deref(), optional, mode)?;
            }
            if let Some(it) = &source.downward_api {
                self.downward(it.items.as_deref().unwrap_or_default(), mode)?;
            }
            if let Some(it) = &source.service_account_token {
                let request = request(it.audience.as_deref(), it.expiration_seconds);
                let Some(token) = self.tokens.get(&request) else {
                    return Err("no service account token was issued".to_owned());
                };
                self.add(Kind::Secret, &it.path, token.clone().into_bytes(), mode)?;
            }
        }
        Ok(())
    }

    /// Secrets are for the owner alone, whatever the mode says of others: on a node
    /// without namespaces the others are strangers.
    fn add(&mut self, kind: Kind, path: &str, bytes: Vec<u8>, mode: i32) -> Result<(), String> {
        check_path(path)?;
        let mask = if kind == Kind::Secret { 0o700 } else { 0o777 };
        let mode = mode.unsigned_abs() & mask;
        self.files.insert(path.to_owned(), File { bytes, mode });
        Ok(())
    }
}

/// What the API server lets through is checked again: it decides where we write. The rules and
/// words are those of the kubelet's writer.
fn check_path(path: &str) -> Result<(), String> {
    const LONGEST_PATH: usize = 4096;
    const LONGEST_NAME: usize = 255;
    let invalid = |why: String| Err(format!("invalid path: {why}"));
    if path.is_empty() {
        return invalid("must not be empty: \"\"".to_owned());
    }
    if path.starts_with('/') {
        return invalid(format!("must be relative path: {path}"));
    }
    if path.len() > LONGEST_PATH {
        return invalid(format!(
            "must be less than or equal to {LONGEST_PATH} characters"
        ));
    }
    for part in path.split('/') {
        match part {
            ".." => return invalid(format!("must not contain '..': {path}")),
            "" | "." => return invalid(format!("must not have empty parts or '.': {path}")),
            part if part.len() > LONGEST_NAME => {
                return invalid(format!(
                    "filenames must be less than or equal to {LONGEST_NAME} characters"
                ));
            }
            part if part.contains('\0') => {
                return invalid(format!("must not contain a NUL byte: {path:?}"));
            }
            _ => {}
        }
    }
    if path.starts_with("..") {
        return invalid(format!("must not start with '..': {path}"));
    }
    Ok(())
}

/// No path is a file here and a directory there.
fn check_overlap(files: &Payload) -> Result<(), String> {
    for path in files.keys() {
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if files.contains_key(above) {
                return Err(format!(
                    "invalid path: {path} lies below {above}, which is a file"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fill(volume: Value) -> Result<Content, Problem> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}}))
        .unwrap();
        let mut volume = volume;
        volume["name"] = json!("v");
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let mut objects = Objects::default();
        for reference in needs(&volume) {
            let data = |pairs: &[(&str, &str)]| {
                let pairs = pairs.iter();
                Data::new(pairs.map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())))
            };
            let data = match reference.name.as_str() {
                "two" => Some(data(&[("a.sh", "A"), ("b", "B")])),
                "slash" => Some(data(&[("x/y", "A")])),
                _ => None,
            };
            objects.insert(reference, data);
        }
        let tokens = tokens(&volume)
            .into_iter()
            .map(|it| (it.clone(), format!("for {}", it.audience)));
        let found = Found {
            objects,
            tokens: tokens.collect(),
            claims: BTreeMap::from([("none".to_owned(), Err("PVC is not bound".to_owned()))]),
        };
        content(&pod, &Host::for_tests(), &volume, &found)
    }

    fn shown(content: Content) -> Vec<String> {
        let Content::Files(payload) = content else {
            panic!("{content:?} has no files");
        };
        let files = payload.into_iter();
        files
            .map(|(path, file)| {
                format!(
                    "{path} {:o} {}",
                    file.mode,
                    String::from_utf8(file.bytes).unwrap()
                )
            })
            .collect()
    }

    #[test]
    fn objects_become_files() {
        let config_map = fill(json!({"configMap": {"name": "two", "defaultMode": 493}})).unwrap();
        assert_eq!(shown(config_map), ["a.sh 755 A", "b 755 B"]);
        let secret = fill(json!({"secret": {"secretName": "two"}})).unwrap();
        assert_eq!(shown(secret), ["a.sh 600 A", "b 600 B"]);
        let items = json!({"configMap": {"name": "two", "items": [
            {"key": "b", "path": "deep/er", "mode": 256}]}});
        assert_eq!(shown(fill(items).unwrap()), ["deep/er 400 B"]);
        let empty = |memory| Content::Directory { memory };
        assert_eq!(fill(json!({"emptyDir": {}})), Ok(empty(false)));
        assert_eq!(
            fill(json!({"emptyDir": {"medium": "Memory"}})),
            Ok(empty(true))
        );
    }

    #[test]
    fn the_injected_token_volume() {
        let volume = json!({"projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "audience": "me"}},
            {"configMap": {"name": "two", "items": [{"key": "b", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "gone", "optional": true}},
        ]}});
        assert_eq!(
            shown(fill(volume).unwrap()),
            ["ca.crt 644 B", "namespace 644 ns", "token 600 for me"]
        );
    }

    #[test]
    fn problems_are_those_of_the_kubelet() {
        for (volume, cause) in [
            (
                json!({"configMap": {"name": "gone"}}),
                "configmap \"gone\" not found",
            ),
            (
                json!({"secret": {"secretName": "gone"}}),
                "secret \"gone\" not found",
            ),
            (
                json!({"configMap": {"name": "two", "items": [{"key": "x", "path": "x"}]}}),
                "configmap references non-existent config key: x",
            ),
            (
                json!({"secret": {"secretName": "two", "items": [{"key": "x", "path": "x"}]}}),
                "references non-existent secret key: x",
            ),
            (
                json!({"configMap": {"name": "slash"}}),
                "key \"x/y\" of ConfigMap \"slash\" is not a file name",
            ),
        ] {
            let problem = fill(volume).unwrap_err();
            let said = format!("MountVolume.SetUp failed for volume \"v\" : {cause}");
            assert_eq!(problem.to_string(), said);
        }
        assert_eq!(
            shown(fill(json!({"configMap": {"name": "gone", "optional": true}})).unwrap()),
            [""; 0]
        );
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for path in ["../x", "a/../b", "/x", "", "a//b", ".", "..x", "a/"] {
            let items =
                json!({"configMap": {"name": "two", "items": [{"key": "b", "path": path}]}});
            assert!(fill(items).is_err(), "{path}");
        }
    }

    #[test]
    fn a_file_is_no_directory() {
        let items = json!({"configMap": {"name": "two", "items": [
            {"key": "b", "path": "x"}, {"key": "b", "path": "x/y"}]}});
        let error = fill(items).unwrap_err().to_string();
        assert!(
            error.ends_with("invalid path: x/y lies below x, which is a file"),
            "{error}"
        );
    }

    #[test]
    fn claims_and_paths_of_the_host() {
        let volume = json!({"persistentVolumeClaim": {"claimName": "none"}});
        assert_eq!(
            fill(volume).unwrap_err().to_string(),
            "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], \
             failed to process volumes=[v]: error processing PVC ns/none: PVC is not bound"
        );
        let place = fill(json!({"hostPath": {"path": "/x", "type": "Directory"}})).unwrap();
        let wanted = Content::Place {
            path: "/x".into(),
            kind: Some("Directory".into()),
            name: "v".into(),
        };
        assert_eq!(place, wanted);
    }

    #[test]
    fn volumes_that_show_labels_are_known() {
        let shows = |volume: Value| shows_metadata(&serde_json::from_value(volume).unwrap());
        let item = |path: &str| json!([{"path": "x", "fieldRef": {"fieldPath": path}}]);
        assert!(shows(
            json!({"name": "v", "downwardAPI": {"items": item("metadata.labels['a']")}})
        ));
        assert!(!shows(
            json!({"name": "v", "downwardAPI": {"items": item("metadata.name")}})
        ));
        let sources = json!([{"downwardAPI": {"items": item("metadata.annotations")}}]);
        assert!(shows(
            json!({"name": "v", "projected": {"sources": sources}})
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_the_volume(path in "[a./\\x00]{0,10}") {
            if check_path(&path).is_ok() {
                let parts = std::path::Path::new(&path).components();
                proptest::prop_assert!(parts.into_iter().all(|it| matches!(it, std::path::Component::Normal(_))));
                proptest::prop_assert!(!path.starts_with(".."));
            }
        }
    }
}
