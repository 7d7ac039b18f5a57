//! Where images come from: policies, a registry with a password, and what is told of it.

use std::process::Command;

use testkit::{Kubectl, Output, eventually, find_program, skip};

use crate::parts::{self, IMAGE};

fn pod(name: &str, image: &str, policy: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n{more}  containers:\n  \
         - {{name: c, image: '{image}', imagePullPolicy: {policy}, command: [echo, ran]}}\n"
    )
}

fn waits(kubectl: &Kubectl, name: &str, wanted: &str) -> String {
    eventually(&format!("pod {name} waits with {wanted}"), || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting['reason','message']}";
        let said = kubectl.words(&["get", "pod", name, "-o", path]).stdout;
        match said.strip_prefix(wanted) {
            Some(message) => Ok(message.trim().to_owned()),
            None => Err(said),
        }
    })
}

fn events(kubectl: &Kubectl, name: &str) -> String {
    let path = r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#;
    let of = format!("--field-selector=involvedObject.name={name}");
    kubectl.words(&["get", "events", &of, "-o", path]).ok()
}

fn told(kubectl: &Kubectl, name: &str, wanted: &str) {
    eventually(&format!("an event {wanted:?}"), || {
        let all = events(kubectl, name);
        if all.lines().any(|line| line.starts_with(wanted)) {
            Ok(())
        } else {
            Err(all)
        }
    });
}

#[test]
fn images_are_pulled_by_policy_and_with_secrets() {
    let site = match parts::docker() {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let (Some(registry), Some(htpasswd)) =
        (find_program("docker-registry"), find_program("htpasswd"))
    else {
        return skip!("docker-registry or htpasswd (apache2-utils) is missing");
    };
    let dir = site.dir.path();
    // A registry that wants a password, on a free port.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|it| it.local_addr())
        .expect("a port")
        .port();
    let passwords = Output::of(Command::new(htpasswd).args(["-Bbn", "user", "hunter2"])).ok();
    std::fs::write(dir.join("htpasswd"), passwords).expect("written");
    let config = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {0}/registry}}}}\nhttp: {{addr: \
         '127.0.0.1:{port}'}}\nauth: {{htpasswd: {{realm: r, path: {0}/htpasswd}}}}\n",
        dir.display()
    );
    std::fs::write(dir.join("registry.yaml"), config).expect("written");
    let _registry = parts::daemon(
        Command::new(registry)
            .arg("serve")
            .arg(dir.join("registry.yaml")),
        &dir.join("registry.log"),
    );
    eventually("the registry listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop)
    });
    let image = format!("127.0.0.1:{port}/team/tool:1");
    let host = format!("unix://{}", dir.join("s").display());
    let docker = |line: &[&str]| {
        let mut command = Command::new("docker");
        command
            .args([
                "--config",
                dir.join("login").to_str().expect("text"),
                "-H",
                &host,
            ])
            .args(line);
        Output::of(&mut command)
    };
    docker(&[
        "login",
        "-u",
        "user",
        "-p",
        "hunter2",
        &format!("127.0.0.1:{port}"),
    ])
    .ok();
    docker(&["tag", IMAGE, &image]).ok();
    docker(&["push", &image]).ok();
    docker(&["rmi", &image]).ok();

    let (_up, kubectl) = site.up();
    let Some(kubectl) = kubectl else {
        return skip!("kubectl is missing");
    };
    // Never: it is not there.
    kubectl
        .pipe("apply -f -", &pod("never", &image, "Never", ""))
        .ok();
    let message = waits(&kubectl, "never", "ErrImageNeverPull");
    assert_eq!(
        message,
        format!("Container image {image:?} is not present with pull policy of Never")
    );

    // Without the password: refused, then backed off.
    kubectl
        .pipe("apply -f -", &pod("stranger", &image, "IfNotPresent", ""))
        .ok();
    told(
        &kubectl,
        "stranger",
        &format!("Pulling: Pulling image {image:?}"),
    );
    told(
        &kubectl,
        "stranger",
        &format!("Failed: Failed to pull image {image:?}: "),
    );
    told(&kubectl, "stranger", "Failed: Error: ErrImagePull");
    let message = waits(&kubectl, "stranger", "ImagePullBackOff");
    assert!(
        message.starts_with(&format!("Back-off pulling image {image:?}: ")),
        "{message}"
    );
    told(&kubectl, "stranger", "BackOff: Back-off pulling image");

    // With it: pulled, and then there.
    let login = format!(
        "create secret docker-registry login --docker-server=127.0.0.1:{port} --docker-username=user --docker-password=hunter2"
    );
    kubectl.run(&login).ok();
    let more = "  imagePullSecrets: [{name: login}, {name: missing}]\n";
    kubectl
        .pipe("apply -f -", &pod("friend", &image, "IfNotPresent", more))
        .ok();
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/friend --timeout=60s")
        .ok();
    assert_eq!(kubectl.run("logs friend").ok(), "ran\n");
    told(
        &kubectl,
        "friend",
        &format!("Pulled: Successfully pulled image {image:?} in "),
    );
    told(
        &kubectl,
        "friend",
        "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (missing)",
    );
    // The one that was told Never finds it now.
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/never --timeout=60s")
        .ok();
    told(
        &kubectl,
        "never",
        &format!("Pulled: Container image {image:?} already present on machine"),
    );
}

#[test]
fn a_long_pull_is_told_to_be_under_way() {
    let mut site = match parts::docker() {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    // An engine whose pull takes as long as we like, and then has the image.
    let (go, program) = (site.dir.path().join("go"), site.dir.path().join("slow"));
    let docker = find_program("docker").expect("dockerd is here");
    let script = format!(
        "#!/bin/sh\nlast=\ncase \" $* \" in *' pull '*)\n  for last; do :; done\n  echo '1a2b: layer 1 of 3'\n  \
         while [ ! -e {} ]; do sleep 0.1; done\n  exec {1} tag {IMAGE} \"$last\" ;;\nesac\nexec {1} \"$@\"\n",
        go.display(),
        docker.display()
    );
    std::fs::write(&program, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("chmod");
    site.profile
        .push_str(&format!("  program: {}\n", program.display()));
    let (_up, kubectl) = site.up();
    let Some(kubectl) = kubectl else {
        return skip!("kubectl is missing");
    };
    let image = "example.test/slow:1";
    kubectl
        .pipe("apply -f -", &pod("slow", image, "IfNotPresent", ""))
        .ok();
    let wanted = format!("Pulling: Still pulling image {image:?} after 10s: 1a2b: layer 1 of 3");
    told(&kubectl, "slow", &wanted);
    std::fs::write(&go, "").expect("written");
    kubectl
        .run("wait --for=jsonpath={.status.phase}=Succeeded pod/slow --timeout=60s")
        .ok();
    told(
        &kubectl,
        "slow",
        &format!("Pulled: Successfully pulled image {image:?} in 1"),
    );
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    let site = match parts::charliecloud() {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let (_up, kubectl) = site.up();
    let Some(kubectl) = kubectl else {
        return skip!("kubectl is missing");
    };
    kubectl
        .pipe(
            "apply -f -",
            &pod("bad", "Not An Image", "IfNotPresent", ""),
        )
        .ok();
    let message = waits(&kubectl, "bad", "InvalidImageName");
    assert!(
        message.contains("couldn't parse image name \"Not An Image\""),
        "{message}"
    );
}
