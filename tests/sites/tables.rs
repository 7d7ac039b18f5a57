//! Tables 2 and 3 of the documents, step by step, at each of the three sites: through real tunnels, from the control
//! plane to the output in `kubectl logs`.
//!
//! The images are built on the spot under the documented names. Shifter is a stand-in over ch-run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Kubectl, Output, RealCluster, Up, eventually, eventually_within, skip};

use crate::VK_CMD;
use crate::parts::Daemon;
use crate::world::{IMAGE, PLANE, World, free_port};

/// A row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Jiriaf2301,
    Ifarm,
    Perlmutter,
}

impl Row {
    /// Table 2, step 3.
    fn step_3(self) -> &'static str {
        match self {
            Self::Jiriaf2301 => {
                "docker run -d -v $HOME/hostpipe:/root/hostpipe --network=\"host\" -e NODENAME=$NODENAME jlabtsai/vk-cmd:tag"
            }
            Self::Ifarm => "apptainer run docker://jlabtsai/vk-cmd:tag",
            Self::Perlmutter => "shifter --image=docker:jlabtsai/vk-cmd:tag --entrypoint",
        }
    }

    /// The script of `run/` that does the same.
    fn script(self) -> String {
        let (script, image) = match self {
            Self::Jiriaf2301 => ("docker.sh", IMAGE.to_owned()),
            Self::Ifarm => ("farm.sh", format!("docker://{IMAGE}")),
            Self::Perlmutter => ("shifter.sh", format!("docker:{IMAGE}")),
        };
        format!("{script} $NODENAME {image}")
    }

    /// Table 3.
    fn command(self) -> &'static str {
        match self {
            Self::Jiriaf2301 => "echo 'docker run godlovedc/lolcow:latest' > /root/hostpipe/vk-cmd",
            Self::Ifarm => {
                "echo 'apptainer run docker://sylabsio/lolcow:latest' > $HOME/hostpipe/vk-cmd"
            }
            Self::Perlmutter => {
                "echo 'shifter --image=godlovedc/lolcow:latest --entrypoint' > $HOME/hostpipe/vk-cmd"
            }
        }
    }
}

/// Who reads the pipe on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Serve,
    Loop,
    /// `run/*.sh` starts it.
    Script,
}

/// A control plane here.
enum Plane {
    Embedded(Up),
    Real(RealCluster),
}

impl Plane {
    fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Embedded(up) => up.kubeconfig.clone(),
            Self::Real(cluster) => cluster.kubeconfig(),
        }
    }

    fn kubectl(&self) -> Option<Kubectl> {
        match self {
            Self::Embedded(up) => up.kubectl(),
            Self::Real(cluster) => cluster.kubectl(),
        }
    }
}

/// A row at work.
struct Site {
    row: Row,
    world: World,
    kubectl: Kubectl,
    api_port: u16,
    kubelet_port: u16,
    reader: Option<Daemon>,
    agent: Option<Daemon>,
    container: String,
}

const OLD_LOOP: &str = "mkfifo -m 600 hostpipe/vk-cmd && while true; do eval \"$(cat $HOME/hostpipe/vk-cmd)\" > \
                        $HOME/hostpipe/pipeline.out 2> $HOME/hostpipe/pipeline.err; done";

impl Site {
    fn new(row: Row, plane: &Plane) -> Result<Self, String> {
        let kubectl = plane.kubectl().ok_or("kubectl is missing")?;
        let mut world = World::new()?;
        world.docker();
        match row {
            Row::Jiriaf2301 => {}
            Row::Ifarm => world.hub(),
            Row::Perlmutter => world.gateway(),
        }
        let kubeconfig = std::fs::read_to_string(plane.kubeconfig()).expect("a kubeconfig");
        let server = kubeconfig
            .lines()
            .find_map(|line| line.trim().strip_prefix("server: "));
        let port = server.and_then(|url| url.rsplit(':').next());
        let api_port = port.and_then(|port| port.trim_matches(['"', '/']).parse().ok());
        world.put(".kube/config", &kubeconfig);
        Ok(Self {
            row,
            world,
            kubectl,
            api_port: api_port.expect("a port"),
            kubelet_port: free_port(),
            reader: None,
            agent: None,
            container: String::new(),
        })
    }

    /// Step 0, by hand.
    fn tunnels_by_hand(&self) {
        let (api, kubelet) = (self.api_port, self.kubelet_port);
        self.world.types(&format!(
            "export APISERVER_PORT={api} KUBELET_PORT={kubelet} CONTROL_PLANE_IP=control-plane\n\
             ssh -NfL $APISERVER_PORT:localhost:$APISERVER_PORT $CONTROL_PLANE_IP\n\
             ssh -NfR *:$KUBELET_PORT:localhost:$KUBELET_PORT $CONTROL_PLANE_IP"
        ));
    }

    /// Step 1.
    fn reader(&mut self, reader: Reader) {
        self.world.types("mkdir -p -m 700 hostpipe");
        self.reader = match reader {
            Reader::Serve => Some(
                self.world
                    .leaves("exec vk-cmd hostpipe serve", "reader.log"),
            ),
            Reader::Loop => Some(self.world.leaves(OLD_LOOP, "reader.log")),
            Reader::Script => return,
        };
        let fifo = self.world.home_dir().join("hostpipe/vk-cmd");
        eventually("a FIFO", || {
            fifo.exists()
                .then_some(())
                .ok_or(self.world.log("reader.log"))
        });
    }

    /// Steps 2 and 3. `more` is what the shell has exported besides.
    fn agent(&mut self, reader: Reader, more: &str) {
        let own = format!(
            "VKUBELET_POD_IP={PLANE}\nKUBELET_PORT={}\n{more}",
            self.kubelet_port
        );
        let line = match reader {
            Reader::Script => self.row.script(),
            Reader::Serve | Reader::Loop => self.row.step_3().to_owned(),
        };
        if self.row == Row::Jiriaf2301 {
            // What this command line does not pass comes from the directory that it mounts.
            self.world.put("hostpipe/env", &own);
            if reader != Reader::Script {
                let kubeconfig =
                    std::fs::read_to_string(self.world.home_dir().join(".kube/config"));
                self.world
                    .put("hostpipe/kubeconfig", &kubeconfig.expect("a kubeconfig"));
            }
            let id = self.world.types(&format!("export NODENAME=vk-xxx\n{line}"));
            self.container = id.lines().last().expect("an id").to_owned();
        } else {
            let exported = own.replace('\n', " ");
            let line = format!("export NODENAME=vk-xxx {exported}\nexec {line}");
            self.agent = Some(self.world.leaves(&line, "agent.log"));
        }
        self.is(
            "node/vk-xxx",
            "{.status.conditions[?(@.type==\"Ready\")].status}",
            "True",
        );
    }

    fn log(&self) -> String {
        match self.row {
            Row::Jiriaf2301 => self.world.docker_does(&["logs", &self.container]).stderr,
            Row::Ifarm | Row::Perlmutter => self.world.log("agent.log"),
        }
    }

    #[track_caller]
    fn is(&self, object: &str, path: &str, wanted: &str) {
        let path = format!("jsonpath={path}");
        eventually_within(
            Duration::from_secs(180),
            &format!("{object} {path} is {wanted}"),
            || {
                let found = self.kubectl.words(&["get", object, "-o", &path]).stdout;
                if found == wanted {
                    Ok(())
                } else {
                    Err((found, self.log()))
                }
            },
        );
    }

    fn apply(&self, name: &str, image: &str, command: &str, more: &str) {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
             automountServiceAccountToken: false\n  nodeSelector: {{kubernetes.io/role: agent}}\n  \
             terminationGracePeriodSeconds: 5\n  tolerations: [{{key: virtual-kubelet.io/provider, value: mock, effect: \
             NoSchedule}}]\n  containers:\n  - {{name: c1, image: '{image}', imagePullPolicy: IfNotPresent, command: \
             {command}{more}}}\n  volumes: [{{name: conf, configMap: {{name: conf, optional: true}}}}]\n"
        );
        eventually("the pod is taken", || {
            let applied = self.kubectl.pipe("apply -f -", &pod);
            if applied.code == 0 {
                Ok(())
            } else {
                Err(applied)
            }
        });
    }

    fn ends_with(&self, name: &str, code: &str, said: &str) {
        self.is(
            &format!("pod/{name}"),
            "{.status.containerStatuses[0].state.terminated.exitCode}",
            code,
        );
        let logs = eventually("the logs come", || {
            let logs = self.kubectl.run(&format!("logs {name}"));
            if logs.code == 0 {
                Ok(logs.stdout)
            } else {
                Err((logs, self.log()))
            }
        });
        assert!(
            logs.lines().any(|line| line == said),
            "{said:?} in {logs:?}"
        );
    }

    /// Table 3, and what the issue of a managed container is: its code, its output, its end.
    fn runs_pods(&self) {
        let quoted = |line: &str| format!("[{}]", serde_json::Value::from(line));
        self.apply("cow", "lolcow", &quoted(self.row.command()), "");
        self.ends_with("cow", "7", "moo");
        let line = "echo 'echo here; exec sleep 707070' > $HOME/hostpipe/vk-cmd";
        self.apply("sleeper", "host", &quoted(line), "");
        let sleeps = || {
            let all = self.world.processes();
            all.iter()
                .any(|(_, line)| line.trim_end() == "sleep 707070")
        };
        eventually_within(Duration::from_secs(120), "it sleeps", || {
            if sleeps() { Ok(()) } else { Err(self.log()) }
        });
        self.kubectl.run("delete pod sleeper --timeout=60s").ok();
        assert!(!sleeps(), "its process is gone with the object");
    }

    /// An ordinary image, run by the site's engine behind the pipe, with volumes and a secret.
    fn runs_images(&self, image: &str) {
        let objects = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {file: from the config map}\n---\n\
                       apiVersion: v1\nkind: Secret\nmetadata: {name: sec}\nstringData: {token: s3cret}\n";
        self.kubectl.pipe("apply -f -", objects).ok();
        let command = r#"[sh, -c, 'cat /data/file; echo; echo "token=$TOKEN"; exit 7']"#;
        let more = ", env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: sec, key: token}}}], volumeMounts: [{name: \
                    conf, mountPath: /data}]";
        self.apply("image", image, command, more);
        self.ends_with("image", "7", "from the config map");
        let logs = self.kubectl.run("logs image").ok();
        assert!(logs.contains("token=s3cret"), "{logs}");
    }

    /// The end of the job: nothing is left, here or there.
    fn ends(mut self) {
        match self.row {
            Row::Jiriaf2301 => {
                self.world
                    .types(&format!("docker stop -t 60 {}", self.container));
            }
            Row::Ifarm | Row::Perlmutter => drop(self.agent.take()),
        }
        eventually("no process of the agent is left", || {
            let all = self.world.processes();
            let left: Vec<_> = all
                .iter()
                .filter(|(_, line)| line.contains("vk-cmd entrypoint"))
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?} {}", self.log()))
            }
        });
        let node = self.kubectl.run("get node vk-xxx -o name");
        assert_eq!(node.code, 1, "the node goes with the job: {node:?}");
        drop(self.reader.take());
        for (pid, line) in self.world.processes() {
            // Those that were started by hand, in the background.
            if line.starts_with("ssh -Nf")
                || line.contains("hostpipe serve")
                || line.contains("while true")
                || line.starts_with("cat ")
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        eventually("no process is left", || {
            let all = self.world.processes();
            let left: Vec<_> = all
                .iter()
                .filter(|(_, line)| !line.starts_with("sshd"))
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
        let sockets = self.world.home_dir().join("hostpipe/.vk/s");
        let left: Vec<_> = std::fs::read_dir(sockets)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        eventually("the far side listens no more", || {
            std::net::TcpStream::connect((PLANE, self.kubelet_port))
                .err()
                .ok_or("it listens")
        });
    }
}

fn embedded() -> Plane {
    Plane::Embedded(Up::of(VK_CMD).args(&["--no-node"]).start())
}

fn table(row: Row, reader: Reader, plane: &Plane) {
    let mut site = match Site::new(row, plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    site.tunnels_by_hand();
    site.reader(reader);
    site.agent(reader, "");
    site.runs_pods();
    match row {
        Row::Jiriaf2301 => site.runs_images("vk-sites/base:1"),
        Row::Ifarm => site.runs_images("jlabtsai/vk-cmd:tag"),
        // The stand-in makes no mount points.
        Row::Perlmutter => {}
    }
    let serve = reader == Reader::Serve;
    let fifo = site.world.home_dir().join("hostpipe/vk-cmd");
    site.ends();
    // The old loop never removed its own.
    assert!(
        !serve || !fifo.exists(),
        "the FIFO goes with the one that has made it"
    );
}

#[test]
fn jiriaf2301_with_the_serving_reader() {
    table(Row::Jiriaf2301, Reader::Serve, &embedded());
}

#[test]
fn jiriaf2301_with_the_old_loop() {
    table(Row::Jiriaf2301, Reader::Loop, &embedded());
}

#[test]
fn jiriaf2301_by_its_script() {
    table(Row::Jiriaf2301, Reader::Script, &embedded());
}

#[test]
fn ifarm_with_the_serving_reader() {
    table(Row::Ifarm, Reader::Serve, &embedded());
}

#[test]
fn ifarm_with_the_old_loop() {
    table(Row::Ifarm, Reader::Loop, &embedded());
}

#[test]
fn ifarm_by_its_script() {
    table(Row::Ifarm, Reader::Script, &embedded());
}

#[test]
fn perlmutter_with_the_serving_reader() {
    table(Row::Perlmutter, Reader::Serve, &embedded());
}

#[test]
fn perlmutter_with_the_old_loop() {
    table(Row::Perlmutter, Reader::Loop, &embedded());
}

#[test]
fn perlmutter_by_its_script() {
    table(Row::Perlmutter, Reader::Script, &embedded());
}

#[test]
fn the_three_sites_at_a_real_control_plane() {
    for row in [Row::Jiriaf2301, Row::Ifarm, Row::Perlmutter] {
        let Some(cluster) = RealCluster::builder().controllers().start() else {
            return;
        };
        table(row, Reader::Serve, &Plane::Real(cluster));
    }
}

/// Tunnels that the agent builds itself, cut in every way.
#[test]
fn a_cut_tunnel_heals_and_no_status_is_lost() {
    let plane = embedded();
    let mut site = match Site::new(Row::Perlmutter, &plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    site.reader(Reader::Serve);
    let profile = "name: quick\nbase: local\ntunnels: {keepAliveSeconds: 1, keepAliveCount: 3}\n";
    site.world.put("quick.yaml", profile);
    let own = format!(
        "CONTROL_PLANE_IP=control-plane\nAPISERVER_PORT={}\nVK_CMD_SITE_FILE=$HOME/quick.yaml\n",
        site.api_port
    );
    site.agent(Reader::Serve, &own);
    let tunnel = "{.status.conditions[?(@.type==\"TunnelReady\")].reason}";
    site.is("node/vk-xxx", tunnel, "TunnelUp");
    let ssh = |site: &World| {
        let all = site.processes();
        let found = all.iter().find(|(_, line)| line.starts_with("ssh -v"));
        Pid::from_raw(found.expect("our ssh").0)
    };
    for cut in ["SIGKILL", "SIGSTOP", "sshd", "link"] {
        let go = site.world.home_dir().join(format!("go-{cut}"));
        let line = format!(
            "while test ! -e {}; do sleep 0.1; done; echo went; exit 7",
            go.display()
        );
        site.apply(
            &cut.to_lowercase(),
            "host",
            &format!("[bash, -c, '{line}']"),
            "",
        );
        site.is(
            &format!("pod/{}", cut.to_lowercase()),
            "{.status.phase}",
            "Running",
        );
        let before = ssh(&site.world);
        match cut {
            "SIGKILL" => kill(before, Signal::SIGKILL).expect("it runs"),
            "SIGSTOP" => kill(before, Signal::SIGSTOP).expect("it runs"),
            "sshd" => site.world.stop_sshd(),
            _ => site.world.link("down"),
        }
        // It ends while nobody hears of it.
        std::fs::write(&go, "").expect("written");
        eventually_within(Duration::from_secs(120), "the old tunnel is gone", || {
            let alive = Path::new("/proc")
                .join(before.to_string())
                .join("exe")
                .read_link();
            if alive.is_err() {
                Ok(())
            } else {
                Err(site.log())
            }
        });
        match cut {
            "sshd" => site.world.start_sshd(),
            "link" => site.world.link("up"),
            _ => {}
        }
        site.ends_with(&cut.to_lowercase(), "7", "went");
        site.is("node/vk-xxx", tunnel, "TunnelUp");
    }
    site.ends();
}

/// What people do with the image besides running it.
#[test]
fn the_image_is_what_the_documents_say() {
    let mut world = match World::new() {
        Ok(world) => world,
        Err(why) => return skip!("{why}"),
    };
    world.docker();
    let inspect = |what: &str| {
        world
            .docker_does(&["image", "inspect", "-f", what, IMAGE])
            .ok()
    };
    for label in ["title", "version", "revision", "licenses", "source"] {
        let found = inspect(&format!(
            "{{{{index .Config.Labels \"org.opencontainers.image.{label}\"}}}}"
        ));
        assert!(found.trim().len() > 2, "{label}: {found:?}");
    }
    let run = |words: &[&str]| {
        let mut all = vec!["run", "--rm", "--network=host"];
        all.extend(words);
        world.docker_does(&all)
    };
    // Any user, a read-only root: it comes as far as its settings, which name what is missing.
    for how in [
        &["--user=4711:4711"][..],
        &["--read-only"],
        &["--read-only", "--user=4711"],
        &[],
    ] {
        let mut words = how.to_vec();
        words.extend([
            "-e",
            "KUBECONFIG=/no/such",
            "-e",
            "NODENAME=vk",
            "-e",
            "VK_CMD_SITE=local",
            IMAGE,
        ]);
        let said = run(&words).fails_with(2);
        assert!(
            said.contains("KUBECONFIG") && said.contains("/no/such"),
            "{how:?}: {said}"
        );
    }
    // Nothing secret: no key, no certificate, no kubeconfig.
    let list = run(&["--entrypoint=/bin/sh", IMAGE, "-c", "ls -A /vk-cmd /root /root/hostpipe; grep -rl 'PRIVATE KEY-' /vk-cmd/*.* /root /etc || true"]).ok();
    let names: Vec<&str> = list.split_whitespace().collect();
    assert_eq!(
        names,
        [
            "/root:",
            "hostpipe",
            "/root/hostpipe:",
            "/vk-cmd:",
            "sbom.spdx.json",
            "start.sh",
            "virtual-kubelet",
            "vk-cmd"
        ]
    );
    // Out of it, and started with seven arguments.
    let out = world.path("out");
    let id = world.docker_does(&["create", IMAGE]).ok();
    let copied = world.docker_does(&[
        "cp",
        &format!("{}:/vk-cmd", id.trim()),
        out.to_str().expect("text"),
    ]);
    copied.ok();
    let plane = embedded();
    let Some(kubectl) = plane.kubectl() else {
        return skip!("kubectl is missing");
    };
    let port = free_port().to_string();
    let mut start = Command::new("./start.sh");
    start
        .arg(plane.kubeconfig())
        .args(["vk-copied", "127.0.0.1", &port, "0", "cpu", "mylin"])
        .current_dir(&out)
        .env("HOME", world.path("home"));
    let agent = crate::parts::daemon(&mut start, &world.path("start.log"));
    eventually("the node is there", || {
        let path = "jsonpath={.metadata.labels.jiriaf\\.nodetype} {.metadata.labels.jiriaf\\.site}";
        let found = kubectl
            .words(&["get", "node", "vk-copied", "-o", path])
            .stdout;
        if found == "cpu mylin" {
            Ok(())
        } else {
            Err((found, std::fs::read_to_string(out.join("vk-copied.log"))))
        }
    });
    drop(agent);
    let few = Output::of(Command::new("./start.sh").arg("x").current_dir(&out)).fails_with(2);
    assert!(few.contains("7 arguments are needed"), "{few}");
}

#[test]
fn a_sif_is_built_from_the_image() {
    let mut world = match World::new() {
        Ok(world) => world,
        Err(why) => return skip!("{why}"),
    };
    world.docker();
    world.hub();
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/apptainer/vk-cmd.def");
    let text = std::fs::read_to_string(definition).expect("a definition");
    world.put("vk-cmd.def", &text);
    world.types("apptainer build vk-cmd.sif vk-cmd.def");
    let said = world.types("apptainer run vk-cmd.sif --help");
    assert!(said.contains("--control-plane"), "{said}");
    // What the site then copies out of it.
    world.types("apptainer exec vk-cmd.sif cp -r /vk-cmd . && ./vk-cmd/vk-cmd --version");
    // Without a registry: from the local image.
    world.types(&format!(
        "docker save {IMAGE} -o vk-cmd.tar && apptainer build saved.sif docker-archive://vk-cmd.tar"
    ));
    world.types("apptainer exec saved.sif /vk-cmd/vk-cmd --version");
}

#[test]
fn buildah_builds_it_on_nothing() {
    let Some(buildah) = testkit::find_program("buildah") else {
        return skip!("buildah is missing");
    };
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let own = format!(
        "{} --root {} --runroot {} --storage-driver vfs",
        buildah.display(),
        at("store"),
        at("run")
    );
    let mut make = Command::new("make");
    make.args([
        "-C",
        &format!("{}/images/base", env!("CARGO_MANIFEST_DIR")),
        "quick",
    ])
    .args(["TAG=tag", "BASE=scratch", "TARGET=bare", "SBOM=/dev/null"])
    .arg(format!("BUILDER={own} bud --isolation chroot"))
    .arg(format!("BINARY={VK_CMD}"))
    .arg(format!("CONTEXT={}", at("context")))
    .env_remove("MAKEFLAGS");
    Output::of(&mut make).ok();
    let does = |line: &str| {
        let line = format!("{own} {line}");
        Output::of(Command::new("sh").args(["-c", &line])).ok()
    };
    let container = does(&format!("from --pull-never {IMAGE}"));
    let root = does(&format!("mount {}", container.trim()));
    let root = Path::new(root.trim());
    let mode = |name: &str| {
        let meta = std::fs::symlink_metadata(root.join(name)).expect(name);
        std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777
    };
    assert_eq!(mode("root"), 0o711);
    assert_eq!(mode("vk-cmd/start.sh"), 0o755);
    let link = std::fs::read_link(root.join("vk-cmd/virtual-kubelet")).expect("a link");
    assert_eq!(link, Path::new("vk-cmd"));
    does(&format!("umount {}", container.trim()));
}
