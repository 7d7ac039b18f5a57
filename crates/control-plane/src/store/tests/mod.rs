//! Tests of the whole store.

mod basic;
mod crash;
mod damage;
mod failing;
mod model;
mod watching;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Attributes, Draft, Expected, Object, Options, Store};

/// A store that does not wait for the disk: most tests are not about the machine's death.
fn quick() -> Options {
    Options {
        fsync: false,
        ..Options::default()
    }
}

fn open(directory: &Path) -> Store {
    match Store::open(directory, quick()) {
        Ok(store) => store,
        Err(error) => panic!("cannot open {}: {error}", directory.display()),
    }
}

fn draft(payload: &str) -> Draft {
    let value = json!({"metadata": {"name": "x"}, "data": payload});
    Draft::new(&value, Attributes::default())
}

fn payload(object: &Object) -> String {
    match object.value() {
        Value::Object(fields) => fields["data"].as_str().unwrap_or_default().to_owned(),
        other => panic!("not an object: {other}"),
    }
}

/// Creates or replaces, whatever is there.
async fn set(store: &Store, key: &str, text: &str) -> Arc<Object> {
    let expected = store.get(key).map_or(Expected::Absent, |object| {
        Expected::Revision(object.revision)
    });
    match store.put(key, expected, draft(text)).await {
        Ok(object) => object,
        Err(error) => panic!("cannot put {key}: {error}"),
    }
}

async fn remove(store: &Store, key: &str) -> Arc<Object> {
    let revision = store.get(key).map_or(0, |object| object.revision);
    match store.delete(key, revision, draft("last")).await {
        Ok(object) => object,
        Err(error) => panic!("cannot delete {key}: {error}"),
    }
}

/// Keys, revisions and payloads.
fn contents(objects: &[Arc<Object>]) -> Vec<(String, u64, String)> {
    objects
        .iter()
        .map(|object| (object.key.to_string(), object.revision, payload(object)))
        .collect()
}

/// The files of a store whose names start with `prefix`, in order.
fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    files.sort();
    files
}
