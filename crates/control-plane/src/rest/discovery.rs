//! What is served, as clients discover it: `/api`, `/apis`, `/apis/GROUP`, `/apis/GROUP/VERSION`,
//! and the aggregated form (`apidiscovery.k8s.io/v2`).
//!
//! All of it is made from the resource table; nothing is listed twice.

use serde_json::{Map, Value, json};

use super::usage;
use crate::resource::{ResourceDef, SubResource, table};

/// The media type of the aggregated form; the answer must carry it, or clients read a plain list.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api`.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// The named groups with their versions, both in the order of the table.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in table().rows() {
        match groups.iter_mut().find(|(group, _)| *group == row.group) {
            Some((_, versions)) if versions.contains(&row.version) => {}
            Some((_, versions)) => versions.push(row.version),
            None => groups.push((row.group, vec![row.version])),
        }
    }
    groups.push((usage::GROUP, vec![usage::VERSION]));
    groups
}

fn group_body(group: &str, versions: &[&str]) -> Map<String, Value> {
    let version =
        |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let mut body = Map::new();
    body.insert("name".to_owned(), group.into());
    body.insert(
        "versions".to_owned(),
        versions.iter().map(version).collect(),
    );
    // The first version of a group in the table is the preferred one.
    body.insert(
        "preferredVersion".to_owned(),
        versions.first().map(version).unwrap_or_default(),
    );
    body
}

/// `/apis`.
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| Value::Object(group_body(group, versions)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub fn group(name: &str) -> Option<Value> {
    let groups = groups();
    let (group, versions) = groups
        .iter()
        .find(|(group, _)| *group == name && !group.is_empty())?;
    let mut body = group_body(group, versions);
    body.insert("kind".to_owned(), "APIGroup".into());
    body.insert("apiVersion".to_owned(), "v1".into());
    Some(Value::Object(body))
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    if (group, version) == (usage::GROUP, usage::VERSION) {
        let resources: Vec<Value> = USAGE
            .iter()
            .map(|(plural, kind, namespaced)| {
                json!({"name": plural, "singularName": "", "namespaced": namespaced,
                       "kind": kind, "verbs": ["get", "list"]})
            })
            .collect();
        return Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{group}/{version}"), "resources": resources}));
    }
    let rows: Vec<&ResourceDef> = rows_of(group, version).collect();
    let first = rows.first()?;
    let mut resources = Vec::new();
    for row in &rows {
        // A row without verbs of its own stands for its sub-resources alone.
        if !row.verbs.is_empty() {
            resources.push(resource(row));
        }
        resources.extend(row.subresources.iter().map(|sub| subresource(row, sub)));
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": resources,
    }))
}

fn rows_of<'a>(
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static ResourceDef> + 'a {
    table()
        .rows()
        .iter()
        .filter(move |row| row.group == group && row.version == version)
}

fn resource(row: &ResourceDef) -> Value {
    let mut entry = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": row.verbs,
    });
    for (key, list) in [
        ("shortNames", row.short_names),
        ("categories", row.categories),
    ] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    entry
}

fn subresource(row: &ResourceDef, sub: &SubResource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", row.plural, sub.name),
        "singularName": "",
        "namespaced": row.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if let Some((group, version)) = sub.group_version {
        entry["group"] = group.into();
        entry["version"] = version.into();
    }
    entry
}

/// `/api` or `/apis` in the aggregated form.
pub fn aggregated(core: bool) -> Value {
    let items: Vec<Value> = groups()
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let of_usage = USAGE.iter().filter(|_| *group == usage::GROUP);
                    let resources: Vec<Value> = rows_of(group, version)
                        .map(aggregated_row)
                        .chain(of_usage.map(aggregated_usage))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

/// What is used, by nodes and pods: made when it is asked for, in no table of stored objects.
const USAGE: [(&str, &str, bool); 2] = [
    ("nodes", "NodeMetrics", false),
    ("pods", "PodMetrics", true),
];

fn aggregated_usage((plural, kind, namespaced): &(&str, &str, bool)) -> Value {
    json!({
        "resource": plural,
        "responseKind": {"group": usage::GROUP, "version": usage::VERSION, "kind": kind},
        "scope": if *namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": "",
        "verbs": ["get", "list"],
    })
}

fn aggregated_row(row: &'static ResourceDef) -> Value {
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    for (key, list) in [
        ("shortNames", row.short_names),
        ("categories", row.categories),
    ] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    if !row.subresources.is_empty() {
        let subresources: Vec<Value> = row
            .subresources
            .iter()
            .map(|sub| {
                let (group, version) = sub.group_version.unwrap_or((row.group, row.version));
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": group, "version": version, "kind": sub.kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        entry["subresources"] = Value::Array(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_name_the_same_resources() {
        let mut plain = Vec::new();
        for (group, versions) in groups() {
            for version in versions {
                let list = resource_list(group, version).expect("a list");
                for entry in list["resources"].as_array().expect("resources") {
                    let name = entry["name"].as_str().expect("a name").to_owned();
                    plain.push(format!("{group}/{version}/{name}"));
                }
            }
        }
        let mut joined = Vec::new();
        for core in [true, false] {
            let document = aggregated(core);
            for item in document["items"].as_array().expect("items") {
                let group = item["metadata"]["name"].as_str().unwrap_or_default();
                for version in item["versions"].as_array().expect("versions") {
                    let number = version["version"].as_str().expect("a version");
                    for row in version["resources"].as_array().expect("resources") {
                        let name = row["resource"].as_str().expect("a name");
                        if row["verbs"]
                            .as_array()
                            .is_some_and(|verbs| !verbs.is_empty())
                        {
                            joined.push(format!("{group}/{number}/{name}"));
                        }
                        for sub in row["subresources"].as_array().into_iter().flatten() {
                            let sub = sub["subresource"].as_str().expect("a name");
                            joined.push(format!("{group}/{number}/{name}/{sub}"));
                        }
                    }
                }
            }
        }
        assert_eq!(plain, joined);
        assert!(plain.contains(&"/v1/pods/log".to_owned()));
    }

    #[test]
    fn a_group_names_its_preferred_version_first() {
        let apps = group("apps").expect("apps");
        assert_eq!(apps["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!(group(""), None);
        assert_eq!(group("nonsense.k8s.io"), None);
    }
}
