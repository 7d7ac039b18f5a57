//! Data of pods that are over goes by age, and nothing else goes.

use std::path::{Path, PathBuf};

use testkit::{Cluster, eventually};

use crate::both::both;

both![
    data_of_old_pods_goes_and_nothing_of_the_users,
    an_end_that_takes_long_keeps_its_data_until_then,
];

/// What lies below a directory, links as links.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn data_of_old_pods_goes_and_nothing_of_the_users(cluster: &Cluster) {
    let agent = cluster.start_node(&["--dead-pods-max-age=1"]);
    let home = agent.home();
    let theirs = home.join("theirs");
    std::fs::create_dir_all(theirs.join("deep")).expect("a directory");
    std::fs::write(theirs.join("deep/file"), "kept").expect("a file");
    let before = tree(&theirs);
    // The pod leads out of its directory wherever it can.
    let script = "ln -s ~/theirs out; ln -s ~/theirs ../out; rmdir ~/none; mkdir -p a/b; ln -s ~/theirs a/b/out; echo said";
    let pod = |name: &str, script: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
             terminationGracePeriodSeconds: 1\n  volumes: [{{name: theirs, hostPath: {{path: {}}}}}]\n  \
             containers:\n  - {{name: c, image: host, command: [bash, -c, '{script}'], volumeMounts: [{{name: theirs, mountPath: theirs}}]}}\n",
            theirs.display()
        )
    };
    cluster.apply(&pod("lives", "sleep 600"));
    cluster.apply(&pod("over", script));
    cluster.is("pod/over", "{.status.phase}", "Succeeded");
    cluster.is("pod/lives", "{.status.phase}", "Running");
    let uid = |name: &str| cluster.get(&format!("pod/{name}"), "{.metadata.uid}");
    let (over, lives) = (uid("over"), uid("lives"));
    let of = |uid: &str| {
        let all = tree(&agent.root());
        all.into_iter().find(|path| path.ends_with(uid))
    };
    assert!(of(&lives).is_some());
    eventually("data of the pod that is over goes", || match of(&over) {
        None => Ok(()),
        Some(path) => Err(path),
    });
    assert_eq!(tree(&theirs), before);
    assert_eq!(
        std::fs::read_to_string(theirs.join("deep/file")).expect("it is there"),
        "kept"
    );
    assert!(of(&lives).is_some());
    // The object says what it said; only its log is gone.
    assert_eq!(
        cluster.get(
            "pod/over",
            "{.status.phase} {.status.containerStatuses[0].state.terminated.reason}"
        ),
        "Succeeded Completed"
    );
    assert_ne!(cluster.kubectl().run("logs over").stdout, "said\n");
    cluster
        .kubectl()
        .run("delete pod over lives --timeout=60s")
        .ok();
    assert_eq!(tree(&theirs), before);
}

fn an_end_that_takes_long_keeps_its_data_until_then(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let home = agent.home();
    let script = "echo data > mine; trap \"until [ -e ~/leave ]; do sleep 0.1; done; cp mine ~/last; exit\" TERM; touch ~/ready; while :; do sleep 0.1; done";
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: slow}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 120\n  containers: [{{name: c, image: host, command: [bash, -c, '{script}']}}]\n"
    ));
    cluster.is("pod/slow", "{.status.phase}", "Running");
    let there = |name: &str| home.join(name).exists().then_some(()).ok_or(());
    eventually("the script waits", || there("ready"));
    let uid = cluster.get("pod/slow", "{.metadata.uid}");
    let place = agent.kill();
    let delete = "delete pod slow --force --grace-period=0";
    cluster.kubectl().run(delete).ok();
    let agent = cluster.restart_node(&place, &[]);
    // What nobody knows goes at the next look for such; with that one the look is seen.
    let pods = agent.root();
    let pods = tree(&pods)
        .into_iter()
        .find(|path| path.ends_with(&uid))
        .expect("the pod's directory");
    let nobodys = pods.with_file_name("5c9c3a7e-nobodys");
    std::fs::create_dir(&nobodys).expect("a directory");
    eventually("what nobody knows goes", || match nobodys.exists() {
        false => Ok(()),
        true => Err(agent.log()),
    });
    assert!(pods.exists(), "{}", agent.log());
    std::fs::write(home.join("leave"), "").expect("written");
    eventually("the script ends in its own time", || there("last"));
    let last = std::fs::read_to_string(home.join("last")).expect("written");
    assert_eq!(last, "data\n");
    eventually("its data goes after it", || match pods.exists() {
        false => Ok(()),
        true => Err(agent.log()),
    });
}
