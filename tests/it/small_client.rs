//! `vk-cmd apply, get, describe, logs, delete`, for machines without kubectl.

use std::path::Path;

use testkit::{Cluster, Up};

use crate::VK_CMD;
use crate::both::both;

both![
    an_object_is_applied_printed_described_and_deleted,
    what_is_wrong_is_said_with_its_place_and_exit_code_2,
];

fn manifest(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a manifest");
    path.display().to_string()
}

fn an_object_is_applied_printed_described_and_deleted(cluster: &Cluster) {
    let _node = cluster.start_node(&[]);
    let file = manifest(
        cluster.dir(),
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: b}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {name: c, image: host, command: [sh, -c, 'echo one; echo two']}\n",
    );
    assert_eq!(
        cluster.client(&format!("apply -f {file}")).ok(),
        "pod/p created\n"
    );
    assert_eq!(
        cluster.client(&format!("apply -f {file}")).ok(),
        "pod/p unchanged\n"
    );
    // Follows until the container has ended: what is printed is all.
    testkit::eventually("the log begins", || {
        let log = cluster.client("logs p --follow");
        if log.code == 0 { Ok(()) } else { Err(log) }
    });
    assert_eq!(cluster.client("logs p --tail 1").ok(), "two\n");
    let table = testkit::eventually("the pod completes", || {
        let table = cluster.client("get pods -l a=b").ok();
        if table.contains("Completed") {
            Ok(table)
        } else {
            Err(table)
        }
    });
    let head: Vec<_> = table
        .lines()
        .next()
        .expect("a head")
        .split_whitespace()
        .collect();
    assert_eq!(head, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(cluster.client("get pod/p -o name").ok(), "pod/p\n");
    let described = cluster.client("describe pod p").ok();
    for word in ["name: p", "Scheduled", "Started", "exitCode: 0"] {
        assert!(
            described.contains(word),
            "{word} is missing in:\n{described}"
        );
    }
    assert_eq!(cluster.client("delete pod p").ok(), "pod \"p\" deleted\n");
    let gone = cluster.client("get pod p").fails_with(1);
    assert!(gone.contains("pods \"p\" not found"), "{gone}");
}

#[test]
fn a_command_runs_in_a_container_and_gives_its_exit_code() {
    let up = Up::of(VK_CMD).start();
    let file = manifest(
        &up.home(),
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  \
         - {name: c, image: host, command: [sleep, infinity]}\n",
    );
    up.client(&format!("apply -f {file}")).ok();
    let done = testkit::eventually("the container runs", || {
        let done = up.client("exec p -- cat /nowhere");
        if done.stderr.contains("/nowhere") {
            Ok(done)
        } else {
            Err(done)
        }
    });
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert_eq!(up.client("exec p -c c -- echo here").ok(), "here\n");
    let missing = up.client("exec p -- no-such-program").fails_with(1);
    assert!(
        missing.contains("executable file not found in $PATH"),
        "{missing}"
    );
    let nobody = up.client("exec nobody -- true").fails_with(1);
    assert!(
        nobody.contains("cannot run a command in pod nobody"),
        "{nobody}"
    );
}

fn what_is_wrong_is_said_with_its_place_and_exit_code_2(cluster: &Cluster) {
    let file = manifest(
        cluster.dir(),
        "bad.yaml",
        "kind: Pod\nmetadata: {name: p}\n",
    );
    let error = cluster.client(&format!("apply -f {file}")).fails_with(2);
    assert!(
        error.contains("bad.yaml (document 1): apiVersion is missing"),
        "{error}"
    );
    let file = manifest(cluster.dir(), "syntax.yaml", "a: [\n");
    let error = cluster.client(&format!("apply -f {file}")).fails_with(2);
    assert!(
        error.contains("syntax.yaml (document 1): is not YAML"),
        "{error}"
    );
    let error = cluster.client("get podz").fails_with(2);
    assert!(error.contains("did you mean \"pods\"?"), "{error}");
    let error = cluster.client("delete pods").fails_with(2);
    assert!(error.contains("-l SELECTOR or --all"), "{error}");
}
