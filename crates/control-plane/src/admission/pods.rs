//! Small additions to pods and nodes: tolerations, priority, runtime class, the first taint.

use serde_json::{Value, json};

use super::{Lookup, Request, list_at, text};
use crate::status::ApiError;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long a pod stays on a node that is not ready, in seconds.
const TOLERATION_SECONDS: u64 = 300;
const SYSTEM_NAMESPACE_PRIORITIES: &str = "priorityclasses.scheduling.k8s.io/";

/// Five characters as the real server appends them to names.
pub(super) fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    uuid::Uuid::new_v4()
        .as_bytes()
        .iter()
        .take(5)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// Lets a pod stay for a while on a node that is not ready or not reachable, unless it says for
/// itself how long.
pub(super) fn add_default_tolerations(pod: &mut Value) {
    let Some(tolerations) = list_at(pod, "/spec", "tolerations") else {
        return;
    };
    for key in [NOT_READY, UNREACHABLE] {
        let has_own = tolerations.iter().any(|toleration| {
            let of = |field: &str| text(toleration, field);
            (of("/key") == key || of("/key").is_empty())
                && matches!(of("/effect"), "" | "NoExecute")
        });
        if !has_own {
            tolerations.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

/// Resolves the priority class of a new pod; a pod that is there keeps what it has.
pub(super) fn set_priority(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    pod: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if let Some(old) = old {
        for field in ["priority", "preemptionPolicy"] {
            if let Some(value) = old.get("spec").and_then(|spec| spec.get(field))
                && let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut)
                && spec.get(field).is_none_or(Value::is_null)
            {
                spec.insert(field.to_owned(), value.clone());
            }
        }
        return Ok(());
    }
    let wanted = text(pod, "/spec/priorityClassName");
    let class = if wanted.is_empty() {
        lookup
            .objects(SYSTEM_NAMESPACE_PRIORITIES)
            .into_iter()
            .filter(|class| class["globalDefault"] == true)
            .min_by_key(|class| class["value"].as_i64())
    } else {
        let class = lookup.object(&format!("{SYSTEM_NAMESPACE_PRIORITIES}/{wanted}"));
        if class.is_none() {
            return Err(request.refuse(
                pod,
                format!("no PriorityClass with name {wanted} was found"),
            ));
        }
        class
    };
    let name = class
        .as_ref()
        .map(|class| text(class, "/metadata/name").to_owned());
    let value = class
        .as_ref()
        .and_then(|class| class["value"].as_i64())
        .unwrap_or_default();
    let policy = class
        .as_ref()
        .map(|class| text(class, "/preemptionPolicy"))
        .filter(|policy| !policy.is_empty())
        .unwrap_or("PreemptLowerPriority")
        .to_owned();
    if let Some(own) = pod.pointer("/spec/priority").and_then(Value::as_i64)
        && own != value
    {
        return Err(request.refuse(
            pod,
            format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority \
                 admission controller computed {value} from the given PriorityClass name"
            ),
        ));
    }
    let own = text(pod, "/spec/preemptionPolicy");
    if !own.is_empty() && own != policy {
        return Err(request.refuse(
            pod,
            format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; \
                 priority admission controller computed {policy} from the given PriorityClass name"
            ),
        ));
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(name) = name {
            spec.insert("priorityClassName".to_owned(), json!(name));
        }
        spec.insert("priority".to_owned(), json!(value));
        spec.insert("preemptionPolicy".to_owned(), json!(policy));
    }
    Ok(())
}

/// There is one default priority class at most.
pub(super) fn check_priority_class(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    class: &Value,
) -> Result<(), ApiError> {
    if class["globalDefault"] != true {
        return Ok(());
    }
    let name = text(class, "/metadata/name");
    let other = lookup
        .objects(SYSTEM_NAMESPACE_PRIORITIES)
        .into_iter()
        .find(|other| other["globalDefault"] == true && text(other, "/metadata/name") != name);
    match other {
        None => Ok(()),
        Some(other) => Err(request.refuse(
            class,
            format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(&other, "/metadata/name")
            ),
        )),
    }
}

/// A runtime class that a pod names must exist; its overhead goes into the pod.
pub(super) fn check_runtime_class(
    lookup: &dyn Lookup,
    request: &Request<'_>,
    pod: &mut Value,
) -> Result<(), ApiError> {
    let wanted = text(pod, "/spec/runtimeClassName");
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(class) = lookup.object(&format!("runtimeclasses.node.k8s.io//{wanted}")) else {
        return Err(request.refuse(
            pod,
            format!("pod rejected: RuntimeClass \"{wanted}\" not found"),
        ));
    };
    if let Some(overhead) = class.pointer("/overhead/podFixed") {
        match pod.pointer("/spec/overhead") {
            Some(own) if own != overhead => {
                return Err(request.refuse(
                    pod,
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ));
            }
            _ => pod["spec"]["overhead"] = overhead.clone(),
        }
    }
    Ok(())
}

/// A new node takes no pods until the node lifecycle controller finds it ready.
pub(super) fn taint_new_node(node: &mut Value) {
    let Some(fields) = node.as_object_mut() else {
        return;
    };
    let spec = fields.entry("spec").or_insert_with(|| json!({}));
    if spec.is_null() {
        *spec = json!({});
    }
    if let Some(taints) = list_at(node, "/spec", "taints") {
        let is_there = taints.iter().any(|taint| {
            text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule"
        });
        if !is_there {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, create};
    use super::*;
    use crate::auth::User;

    #[test]
    fn tolerations_are_added_where_the_pod_has_none_for_the_key() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": NOT_READY, "operator": "Exists", "effect": "NoSchedule"},
            {"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 5},
        ]}});
        add_default_tolerations(&mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(
            list[2],
            json!({"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
        );
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let before = all.clone();
        add_default_tolerations(&mut all);
        assert_eq!(all, before);
    }

    #[test]
    fn the_priority_comes_from_the_class_alone() {
        let user = User::default();
        let objects = Objects::of(&[
            (
                "priorityclasses.scheduling.k8s.io//high",
                json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
            ),
            (
                "priorityclasses.scheduling.k8s.io//usual",
                json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true}),
            ),
        ]);
        let request = create(&user, "pods", "p");
        let ask = |objects: &Objects, spec: Value| {
            let mut pod = json!({"spec": spec});
            set_priority(objects, &request, &mut pod, None)
                .map(|()| pod["spec"].clone())
                .map_err(|error| error.message)
        };
        assert_eq!(
            ask(&objects, json!({"priorityClassName": "high"})).unwrap(),
            json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
        );
        assert_eq!(
            ask(&objects, json!({})).unwrap(),
            json!({"priorityClassName": "usual", "priority": 5, "preemptionPolicy": "PreemptLowerPriority"})
        );
        assert_eq!(
            ask(&Objects::default(), json!({})).unwrap(),
            json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})
        );
        assert_eq!(
            ask(&objects, json!({"priorityClassName": "nope"})).unwrap_err(),
            "pods \"p\" is forbidden: no PriorityClass with name nope was found"
        );
        assert_eq!(
            ask(&objects, json!({"priority": 7})).unwrap_err(),
            "pods \"p\" is forbidden: the integer value of priority (7) must not be provided in \
             pod spec; priority admission controller computed 5 from the given PriorityClass name"
        );
        let old = json!({"spec": {"priorityClassName": "gone", "priority": 3}});
        let mut new = json!({"spec": {"priorityClassName": "gone"}});
        set_priority(&objects, &request, &mut new, Some(&old)).unwrap();
        assert_eq!(new, old);
        let second = json!({"metadata": {"name": "x"}, "globalDefault": true});
        assert!(
            check_priority_class(&objects, &create(&user, "priorityclasses", "x"), &second)
                .is_err()
        );
    }

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut node = json!({"metadata": {"name": "n"}});
        taint_new_node(&mut node);
        taint_new_node(&mut node);
        assert_eq!(
            node["spec"]["taints"],
            json!([{"key": NOT_READY, "effect": "NoSchedule"}])
        );
    }

    #[test]
    fn suffixes_use_the_safe_alphabet() {
        let suffix = random_suffix();
        assert_eq!(suffix.len(), 5);
        assert!(
            suffix
                .bytes()
                .all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte))
        );
    }
}
