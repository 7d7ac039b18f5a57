//! Kubernetes' own controllers place work on the agent's node and judge how it ends, on either control plane.

use std::time::Duration;

use testkit::{Agent, Cluster, Line, Proxy, eventually, eventually_within};

use crate::both::both;

both![
    with controllers: deployments_sets_and_daemons_roll_out,
    a_replica_set_keeps_its_number,
    jobs_count_exits_and_disruptions,
    cron_jobs_start_by_their_schedule,
    pods_of_a_lost_node_are_evicted_and_nothing_is_doubled,
    a_job_ignores_the_end_of_a_walltime,
    drain_respects_budgets_and_a_taint_evicts,
];

/// A pod template for the agent's node.
fn template(cluster: &Cluster, more: &str, script: &str) -> String {
    let node = cluster.node("n");
    let script = serde_json::Value::from(script);
    format!(
        "{{metadata: {{labels: {{app: a}}}}, spec: {{nodeSelector: {{kubernetes.io/hostname: {node}}}, \
         terminationGracePeriodSeconds: 2, {more} containers: [{{name: c, image: host, command: [bash, -c, {script}]}}]}}}}"
    )
}

const SERVE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn deployments_sets_and_daemons_roll_out(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let pods = template(cluster, "", SERVE);
    let selector = "selector: {matchLabels: {app: a}}";
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec: {{replicas: 3, {selector}, template: {pods}}}\n"
    ));
    let kubectl = cluster.kubectl();
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();
    kubectl.run("set env deployment/d VERSION=2").ok();
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();
    kubectl.run("scale deployment/d --replicas=1").ok();
    cluster.is(
        "deployment/d",
        "{.status.replicas} {.status.availableReplicas}",
        "1 1",
    );
    kubectl
        .run("delete deployment d --timeout=60s --cascade=foreground")
        .ok();

    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: s}}\nspec: {{serviceName: s, replicas: 2, {selector}, template: {pods}}}\n"
    ));
    kubectl
        .run("rollout status statefulset/s --timeout=120s")
        .ok();
    let names = kubectl
        .run("get pods -l app=a -o jsonpath={.items[*].metadata.name}")
        .ok();
    assert_eq!(names, "s-0 s-1");
    kubectl.run("delete pod s-0 --timeout=60s").ok();
    kubectl
        .run("rollout status statefulset/s --timeout=120s")
        .ok();
    kubectl
        .run("delete statefulset s --timeout=60s --cascade=foreground")
        .ok();

    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: e}}\nspec: {{{selector}, template: {pods}}}\n"
    ));
    kubectl
        .run("rollout status daemonset/e --timeout=120s")
        .ok();
    cluster.is("daemonset/e", "{.status.numberReady}", "1");
    kubectl
        .run("delete daemonset e --timeout=60s --cascade=foreground")
        .ok();
}

fn a_replica_set_keeps_its_number(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let pods = template(cluster, "", &format!("echo s >> ~/starts; {SERVE}"));
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: r}}\nspec: {{replicas: 3, \
         selector: {{matchLabels: {{app: a}}}}, template: {pods}}}\n"
    ));
    let kubectl = cluster.kubectl();
    let names = || {
        let words = "get pods -l app=a --no-headers -o custom-columns=N:.metadata.name";
        let text = kubectl.run(words).ok();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let starts = || {
        let text = std::fs::read_to_string(agent.home().join("starts")).unwrap_or_default();
        text.lines().count()
    };
    let ready = "{.status.readyReplicas}";
    cluster.is("replicaset/r", ready, "3");
    let first = names();
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|name| name.starts_with("r-")), "{first:?}");
    assert_eq!(starts(), 3);

    // One that is deleted is replaced.
    kubectl
        .run(&format!("delete pod {} --timeout=60s", first[0]))
        .ok();
    let second = eventually("another pod takes its place", || {
        let now = names();
        if now.len() == 3 && !now.contains(&first[0]) {
            Ok(now)
        } else {
            Err(now)
        }
    });
    cluster.is("replicaset/r", ready, "3");
    assert_eq!(starts(), 4);

    // One that is no longer meant lives on by itself, and is replaced.
    let free = &second[0];
    kubectl
        .run(&format!("label pod {free} app=b --overwrite"))
        .ok();
    eventually("the set lets it go and makes another", || {
        let owner = cluster.get(
            &format!("pod/{free}"),
            "{.metadata.ownerReferences[*].name}",
        );
        let now = names();
        if owner.is_empty() && now.len() == 3 {
            Ok(())
        } else {
            Err((owner, now))
        }
    });
    cluster.is("replicaset/r", ready, "3");
    assert_eq!(starts(), 5);

    kubectl.run("scale replicaset/r --replicas=1").ok();
    cluster.is(
        "replicaset/r",
        "{.status.replicas} {.status.readyReplicas}",
        "1 1",
    );
    eventually("two pods are gone", || match names().len() {
        1 => Ok(()),
        left => Err(left),
    });
    kubectl
        .run("delete replicaset r --timeout=60s --cascade=foreground")
        .ok();
    assert_eq!(names(), Vec::<String>::new());
    cluster.is(
        &format!("pod/{free}"),
        "{.status.phase} {.status.containerStatuses[0].restartCount}",
        "Running 0",
    );
    assert_eq!(starts(), 5, "nothing was started twice");
}

fn jobs_count_exits_and_disruptions(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let job = |name: &str, spec: &str, script: &str| {
        let pods = template(cluster, "restartPolicy: Never,", script);
        cluster.apply(&format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{spec}, template: {pods}}}\n"));
    };
    let why = "{.status.conditions[?(@.status==\"True\")].reason}";
    job(
        "indexed",
        "completions: 3, parallelism: 3, completionMode: Indexed",
        "echo $JOB_COMPLETION_INDEX >> ~/indexes",
    );
    cluster.is(
        "job/indexed",
        "{.status.succeeded} {.status.completedIndexes}",
        "3 0-2",
    );
    let policy = |rule: &str| format!("backoffLimit: 0, podFailurePolicy: {{rules: [{rule}]}}");
    let on_code =
        policy("{action: FailJob, onExitCodes: {containerName: c, operator: In, values: [42]}}");
    job(
        "fails",
        &on_code.replace("backoffLimit: 0", "backoffLimit: 6"),
        "exit 42",
    );
    eventually("the job fails at the first pod", || {
        let why = cluster.get("job/fails", why);
        if why.contains("PodFailurePolicy") {
            Ok(())
        } else {
            Err(why)
        }
    });
    assert_eq!(cluster.get("job/fails", "{.status.failed}"), "1");

    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: cron}}\nspec: {{schedule: '* * * * *', jobTemplate: {{spec: {{template: {}}}}}}}\n",
        template(cluster, "restartPolicy: Never,", "exit 0")
    ));
    // Its schedule is never finer than a minute; what it makes can be had at once.
    cluster
        .kubectl()
        .run("create job now --from=cronjob/cron")
        .ok();
    cluster.is("job/now", "{.status.succeeded}", "1");
}

fn cron_jobs_start_by_their_schedule(cluster: &Cluster) {
    let agent = cluster.start_node(&[]);
    let pods = template(cluster, "restartPolicy: Never,", "echo $HOSTNAME >> ~/cron");
    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: cron}}\nspec: {{schedule: '* * * * *', \
         concurrencyPolicy: Forbid, jobTemplate: {{spec: {{template: {pods}}}}}}}\n"
    ));
    cluster.is("cronjob/cron", "{.status.active[*].name}", "");
    let path = "{.items[0].metadata.name} {.items[0].status.succeeded}";
    let done = eventually_within(Duration::from_secs(150), "a job of the schedule", || {
        let found = cluster.get("jobs", path);
        if found.ends_with(" 1") {
            Ok(found)
        } else {
            Err(found)
        }
    });
    assert!(done.starts_with("cron-"), "{done}");
    let lines = std::fs::read_to_string(agent.home().join("cron")).expect("it ran");
    assert_eq!(lines.lines().count(), 1);
    cluster.kubectl().run("delete cronjob cron").ok();
}

fn pods_of_a_lost_node_are_evicted_and_nothing_is_doubled(cluster: &Cluster) {
    let kubeconfig = cluster.dir().join("proxy.kubeconfig");
    let proxy = Proxy::before(cluster.kubeconfig(), &kubeconfig).expect("a proxy");
    let lost = cluster.agent_with(&kubeconfig, "lost").start();
    cluster.ready("lost");
    let tolerate = |key: &str| {
        format!(
            "{{key: node.kubernetes.io/{key}, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}"
        )
    };
    let (unreachable, not_ready) = (tolerate("unreachable"), tolerate("not-ready"));
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  replicas: 2\n  \
         selector: {{matchLabels: {{app: a}}}}\n  template:\n    metadata: {{labels: {{app: a}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 2\n      tolerations: [{unreachable}, {not_ready}]\n      \
         containers: [{{name: c, image: host, command: [bash, -c, 'echo $BASHPID >> ~/pids; sleep infinity']}}]\n"
    ));
    let kubectl = cluster.kubectl();
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();
    let pids = |agent: &Agent| {
        let text = std::fs::read_to_string(agent.home().join("pids")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let runs = |pid: &String| std::path::Path::new("/proc").join(pid).exists();
    let first = pids(&lost);
    assert_eq!(first.len(), 2);
    let other = cluster.agent("other").start();
    cluster.ready("other");
    proxy.set(Line::Cut);
    // The controller gives the node up, evicts, and the pods come up elsewhere.
    eventually_within(
        Duration::from_secs(180),
        "pods run on the other node",
        || {
            let found = pids(&other);
            if found.len() == 2 { Ok(()) } else { Err(found) }
        },
    );
    let name = cluster.node("lost");
    assert_eq!(
        cluster.get(
            &format!("node/{name}"),
            "{.status.conditions[?(@.type==\"Ready\")].status}"
        ),
        "Unknown"
    );
    assert!(first.iter().all(runs), "the agent knows nothing of it yet");
    proxy.set(Line::Up);
    cluster.ready("lost");
    eventually("the old pods end", || {
        let left: Vec<_> = first.iter().filter(|pid| runs(pid)).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err((format!("{left:?}"), lost.log()))
        }
    });
    let bound = || {
        let path = "{range .items[*]}{.spec.nodeName}{\"\\n\"}{end}";
        let found = cluster.get("pods", path);
        found.lines().filter(|node| *node == name).count()
    };
    eventually("their objects go", || match bound() {
        0 => Ok(()),
        left => Err(left),
    });
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();
    assert_eq!(pids(&other).len(), 2, "nothing was started twice");
    assert_eq!(pids(&lost), first);
    eventually("the taints go", || {
        let taints = cluster.get(&format!("node/{name}"), "{.spec.taints[*].key}");
        if taints.is_empty() {
            Ok(())
        } else {
            Err(taints)
        }
    });
}

fn a_job_ignores_the_end_of_a_walltime(cluster: &Cluster) {
    let first = cluster.agent("n").args(&["--drain-window", "5s"]).start();
    cluster.ready("n");
    let pods = template(
        cluster,
        "restartPolicy: Never,",
        "[ -e ~/again ] && exit 0; touch ~/again; sleep 1000",
    );
    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec: {{backoffLimit: 0, podFailurePolicy: {{rules: \
         [{{action: Ignore, onPodConditions: [{{type: DisruptionTarget, status: 'True'}}]}}]}}, template: {pods}}}\n"
    ));
    cluster.is("job/j", "{.status.active} {.status.ready}", "1 1");
    first.signal(nix::sys::signal::Signal::SIGUSR1);
    cluster.node_is(
        "n",
        "{.status.conditions[?(@.type==\"Ready\")].status}",
        "False",
    );
    let _second = cluster
        .agent("n")
        .env("HOME", &first.home().to_string_lossy())
        .start();
    cluster.is("job/j", "{.status.succeeded}", "1");
    assert_eq!(
        cluster.get("job/j", "{.status.failed}"),
        "",
        "the first pod's end was no failure of the job"
    );
}

fn drain_respects_budgets_and_a_taint_evicts(cluster: &Cluster) {
    let _agent = cluster.start_node(&[]);
    let pods = template(cluster, "", SERVE);
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec: {{replicas: 2, selector: {{matchLabels: {{app: a}}}}, template: {pods}}}\n\
         ---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: b}}\nspec: {{minAvailable: 2, selector: {{matchLabels: {{app: a}}}}}}\n"
    ));
    let kubectl = cluster.kubectl();
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();
    cluster.is(
        "pdb/b",
        "{.status.currentHealthy} {.status.disruptionsAllowed}",
        "2 0",
    );
    let node = cluster.node("n");
    let drain = format!("drain {node} --ignore-daemonsets --timeout=8s --pod-selector=app=a");
    let said = kubectl.run(&drain).fails_with(1);
    assert!(
        said.contains("would violate the pod's disruption budget"),
        "{said}"
    );
    cluster.is("deployment/d", "{.status.readyReplicas}", "2");
    kubectl.run("delete pdb b").ok();
    kubectl.run(&drain.replace("8s", "60s")).ok();
    let bound = || {
        kubectl
            .run(&format!(
                "get pods --field-selector spec.nodeName={node} -o name"
            ))
            .ok()
    };
    eventually("nothing is left on the node", || {
        let left = bound();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    kubectl.run(&format!("uncordon {node}")).ok();
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();

    let before = bound();
    kubectl
        .run(&format!("taint node {node} out=now:NoExecute"))
        .ok();
    eventually("the taint evicts", || {
        let now = bound();
        if before.lines().any(|pod| now.contains(pod)) {
            Err(now)
        } else {
            Ok(())
        }
    });
    kubectl.run(&format!("taint node {node} out-")).ok();
    kubectl
        .run("rollout status deployment/d --timeout=120s")
        .ok();
}
