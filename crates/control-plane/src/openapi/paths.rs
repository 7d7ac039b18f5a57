//! The paths of a resource and what each verb takes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::schemas::{PATCH, reference};
use super::{ServedResource, ServedSubresource};
use crate::schema::{Gvk, TypeId, schema};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// One operation, before it is written down.
struct Operation<'a> {
    /// What Kubernetes calls it: `list`, `post`, `deletecollection`, …
    action: &'a str,
    /// Its kind.
    gvk: &'a Gvk,
    /// The name of the operation; unique in the document.
    id: String,
    query: &'a [Parameter],
    /// Media types and schema of the body.
    body: Option<(&'a [&'a str], Value)>,
    answer: Option<Value>,
}

/// Name and type of a query parameter.
type Parameter = (&'static str, &'static str);

const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[Parameter] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const PATCHING: &[Parameter] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: &[Parameter] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
    ),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Adds the paths of a resource; the types they name go to `used`.
pub(super) fn add(
    paths: &mut Map<String, Value>,
    resource: &ServedResource,
    used: &mut BTreeSet<TypeId>,
) {
    let gvk = Gvk::new(&resource.group, &resource.version, &resource.kind);
    let root = format!("/{}", resource.document());
    let scope = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}")
    } else {
        root.clone()
    };
    let has = |verb: &str| resource.verbs.contains(&verb);
    let names = Names::of(resource);
    let mut types = Types { used };
    let object = types.of(&gvk);
    let list = types.of(&Gvk {
        kind: format!("{}List", gvk.kind),
        ..gvk.clone()
    });
    let everything: &[&str] = &["*/*"];

    let mut collection = Vec::new();
    if has("list") {
        collection.push((
            "get",
            names.operation("list", "list", &gvk, LIST, None, list.clone()),
        ));
    }
    if has("create") {
        let body = object.clone().map(|schema| (everything, schema));
        collection.push((
            "post",
            names.operation("create", "post", &gvk, WRITE, body, object.clone()),
        ));
    }
    if has("deletecollection") {
        let body = types
            .meta("DeleteOptions")
            .map(|schema| (everything, schema));
        let answer = types.meta("Status");
        let operation = names.operation(
            "deleteCollection",
            "deletecollection",
            &gvk,
            DELETE,
            body,
            answer,
        );
        collection.push(("delete", operation));
    }
    put(
        paths,
        format!("{scope}/{}", resource.plural),
        collection,
        resource.namespaced,
        false,
    );

    let mut item = Vec::new();
    if has("get") {
        item.push((
            "get",
            names.operation("read", "get", &gvk, &[], None, object.clone()),
        ));
    }
    if has("update") {
        let body = object.clone().map(|schema| (everything, schema));
        item.push((
            "put",
            names.operation("replace", "put", &gvk, WRITE, body, object.clone()),
        ));
    }
    if has("patch") {
        let body = Some((PATCH_TYPES, reference(PATCH)));
        item.push((
            "patch",
            names.operation("patch", "patch", &gvk, PATCHING, body, object.clone()),
        ));
    }
    if has("delete") {
        let body = types
            .meta("DeleteOptions")
            .map(|schema| (everything, schema));
        let answer = types.meta("Status");
        item.push((
            "delete",
            names.operation("delete", "delete", &gvk, DELETE, body, answer),
        ));
    }
    put(
        paths,
        format!("{scope}/{}/{{name}}", resource.plural),
        item,
        resource.namespaced,
        true,
    );

    for sub in &resource.subresources {
        let path = format!("{scope}/{}/{{name}}/{}", resource.plural, sub.name);
        let operations = sub_operations(sub, &names, &mut types);
        put_values(paths, path, operations, resource.namespaced, true);
    }
    if resource.namespaced && has("list") {
        let mut operation = names.operation("list", "list", &gvk, LIST, None, list);
        operation.id = format!("{}ForAllNamespaces", operation.id.replace("Namespaced", ""));
        put(
            paths,
            format!("{root}/{}", resource.plural),
            vec![("get", operation)],
            false,
            false,
        );
    }
}

fn sub_operations(
    sub: &ServedSubresource,
    names: &Names,
    types: &mut Types<'_>,
) -> Vec<(&'static str, Value)> {
    let gvk = Gvk::new(&sub.group, &sub.version, &sub.kind);
    let schema = types.of(&gvk);
    let everything: &[&str] = &["*/*"];
    let suffix = camel(&sub.name);
    let mut operations = Vec::new();
    for (verb, method, prefix) in [
        ("get", "get", "read"),
        ("create", "post", "create"),
        ("update", "put", "replace"),
        ("patch", "patch", "patch"),
    ] {
        if !sub.verbs.contains(&verb) {
            continue;
        }
        let (query, body) = match verb {
            "get" => (&[][..], None),
            "patch" => (PATCHING, Some((PATCH_TYPES, reference(PATCH)))),
            _ => (WRITE, schema.clone().map(|schema| (everything, schema))),
        };
        let mut operation = names.operation(prefix, method, &gvk, query, body, schema.clone());
        operation.id.push_str(&suffix);
        operations.push((method, operation.render()));
    }
    operations
}

/// The references to types, which are remembered.
struct Types<'a> {
    used: &'a mut BTreeSet<TypeId>,
}

impl Types<'_> {
    fn of(&mut self, gvk: &Gvk) -> Option<Value> {
        let id = schema().type_of_gvk(gvk)?;
        self.used.insert(id);
        Some(reference(&schema().get(id).full_name()))
    }

    fn meta(&mut self, name: &str) -> Option<Value> {
        let full = format!("{META}.{name}");
        self.used.insert(schema().type_by_name(&full)?);
        Some(reference(&full))
    }
}

/// What names of operations are made of.
struct Names {
    /// Group and version: `AppsV1`, `CoreV1`.
    version: String,
    /// `NamespacedDeployment`, `Node`.
    subject: String,
}

impl Names {
    fn of(resource: &ServedResource) -> Self {
        let group = match resource.group.as_str() {
            "" => "core",
            group => group.trim_end_matches(".k8s.io"),
        };
        let scope = if resource.namespaced {
            "Namespaced"
        } else {
            ""
        };
        Self {
            version: format!("{}{}", camel(group), camel(&resource.version)),
            subject: format!("{scope}{}", resource.kind),
        }
    }

    fn operation<'a>(
        &self,
        prefix: &str,
        action: &'a str,
        gvk: &'a Gvk,
        query: &'a [Parameter],
        body: Option<(&'a [&'a str], Value)>,
        answer: Option<Value>,
    ) -> Operation<'a> {
        let collection = match prefix {
            "deleteCollection" => ("delete", "Collection"),
            other => (other, ""),
        };
        Operation {
            action,
            gvk,
            id: format!(
                "{}{}{}{}",
                collection.0, self.version, collection.1, self.subject
            ),
            query,
            body,
            answer,
        }
    }
}

/// `rbac.authorization` becomes `RbacAuthorization`.
fn camel(words: &str) -> String {
    words
        .split(['.', '-', '/'])
        .map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        })
        .collect()
}

impl Operation<'_> {
    fn render(&self) -> Value {
        let mut ok = Map::new();
        ok.insert("description".to_owned(), json!("OK"));
        if let Some(schema) = &self.answer {
            let content = json!({"application/json": {"schema": schema}});
            ok.insert("content".to_owned(), content);
        }
        let mut out = Map::new();
        out.insert("operationId".to_owned(), json!(self.id));
        if !self.query.is_empty() {
            let query = self.query.iter();
            let query = query
                .map(|(name, of)| parameter(name, "query", of))
                .collect();
            out.insert("parameters".to_owned(), query);
        }
        if let Some((media_types, schema)) = &self.body {
            let content: Map<String, Value> = media_types
                .iter()
                .map(|media_type| ((*media_type).to_owned(), json!({"schema": schema})))
                .collect();
            let mut body = Map::new();
            body.insert("content".to_owned(), content.into());
            if !self.action.starts_with("delete") {
                body.insert("required".to_owned(), json!(true));
            }
            out.insert("requestBody".to_owned(), body.into());
        }
        out.insert(
            "responses".to_owned(),
            json!({"200": ok, "401": {"description": "Unauthorized"}}),
        );
        out.insert("x-kubernetes-action".to_owned(), json!(self.action));
        out.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!({"group": self.gvk.group, "kind": self.gvk.kind, "version": self.gvk.version}),
        );
        Value::Object(out)
    }
}

fn parameter(name: &str, place: &str, of: &str) -> Value {
    let mut out = json!({"name": name, "in": place, "schema": {"type": of, "uniqueItems": true}});
    if place == "path" {
        out["required"] = json!(true);
    }
    out
}

fn put(
    paths: &mut Map<String, Value>,
    path: String,
    operations: Vec<(&'static str, Operation<'_>)>,
    namespaced: bool,
    named: bool,
) {
    let operations = operations
        .into_iter()
        .map(|(method, operation)| (method, operation.render()))
        .collect();
    put_values(paths, path, operations, namespaced, named);
}

fn put_values(
    paths: &mut Map<String, Value>,
    path: String,
    operations: Vec<(&'static str, Value)>,
    namespaced: bool,
    named: bool,
) {
    if operations.is_empty() {
        return;
    }
    let mut out: Map<String, Value> = operations
        .into_iter()
        .map(|(method, operation)| (method.to_owned(), operation))
        .collect();
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", "path", "string"));
    }
    if namespaced {
        parameters.push(parameter("namespace", "path", "string"));
    }
    parameters.push(parameter("pretty", "query", "string"));
    out.insert("parameters".to_owned(), parameters.into());
    paths.insert(path, out.into());
}
