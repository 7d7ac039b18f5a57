use super::*;

fn pod_kind() -> Gvk {
    Gvk::new("", "v1", "Pod")
}

#[test]
fn a_new_pod_is_pending_whatever_the_client_says() {
    let mut pod = json!({"metadata": {"name": "p", "generation": 7, "deletionTimestamp": "x"},
        "spec": {"containers": [{}], "serviceAccountName": "robot"},
        "status": {"phase": "Running"}});
    prepare_for_create(&pod_kind(), &mut pod);
    assert_eq!(
        pod,
        json!({"metadata": {"name": "p", "generation": 1},
            "spec": {"containers": [{}], "serviceAccountName": "robot", "serviceAccount": "robot"},
            "status": {"phase": "Pending", "qosClass": "BestEffort"}})
    );
}

#[test]
fn the_generation_rises_with_the_spec_alone() {
    let old = json!({"metadata": {"uid": "u", "generation": 3, "creationTimestamp": "t"},
        "spec": {"a": 1}, "status": {"phase": "Running"}});
    let mut new = json!({"metadata": {"labels": {"a": "b"}, "generation": 99},
        "spec": {"a": 1}, "status": {"phase": "Failed"}});
    prepare_for_update(&pod_kind(), &mut new, &old, "");
    assert_eq!(
        new,
        json!({"metadata": {"uid": "u", "generation": 3, "creationTimestamp": "t",
            "labels": {"a": "b"}}, "spec": {"a": 1}, "status": {"phase": "Running"}})
    );
    new["spec"]["a"] = 2.into();
    prepare_for_update(&pod_kind(), &mut new, &old, "");
    assert_eq!(new["metadata"]["generation"], 4);
}

#[test]
fn a_status_update_changes_the_status_alone() {
    let old = json!({"metadata": {"uid": "u", "generation": 1, "ownerReferences": [1]},
        "spec": {"a": 1}, "status": {"qosClass": "BestEffort",
            "conditions": [{"type": "Ready", "observedGeneration": 1}]}});
    let mut new = json!({"metadata": {"uid": "u", "ownerReferences": [2]}, "spec": {"a": 2},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    prepare_for_update(&pod_kind(), &mut new, &old, "status");
    assert_eq!(
        new,
        json!({"metadata": {"uid": "u", "generation": 1, "ownerReferences": [1]},
            "spec": {"a": 1}, "status": {"phase": "Running", "qosClass": "BestEffort",
            "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]}})
    );
}

#[test]
fn a_job_selects_its_own_pods() {
    let mut job = json!({"metadata": {"name": "j", "uid": "u"},
        "spec": {"manualSelector": false, "template": {"spec": {}}}});
    job_selector(job.as_object_mut().expect("an object"));
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
    );
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"],
        json!({"job-name": "j", "batch.kubernetes.io/job-name": "j",
               "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u"})
    );
}

#[test]
fn a_service_loses_what_belonged_to_its_former_type() {
    let old = json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "externalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
    let mut new = old.clone();
    new["spec"]["type"] = "ClusterIP".into();
    service(
        new.as_object_mut().expect("an object"),
        old.as_object().expect("an object"),
    );
    assert_eq!(
        new["spec"],
        json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP"}]})
    );
}

#[test]
fn a_headless_service_needs_no_list_of_addresses() {
    let mut new = json!({"spec": {"type": "ClusterIP", "clusterIP": "None",
        "selector": {"a": "b"}}});
    new_service(new.as_object_mut().expect("an object"));
    assert_eq!(new["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn a_service_keeps_its_address() {
    let kind = Gvk::new("", "v1", "Service");
    let old = json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
    let mut new = json!({"metadata": {}, "spec": {"type": "NodePort",
        "ports": [{"port": 80, "protocol": "TCP"}]}});
    service(
        new.as_object_mut().expect("an object"),
        old.as_object().expect("an object"),
    );
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(generation(&kind), None);
}

#[test]
fn ephemeral_containers_come_alone() {
    let old = json!({"metadata": {"name": "p", "generation": 1, "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c"}]}});
    let mut new = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "other"}], "ephemeralContainers": [{"name": "e"}]}});
    prepare_for_update(&pod_kind(), &mut new, &old, "ephemeralcontainers");
    assert_eq!(
        new,
        json!({"metadata": {"name": "p", "generation": 2, "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e"}]}})
    );
}
