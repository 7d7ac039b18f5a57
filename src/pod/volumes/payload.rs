//! The files of a volume, from its source and the objects it refers to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume,
};

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

/// Why a volume cannot be filled, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
pub struct Problem {
    /// Which volume.
    pub volume: String,
    /// Why.
    pub cause: String,
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
    let sources = volume
        .projected
        .iter()
        .flat_map(|it| it.sources.iter().flatten());
    sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| request(token.audience.as_deref(), token.expiration_seconds))
        .collect()
}

fn request(audience: Option<&str>, expiration: Option<i64>) -> TokenRequest {
    TokenRequest {
        audience: audience.unwrap_or_default().to_owned(),
        expiration: expiration.unwrap_or(3600),
    }
}

/// The files of a volume; none for an emptyDir, which starts empty and is the pod's.
pub fn payload(
    pod: &Pod,
    host: &Host,
    volume: &Volume,
    objects: &Objects,
    tokens: &Tokens,
) -> Result<Option<Payload>, Problem> {
    let mut filler = Filler {
        pod,
        host,
        objects,
        tokens,
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
        return Ok(None);
    };
    match filled {
        Ok(()) => Ok(Some(filler.files)),
        Err(cause) => Err(Problem {
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
            let path = item
                .field_ref
                .as_ref()
                .map(|it| it.field_path.as_str())
                .unwrap_or_default();
            let Some(value) = fields::value(self.pod, self.host, path) else {
                return Err(format!("fieldPath {path:?} is not supported by this node"));
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

/// What the API server lets through is checked again: it decides where we write.
fn check_path(path: &str) -> Result<(), String> {
    let bad = |part: &str| matches!(part, "" | "." | "..");
    if path.split('/').any(bad) || path.contains('\0') {
        return Err(format!(
            "path {path:?} must be relative, without '.', '..' or empty parts"
        ));
    }
    if path.starts_with("..") {
        return Err(format!("path {path:?} must not start with '..'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fill(volume: Value) -> Result<Option<Payload>, Problem> {
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
        payload(
            &pod,
            &Host::for_tests(),
            &volume,
            &objects,
            &tokens.collect(),
        )
    }

    fn shown(payload: Option<Payload>) -> Vec<String> {
        let files = payload.unwrap().into_iter();
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
        assert_eq!(fill(json!({"emptyDir": {}})).unwrap(), None);
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
}
