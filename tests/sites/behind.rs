//! What containers of an engine behind the hostpipe have: images of a registry with a password, limits that hold,
//! usage that is told.

use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use testkit::{eventually, eventually_within, find_program, skip};
use vk_cmd::quantity::Quantity;

use crate::site::{Reader, Row, Site, embedded};

const PASSWORD: &str = "hunter2-of-the-registry";
/// Holds so many bytes in one variable, and stays.
const HOLDER: &str =
    "x=$(head -c 80000000 /dev/zero | tr '\\\\0' x); echo holds; while :; do sleep 1; done";

fn told(site: &Site, pod: &str, wanted: &str) {
    eventually_within(
        Duration::from_secs(120),
        &format!("an event {wanted:?}"),
        || {
            let path = r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#;
            let of = format!("--field-selector=involvedObject.name={pod}");
            let all = site
                .kubectl
                .words(&["get", "events", &of, "-o", path])
                .stdout;
            if all.lines().any(|line| line.starts_with(wanted)) {
                Ok(())
            } else {
                Err((all, site.log()))
            }
        },
    );
}

/// Bytes in use of a pod's container, once they are told, as the metrics API tells them.
fn usage(site: &Site, pod: &str, at_least: u64) -> u64 {
    let what = format!("the usage of {pod}");
    let path = format!("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/{pod}");
    eventually_within(Duration::from_secs(120), &what, || {
        let said = site.kubectl.run(&path);
        let found: Value = serde_json::from_str(&said.stdout).map_err(|_| format!("{said:?}"))?;
        let container = &found["containers"][0];
        let memory = container["usage"]["memory"].as_str().unwrap_or_default();
        let memory = Quantity::parse(memory).and_then(Quantity::to_units);
        match memory.filter(|memory| *memory >= at_least) {
            Some(memory) => Ok(memory),
            None => Err(format!("{container}")),
        }
    })
}

#[test]
fn a_private_image_runs_within_its_limits_and_is_measured() {
    if find_program("htpasswd").is_none() {
        return skip!("htpasswd (apache2-utils) is missing");
    }
    let plane = embedded();
    let mut site = match Site::new(Row::Jiriaf2301, &plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let image = site.world.private_registry("user", PASSWORD);
    let argv = site.world.record_docker();
    site.tunnels_by_hand();
    site.reader(Reader::Serve);
    site.agent(Reader::Serve, "");
    let apply = |name: &str, image: &str, policy: &str, command: &str, memory: &str, more: &str| {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  nodeName: vk-xxx\n  \
             automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 2\n{more}  containers:\n  - name: c\n    \
             image: '{image}'\n    imagePullPolicy: {policy}\n    command: [bash, -c, \"{command}\"]\n    \
             resources: {{limits: {{memory: {memory}, cpu: 500m}}}}\n"
        );
        site.kubectl.pipe("apply -f -", &pod).ok();
    };
    // A stranger gets no image.
    apply("stranger", &image, "IfNotPresent", "true", "1Gi", "");
    told(
        &site,
        "stranger",
        &format!("Failed: Failed to pull image {image:?}: "),
    );
    // Who knows the password does, through the pipe.
    let login = format!(
        "create secret docker-registry login --docker-server=127.0.0.72:5000 --docker-username=user --docker-password={PASSWORD}"
    );
    site.kubectl.run(&login).ok();
    let secrets = "  imagePullSecrets: [{name: login}]\n";
    apply("friend", &image, "IfNotPresent", HOLDER, "200Mi", secrets);
    told(
        &site,
        "friend",
        &format!("Pulling: Pulling image {image:?}"),
    );
    told(
        &site,
        "friend",
        &format!("Pulled: Successfully pulled image {image:?} in "),
    );
    site.is("pod/friend", "{.status.phase}", "Running");
    let path = "jsonpath={.status.containerStatuses[0].imageID}";
    let id = site
        .kubectl
        .words(&["get", "pod", "friend", "-o", path])
        .ok();
    assert!(id.starts_with("127.0.0.72:5000/team/tool@sha256:"), "{id}");
    // It is there now, and asked for all the same.
    apply("always", &image, "Always", "echo ran", "200Mi", secrets);
    told(
        &site,
        "always",
        &format!("Pulled: Successfully pulled image {image:?} in "),
    );
    site.ends_with("always", "0", "ran");
    // The engine holds the limits.
    let uid = site
        .kubectl
        .run("get pod friend -o jsonpath={.metadata.uid}")
        .ok();
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}}";
    let name = format!("vk-cmd-{uid}-c-0");
    let found = site
        .world
        .docker_does(&["inspect", "-f", limits, &name])
        .ok();
    assert_eq!(found.trim(), "209715200 50000 100000");
    // The agent sees no process of the container, and tells what it uses.
    let memory = usage(&site, "friend", 80_000_000);
    assert!(memory < 209_715_200, "{memory}");
    apply("greedy", &image, "Never", HOLDER, "40Mi", "");
    site.is(
        "pod/greedy",
        "{.status.containerStatuses[0].state.terminated.reason}",
        "OOMKilled",
    );
    // The same for a process of the host.
    apply("process", "host", "IfNotPresent", HOLDER, "200Mi", "");
    usage(&site, "process", 80_000_000);
    apply("hungry", "host", "IfNotPresent", HOLDER, "40Mi", "");
    site.is(
        "pod/hungry",
        "{.status.containerStatuses[0].state.terminated.reason}",
        "OOMKilled",
    );
    // Nobody was told the password who should not have been.
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("user:{PASSWORD}"));
    let argv = std::fs::read_to_string(&argv).expect("a list");
    assert!(argv.contains("pull") && argv.contains(&image), "{argv}");
    let logs = site.log() + &site.world.log("reader.log");
    for secret in [PASSWORD, &encoded] {
        assert!(!argv.contains(secret) && !logs.contains(secret));
        let line = format!("! grep -rlF -e '{secret}' hostpipe .docker 2>/dev/null");
        site.world.types(&line);
    }
    for pod in ["stranger", "friend", "process"] {
        site.kubectl
            .run(&format!("delete pod {pod} --timeout=60s"))
            .ok();
    }
    let left = eventually("the engine keeps nothing", || {
        let said = site
            .world
            .docker_does(&["ps", "-a", "--format={{.Names}}"])
            .stdout;
        let left: Vec<String> = { said.lines() }
            .filter(|name| name.starts_with("vk-cmd-"))
            .map(str::to_owned)
            .collect();
        if left.is_empty() { Ok(left) } else { Err(left) }
    });
    assert!(left.is_empty());
    site.ends();
}
