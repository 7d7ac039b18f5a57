//! A pod's life with the real kubectl: init containers, sidecars, deadlines, last
//! words, ephemeral containers, conditions that others change.

use testkit::{Cluster, Kubectl, eventually};

use crate::both::both;

both![
    init_containers_run_in_order_and_again_where_they_fail,
    a_sidecar_serves_a_job_from_before_its_start_until_after_its_end,
    a_sidecar_that_ends_is_started_again_in_a_pod_that_never_restarts,
    a_deadline_fails_the_pod_with_the_kubelets_words,
    last_words_are_the_containers_or_its_logs,
    an_ephemeral_container_joins_a_running_pod,
    conditions_that_others_change_come_back,
    counts_and_ends_outlive_the_agent,
    what_cannot_hold_is_named_once,
];

fn create(kubectl: &Kubectl, name: &str, spec: &str) {
    let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}");
    kubectl.pipe("create -f -", &pod).ok();
}

fn get(kubectl: &Kubectl, name: &str, path: &str) -> String {
    kubectl
        .run(&format!("get pod {name} -o jsonpath={{{path}}}"))
        .ok()
}

#[track_caller]
fn becomes(kubectl: &Kubectl, name: &str, path: &str, wanted: &str) {
    eventually(&format!("{path} of {name} is {wanted:?}"), || {
        let found = get(kubectl, name, path);
        if found == wanted { Ok(()) } else { Err(found) }
    });
}

#[track_caller]
fn phase(kubectl: &Kubectl, name: &str, wanted: &str) {
    becomes(kubectl, name, ".status.phase", wanted);
}

/// Type, reason and message of the pod's events, a line each.
fn events(kubectl: &Kubectl, name: &str) -> String {
    let path = "{range.items[*]}{.type}|{.reason}|{.message}{\"\\n\"}{end}";
    let field = format!("involvedObject.name={name}");
    let output = format!("jsonpath={path}");
    kubectl
        .words(&["get", "events", "--field-selector", &field, "-o", &output])
        .ok()
}

#[track_caller]
fn event(kubectl: &Kubectl, name: &str, wanted: &str) {
    eventually(&format!("an event of {name} is {wanted:?}"), || {
        let all = events(kubectl, name);
        if all.lines().any(|line| line == wanted) {
            Ok(())
        } else {
            Err(all)
        }
    });
}

fn condition(type_: &str, field: &str) -> String {
    format!(".status.conditions[?(@.type==\"{type_}\")].{field}")
}

fn init_containers_run_in_order_and_again_where_they_fail(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let log = agent.home().join("order");
    let log = log.display();
    create(
        kubectl,
        "p",
        &format!(
            "  restartPolicy: OnFailure
  initContainers:
  - {{name: a, image: host, command: [sh, -c, 'echo a >> {log}; test -e again || {{ touch again; exit 1; }}']}}
  - {{name: b, image: host, command: [sh, -c, 'echo b >> {log}']}}
  containers:
  - {{name: c, image: host, command: [sh, -c, 'echo c >> {log}']}}
"
        ),
    );
    phase(kubectl, "p", "Succeeded");
    let order = std::fs::read_to_string(log.to_string()).expect("they wrote");
    assert_eq!(order, "a\na\nb\nc\n");
    let restarts = ".status.initContainerStatuses[*].restartCount";
    assert_eq!(get(kubectl, "p", restarts), "1 0");
    let ready = ".status.initContainerStatuses[*].ready";
    assert_eq!(get(kubectl, "p", ready), "true true");
    assert_eq!(
        get(kubectl, "p", &condition("Initialized", "reason")),
        "PodCompleted"
    );

    create(
        kubectl,
        "never",
        "  restartPolicy: Never
  initContainers: [{name: a, image: host, command: [sh, -c, 'exit 3']}]
  containers: [{name: c, image: host, command: ['true']}]
",
    );
    phase(kubectl, "never", "Failed");
    let state = ".status.containerStatuses[0].state.waiting.reason";
    assert_eq!(get(kubectl, "never", state), "PodInitializing");
}

fn a_sidecar_serves_a_job_from_before_its_start_until_after_its_end(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let log = agent.home().join("order");
    let log = log.display();
    let car = |name: &str| {
        format!(
            "{{name: {name}, image: host, restartPolicy: Always, command: [sh, -c, 'trap \"echo end {name} >> {log}; exit 0\" TERM; echo {name} >> {log}; while :; do sleep 0.1; done'], startupProbe: {{periodSeconds: 1, exec: {{command: [grep, -qx, {name}, {log}]}}}}}}"
        )
    };
    create(
        kubectl,
        "p",
        &format!(
            "  restartPolicy: Never
  initContainers:
  - {}
  - {}
  containers:
  - {{name: main, image: host, command: [sh, -c, 'echo main >> {log}; sleep 0.3; echo end main >> {log}']}}
",
            car("one"),
            car("two")
        ),
    );
    phase(kubectl, "p", "Succeeded");
    let order = std::fs::read_to_string(log.to_string()).expect("they wrote");
    assert_eq!(order, "one\ntwo\nmain\nend main\nend two\nend one\n");
    event(kubectl, "p", "Normal|Killing|Stopping container two");
}

fn a_sidecar_that_ends_is_started_again_in_a_pod_that_never_restarts(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(
        kubectl,
        "p",
        "  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  initContainers: [{name: car, image: host, restartPolicy: Always, command: [sh, -c, 'test -e again && exec sleep 600; touch again']}]
  containers: [{name: c, image: host, command: [sleep, '600']}]
",
    );
    becomes(
        kubectl,
        "p",
        ".status.initContainerStatuses[0].restartCount",
        "1",
    );
    becomes(kubectl, "p", &condition("Ready", "status"), "True");
    let last = ".status.initContainerStatuses[0].lastState.terminated.reason";
    assert_eq!(get(kubectl, "p", last), "Completed");
    phase(kubectl, "p", "Running");
}

fn a_deadline_fails_the_pod_with_the_kubelets_words(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    let spec = "  activeDeadlineSeconds: 1
  terminationGracePeriodSeconds: 5
  containers: [{name: c, image: host, command: [sleep, '600']}]
";
    create(kubectl, "p", spec);
    phase(kubectl, "p", "Failed");
    assert_eq!(get(kubectl, "p", ".status.reason"), "DeadlineExceeded");
    let words = "Pod was active on the node longer than the specified deadline";
    assert_eq!(get(kubectl, "p", ".status.message"), words);
    event(kubectl, "p", &format!("Normal|DeadlineExceeded|{words}"));
    let code = ".status.containerStatuses[0].state.terminated.exitCode";
    assert_eq!(get(kubectl, "p", code), "143");
    // The deadline may be set while the pod runs.
    let late = spec.replace("  activeDeadlineSeconds: 1\n", "");
    create(kubectl, "late", &late);
    phase(kubectl, "late", "Running");
    kubectl
        .words(&[
            "patch",
            "pod",
            "late",
            "-p",
            "{\"spec\":{\"activeDeadlineSeconds\":1}}",
        ])
        .ok();
    becomes(kubectl, "late", ".status.reason", "DeadlineExceeded");
}

fn last_words_are_the_containers_or_its_logs(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(
        kubectl,
        "p",
        "  restartPolicy: Never
  containers:
  - {name: file, image: host, command: [sh, -c, 'printf done > dev/termination-log; exit 3']}
  - {name: env, image: host, command: [sh, -c, 'printf by-name > $VK_CMD_TERMINATION_LOG']}
  - {name: path, image: host, terminationMessagePath: /tmp/last, command: [sh, -c, 'printf elsewhere > tmp/last']}
  - {name: long, image: host, command: [sh, -c, 'head -c 6000 /dev/zero | tr \"\\\\0\" x > dev/termination-log; printf end >> dev/termination-log']}
  - {name: logs, image: host, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'seq 1000; echo why >&2; exit 1']}
  - {name: good, image: host, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo fine']}
",
    );
    phase(kubectl, "p", "Failed");
    let message = |name: &str| {
        let path =
            format!(".status.containerStatuses[?(@.name==\"{name}\")].state.terminated.message");
        get(kubectl, "p", &path)
    };
    assert_eq!(message("file"), "done");
    assert_eq!(message("env"), "by-name");
    assert_eq!(message("path"), "elsewhere");
    let long = message("long");
    assert_eq!(long.len(), 4096);
    assert!(long.ends_with("xend"), "{long}");
    // The last 80 lines.
    let logs = message("logs");
    let all: Vec<_> = logs.lines().collect();
    assert_eq!(all.len(), 80, "{logs}");
    assert!(all.contains(&"1000") && all.contains(&"why"), "{logs}");
    assert_eq!(message("good"), "");
}

fn an_ephemeral_container_joins_a_running_pod(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(
        kubectl,
        "p",
        "  terminationGracePeriodSeconds: 2
  containers: [{name: c, image: host, command: [sleep, '600']}]
",
    );
    phase(kubectl, "p", "Running");
    kubectl
        .run("debug p --image=host --container=look --attach=false -- sh -c echo\\ $PWD;exit\\ 3")
        .ok();
    let state = ".status.ephemeralContainerStatuses[0].state.terminated.exitCode";
    eventually("the ephemeral container ends", || {
        let code = get(kubectl, "p", state);
        if code.is_empty() { Err(code) } else { Ok(()) }
    });
    phase(kubectl, "p", "Running");
    assert_eq!(get(kubectl, "p", &condition("Ready", "status")), "True");
    kubectl.run("logs p -c look").ok();
    kubectl.run("delete pod p --timeout=60s").ok();
}

fn conditions_that_others_change_come_back(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(
        kubectl,
        "p",
        "  terminationGracePeriodSeconds: 2
  readinessGates: [{conditionType: example.com/open}]
  containers: [{name: c, image: host, command: [sleep, '600']}]
",
    );
    let patch = |type_: &str, status: &str| {
        let patch = format!(
            "{{\"status\":{{\"conditions\":[{{\"type\":\"{type_}\",\"status\":\"{status}\"}}]}}}}"
        );
        kubectl
            .words(&["patch", "pod", "p", "--subresource=status", "-p", &patch])
            .ok();
    };
    let ready = |field: &str| condition("Ready", field);
    becomes(kubectl, "p", &ready("reason"), "ReadinessGatesNotReady");
    patch("example.com/open", "True");
    becomes(kubectl, "p", &ready("status"), "True");
    // As the node controller does where the node was silent.
    patch("Ready", "False");
    becomes(kubectl, "p", &ready("status"), "True");
    patch("example.com/open", "False");
    becomes(kubectl, "p", &ready("status"), "False");
    let message = get(kubectl, "p", &ready("message"));
    assert!(message.contains("example.com/open"), "{message}");
}

fn counts_and_ends_outlive_the_agent(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(
        kubectl,
        "p",
        "  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 2
  initContainers: [{name: i, image: host, command: [sh, -c, 'true']}]
  containers: [{name: c, image: host, command: [sh, -c, 'test -e again && exec sleep 600; touch again; printf bye > dev/termination-log; exit 4']}]
",
    );
    let restarts = ".status.containerStatuses[0].restartCount";
    let last = ".status.containerStatuses[0].lastState.terminated";
    becomes(kubectl, "p", restarts, "1");
    becomes(kubectl, "p", &condition("Ready", "status"), "True");
    let since = get(kubectl, "p", &condition("Ready", "lastTransitionTime"));
    let id = get(kubectl, "p", ".status.containerStatuses[0].containerID");
    let place = agent.kill();
    let _agent = cluster.restart_node(&place, &[]);
    // A condition that is ours and wrong shows that the new agent looks after the pod.
    let wrong =
        "{\"status\":{\"conditions\":[{\"type\":\"ContainersReady\",\"status\":\"False\"}]}}";
    kubectl
        .words(&["patch", "pod", "p", "--subresource=status", "-p", wrong])
        .ok();
    becomes(
        kubectl,
        "p",
        &condition("ContainersReady", "status"),
        "True",
    );
    assert_eq!(get(kubectl, "p", restarts), "1");
    assert_eq!(get(kubectl, "p", &format!("{last}.exitCode")), "4");
    assert_eq!(get(kubectl, "p", &format!("{last}.message")), "bye");
    assert_eq!(
        get(kubectl, "p", ".status.containerStatuses[0].containerID"),
        id
    );
    assert_eq!(
        get(kubectl, "p", &condition("Ready", "lastTransitionTime")),
        since
    );
    let init = ".status.initContainerStatuses[0].restartCount";
    assert_eq!(get(kubectl, "p", init), "0");
    kubectl.run("delete pod p --timeout=60s").ok();
}

fn what_cannot_hold_is_named_once(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let kubectl = cluster.kubectl();
    create(
        kubectl,
        "p",
        "  restartPolicy: Never
  shareProcessNamespace: true
  hostname: other
  hostAliases: [{ip: 10.0.0.1, hostnames: [x]}]
  containers: [{name: c, image: host, command: ['true']}]
",
    );
    phase(kubectl, "p", "Succeeded");
    eventually("one warning names all", || {
        let all = events(kubectl, "p");
        let warnings: Vec<_> = all
            .lines()
            .filter(|line| line.starts_with("Warning|Unsupported|"))
            .collect();
        let fields = ["shareProcessNamespace", "hostname", "hostAliases"];
        match warnings[..] {
            [one] if fields.iter().all(|field| one.contains(field)) => Ok(()),
            _ => Err(all),
        }
    });
}
