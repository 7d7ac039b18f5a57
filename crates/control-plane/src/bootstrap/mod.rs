//! The objects that every cluster has, created at start where they are missing.
//!
//! Safe to run again after it was killed at any point: each object is made on its own, and those
//! that say where the server is are brought up to date.

mod reconcile;
pub mod roles;

use std::net::IpAddr;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::auth::pki::KUBERNETES_SERVICE_IP;
use crate::auth::rbac;
use crate::controllers::accounts;
use crate::registry::{CLUSTER_RANGE, Context, Registry};
use crate::resource::{ResourceDef, stored};
use crate::status::ApiError;

/// The namespaces that every cluster has.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// How many objects are written at once; the store puts them on disk together.
const AT_ONCE: usize = 64;

/// What the objects say of the server.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The address under which nodes and pods reach it.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// The certificate of the authority, PEM.
    pub ca_pem: String,
}

/// Creates what is missing.
///
/// # Errors
/// Those of the registry. What was made stays; another run makes the rest.
pub async fn ensure(registry: &Registry, facts: &Facts) -> Result<(), ApiError> {
    let mut context = Context::system("system:apiserver");
    "kube-apiserver".clone_into(&mut context.field_manager);
    let namespaces = NAMESPACES.map(|name| Wanted {
        def: stored("", "namespaces"),
        namespace: "",
        name,
        object: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
    });
    create_all(registry, &context, namespaces).await?;
    create_all(registry, &context, objects(facts)).await?;
    reconcile::roles(registry, &context).await?;
    keep_current(registry, &context, facts).await?;
    futures::future::try_join_all(
        NAMESPACES.map(|namespace| accounts::ensure(registry, namespace, &facts.ca_pem)),
    )
    .await
    .map(|_| ())
}

struct Wanted<'a> {
    def: &'static ResourceDef,
    namespace: &'a str,
    name: &'a str,
    object: Value,
}

async fn create_all<'a>(
    registry: &Registry,
    context: &Context,
    wanted: impl IntoIterator<Item = Wanted<'a>>,
) -> Result<(), ApiError> {
    stream::iter(wanted)
        .filter(|wanted| {
            let missing = registry
                .get(wanted.def, wanted.namespace, wanted.name)
                .is_err();
            std::future::ready(missing)
        })
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, |wanted| async move {
            let created = registry
                .create(context, wanted.def, wanted.namespace, wanted.object)
                .await;
            match created {
                Err(error) if error.reason != "AlreadyExists" => Err(error),
                _ => Ok(()),
            }
        })
        .await
}

fn objects(facts: &Facts) -> Vec<Wanted<'static>> {
    let mut all: Vec<Wanted<'static>> = roles::defaults()
        .iter()
        .map(|role| Wanted {
            def: stored(rbac::GROUP, role.kind.plural()),
            namespace: &role.namespace,
            name: &role.name,
            object: role.object.clone(),
        })
        .collect();
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        all.push(Wanted {
            def: stored("scheduling.k8s.io", "priorityclasses"),
            namespace: "",
            name,
            object: json!({
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "value": value,
                "description": description,
                "preemptionPolicy": "PreemptLowerPriority",
            }),
        });
    }
    all.push(Wanted {
        def: stored("networking.k8s.io", "servicecidrs"),
        namespace: "",
        name: "kubernetes",
        object: json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [CLUSTER_RANGE]},
        }),
    });
    all.push(Wanted {
        def: stored("", "services"),
        namespace: "default",
        name: "kubernetes",
        object: service(facts),
    });
    for (group, plural, object) in current(facts) {
        let (namespace, name) = if plural == "configmaps" {
            ("kube-system", "extension-apiserver-authentication")
        } else {
            ("default", "kubernetes")
        };
        all.push(Wanted {
            def: stored(group, plural),
            namespace,
            name,
            object,
        });
    }
    all
}

fn service(facts: &Facts) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": KUBERNETES_SERVICE_IP,
            "clusterIPs": [KUBERNETES_SERVICE_IP],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": facts.port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    })
}

/// The objects that say where the server is and whom it trusts.
fn current(facts: &Facts) -> [(&'static str, &'static str, Value); 3] {
    let family = match facts.address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let ports = json!([{"name": "https", "port": facts.port, "protocol": "TCP"}]);
    // A loopback address is no endpoint: it means another machine to every reader.
    let (endpoints, subsets) = if facts.address.is_loopback() {
        (json!([]), json!([]))
    } else {
        (
            json!([{"addresses": [facts.address], "conditions": {"ready": true}}]),
            json!([{"addresses": [{"ip": facts.address}], "ports": ports}]),
        )
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    });
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    });
    let authentication = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": facts.ca_pem},
    });
    [
        ("discovery.k8s.io", "endpointslices", slice),
        ("", "endpoints", endpoints),
        ("", "configmaps", authentication),
    ]
}

/// Writes the address of this run into the objects of an earlier one.
async fn keep_current(
    registry: &Registry,
    context: &Context,
    facts: &Facts,
) -> Result<(), ApiError> {
    for (group, plural, wanted) in current(facts) {
        let (namespace, name) = (
            wanted["metadata"]["namespace"].as_str().unwrap_or_default(),
            wanted["metadata"]["name"].as_str().unwrap_or_default(),
        );
        let change = |object: &mut Value| {
            for key in ["endpoints", "ports", "subsets", "data"] {
                if let Some(value) = wanted.get(key)
                    && !says(&object[key], value)
                {
                    object[key] = value.clone();
                }
            }
            Ok(())
        };
        registry
            .modify(context, stored(group, plural), namespace, name, "", change)
            .await?;
    }
    let change = |service: &mut Value| {
        service["spec"]["ports"][0]["targetPort"] = json!(facts.port);
        Ok(())
    };
    registry
        .modify(
            context,
            stored("", "services"),
            "default",
            "kubernetes",
            "",
            change,
        )
        .await?;
    Ok(())
}

/// Whether `present` holds all of `wanted`; defaults that it holds besides do not matter.
fn says(present: &Value, wanted: &Value) -> bool {
    match (present, wanted) {
        (Value::Object(present), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            present
                .get(key)
                .is_some_and(|present| says(present, wanted))
        }),
        (Value::Array(present), Value::Array(wanted)) => {
            present.len() == wanted.len()
                && present
                    .iter()
                    .zip(wanted)
                    .all(|(present, wanted)| says(present, wanted))
        }
        (present, wanted) => present == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::registry;

    fn facts(port: u16) -> Facts {
        Facts {
            address: [10, 0, 0, 1].into(),
            port,
            ca_pem: "PEM".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_second_run_changes_nothing_but_where_the_server_is() {
        let (_dir, registry) = registry();
        ensure(&registry, &facts(6443)).await.unwrap();
        let first = registry.store().revision();
        ensure(&registry, &facts(6443)).await.unwrap();
        assert_eq!(registry.store().revision(), first, "nothing was written");
        ensure(&registry, &facts(6444)).await.unwrap();
        assert_eq!(
            registry.store().revision(),
            first + 3,
            "slice, endpoints, service"
        );
        let get = |group: &str, plural: &str, namespace: &str, name: &str| {
            registry
                .get(stored(group, plural), namespace, name)
                .unwrap()
                .value()
        };
        let slice = get(
            "discovery.k8s.io",
            "endpointslices",
            "default",
            "kubernetes",
        );
        assert_eq!(slice["ports"][0]["port"], 6444);
        let service = get("", "services", "default", "kubernetes");
        assert_eq!(service["spec"]["clusterIP"], KUBERNETES_SERVICE_IP);
        for namespace in NAMESPACES {
            get("", "serviceaccounts", namespace, "default");
            get("", "configmaps", namespace, "kube-root-ca.crt");
        }
        assert_eq!(
            get(
                "scheduling.k8s.io",
                "priorityclasses",
                "",
                "system-node-critical"
            )["value"],
            2_000_001_000
        );
    }

    #[tokio::test]
    async fn a_run_after_a_part_was_done_does_the_rest() {
        let (_dir, registry) = registry();
        ensure(&registry, &facts(1)).await.unwrap();
        let context = Context::system("test");
        let options = crate::registry::DeleteOptions::default();
        for (group, plural, namespace, name) in [
            (rbac::GROUP, "clusterroles", "", "view"),
            ("", "services", "default", "kubernetes"),
            ("", "configmaps", "kube-system", "kube-root-ca.crt"),
        ] {
            registry
                .delete(&context, stored(group, plural), namespace, name, &options)
                .await
                .unwrap();
        }
        ensure(&registry, &facts(1)).await.unwrap();
        registry
            .get(stored(rbac::GROUP, "clusterroles"), "", "view")
            .unwrap();
    }
}
