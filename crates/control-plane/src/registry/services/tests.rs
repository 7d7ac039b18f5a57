//! Services get what the real server gives them; its answers were asked of kube-apiserver 1.34.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::registry::Context;
use crate::resource;
use crate::store::{Options, Store};

fn registry() -> (tempfile::TempDir, Registry) {
    let directory = tempfile::tempdir().expect("directory");
    let options = Options {
        fsync: false,
        ..Options::default()
    };
    let store = Store::open(directory.path(), options).expect("store");
    (directory, Registry::new(store))
}

fn row() -> &'static ResourceDef {
    resource::table()
        .by_plural("", "v1", "services")
        .expect("row")
}

async fn create(registry: &Registry, name: &str, spec: Value) -> Result<Value, String> {
    let object = json!({"apiVersion": "v1", "kind": "Service",
                        "metadata": {"name": name}, "spec": spec});
    let created = registry
        .create(&Context::system("test"), row(), "default", object)
        .await;
    created
        .map(|object| object.value()["spec"].clone())
        .map_err(|error| error.message)
}

async fn change(registry: &Registry, name: &str, with: Value) -> Result<Value, String> {
    let changed = registry
        .modify(
            &Context::system("test"),
            row(),
            "default",
            name,
            "",
            |object| {
                for (field, value) in with.as_object().expect("fields") {
                    object["spec"][field] = value.clone();
                }
                Ok(())
            },
        )
        .await;
    changed
        .map(|object| object.value()["spec"].clone())
        .map_err(|error| error.message)
}

#[tokio::test]
async fn a_service_gets_an_address_and_a_family() {
    let (_directory, registry) = registry();
    let spec = create(&registry, "a", json!({"ports": [{"port": 80}]}))
        .await
        .expect("created");
    let address = spec["clusterIP"].as_str().expect("address");
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(spec["clusterIPs"], json!([address]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
}

#[tokio::test]
async fn headless_and_external_services_get_no_address() {
    let (_directory, registry) = registry();
    let selected = json!({"clusterIP": "None", "ports": [{"port": 80}], "selector": {"a": "b"}});
    let spec = create(&registry, "a", selected).await.expect("created");
    assert_eq!(spec["clusterIPs"], json!(["None"]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    let open = json!({"clusterIP": "None", "ports": [{"port": 80}]});
    let spec = create(&registry, "b", open).await.expect("created");
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack");
    let external = json!({"type": "ExternalName", "externalName": "x.y"});
    let spec = create(&registry, "c", external.clone())
        .await
        .expect("created");
    assert_eq!(spec.get("clusterIP"), None);
    assert_eq!(spec.get("ipFamilies"), None);
}

#[tokio::test]
async fn ports_of_the_node_are_shared_by_protocols_and_go_with_the_type() {
    let (_directory, registry) = registry();
    let spec = create(
        &registry,
        "a",
        json!({"type": "NodePort", "ports": [
            {"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]}),
    )
    .await
    .expect("created");
    let number = port(spec["ports"][0].get("nodePort")).expect("a port");
    assert!((FIRST_PORT..=LAST_PORT).contains(&number));
    assert_eq!(spec["ports"][1]["nodePort"], number);
    let address = spec["clusterIP"].clone();

    let spec = change(&registry, "a", json!({"type": "ClusterIP"}))
        .await
        .expect("changed");
    assert_eq!(spec["ports"][0].get("nodePort"), None);
    assert_eq!(spec.get("externalTrafficPolicy"), None);
    assert_eq!(spec["clusterIP"], address);
    let spec = change(
        &registry,
        "a",
        json!({"type": "ExternalName", "externalName": "a.b"}),
    )
    .await
    .expect("changed");
    assert_eq!(spec.get("clusterIP"), None);
    assert_eq!(spec.get("internalTrafficPolicy"), None);
    let spec = change(&registry, "a", json!({"type": "ClusterIP"}))
        .await
        .expect("changed");
    assert!(spec["clusterIP"].is_string());
}

#[tokio::test]
async fn a_local_load_balancer_gets_a_health_port_that_goes_with_it() {
    let (_directory, registry) = registry();
    let spec = create(
        &registry,
        "a",
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
               "ports": [{"port": 80}]}),
    )
    .await
    .expect("created");
    assert!(port(spec.get("healthCheckNodePort")).is_some());
    assert_ne!(spec["healthCheckNodePort"], spec["ports"][0]["nodePort"]);
    let spec = change(&registry, "a", json!({"type": "ClusterIP"}))
        .await
        .expect("changed");
    for field in [
        "healthCheckNodePort",
        "allocateLoadBalancerNodePorts",
        "externalTrafficPolicy",
    ] {
        assert_eq!(spec.get(field), None, "{field}");
    }
}

/// The words are those of kube-apiserver 1.34.
#[tokio::test]
async fn wishes_that_cannot_be_met_are_refused() {
    let (_directory, registry) = registry();
    let node =
        |number: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    let at = |address: &str| json!({"clusterIP": address, "ports": [{"port": 80}]});
    create(&registry, "a", at("10.96.0.1"))
        .await
        .expect("created");
    create(&registry, "b", node(30_123)).await.expect("created");
    for (spec, words) in [
        (
            at("10.96.0.1"),
            r#"spec.clusterIPs: Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already allocated"#,
        ),
        (
            at("1.2.3.4"),
            r#"spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range"#,
        ),
        (
            node(80),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            node(30_123),
            "spec.ports[0].nodePort: Invalid value: 30123: provided port is already allocated",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}),
            r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
        ),
        (
            json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]}),
            r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
        ),
    ] {
        assert_eq!(
            create(&registry, "z", spec).await,
            Err(format!(r#"Service "z" is invalid: {words}"#))
        );
    }
}

#[tokio::test]
async fn services_that_are_made_at_once_share_nothing() {
    let (_directory, registry) = registry();
    let names: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    let all = futures::future::join_all(names.iter().map(|name| {
        create(
            &registry,
            name,
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
        )
    }))
    .await;
    let of = |get: fn(&Value) -> Value| -> HashSet<String> {
        all.iter()
            .map(|spec| get(spec.as_ref().expect("created")).to_string())
            .collect()
    };
    assert_eq!(of(|spec| spec["clusterIP"].clone()).len(), 40);
    assert_eq!(of(|spec| spec["ports"][0]["nodePort"].clone()).len(), 40);
    let held = registry.numbers.held();
    assert!(held.addresses.is_empty() && held.ports.is_empty());
}

proptest! {
    #[test]
    fn what_is_free_is_found_wherever_the_search_begins(seed: u64, keep in 0..=LAST_PORT - FIRST_PORT) {
        let free = FIRST_PORT + keep;
        let taken = Taken {
            ports: (FIRST_PORT..=LAST_PORT).filter(|port| *port != free).collect(),
            ..Taken::default()
        };
        prop_assert_eq!(taken.free_port(seed), Some(free));
        let address = Taken::default().free_address(seed).map(u32::from);
        prop_assert!(address.is_some_and(|address| (FIRST_ADDRESS..=LAST_ADDRESS).contains(&address)));
    }
}
