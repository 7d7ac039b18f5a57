//! `kubectl exec`, `cp` and `attach`: through the API server to a container.

use testkit::{Kubectl, Up, eventually, skip};

use crate::VK_CMD;

fn run(kubectl: &Kubectl, name: &str, command: &str) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{restartPolicy: Never, containers: [{{name: c, image: host, command: [bash, -c, \"{command}\"], env: [{{name: WHO, value: me}}]}}]}}\n"
    );
    kubectl.pipe("create -f -", &pod).ok();
    kubectl
        .run(&format!(
            "wait --for=condition=Ready pod/{name} --timeout=60s"
        ))
        .ok();
}

#[test]
fn a_command_runs_in_a_container_with_its_streams_and_its_exit_code() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    run(&kubectl, "p", "sleep infinity");
    let script = "echo $WHO; pwd; echo no >&2; exit 7";
    let done = kubectl.words(&["exec", "p", "--", "sh", "-c", script]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stdout.starts_with("me\n/"), "{done:?}");
    assert!(done.stderr.contains("no\n"), "{done:?}");
    assert!(
        done.stderr.contains("command terminated with exit code 7"),
        "{done:?}"
    );
    // Standard input, and its end.
    let text: String = (0..40_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let done = kubectl.pipe("exec -i p -- cat", &text);
    assert!(done.ok() == text);
    // More than any buffer on the way holds.
    let done = kubectl.words(&[
        "exec",
        "p",
        "--",
        "sh",
        "-c",
        "yes 0123456 | head -c 8000000",
    ]);
    assert_eq!(done.ok().len(), 8_000_000);
    // It runs among the container's processes and goes with them.
    let script =
        "setsid sh -c 'echo $$ > pid; exec sleep infinity' & until [ -s pid ]; do :; done; cat pid";
    let pid = kubectl.words(&["exec", "p", "--", "sh", "-c", script]).ok();
    let process = std::path::Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    kubectl
        .run("delete pod p --grace-period=1 --timeout=60s")
        .ok();
    assert!(!process.exists());
}

#[test]
fn files_are_copied_both_ways() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    run(&kubectl, "p", "sleep infinity");
    let (from, back) = (up.home().join("from"), up.home().join("back"));
    let text: Vec<u8> = (0..500_000_u32)
        .map(|number| (number % 253) as u8)
        .collect();
    std::fs::write(&from, &text).expect("a file");
    let words = |from: &str, to: &str| ["cp".to_owned(), from.to_owned(), to.to_owned()];
    let local = |path: &std::path::Path| path.display().to_string();
    kubectl.words(&words(&local(&from), "p:copied")).ok();
    kubectl.words(&words("p:copied", &local(&back))).ok();
    assert!(std::fs::read(&back).expect("a file") == text);
}

#[test]
fn what_cannot_be_run_is_told_as_by_a_cluster() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    run(&kubectl, "p", "sleep infinity");
    let says = |line: &str, words: &str| {
        let done = kubectl.run(line);
        assert_ne!(done.code, 0, "{done:?}");
        assert!(done.stderr.contains(words), "{done:?}");
    };
    says(
        "exec p -- no-such-program",
        "executable file not found in $PATH",
    );
    says(
        "exec p -c other -- true",
        "container other is not valid for pod p",
    );
    says("exec nobody -- true", "pods \"nobody\" not found");
    run(&kubectl, "over", "sleep 0.5");
    eventually("the pod ends", || {
        let phase = kubectl.run("get pod over -o jsonpath={.status.phase}").ok();
        if phase == "Succeeded" {
            Ok(())
        } else {
            Err(phase)
        }
    });
    let done = kubectl.run("exec over -- true");
    assert_ne!(done.code, 0, "{done:?}");
    // Who may read streams may not begin them.
    kubectl.run("create serviceaccount reader").ok();
    kubectl
        .run("create role reader --verb=get,list --resource=pods,pods/exec")
        .ok();
    kubectl
        .run("create rolebinding reader --role=reader --serviceaccount=default:reader")
        .ok();
    says(
        "exec p --as=system:serviceaccount:default:reader -- true",
        "cannot create resource \"pods/exec\"",
    );
}

#[test]
fn attach_shows_what_comes_until_the_end() {
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let gate = up.home().join("gate");
    let script = format!(
        "echo before; until [ -e {} ]; do sleep 0.05; done; echo after; echo wrong >&2",
        gate.display()
    );
    run(&kubectl, "p", &script);
    let attached = std::thread::spawn({
        let kubectl = kubectl.clone();
        move || kubectl.run("attach p")
    });
    // The API server counts streams that have begun.
    eventually("somebody is attached", || {
        let counts = kubectl.run("get --raw /metrics").ok();
        if counts.contains("code=\"101\"") || attached.is_finished() {
            Ok(())
        } else {
            Err(())
        }
    });
    std::fs::write(&gate, "").expect("a file");
    let done = attached.join().expect("no panic");
    assert!(done.stdout.contains("after\n"), "{done:?}");
    assert!(!done.stdout.contains("before"), "{done:?}");
    assert!(done.stderr.contains("wrong\n"), "{done:?}");
}
