//! Manifests in files: YAML or JSON, several documents, lists.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// An object as a file has it.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The file, and the number of the document in it, from 1.
    pub origin: String,
    /// `v1`.
    pub api_version: String,
    /// `Pod`.
    pub kind: String,
    /// The namespace that the file names.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The object.
    pub object: Value,
}

/// What can be wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is neither YAML nor JSON.
    #[error("{origin}: is not YAML")]
    Syntax {
        /// The file and the document.
        origin: String,
        /// Why, with line and column.
        #[source]
        source: serde_norway::Error,
    },
    /// A document is not an object of Kubernetes.
    #[error("{origin}: {field} {problem}")]
    Field {
        /// The file and the document.
        origin: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing in the files.
    #[error("{path}: holds no object")]
    Empty {
        /// The file.
        path: String,
    },
}

/// Reads all objects of the files, in order. `-` is standard input; of a directory, its
/// `.yaml`, `.yml` and `.json` files by name.
///
/// # Errors
/// The first file or document that is wrong, by name.
pub fn read_manifests(paths: &[PathBuf]) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for path in paths {
        for file in expand(path)? {
            let before = manifests.len();
            let text = read(&file)?;
            parse(&file.display().to_string(), &text, &mut manifests)?;
            if manifests.len() == before {
                return Err(ManifestError::Empty {
                    path: file.display().to_string(),
                });
            }
        }
    }
    Ok(manifests)
}

fn expand(path: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |source| ManifestError::Read {
        path: path.display().to_string(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let known = file
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if known {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, ManifestError> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|source| ManifestError::Read {
        path: path.display().to_string(),
        source,
    })
}

fn parse(path: &str, text: &str, into: &mut Vec<Manifest>) -> Result<(), ManifestError> {
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let origin = format!("{path} (document {})", index + 1);
        let object = Value::deserialize(document).map_err(|source| ManifestError::Syntax {
            origin: origin.clone(),
            source,
        })?;
        if !object.is_null() {
            collect(origin, object, into)?;
        }
    }
    Ok(())
}

fn collect(
    origin: String,
    mut object: Value,
    into: &mut Vec<Manifest>,
) -> Result<(), ManifestError> {
    let field = |value: &Value, field: &'static str| match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::Null => Err(ManifestError::Field {
            origin: origin.clone(),
            field,
            problem: "is missing".to_owned(),
        }),
        other => Err(ManifestError::Field {
            origin: origin.clone(),
            field,
            problem: format!("is {other}, and must be a text that is not empty"),
        }),
    };
    let api_version = field(&object["apiVersion"], "apiVersion")?;
    let kind = field(&object["kind"], "kind")?;
    if let (true, Value::Array(items)) = (kind.ends_with("List"), object["items"].take()) {
        for (index, item) in items.into_iter().enumerate() {
            collect(format!("{origin}, item {}", index + 1), item, into)?;
        }
        return Ok(());
    }
    let name = field(&object["metadata"]["name"], "metadata.name")?;
    let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
    // `items` was looked at above; an object that is no list must not gain the key.
    if let Value::Object(map) = &mut object
        && map.get("items").is_some_and(Value::is_null)
    {
        map.remove("items");
    }
    into.push(Manifest {
        origin,
        api_version,
        kind,
        namespace,
        name,
        object,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<Manifest>, ManifestError> {
        let mut all = Vec::new();
        parse("f.yaml", text, &mut all)?;
        Ok(all)
    }

    #[test]
    fn documents_and_lists_come_in_order() {
        let text = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n---\n---\n\
                    kind: List\napiVersion: v1\nitems:\n\
                    - {kind: Pod, apiVersion: v1, metadata: {name: b, namespace: n}}\n";
        let all = parse_text(text).expect("a good file");
        let names: Vec<_> = all
            .iter()
            .map(|m| (m.kind.as_str(), m.name.as_str()))
            .collect();
        assert_eq!(names, [("ConfigMap", "a"), ("Pod", "b")]);
        assert_eq!(all[1].namespace.as_deref(), Some("n"));
        assert_eq!(all[0].object.get("items"), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, message) in [
            (
                "kind: Pod\nmetadata: {name: a}",
                "f.yaml (document 1): apiVersion is missing",
            ),
            ("a: [", "f.yaml (document 1): is not YAML"),
            (
                "kind: Pod\napiVersion: v1\nmetadata: {name: 7}",
                "f.yaml (document 1): metadata.name is 7, and must be a text that is not empty",
            ),
            ("just words", "f.yaml (document 1): apiVersion is missing"),
        ] {
            let error = parse_text(text).expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }
}
