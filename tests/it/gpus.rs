//! GPUs of the allocation: advertised, and handed out one container each. The device nodes are real ones of the
//! driver's numbers in a `/dev` of the agent's own; nothing drives them, and nobody opens them.

use std::process::Command;

use testkit::{Cluster, eventually, skip};

use crate::both::both;

both![each_gpu_of_the_allocation_goes_to_one_container];

/// A `/dev` with two devices of NVIDIA (major 195) and what any program needs.
const DEVICES: &str = "mount -t tmpfs -o mode=755 dev /dev && cd /dev && mknod null c 1 3 && mknod zero c 1 5 \
    && mknod urandom c 1 9 && chmod 666 null zero urandom && mkdir -m 1777 shm && mknod nvidia0 c 195 0 \
    && mknod nvidia1 c 195 1 && cd / && exec \"$@\"";

/// A pod whose containers ask for so many GPUs each, say which they see, and stay until they are deleted.
fn pod(name: &str, gpus: &[u32]) -> String {
    let containers = gpus.iter().enumerate().map(|(index, count)| {
        let limits = match count {
            0 => String::new(),
            _ => format!("resources: {{limits: {{nvidia.com/gpu: {count}}}}}, "),
        };
        format!(
            "{{name: c{index}, image: host, {limits}command: [sh, -c, 'echo \"<$CUDA_VISIBLE_DEVICES>\"; exec sleep infinity']}}"
        )
    });
    let containers: Vec<String> = containers.collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{}]}}\n",
        containers.join(", ")
    )
}

fn each_gpu_of_the_allocation_goes_to_one_container(cluster: &Cluster) {
    let made = Command::new("unshare")
        .args(["--mount", "sh", "-c", DEVICES, "sh", "true"])
        .output();
    if !made.is_ok_and(|it| it.status.success()) {
        return skip!("a /dev with device nodes takes root");
    }
    let agent = cluster
        .agent("n")
        .behind(&["unshare", "--mount", "sh", "-c", DEVICES, "sh"])
        // As Slurm tells of a step.
        .env("SLURM_STEP_GPUS", "0,1");
    let _agent = cluster.ready_node(agent);
    cluster.node_is("n", "{.status.allocatable.nvidia\\.com/gpu}", "2");
    cluster.node_is("n", "{.status.capacity.nvidia\\.com/gpu}", "2");
    let kubectl = cluster.kubectl();
    cluster.apply(&pod("two", &[1, 1, 0]));
    cluster.is("pod/two", "{.status.phase}", "Running");
    let seen = |pod: &str, container: &str| {
        eventually("a container says what it sees", || {
            let log = kubectl.run(&format!("logs {pod} -c {container}")).ok();
            if log.ends_with('\n') {
                Ok(log)
            } else {
                Err(log)
            }
        })
    };
    let mut both = [seen("two", "c0"), seen("two", "c1")];
    both.sort();
    assert_eq!(both, ["<0>\n", "<1>\n"]);
    assert_eq!(seen("two", "c2"), "<>\n");
    // There is no third.
    cluster.apply(&pod("third", &[1]));
    eventually("the scheduler says what is missing", || {
        let said = kubectl.run("describe pod third").ok();
        if said.contains("Insufficient nvidia.com/gpu") {
            Ok(())
        } else {
            Err(said)
        }
    });
    kubectl.run("delete pod two --timeout=60s").ok();
    cluster.is("pod/third", "{.status.phase}", "Running");
    assert!(["<0>\n", "<1>\n"].contains(&seen("third", "c0").as_str()));
    // More than there are, on a node that the pod itself names.
    let many = pod("many", &[3]).replace(
        "spec: {",
        &format!("spec: {{nodeName: {}, ", cluster.node("n")),
    );
    cluster.apply(&many);
    let reason = "{.status.phase} {.status.reason}";
    cluster.is("pod/many", reason, "Failed OutOfnvidia.com/gpu");
}
