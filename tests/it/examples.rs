//! The documents' manifests and the quick start run as the README says.

use std::process::{Command, Stdio};

use testkit::{Cluster, Output, Up, skip};

use crate::VK_CMD;
use crate::both::both;

both![
    the_documents_pod_runs_its_script_and_leaves_nothing_behind,
    a_pod_for_agents_lands_on_the_tainted_node_and_another_waits,
];

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

#[test]
fn the_quick_start_prints_the_output_of_the_script_and_ends_well() {
    let mut up = Up::of(VK_CMD).args(&[
        "--apply",
        &format!("{EXAMPLES}/quickstart.yaml"),
        "--wait",
        "--logs",
    ]);
    let output = Output::of(&mut up.command());
    assert!(
        output.stdout.starts_with("export KUBECONFIG="),
        "{output:#?}"
    );
    assert!(
        output.stdout.contains("as Linux processes: pid "),
        "{output:#?}"
    );
    assert_eq!(output.code, 0, "{output:#?}");
}

#[test]
fn a_pod_that_fails_gives_its_exit_code_to_the_shell() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: seven}\nspec:\n  restartPolicy: Never\n  containers:\n  \
               - {name: c, image: host, command: [sh, -c, 'echo out; echo err >&2; exit 7']}\n";
    let mut up = Up::of(VK_CMD).args(&["--apply", "-", "--wait", "--logs"]);
    let mut child = up
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), pod.as_bytes())
        .expect("it reads");
    let done = child.wait_with_output().expect("it ends");
    let stdout = String::from_utf8_lossy(&done.stdout);
    assert_eq!(
        done.status.code(),
        Some(7),
        "{stdout}\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        stdout.contains("out\n") && stdout.contains("err\n"),
        "{stdout}"
    );
}

fn the_documents_pod_runs_its_script_and_leaves_nothing_behind(cluster: &Cluster) {
    let node = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    if testkit::find_program("stress").is_none() {
        return skip!("stress is missing (Debian: apt-get install stress)");
    }
    kubectl
        .run(&format!("apply -f {EXAMPLES}/direct-stress.yaml"))
        .ok();
    kubectl
        .run("wait --for=condition=Ready pod/p1 --timeout=60s")
        .ok();
    let group = std::fs::read_to_string(node.home().join("p1/containers/c1/pgid"))
        .expect("the documented pgid file");
    let group: i32 = group.trim().parse().expect("a number");
    let in_group = || {
        let done = Command::new("pgrep")
            .args(["-g", &group.to_string()])
            .output()
            .expect("pgrep runs");
        String::from_utf8_lossy(&done.stdout).lines().count()
    };
    // bash, stress, and its two workers.
    testkit::eventually(
        "stress works in the container's process group",
        || match in_group() {
            count if count >= 3 => Ok(()),
            count => Err(count),
        },
    );
    assert!(
        node.home()
            .join("p1/containers/c1/stress/job1/stress.sh")
            .exists()
    );
    kubectl.run("delete pod p1 --grace-period=1").ok();
    assert_eq!(in_group(), 0);
    assert!(!node.home().join("p1").exists());
}

fn a_pod_for_agents_lands_on_the_tainted_node_and_another_waits(cluster: &Cluster) {
    let _node = cluster.agent("n").tainted().start();
    cluster.ready("n");
    let kubectl = cluster.kubectl();
    kubectl
        .run(&format!("apply -f {EXAMPLES}/node-selector.yaml"))
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/on-agent --timeout=60s")
        .ok();
    kubectl
        .run("run plain --image=host --restart=Never --command -- true")
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.conditions[0].reason}=Unschedulable pod/plain --timeout=60s")
        .ok();
    let events = kubectl.run("get events --field-selector involvedObject.name=plain,reason=FailedScheduling -o jsonpath={.items[0].message}").ok();
    assert!(
        events.contains(" nodes are available: ") && events.contains("had untolerated taint"),
        "{events}"
    );
}

#[test]
fn a_pod_that_needs_walltime_lands_where_enough_is_left() {
    for (left, lands) in [("60", true), ("10", false)] {
        let labels = format!("jiriaf.nodetype=cpu,jiriaf.site=mylin,jiriaf.alivetime={left}");
        let up = Up::of(VK_CMD)
            .args(&["--taint", "--node-labels", &labels])
            .start();
        let Some(kubectl) = up.kubectl() else {
            return skip!("kubectl is missing");
        };
        kubectl
            .run(&format!("apply -f {EXAMPLES}/affinity.yaml"))
            .ok();
        let until = if lands {
            "jsonpath={.status.phase}=Succeeded"
        } else {
            "jsonpath={.status.conditions[0].reason}=Unschedulable"
        };
        kubectl
            .run(&format!("wait --for={until} pod/long-enough --timeout=60s"))
            .ok();
    }
}
