use proptest::prelude::*;
use serde_json::json;

use super::*;

fn defaulted(api_version: &str, kind: &str, mut object: Value) -> Value {
    apply(&Gvk::from_api_version(api_version, kind), &mut object);
    object
}

#[test]
fn a_pod_gets_what_the_kubelet_and_the_scheduler_need() {
    let pod = defaulted(
        "v1",
        "Pod",
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{
            "name": "c", "image": "busybox",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"port": 80}},
            "lifecycle": {"preStop": {"httpGet": {"port": 80, "path": "/bye"}}},
        }], "volumes": [{"name": "none"}, {"name": "c", "configMap": {"name": "c"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {"name": "h", "hostPath": {"path": "/x"}}]}}),
    );
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "busybox", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "N", "valueFrom": {"fieldRef": {
                    "apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"},
                              "requests": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                    "failureThreshold": 3},
                "lifecycle": {"preStop": {"httpGet": {
                    "port": 80, "path": "/bye", "scheme": "HTTP"}}},
            }],
            "volumes": [{"name": "none", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "c", "defaultMode": 420}},
                {"name": "p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}}],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
            "enableServiceLinks": true,
        })
    );
}

#[test]
fn a_template_is_not_given_what_only_a_pod_gets() {
    let deployment = defaulted(
        "apps/v1",
        "Deployment",
        json!({"spec": {"template": {"spec": {
            "hostNetwork": true,
            "containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
                            "resources": {"limits": {"cpu": "1"}}}]}}}}),
    );
    let spec = &deployment["spec"]["template"]["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec.get("enableServiceLinks"), None);
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "1"}})
    );
    assert_eq!(spec["containers"][0]["ports"][0].get("hostPort"), None);
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate",
               "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
}

#[test]
fn host_network_makes_container_ports_host_ports() {
    let pod = defaulted(
        "v1",
        "Pod",
        json!({"spec": {"hostNetwork": true, "containers": [
            {"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 8081}]}]}}),
    );
    let ports = &pod["spec"]["containers"][0]["ports"];
    assert_eq!(ports[0]["hostPort"], 80);
    assert_eq!(ports[1]["hostPort"], 8081);
}

#[test]
fn the_two_names_of_the_service_account_agree() {
    for given in ["serviceAccount", "serviceAccountName"] {
        let pod = defaulted("v1", "Pod", json!({"spec": {given: "robot"}}));
        assert_eq!(pod["spec"]["serviceAccountName"], "robot", "{given}");
        assert_eq!(pod["spec"]["serviceAccount"], "robot", "{given}");
    }
}

#[test]
fn services_get_their_ports_and_policies() {
    let service = defaulted(
        "v1",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}}),
    );
    assert_eq!(
        service["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                      {"port": 81, "protocol": "TCP", "targetPort": "web"}]})
    );
}

#[test]
fn jobs_and_autoscalers_get_the_numbers_their_controllers_need() {
    let job = defaulted(
        "batch/v1",
        "Job",
        json!({"metadata": {}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
    );
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    for (field, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        assert_eq!(job["spec"][field], value, "{field}");
    }
    let scaler = defaulted(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        json!({"spec": {"maxReplicas": 3, "behavior": {"scaleDown": {"selectPolicy": "Min"}}}}),
    );
    assert_eq!(scaler["spec"]["minReplicas"], 1);
    assert_eq!(
        scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        80
    );
    assert_eq!(
        scaler["spec"]["behavior"]["scaleDown"]["selectPolicy"],
        "Min"
    );
    assert_eq!(
        scaler["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"],
        0
    );
}

#[test]
fn limits_of_a_whole_pod_give_its_requests() {
    let pod = defaulted(
        "v1",
        "Pod",
        json!({"spec": {"resources": {"limits": {"cpu": "4", "memory": "4Gi"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1500m"}}}]}}),
    );
    assert_eq!(
        pod["spec"]["resources"]["requests"],
        json!({"cpu": "1500m", "memory": "4Gi"})
    );
}

#[test]
fn bindings_name_their_group() {
    let binding = defaulted(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
    );
    assert_eq!(binding["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(
        binding["subjects"][0]["apiGroup"],
        "rbac.authorization.k8s.io"
    );
    assert_eq!(binding["subjects"][1].get("apiGroup"), None);
}

/// Members that admission or an allocator writes, and no default.
fn without_others_writes(object: &mut Value) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let fields: &[&str] = match kind.as_str() {
        "Pod" => &[
            "tolerations",
            "priority",
            "preemptionPolicy",
            "serviceAccount",
            "serviceAccountName",
        ],
        "Service" => &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        "Node" => &["taints"],
        _ => &[],
    };
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for field in fields {
            spec.remove(*field);
        }
    }
    if kind.starts_with("PersistentVolume")
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("finalizers");
    }
}

// `cases.json` holds objects of our own making, and what kube-apiserver v1.34.4 made of each.
#[test]
fn objects_are_completed_as_the_real_server_completes_them() {
    let cases: Value = serde_json::from_str(include_str!("cases.json")).expect("a table of cases");
    let mut wrong = Vec::new();
    for case in cases.as_array().expect("a list") {
        let mut object = case["given"].clone();
        let gvk = Gvk::from_api_version(
            object["apiVersion"].as_str().expect("an apiVersion"),
            object["kind"].as_str().expect("a kind"),
        );
        let kind = crate::schema::schema()
            .type_of_gvk(&gvk)
            .expect("a known kind");
        crate::codec::coerce(&mut object, kind).expect("an object of its kind");
        apply(&gvk, &mut object);
        object["metadata"]["uid"] = "0".into();
        object["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z".into();
        strategy::prepare_for_create(&gvk, &mut object);
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("uid");
            metadata.remove("creationTimestamp");
        }
        let mut expected = case["stored"].clone();
        without_others_writes(&mut object);
        without_others_writes(&mut expected);
        if object != expected {
            wrong.push(format!("expected {expected}\ngot      {object}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn both_fields_of_the_address_of_a_pod_say_the_same() {
    for (status, expected) in [
        (
            json!({"podIP": "10.0.0.1"}),
            json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
        ),
        (
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fe80::1"}]}),
            json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fe80::1"}]}),
        ),
        (
            json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}]}),
            json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]}),
        ),
        (
            json!({"podIP": "", "podIPs": []}),
            json!({"podIP": "", "podIPs": []}),
        ),
    ] {
        let pod = defaulted("v1", "Pod", json!({"spec": {}, "status": status}));
        assert_eq!(pod["status"], expected);
    }
}

proptest! {
    #[test]
    fn defaults_are_idempotent_and_take_any_document(
        kind in prop::sample::select(vec![
            ("v1", "Pod"), ("v1", "Service"), ("v1", "Namespace"), ("v1", "PersistentVolume"),
            ("v1", "ReplicationController"), ("v1", "LimitRange"), ("apps/v1", "Deployment"),
            ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet"), ("batch/v1", "Job"),
            ("batch/v1", "CronJob"), ("autoscaling/v2", "HorizontalPodAutoscaler"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("rbac.authorization.k8s.io/v1", "RoleBinding"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ]),
        spec in crate::patch::testing::any_json(),
        containers in crate::patch::testing::any_json(),
        hosted in any::<bool>(),
    ) {
        let once = defaulted(kind.0, kind.1, json!({"metadata": {"name": "n"},
            "spec": {"a": spec, "hostNetwork": hosted, "ports": containers, "volumes": containers,
                     "template": {"metadata": {"labels": spec}, "spec": {"containers": containers}},
                     "containers": containers, "limits": containers}}));
        prop_assert_eq!(defaulted(kind.0, kind.1, once.clone()), once);
        defaulted(kind.0, kind.1, spec);
    }
}
