use serde_json::json;

use super::super::testing::{Objects, create};
use super::*;
use crate::auth::GROUP_NODES;

fn node_user() -> User {
    User {
        name: "system:node:n1".to_owned(),
        groups: vec![GROUP_NODES.to_owned()],
        ..User::default()
    }
}

fn objects() -> Objects {
    let pod = |node: &str| {
        json!({
            "metadata": {"uid": format!("uid-{node}"), "labels": {"a": "b"}},
            "spec": {"nodeName": node, "volumes": [
                {"projected": {"sources": [{"serviceAccountToken": {}}, {"serviceAccountToken": {"audience": "vault"}}]}},
            ]},
        })
    };
    Objects::of(&[
        ("nodes//n1", json!({"metadata": {"uid": "u1"}})),
        ("pods/default/mine", pod("n1")),
        ("pods/default/other", pod("n2")),
    ])
}

fn check(resource: &str, name: &str, object: &Value, old: Option<&Value>) -> Result<(), String> {
    let user = node_user();
    let (group, resource) = match resource {
        "leases" => ("coordination.k8s.io", resource),
        _ => ("", resource),
    };
    let request = Request {
        group,
        operation: if old.is_some() {
            Operation::Update
        } else {
            Operation::Create
        },
        ..create(&user, resource, name)
    };
    admit(&objects(), &request, object, old).map_err(|error| {
        let message = error.message;
        message
            .split_once("forbidden: ")
            .map_or(message.clone(), |(_, why)| why.to_owned())
    })
}

fn refusal(resource: &str, name: &str, object: &Value, old: Option<&Value>) -> String {
    check(resource, name, object, old).unwrap_err()
}

#[test]
fn a_node_registers_itself_with_labels_of_its_own() {
    let node = |name: &str, labels: &[&str]| {
        let labels: Map<String, Value> = labels
            .iter()
            .map(|label| ((*label).to_owned(), json!("x")))
            .collect();
        json!({"metadata": {"name": name, "labels": labels}})
    };
    let allowed = node(
        "n1",
        &[
            "kubernetes.io/role",
            "kubernetes.io/hostname",
            "type",
            "jiriaf.nodetype",
            "jiriaf.alivetime",
            "node.kubernetes.io/a",
            "x.kubelet.kubernetes.io/b",
            "example.com/c",
        ],
    );
    check("nodes", "", &allowed, None).unwrap();
    assert_eq!(
        refusal(
            "nodes",
            "",
            &node(
                "n1",
                &[
                    "x.node-restriction.kubernetes.io/a",
                    "node.k8s.io/a",
                    "k8s.io/foo",
                    "topology.kubernetes.io/x"
                ]
            ),
            None
        ),
        "node \"n1\" is not allowed to set the following labels: k8s.io/foo, node.k8s.io/a, \
         topology.kubernetes.io/x, x.node-restriction.kubernetes.io/a"
    );
    assert_eq!(
        refusal("nodes", "", &node("n2", &[]), None),
        "node \"n1\" is not allowed to modify node \"n2\""
    );
}

#[test]
fn a_node_changes_itself_but_not_its_taints_owners_and_reserved_labels() {
    let old = json!({"metadata": {"name": "n1", "labels": {"a.k8s.io/b": "1"}}, "spec": {"taints": [{"key": "k"}]}});
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        new
    };
    let cordoned = changed(&|node| {
        node["spec"]["unschedulable"] = json!(true);
        node["metadata"]["labels"]["jiriaf.alivetime"] = json!("7");
        node["metadata"]["labels"]["kubernetes.io/role"] = json!("agent");
    });
    check("nodes", "n1", &cordoned, Some(&old)).unwrap();
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str); 4] = [
        (
            &|node| node["spec"]["taints"] = Value::Null,
            "node \"n1\" is not allowed to modify taints",
        ),
        (
            &|node| node["metadata"]["labels"]["a.k8s.io/b"] = json!("2"),
            "is not allowed to modify labels: a.k8s.io/b",
        ),
        (
            &|node| node["metadata"]["labels"] = json!({}),
            "is not allowed to modify labels: a.k8s.io/b",
        ),
        (
            &|node| node["metadata"]["ownerReferences"] = json!([{"uid": "x"}]),
            "node \"n1\" is not allowed to modify ownerReferences",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(
            refusal("nodes", "n1", &changed(change), Some(&old)),
            expected
        );
        assert_eq!(
            refusal("nodes/status", "n1", &changed(change), Some(&old)),
            expected
        );
    }
    assert_eq!(
        refusal("nodes/status", "n2", &old, Some(&old)),
        "node \"n1\" is not allowed to modify node \"n2\""
    );
}

#[test]
fn a_node_creates_mirror_pods_of_its_own_alone() {
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]);
    let good = json!({
        "metadata": {"name": "m", "annotations": {MIRROR_POD_ANNOTATION: "x"}, "ownerReferences": owner},
        "spec": {"nodeName": "n1"},
    });
    check("pods", "", &good, None).unwrap();
    let cases: [(&str, Value, &str); 7] = [
        (
            "/metadata/annotations",
            json!({}),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
        ),
        (
            "/spec",
            json!({"nodeName": "n2"}),
            "node \"n1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            "/metadata/ownerReferences",
            json!([]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            "/metadata/ownerReferences/0/controller",
            json!(false),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        (
            "/metadata/ownerReferences/0/uid",
            json!("bad"),
            "node n1 UID mismatch: expected bad got u1",
        ),
        (
            "/spec",
            json!({"nodeName": "n1", "volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
            "node \"n1\" can not create pods that reference configmaps",
        ),
        (
            "/spec",
            json!({"nodeName": "n1", "serviceAccountName": "s"}),
            "node \"n1\" can not create pods that reference a service account",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut pod = good.clone();
        *pod.pointer_mut(pointer).unwrap() = value;
        assert_eq!(refusal("pods", "", &pod, None), expected);
    }
}

#[test]
fn a_node_writes_the_status_of_its_own_pods_and_nothing_else_of_them() {
    let store = objects();
    let mine = store.object("pods/default/mine").unwrap();
    let other = store.object("pods/default/other").unwrap();
    let mut done = mine.clone();
    done["status"] = json!({"phase": "Succeeded"});
    check("pods/status", "mine", &done, Some(&mine)).unwrap();
    assert_eq!(
        refusal("pods/status", "other", &other, Some(&other)),
        "node \"n1\" can only update pod status for pods with spec.nodeName set to itself"
    );
    done["metadata"]["labels"] = json!({"a": "c"});
    assert_eq!(
        refusal("pods/status", "mine", &done, Some(&mine)),
        "node \"n1\" cannot update labels through pod status"
    );
    assert!(check("pods", "mine", &mine, Some(&mine)).is_err());
    assert!(check("pods/binding", "mine", &json!({}), None).is_err());
    check("pods/eviction", "mine", &json!({}), None).unwrap();
    assert_eq!(
        refusal("pods/eviction", "other", &json!({}), None),
        "node n1 can only evict pods with spec.nodeName set to itself"
    );
    let delete =
        |name: &str, pod: &Value| admit_delete(&node_user(), "", "pods", "default", name, pod);
    delete("mine", &mine).unwrap();
    assert!(delete("other", &other).is_err());
}

#[test]
fn a_node_gets_tokens_bound_to_its_pods_for_their_audiences() {
    let ask = |reference: Value, audiences: Value| {
        let request = json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
        check("serviceaccounts/token", "default", &request, None)
    };
    let pod = |name: &str, uid: &str| json!({"kind": "Pod", "name": name, "uid": uid});
    ask(pod("mine", "uid-n1"), Value::Null).unwrap();
    ask(pod("mine", "uid-n1"), json!(["vault"])).unwrap();
    let cases = [
        (
            ask(Value::Null, Value::Null),
            "node requested token not bound to a pod",
        ),
        (
            ask(pod("mine", ""), Value::Null),
            "node requested token with a pod binding without a uid",
        ),
        (
            ask(pod("mine", "xx"), Value::Null),
            "the UID in the bound object reference (xx) does not match the UID in record. The \
             object might have been deleted and then recreated",
        ),
        (
            ask(pod("other", "uid-n2"), Value::Null),
            "node requested token bound to a pod scheduled on a different node",
        ),
        (
            ask(pod("mine", "uid-n1"), json!(["vault", "vault"])),
            "node may only request 0 or 1 audiences",
        ),
        (
            ask(pod("mine", "uid-n1"), json!(["zzz"])),
            "audience \"zzz\" not found in pod spec volume, system:node:n1 is not authorized to \
             request tokens for this audience",
        ),
    ];
    for (answer, expected) in cases {
        assert_eq!(answer.unwrap_err(), expected);
    }
}

#[test]
fn a_node_has_one_lease_and_others_are_not_restricted() {
    let lease = json!({"metadata": {"name": "n2"}});
    let user = node_user();
    let request = Request {
        group: "coordination.k8s.io",
        namespace: "kube-node-lease",
        ..create(&user, "leases", "")
    };
    assert!(admit(&objects(), &request, &lease, None).is_err());
    admit(
        &objects(),
        &request,
        &json!({"metadata": {"name": "n1"}}),
        None,
    )
    .unwrap();
    let admin = User::system("admin");
    let request = create(&admin, "nodes", "");
    let node = json!({"metadata": {"name": "n9", "labels": {"k8s.io/x": "y"}}});
    admit(&objects(), &request, &node, None).unwrap();
}
