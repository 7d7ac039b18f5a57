//! Requests to a cluster, over `kube`'s transport and in plain JSON.

use std::path::{Path, PathBuf};

use futures::{AsyncBufRead, AsyncBufReadExt, Stream, StreamExt, stream};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use serde_json::Value;

use super::discovery::Kind;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const APPLY: &str = "application/apply-patch+yaml";

/// A connection to one cluster, with the namespace that requests go to by default.
#[derive(Clone)]
pub struct Connection {
    /// The transport.
    pub client: Client,
    /// The default namespace.
    pub namespace: String,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The object is new.
    Created,
    /// The object changed.
    Configured,
    /// Nothing had to change.
    Unchanged,
}

impl Applied {
    /// The word that kubectl uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What part of a log is wanted; all off means all of it, from the start.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The container; the pod's first by default.
    pub container: Option<String>,
    /// Go on until the container ends.
    pub follow: bool,
    /// The run before this one.
    pub previous: bool,
    /// A time before each line.
    pub timestamps: bool,
    /// Lines from the end.
    pub tail: Option<u64>,
    /// Seconds back from now.
    pub since: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

impl LogOptions {
    fn query(&self) -> String {
        let mut pairs = vec![("follow", self.follow.to_string())];
        if let Some(container) = &self.container {
            pairs.push(("container", container.clone()));
        }
        for (key, on) in [("previous", self.previous), ("timestamps", self.timestamps)] {
            if on {
                pairs.push((key, "true".to_owned()));
            }
        }
        for (key, number) in [
            ("tailLines", self.tail),
            ("sinceSeconds", self.since),
            ("limitBytes", self.limit_bytes),
        ] {
            if let Some(number) = number {
                pairs.push((key, number.to_string()));
            }
        }
        encode(&pairs)
    }
}

fn encode(pairs: &[(&str, String)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in pairs {
        query.append_pair(key, value);
    }
    query.finish()
}

impl Connection {
    /// Connects with `kubeconfig`, or with what the user's environment says.
    ///
    /// # Errors
    /// What is wrong with the kubeconfig, by file.
    pub async fn open(
        kubeconfig: Option<&Path>,
        namespace: Option<String>,
    ) -> Result<Self, KubeconfigError> {
        let config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
            }
            None => Config::from_kubeconfig(&KubeConfigOptions::default()).await?,
        };
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| {
            // The only way to fail here is a certificate or a key that does not parse.
            KubeconfigError::ReadConfig(
                std::io::Error::other(error),
                kubeconfig.map_or_else(PathBuf::new, Path::to_owned),
            )
        })?;
        Ok(Self { client, namespace })
    }

    /// Reads a path as JSON.
    ///
    /// # Errors
    /// The server's `Status`, or the transport's.
    pub async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        self.send("GET", path, "application/json", None, Vec::new())
            .await
    }

    /// Reads a path as the server's Table (or whatever the server has instead).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn table(&self, path: &str) -> Result<Value, kube::Error> {
        self.send("GET", path, TABLE, None, Vec::new()).await
    }

    /// The path of a kind's collection with a selector.
    pub fn collection(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        selector: Option<&str>,
    ) -> String {
        let mut path = kind.path(namespace, None);
        if let Some(selector) = selector {
            path.push('?');
            path.push_str(&encode(&[("labelSelector", selector.to_owned())]));
        }
        path
    }

    /// Creates or changes an object by server-side apply.
    ///
    /// # Errors
    /// The server's refusal, conflicts among them.
    pub async fn apply(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        object: &Value,
        dry_run: bool,
    ) -> Result<(Applied, Value), kube::Error> {
        let path = kind.path(namespace, Some(name));
        let before = match self.get(&path).await {
            Ok(object) => Some(essence(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => return Err(error),
        };
        let mut pairs = vec![
            ("fieldManager", "vk-cmd".to_owned()),
            ("fieldValidation", "Strict".to_owned()),
        ];
        if dry_run {
            pairs.push(("dryRun", "All".to_owned()));
        }
        let path = format!("{path}?{}", encode(&pairs));
        let body = object.to_string().into_bytes();
        let after = self
            .send("PATCH", &path, "application/json", Some(APPLY), body)
            .await?;
        let applied = match before {
            None => Applied::Created,
            Some(before) if before == essence(after.clone()) => Applied::Unchanged,
            Some(_) => Applied::Configured,
        };
        Ok((applied, after))
    }

    /// Deletes an object, or with `name` none the collection that `selector` chooses.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn delete(
        &self,
        path: &str,
        grace_seconds: Option<u32>,
    ) -> Result<Value, kube::Error> {
        let mut options = serde_json::json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        if let Some(seconds) = grace_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        let json = Some("application/json");
        let body = options.to_string().into_bytes();
        self.send("DELETE", path, "application/json", json, body)
            .await
    }

    /// The bytes of a container's log, line by line as the server sends them.
    ///
    /// # Errors
    /// The server's refusal: no such pod, a container that has not started.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: &LogOptions,
    ) -> Result<impl AsyncBufRead + use<>, kube::Error> {
        let query = options.query();
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?{query}");
        let request = request("GET", &path, "*/*", None, Vec::new())?;
        self.client.request_stream(request).await
    }

    /// The events of a watch, as `{type, object}` values.
    ///
    /// # Errors
    /// The server's refusal; the stream ends where the server ends it.
    pub async fn watch(
        &self,
        path: &str,
        pairs: &[(&str, String)],
    ) -> Result<impl Stream<Item = std::io::Result<Value>> + use<>, kube::Error> {
        let mut all = vec![("watch", "true".to_owned())];
        all.extend_from_slice(pairs);
        let path = format!("{path}?{}", encode(&all));
        let request = request("GET", &path, "application/json", None, Vec::new())?;
        let lines = Box::pin(self.client.request_stream(request).await?).lines();
        Ok(lines.flat_map(|line| {
            stream::iter(match line {
                Ok(line) if line.is_empty() => None,
                Ok(line) => Some(serde_json::from_str(&line).map_err(std::io::Error::other)),
                Err(error) => Some(Err(error)),
            })
        }))
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        content: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Value, kube::Error> {
        self.client
            .request(request(method, path, accept, content, body)?)
            .await
    }
}

/// An object without what others than its author write: the status may change at any moment.
fn essence(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    object
}

fn request(
    method: &str,
    path: &str,
    accept: &str,
    content: Option<&str>,
    body: Vec<u8>,
) -> Result<http::Request<Vec<u8>>, kube::Error> {
    let mut builder = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::ACCEPT, accept);
    if let Some(content) = content {
        builder = builder.header(http::header::CONTENT_TYPE, content);
    }
    builder.body(body).map_err(kube::Error::HttpError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_that_moves_on_is_no_change_of_the_object() {
        let object = |version: &str, phase: &str, label: &str| {
            json!({"metadata": {"resourceVersion": version, "labels": {"a": label}},
                   "spec": {}, "status": {"phase": phase}})
        };
        let before = essence(object("1", "Pending", "b"));
        assert_eq!(before, essence(object("2", "Running", "b")));
        assert_ne!(before, essence(object("2", "Pending", "c")));
    }
}
