//! What pods with ordinary images see, the same on every engine.

use std::sync::atomic::{AtomicU32, Ordering};

use testkit::{Kubectl, Up, eventually, skip};

use crate::parts::{self, IMAGE, Site};

/// A pod with the image; `more` goes into its container.
fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 5\n  automountServiceAccountToken: false\n  containers:\n  - name: c\n    \
         image: {IMAGE}\n    imagePullPolicy: IfNotPresent\n{more}"
    )
}

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {file: from the config map}
---
apiVersion: v1
kind: Secret
metadata: {name: sec}
stringData: {token: s3cret-of-the-pod}
---
";

fn phase(kubectl: &Kubectl, name: &str, wanted: &str) {
    eventually(&format!("pod {name} is {wanted}"), || {
        let phase = kubectl
            .run(&format!("get pod {name} -o jsonpath={{.status.phase}}"))
            .stdout;
        if phase == wanted {
            Ok(())
        } else {
            Err((phase, kubectl.run(&format!("describe pod {name}")).stdout))
        }
    });
}

fn state(kubectl: &Kubectl, name: &str, path: &str) -> String {
    kubectl
        .run(&format!(
            "get pod {name} -o jsonpath={{.status.containerStatuses[0].state.{path}}}"
        ))
        .stdout
}

/// Command lines of all processes.
fn command_lines() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .collect()
}

/// A number of seconds that nobody else sleeps for: tests run side by side and look at the same processes.
fn long() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    600_000 + std::process::id() % 1000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether somebody sleeps for so long.
fn sleeps(seconds: u32) -> bool {
    let line = format!("sleep {seconds}");
    command_lines().iter().any(|it| it.trim_end() == line)
}

fn everything(site: &Site) {
    let (up, kubectl) = site.up();
    let Some(kubectl) = kubectl else {
        return skip!("kubectl is missing");
    };
    sees_what_it_asks_for(&kubectl);
    if site.entry_point {
        runs_the_images_own_command(&kubectl);
    }
    let seconds = long();
    hides_its_secrets_and_takes_commands(&kubectl, seconds);
    ends_with_its_delete(&kubectl, seconds);
    ends_with_its_dead_supervisor(&kubectl);
    is_found_again_by_the_next_agent(up, site);
    assert_eq!(
        site.left(),
        Vec::<String>::new(),
        "the engine keeps nothing"
    );
}

/// Output, exit code, environment, volumes at their own paths, working directory.
fn sees_what_it_asks_for(kubectl: &Kubectl) {
    let more = r#"    command: [sh, -c]
    args:
    - |
      echo "token=$TOKEN x=$X "'expanded=$(X) image='"$FROM_IMAGE"; cat /data/file; echo; pwd
      echo of the container > /scratch/mine && cat /scratch/mine; echo complaint >&2; exit 7
    workingDir: /mnt
    env:
    - {name: X, value: "a $b \"d\""}
    - {name: PATH, value: "/own:/bin:/usr/bin"}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: sec, key: token}}}
    volumeMounts: [{name: conf, mountPath: /data}, {name: scratch, mountPath: /scratch}]
  volumes: [{name: conf, configMap: {name: conf}}, {name: scratch, emptyDir: {}}]
"#;
    kubectl
        .pipe("apply -f -", &format!("{OBJECTS}{}", pod("seen", more)))
        .ok();
    phase(kubectl, "seen", "Failed");
    let logs = kubectl.run("logs seen").ok();
    let wanted = r#"token=s3cret-of-the-pod x=a $b "d" expanded=a $b "d" image="#;
    assert!(logs.contains(wanted), "{logs}");
    for line in [
        "from the config map",
        "/mnt",
        "of the container",
        "complaint",
    ] {
        assert!(logs.lines().any(|it| it == line), "{line} in {logs}");
    }
    assert_eq!(
        logs.lines().count(),
        5,
        "nothing of the engine's stands in between: {logs}"
    );
    assert_eq!(state(kubectl, "seen", "terminated.exitCode"), "7");
    assert_eq!(state(kubectl, "seen", "terminated.reason"), "Error");
}

fn runs_the_images_own_command(kubectl: &Kubectl) {
    kubectl
        .pipe("apply -f -", &pod("entry", "    args: [one, two]\n"))
        .ok();
    phase(kubectl, "entry", "Succeeded");
    assert_eq!(kubectl.run("logs entry").ok(), "entry one two\n");
}

fn hides_its_secrets_and_takes_commands(kubectl: &Kubectl, seconds: u32) {
    let more = "    command: [sh, -c, 'echo up; exec sleep @']
    env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: sec, key: token}}}]
    readinessProbe: {exec: {command: [sh, -c, 'test ${#TOKEN} = 17 && test -x /bin/busybox']}, periodSeconds: 1}
";
    let more = more.replace('@', &seconds.to_string());
    kubectl.pipe("apply -f -", &pod("runs", &more)).ok();
    // The probe runs where the container's own files and variables are.
    kubectl
        .run("wait --for=condition=Ready pod/runs --timeout=60s")
        .ok();
    let telling: Vec<String> = command_lines()
        .into_iter()
        .filter(|it| it.contains("s3cret-of-the-pod"))
        .collect();
    assert_eq!(telling, Vec::<String>::new(), "no argument tells a secret");
}

fn ends_with_its_delete(kubectl: &Kubectl, seconds: u32) {
    assert!(sleeps(seconds));
    kubectl.run("delete pod runs --timeout=60s").ok();
    assert!(!sleeps(seconds), "its process is gone with the object");
}

/// A supervisor that is killed takes its container with it, wherever the engine keeps that.
fn ends_with_its_dead_supervisor(kubectl: &Kubectl) {
    let seconds = long();
    let more = format!("    command: [sleep, '{seconds}']\n");
    kubectl.pipe("apply -f -", &pod("lost", &more)).ok();
    phase(kubectl, "lost", "Running");
    let uid = kubectl.run("get pod lost -o jsonpath={.metadata.uid}").ok();
    let shim = std::fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
            (line.starts_with("vk-cmd\0shim") && line.contains(&uid)).then_some(pid)
        });
    let shim = nix::unistd::Pid::from_raw(shim.expect("a shim"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("it lives");
    phase(kubectl, "lost", "Failed");
    assert_eq!(
        state(kubectl, "lost", "terminated.reason"),
        "ContainerStatusUnknown"
    );
    eventually("its processes end", || {
        if sleeps(seconds) { Err(()) } else { Ok(()) }
    });
}

/// The agent dies, the container does not; the next agent knows how it ends.
fn is_found_again_by_the_next_agent(up: Up, site: &Site) {
    let kubectl = up.kubectl().expect("there was one");
    let more =
        "    command: [sh, -c, 'while test ! -e /scratch/go; do sleep 0.1; done; echo went; exit 3']
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
";
    kubectl.pipe("apply -f -", &pod("adopted", more)).ok();
    phase(&kubectl, "adopted", "Running");
    let uid = kubectl
        .run("get pod adopted -o jsonpath={.metadata.uid}")
        .ok();
    let place = up.kill();
    let file = site.dir.path().join("here.yaml");
    let up = Up::of(crate::VK_CMD)
        .args(&["--site-file", file.to_str().expect("text")])
        .at(&place)
        .start();
    let kubectl = up.kubectl().expect("there was one");
    let volumes = format!("pods/{uid}/volumes/scratch");
    let scratch = walk(&up.state().join("node"))
        .into_iter()
        .find(|path| path.ends_with(&volumes));
    std::fs::write(scratch.expect("the volume").join("go"), "").expect("written");
    phase(&kubectl, "adopted", "Failed");
    assert_eq!(kubectl.run("logs adopted").ok(), "went\n");
    assert_eq!(state(&kubectl, "adopted", "terminated.exitCode"), "3");
    let restarts = "get pod adopted -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl.run(restarts).ok(), "0");
}

/// Directories below `dir`, five deep.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (mut all, mut level) = (Vec::new(), vec![dir.to_owned()]);
    for _ in 0..6 {
        let below = level
            .iter()
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .flatten();
        level = below
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && !path.is_symlink())
            .collect();
        all.extend(level.clone());
    }
    all
}

macro_rules! engine {
    ($name:ident) => {
        #[test]
        fn $name() {
            match parts::$name() {
                Ok(site) => everything(&site),
                Err(why) => skip!("{why}"),
            }
        }
    };
}

engine!(docker);
engine!(podman);
engine!(apptainer);
engine!(charliecloud);
engine!(shifter);

#[test]
fn docker_runs_as_other_users_and_says_why_it_cannot_start() {
    let site = match parts::docker() {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let (_up, kubectl) = site.up();
    let Some(kubectl) = kubectl else {
        return skip!("kubectl is missing");
    };
    let more = "    command: [sh, -c, 'id -u; id -g; touch /x']
    securityContext: {runAsUser: 1234, runAsGroup: 55, readOnlyRootFilesystem: true}
";
    kubectl.pipe("apply -f -", &pod("user", more)).ok();
    phase(&kubectl, "user", "Failed");
    let logs = kubectl.run("logs user").ok();
    assert!(
        logs.starts_with("1234\n55\n") && logs.contains("Read-only file system"),
        "{logs}"
    );

    // Whom the image names is root.
    let more = "    command: [id]\n    securityContext: {runAsNonRoot: true}\n";
    kubectl.pipe("apply -f -", &pod("rooted", more)).ok();
    let message = eventually("root is refused", || {
        let found = state(&kubectl, "rooted", "waiting['reason','message']");
        let message = found.strip_prefix("CreateContainerConfigError ");
        message.map(str::to_owned).ok_or(found.clone())
    });
    assert!(
        message.starts_with(
            "container has runAsNonRoot and image will run as root (pod: \"rooted_default("
        ),
        "{message}"
    );
    let more =
        "    command: [id, -u]\n    securityContext: {runAsNonRoot: true, runAsUser: 1234}\n";
    kubectl.pipe("apply -f -", &pod("other", more)).ok();
    phase(&kubectl, "other", "Succeeded");
    assert_eq!(kubectl.run("logs other").ok(), "1234\n");

    kubectl
        .pipe(
            "apply -f -",
            &pod("nothing", "    command: [/no/such/program]\n"),
        )
        .ok();
    phase(&kubectl, "nothing", "Failed");
    assert_eq!(
        state(&kubectl, "nothing", "terminated.reason"),
        "StartError"
    );
    assert_eq!(state(&kubectl, "nothing", "terminated.exitCode"), "128");
    let message = state(&kubectl, "nothing", "terminated.message");
    assert!(message.contains("/no/such/program"), "{message}");
    assert_eq!(site.left(), Vec::<String>::new());
}
