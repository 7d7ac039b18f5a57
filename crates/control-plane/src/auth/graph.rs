//! Which objects a node may read: those that the pods bound to it refer to.

use std::collections::HashMap;

use serde_json::Value;

/// Marks the copy of a static pod; such a pod gives its node nothing.
pub const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The kinds of objects that a pod leads its node to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefKind {
    /// The pod itself.
    Pod,
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    PersistentVolumeClaim,
    /// The pod's ServiceAccount.
    ServiceAccount,
}

type Ref = (RefKind, Box<str>, Box<str>);

#[derive(Debug)]
struct Entry {
    node: Box<str>,
    refs: Vec<Ref>,
}

/// The pods that are bound, by node, with what they refer to.
#[derive(Debug, Default)]
pub struct NodeGraph {
    /// By `namespace/name`.
    pods: HashMap<Box<str>, Entry>,
    /// How many pods of the node lead to the object.
    nodes: HashMap<Box<str>, HashMap<Ref, u32>>,
}

impl NodeGraph {
    /// Takes in a pod; one that is not bound yet is left out.
    pub fn put(&mut self, namespace: &str, name: &str, pod: &Value) {
        self.remove(namespace, name);
        let Some(node) = pod
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .filter(|node| !node.is_empty())
        else {
            return;
        };
        let mut refs: Vec<Ref> = vec![(RefKind::Pod, namespace.into(), name.into())];
        if pod
            .pointer("/metadata/annotations")
            .and_then(|annotations| annotations.get(MIRROR_POD_ANNOTATION))
            .is_none()
        {
            references(pod, name, &mut |kind, target| {
                let reference: Ref = (kind, namespace.into(), target.into());
                if !refs.contains(&reference) {
                    refs.push(reference);
                }
            });
        }
        let counts = self.nodes.entry(node.into()).or_default();
        for reference in &refs {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        self.pods.insert(
            pod_key(namespace, name),
            Entry {
                node: node.into(),
                refs,
            },
        );
    }

    /// Forgets a pod.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(entry) = self.pods.remove(&pod_key(namespace, name)) else {
            return;
        };
        let Some(counts) = self.nodes.get_mut(&entry.node) else {
            return;
        };
        for reference in &entry.refs {
            if let Some(count) = counts.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(reference);
                }
            }
        }
        if counts.is_empty() {
            self.nodes.remove(&entry.node);
        }
    }

    /// Whether a bound pod is known under this name.
    pub fn knows(&self, namespace: &str, name: &str) -> bool {
        self.pods.contains_key(&pod_key(namespace, name))
    }

    /// Whether a pod of `node` leads to the object.
    pub fn reaches(&self, node: &str, kind: RefKind, namespace: &str, name: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|counts| counts.contains_key(&(kind, namespace.into(), name.into())))
    }
}

fn pod_key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into_boxed_str()
}

/// Volume sources that name a Secret, with the place of the name.
const VOLUME_SECRETS: [(&str, &str); 11] = [
    ("secret", "/secretName"),
    ("azureFile", "/secretName"),
    ("cephfs", "/secretRef/name"),
    ("cinder", "/secretRef/name"),
    ("csi", "/nodePublishSecretRef/name"),
    ("flexVolume", "/secretRef/name"),
    ("iscsi", "/secretRef/name"),
    ("rbd", "/secretRef/name"),
    ("scaleIO", "/secretRef/name"),
    ("storageos", "/secretRef/name"),
    ("glusterfs", "/secretRef/name"),
];

/// Shows `found` each object that `pod` refers to, some of them more than once.
/// Also what the ServiceAccount and NodeRestriction admission ask of a mirror pod.
pub fn references(pod: &Value, pod_name: &str, found: &mut dyn FnMut(RefKind, &str)) {
    let Some(spec) = pod.get("spec") else { return };
    let mut see = |kind, value: Option<&Value>| {
        if let Some(name) = value
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
        {
            found(kind, name);
        }
    };
    see(RefKind::ServiceAccount, spec.get("serviceAccountName"));
    for secret in items(spec, "imagePullSecrets") {
        see(RefKind::Secret, secret.get("name"));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(spec, list) {
            for variable in items(container, "env") {
                see(
                    RefKind::Secret,
                    variable.pointer("/valueFrom/secretKeyRef/name"),
                );
                see(
                    RefKind::ConfigMap,
                    variable.pointer("/valueFrom/configMapKeyRef/name"),
                );
            }
            for source in items(container, "envFrom") {
                see(RefKind::Secret, source.pointer("/secretRef/name"));
                see(RefKind::ConfigMap, source.pointer("/configMapRef/name"));
            }
        }
    }
    for volume in items(spec, "volumes") {
        for (source, place) in VOLUME_SECRETS {
            see(
                RefKind::Secret,
                volume.get(source).and_then(|source| source.pointer(place)),
            );
        }
        see(RefKind::ConfigMap, volume.pointer("/configMap/name"));
        see(
            RefKind::PersistentVolumeClaim,
            volume.pointer("/persistentVolumeClaim/claimName"),
        );
        if volume.get("ephemeral").is_some()
            && let Some(name) = volume.get("name").and_then(Value::as_str)
        {
            let claim = Value::from(format!("{pod_name}-{name}"));
            see(RefKind::PersistentVolumeClaim, Some(&claim));
        }
        for source in volume
            .get("projected")
            .into_iter()
            .flat_map(|projected| items(projected, "sources"))
        {
            see(RefKind::Secret, source.pointer("/secret/name"));
            see(RefKind::ConfigMap, source.pointer("/configMap/name"));
        }
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(node: &str, secrets: &[u8]) -> Value {
        let volumes: Vec<Value> = secrets
            .iter()
            .map(|secret| json!({"name": "v", "secret": {"secretName": format!("s{secret}")}}))
            .collect();
        json!({"spec": {"nodeName": node, "volumes": volumes}})
    }

    #[test]
    fn every_place_that_names_an_object_is_seen() {
        let pod = json!({"spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}]}],
            "containers": [{"env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                {"name": "C", "value": "x"},
            ]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "c3"}},
                {"name": "b", "projected": {"sources": [
                    {"secret": {"name": "s3"}}, {"configMap": {"name": "c4"}}, {"serviceAccountToken": {}},
                ]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "p1"}},
                {"name": "d", "ephemeral": {}},
                {"name": "e", "csi": {"nodePublishSecretRef": {"name": "s4"}}},
                {"name": "f", "emptyDir": {}},
            ],
        }});
        let mut seen = Vec::new();
        references(&pod, "pod", &mut |kind, name| {
            seen.push(format!("{kind:?} {name}"));
        });
        seen.sort();
        assert_eq!(
            seen,
            [
                "ConfigMap c1",
                "ConfigMap c2",
                "ConfigMap c3",
                "ConfigMap c4",
                "PersistentVolumeClaim p1",
                "PersistentVolumeClaim pod-d",
                "Secret pull",
                "Secret s1",
                "Secret s2",
                "Secret s3",
                "Secret s4",
                "ServiceAccount sa",
            ]
        );
    }

    #[test]
    fn a_mirror_pod_leads_to_itself_alone() {
        let mut graph = NodeGraph::default();
        let mut mirror = pod("n", &[1]);
        mirror["metadata"] = json!({"annotations": {MIRROR_POD_ANNOTATION: "x"}});
        graph.put("a", "p", &mirror);
        assert!(graph.reaches("n", RefKind::Pod, "a", "p"));
        assert!(!graph.reaches("n", RefKind::Secret, "a", "s1"));
    }

    proptest! {
        /// After any history a node reaches exactly what its present pods refer to.
        #[test]
        fn a_node_reaches_what_its_present_pods_name(
            steps in proptest::collection::vec(
                (0..4_u8, proptest::sample::select(&["", "n1", "n2", "gone"][..]), proptest::collection::vec(0..4_u8, 0..3)),
                0..24,
            ),
        ) {
            let mut graph = NodeGraph::default();
            let mut present: HashMap<u8, (&str, Vec<u8>)> = HashMap::new();
            for (name, node, secrets) in steps {
                if node == "gone" {
                    graph.remove("a", &name.to_string());
                    present.remove(&name);
                } else {
                    graph.put("a", &name.to_string(), &pod(node, &secrets));
                    present.insert(name, (node, secrets));
                }
            }
            for node in ["n1", "n2"] {
                for secret in 0..4_u8 {
                    let expected = present.values().any(|(at, secrets)| *at == node && secrets.contains(&secret));
                    prop_assert_eq!(graph.reaches(node, RefKind::Secret, "a", &format!("s{secret}")), expected);
                }
                for name in 0..4_u8 {
                    let expected = present.get(&name).is_some_and(|(at, _)| *at == node);
                    prop_assert_eq!(graph.reaches(node, RefKind::Pod, "a", &name.to_string()), expected);
                }
            }
            if present.values().all(|(node, _)| node.is_empty()) {
                prop_assert!(graph.nodes.is_empty() && graph.pods.is_empty());
            }
        }
    }
}
