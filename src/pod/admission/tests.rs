use k8s_openapi::api::core::v1::VolumeMount;
use serde_json::{Value, json};

use super::*;

fn admit_spec(spec: Value) -> Admitted {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": spec,
    });
    admit(&serde_json::from_value(pod).unwrap(), &Host::for_tests())
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "host", "command": ["true"]});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container]})
}

fn refusal(spec: Value) -> String {
    admit_spec(spec)
        .plan
        .refusal
        .clone()
        .map(|it| it.message)
        .unwrap_or_default()
}

#[test]
fn what_every_pod_gets_is_fine() {
    let spec = json!({
        "containers": [{
            "image": "host", "imagePullPolicy": "IfNotPresent", "name": "c", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": [{
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "name": "kube-api-access-lcdbz", "readOnly": true,
            }],
        }],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": true,
        "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "OnFailure",
        "schedulerName": "default-scheduler", "securityContext": {},
        "serviceAccount": "default", "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 7,
        "volumes": [{"name": "kube-api-access-lcdbz", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
            {"downwardAPI": {"items": [{"fieldRef": {"fieldPath": "metadata.namespace"}, "path": "namespace"}]}},
        ]}}],
    });
    let Admitted { plan, warnings } = admit_spec(spec);
    assert_eq!(plan.refusal, None);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(plan.label, "p_ns(u)");
    assert_eq!(plan.containers[0].restart, RestartPolicy::OnFailure);
    assert_eq!(plan.grace, Duration::from_secs(7));
    assert_eq!(plan.containers.len(), 1);
    assert_eq!(plan.containers[0].refusal, None);
}

#[test]
fn hooks_and_probes_come_to_the_machine_with_their_graces() {
    let Admitted { plan, warnings } = admit_spec(json!({"containers": [
        {"name": "a", "image": "host", "command": ["true"],
         "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
         "startupProbe": {"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 2},
         "livenessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 3}},
        {"name": "b", "image": "host", "command": ["true"],
         "lifecycle": {"postStart": {"exec": {"command": ["true"]}}},
         "readinessProbe": {"httpGet": {"port": 1}}},
        {"name": "c", "image": "host", "command": ["true"], "lifecycle": {}},
    ]}));
    assert_eq!((&plan.refusal, warnings), (&None, Vec::new()));
    let extras = |index: usize| plan.containers[index].extras.as_deref().cloned();
    let first = Extras {
        pre_stop: true,
        startup: true,
        liveness: true,
        startup_grace: Some(Duration::from_secs(2)),
        liveness_grace: Some(Duration::from_secs(3)),
        ..Extras::default()
    };
    let second = Extras {
        post_start: true,
        readiness: true,
        ..Extras::default()
    };
    assert_eq!(extras(0), Some(first));
    assert_eq!(extras(1), Some(second));
    assert_eq!(extras(2), None);
}

#[test]
fn what_is_not_built_is_named() {
    let at = "spec.containers[0].";
    for (more, field) in [
        (
            json!({"lifecycle": {"stopSignal": "SIGNONE"}}),
            "lifecycle.stopSignal=SIGNONE",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
            "resources.limits.hugepages-2Mi",
        ),
        (
            json!({"securityContext": {"privileged": true}}),
            "securityContext.privileged",
        ),
        (
            json!({"securityContext": {"runAsUser": 0}}),
            "securityContext.runAsUser=0",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "a", "recursiveReadOnly": "Enabled"}]}),
            "volumeMounts[0].recursiveReadOnly=Enabled",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "../b"}]}),
            "volumeMounts[0].mountPath",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"key": "k", "path": "p", "volumeName": "v"}}}]}),
            "env[0].valueFrom.fileKeyRef",
        ),
    ] {
        let message = refusal(container(more));
        assert!(
            message.contains(&format!("{at}{field}")),
            "{field}: {message}"
        );
    }
    for (key, value, field) in [
        (
            "volumes",
            json!([{"name": "v", "nfs": {"path": "/", "server": "s"}}]),
            "spec.volumes[0].nfs",
        ),
        (
            "volumes",
            json!([{"name": "v", "csi": {"driver": "d"}}]),
            "spec.volumes[0].csi",
        ),
        (
            "volumes",
            json!([{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}]),
            "spec.volumes[0].projected.clusterTrustBundle",
        ),
        (
            "volumes",
            json!([{"name": "v", "emptyDir": {"medium": "HugePages"}}]),
            "spec.volumes[0].emptyDir.medium=HugePages",
        ),
        ("runtimeClassName", json!("x"), "spec.runtimeClassName"),
    ] {
        let mut spec = container(json!({}));
        spec[key] = value;
        let message = refusal(spec);
        assert!(message.contains(field), "{field}: {message}");
    }
}

#[test]
fn roles_and_policies() {
    let mut spec = container(json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart",
                                "exitCodes": {"operator": "In", "values": [42]}}],
        "terminationMessagePath": "/tmp/last-words",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }));
    let image = json!("host");
    spec["initContainers"] = json!([
        {"name": "i", "image": image},
        {"name": "s", "image": image, "restartPolicy": "Always"},
    ]);
    spec["ephemeralContainers"] = json!([
        {"name": "e", "image": image},
        {"name": "f", "image": image, "volumeDevices": [{"name": "v", "devicePath": "/dev/v"}]},
    ]);
    spec["activeDeadlineSeconds"] = json!(60);
    spec["restartPolicy"] = json!("OnFailure");
    let plan = admit_spec(spec).plan;
    assert_eq!(plan.refusal, None);
    let found: Vec<_> = { plan.containers.iter() }
        .map(|it| (&*it.name, it.role, it.restart))
        .collect();
    use RestartPolicy::{Always, Never, OnFailure};
    let wanted = [
        ("i", Role::Init, OnFailure),
        ("s", Role::Sidecar, Always),
        ("c", Role::Main, Never),
        ("e", Role::Ephemeral, Never),
        ("f", Role::Ephemeral, Never),
    ];
    assert_eq!(found, wanted);
    let rules = &plan.containers[2].extras.as_ref().unwrap().rules;
    assert!(rules[0].means(42) && !rules[0].means(1));
    assert_eq!(plan.containers[3].refusal, None);
    let refused = plan.containers[4].refusal.as_ref().unwrap();
    assert!(
        refused
            .message
            .contains("ephemeral container f.volumeDevices")
    );
}

#[test]
fn the_documents_semantics_run_everything_once() {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "annotations": {"vk-cmd/compat": "virtual-kubelet-cmd"}},
        "spec": container(json!({})),
    }))
    .unwrap();
    let host = Host::for_tests();
    let policy = |pod: &Pod, host: &Host| admit(pod, host).plan.containers[0].restart;
    assert_eq!(policy(&pod, &host), RestartPolicy::Never);
    pod.metadata.annotations = None;
    assert_eq!(policy(&pod, &host), RestartPolicy::Always);
    let documented = Host {
        compat: Compat::VirtualKubeletCmd,
        ..host
    };
    assert_eq!(policy(&pod, &documented), RestartPolicy::Never);
    let word = [("vk-cmd/compat".to_owned(), "both".to_owned())];
    pod.metadata.annotations = Some(word.into());
    assert!(admit(&pod, &documented).warnings[0].contains("vk-cmd/compat=\"both\""));
}

#[test]
fn what_cannot_hold_is_warned_about() {
    let mut spec = container(json!({
        "securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 1000,
                            "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "v", "mountPath": "/data"}],
    }));
    spec["hostname"] = json!("web-0");
    let Admitted { plan, warnings } = admit_spec(spec);
    assert_eq!(plan.refusal, None);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for field in [
        "spec.hostname",
        "allowPrivilegeEscalation",
        "mountPath=/data",
    ] {
        assert!(warnings.iter().any(|it| it.contains(field)), "{field}");
    }
}

#[test]
fn a_mount_namespace_makes_mounts_real() {
    let mounts = json!({"volumeMounts": [
        {"name": "v", "mountPath": "/data", "readOnly": true},
        {"name": "w", "mountPath": "/data/inner", "recursiveReadOnly": "Enabled", "readOnly": true},
    ]});
    let admit_with = |annotation: Option<&str>| {
        let mut spec = container(mounts.clone());
        spec["volumes"] = json!([{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]);
        let annotations = annotation.map(|it| json!({"vk-cmd.io/mount-namespace": it}));
        let pod = json!({"metadata": {"name": "p", "annotations": annotations}, "spec": spec});
        admit(&serde_json::from_value(pod).unwrap(), &Host::for_tests())
    };
    let private = admit_with(Some("private"));
    assert_eq!(
        (private.plan.refusal.clone(), private.warnings.len()),
        (None, 0)
    );
    let shared = admit_with(None);
    let refused = shared.plan.refusal.clone().unwrap().message;
    assert!(refused.contains("lies inside of the mount"), "{refused}");
    assert!(
        refused.contains("vk-cmd.io/mount-namespace"),
        "the mend: {refused}"
    );
    assert!(refused.contains("recursiveReadOnly=Enabled"), "{refused}");
    assert!(
        shared
            .warnings
            .iter()
            .any(|it| it.contains("volumeMounts[0].readOnly"))
    );
    let odd = admit_with(Some("yes"))
        .plan
        .refusal
        .clone()
        .unwrap()
        .message;
    assert!(odd.contains("\"yes\""), "{odd}");
}

#[test]
fn images() {
    let kind = |name: &str| {
        let container = Container {
            image: Some(name.to_owned()),
            volume_mounts: Some(vec![VolumeMount {
                name: "My Script".into(),
                ..VolumeMount::default()
            }]),
            ..Container::default()
        };
        match image(&container) {
            Image::Script(_) => "script",
            Image::Host => "host",
            Image::Reference => "reference",
            Image::Invalid => "invalid",
        }
    };
    assert_eq!(kind("My Script"), "script");
    for name in ["host", "native"] {
        assert_eq!(kind(name), "host");
    }
    for name in [
        "nginx",
        "nginx:1.2",
        "a/b",
        "Host.example:5000/a/b:T_1",
        "localhost/x",
        "x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ] {
        assert_eq!(kind(name), "reference", "{name}");
    }
    for name in [
        "",
        " ",
        "UPPER",
        "UPPER case",
        "a//b",
        "a:",
        "x@sha256:12",
        "/a",
        "-a",
        "a b:1",
    ] {
        assert_eq!(kind(name), "invalid", "{name}");
    }
}
