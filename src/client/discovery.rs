//! Which kinds a server knows, under which names people call them.

use kube::Client;
use serde_json::Value;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource that a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The API group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// `Pod`.
    pub kind: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether objects lie in namespaces.
    pub namespaced: bool,
    /// `get`, `list`, …
    pub verbs: Vec<String>,
}

impl Kind {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pod`, `deployment.apps`: how an object is named in messages.
    pub fn display(&self) -> String {
        let singular = self.kind.to_lowercase();
        if self.group.is_empty() {
            singular
        } else {
            format!("{singular}.{}", self.group)
        }
    }

    /// The path of the collection, or of one object.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    fn answers_to(&self, name: &str) -> bool {
        let (plain, group) = name.split_once('.').unwrap_or((name, ""));
        let named = [
            self.plural.as_str(),
            &self.singular,
            &self.kind.to_lowercase(),
        ]
        .contains(&plain)
            || self.short_names.iter().any(|short| short == plain);
        named
            && (group.is_empty()
                || group == self.group
                || group == format!("{}.{}", self.version, self.group))
    }
}

/// All kinds of a server, in the server's order: the preferred version of each group first.
#[derive(Debug, Clone, Default)]
pub struct Kinds(Vec<Kind>);

impl Kinds {
    /// Asks the server.
    ///
    /// # Errors
    /// Those of the request; a server without aggregated discovery (before v1.30) is asked group by
    /// group.
    pub async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let mut kinds = Vec::new();
        for root in ["/api", "/apis"] {
            let document = get(client, root, AGGREGATED).await?;
            if document["kind"] == "APIGroupDiscoveryList" {
                kinds.extend(parse_aggregated(&document));
            } else {
                for group_version in legacy_group_versions(root, &document) {
                    let list = get(client, &group_version, "application/json").await?;
                    kinds.extend(parse_legacy(&list));
                }
            }
        }
        Ok(Self(kinds))
    }

    /// The kind that people call `name`: plural, singular, kind, short name, with or without group.
    pub fn by_name(&self, name: &str) -> Option<&Kind> {
        let name = name.to_lowercase();
        self.0.iter().find(|kind| kind.answers_to(&name))
    }

    /// The kind of an object.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0
            .iter()
            .find(|known| known.kind == kind && known.api_version() == api_version)
    }

    /// The kinds of a category, such as `all`.
    pub fn by_category<'a>(&'a self, category: &'a str) -> impl Iterator<Item = &'a Kind> {
        self.0
            .iter()
            .filter(move |kind| kind.categories.iter().any(|known| known == category))
    }

    /// Names close to one that is unknown, for the hint.
    pub fn similar(&self, name: &str) -> Option<&str> {
        let name = name.to_lowercase();
        self.0
            .iter()
            .map(|kind| kind.plural.as_str())
            .filter(|plural| {
                plural.starts_with(&name) || name.starts_with(plural.trim_end_matches('s'))
            })
            .min_by_key(|plural| plural.len().abs_diff(name.len()))
    }
}

async fn get(client: &Client, path: &str, accept: &str) -> Result<Value, kube::Error> {
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .map(|items| items.iter().map(text).collect())
        .unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn parse_aggregated(document: &Value) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for group in items(&document["items"]) {
        for version in items(&group["versions"]) {
            for resource in items(&version["resources"]) {
                kinds.push(Kind {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: texts(&resource["verbs"]),
                });
            }
        }
    }
    kinds
}

fn legacy_group_versions(root: &str, document: &Value) -> Vec<String> {
    if root == "/api" {
        return texts(&document["versions"])
            .into_iter()
            .map(|version| format!("/api/{version}"))
            .collect();
    }
    items(&document["groups"])
        .flat_map(|group| items(&group["versions"]))
        .map(|version| format!("/apis/{}", text(&version["groupVersion"])))
        .collect()
}

fn parse_legacy(list: &Value) -> Vec<Kind> {
    let group_version = text(&list["groupVersion"]);
    let (group, version) = group_version
        .split_once('/')
        .unwrap_or(("", &group_version));
    items(&list["resources"])
        .filter(|resource| !text(&resource["name"]).contains('/'))
        .map(|resource| Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(&resource["kind"]),
            plural: text(&resource["name"]),
            singular: text(&resource["singularName"]),
            short_names: texts(&resource["shortNames"]),
            categories: texts(&resource["categories"]),
            namespaced: resource["namespaced"] == true,
            verbs: texts(&resource["verbs"]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds() -> Kinds {
        let resources = json!([
            {"resource": "pods", "singularResource": "pod", "responseKind": {"kind": "Pod"},
             "scope": "Namespaced", "shortNames": ["po"], "categories": ["all"], "verbs": ["get"]},
            {"resource": "nodes", "singularResource": "node", "responseKind": {"kind": "Node"},
             "scope": "Cluster", "shortNames": ["no"], "verbs": ["get"]}]);
        let deployments = json!([
            {"resource": "deployments", "singularResource": "deployment",
             "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": ["get"]}]);
        Kinds(parse_aggregated(&json!({"items": [
            {"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": resources}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": deployments}]},
        ]})))
    }

    #[test]
    fn people_may_say_plural_singular_kind_short_name_and_group() {
        let kinds = kinds();
        for name in ["pods", "pod", "Pod", "po"] {
            assert_eq!(
                kinds.by_name(name).map(|kind| kind.plural.as_str()),
                Some("pods"),
                "{name}"
            );
        }
        for name in ["deployments.apps", "deploy.apps", "deployment.v1.apps"] {
            let found = kinds.by_name(name).is_some();
            assert_eq!(found, name != "deploy.apps", "{name}");
        }
        assert!(kinds.by_name("deployments.batch").is_none());
        assert_eq!(kinds.similar("podz"), Some("pods"));
    }

    #[test]
    fn a_cluster_scoped_kind_has_no_namespace_in_its_path() {
        let kinds = kinds();
        let path = |name: &str| {
            kinds
                .by_name(name)
                .map(|kind| kind.path(Some("n"), Some("x")))
        };
        assert_eq!(path("node").as_deref(), Some("/api/v1/nodes/x"));
        assert_eq!(path("pod").as_deref(), Some("/api/v1/namespaces/n/pods/x"));
        assert_eq!(
            path("deployment").as_deref(),
            Some("/apis/apps/v1/namespaces/n/deployments/x")
        );
    }

    #[test]
    fn the_answer_of_an_old_server_reads_the_same() {
        let list = json!({"groupVersion": "apps/v1", "resources": [
            {"name": "deployments", "singularName": "deployment", "kind": "Deployment", "namespaced": true, "verbs": []},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true, "verbs": []}]});
        let kinds = parse_legacy(&list);
        assert_eq!(kinds.len(), 1);
        assert_eq!(kinds[0].api_version(), "apps/v1");
    }
}
