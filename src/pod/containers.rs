//! The containers of a pod as one list.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use super::machine::Role;
use crate::container::spec::Interactive;

/// All containers with their roles: init containers, main containers, ephemeral
/// containers, each in the order of the spec. A plan has the same order.
pub fn all(pod: &Pod) -> impl Iterator<Item = (Role, Cow<'_, Container>)> {
    pod.spec.iter().flat_map(|spec| {
        let init = spec.init_containers.iter().flatten().map(|it| {
            // The only policy that says more than how a container is started again.
            let sidecar = it.restart_policy.as_deref() == Some("Always");
            let role = if sidecar { Role::Sidecar } else { Role::Init };
            (role, Cow::Borrowed(it))
        });
        let main = { spec.containers.iter() }.map(|it| (Role::Main, Cow::Borrowed(it)));
        let added = spec.ephemeral_containers.iter().flatten();
        let added = added.map(|it| (Role::Ephemeral, Cow::Owned(ephemeral(it))));
        init.chain(main).chain(added)
    })
}

/// The container of that name.
pub fn find(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    let mut all = all(pod);
    all.find(|(_, it)| it.name == name)
        .map(|(role, it)| (role, it.into_owned()))
}

/// How a container is talked to, where it wants to be.
pub fn interactive(container: &Container) -> Option<Interactive> {
    let wanted = Interactive {
        stdin: container.stdin == Some(true),
        once: container.stdin_once == Some(true),
        terminal: container.tty == Some(true),
    };
    (wanted.stdin || wanted.terminal).then_some(wanted)
}

/// How many ephemeral containers were added so far; none is ever removed.
pub fn ephemeral_count(pod: &Pod) -> usize {
    let spec = pod.spec.as_ref();
    spec.and_then(|it| it.ephemeral_containers.as_ref())
        .map_or(0, Vec::len)
}

/// An ephemeral container as what it is beside its target: an ordinary one.
fn ephemeral(from: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        // Processes see each other here anyway.
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = from.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_is_that_of_a_plan() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "m"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"},
                               {"name": "j", "restartPolicy": "OnFailure"}],
            "ephemeralContainers": [{"name": "e", "image": "host", "targetContainerName": "m"}],
        }}))
        .unwrap();
        let found: Vec<_> = all(&pod)
            .map(|(role, it)| (it.name.clone(), role))
            .collect();
        let wanted = [
            ("i", Role::Init),
            ("s", Role::Sidecar),
            ("j", Role::Init),
            ("m", Role::Main),
            ("e", Role::Ephemeral),
        ];
        assert_eq!(found, wanted.map(|(name, role)| (name.to_owned(), role)));
        assert_eq!(find(&pod, "e").unwrap().1.image.as_deref(), Some("host"));
        assert!(find(&pod, "x").is_none());
        assert_eq!(ephemeral_count(&pod), 1);
    }
}
