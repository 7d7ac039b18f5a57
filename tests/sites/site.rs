//! A site of Table 1 at work: tunnels, reader, agent, as Table 2 has them typed; what is asked of its pods.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Kubectl, RealCluster, Up, eventually, eventually_within};

use crate::VK_CMD;
use crate::parts::Daemon;
use crate::world::{IMAGE, PLANE, World, free_port};

/// A row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Jiriaf2301,
    Ifarm,
    Perlmutter,
}

impl Row {
    /// Table 2, step 3.
    pub(crate) fn step_3(self) -> &'static str {
        match self {
            Self::Jiriaf2301 => {
                "docker run -d -v $HOME/hostpipe:/root/hostpipe --network=\"host\" -e NODENAME=$NODENAME jlabtsai/vk-cmd:tag"
            }
            Self::Ifarm => "apptainer run docker://jlabtsai/vk-cmd:tag",
            Self::Perlmutter => "shifter --image=docker:jlabtsai/vk-cmd:tag --entrypoint",
        }
    }

    /// The script of `run/` that does the same.
    pub(crate) fn script(self) -> String {
        let (script, image) = match self {
            Self::Jiriaf2301 => ("docker.sh", IMAGE.to_owned()),
            Self::Ifarm => ("farm.sh", format!("docker://{IMAGE}")),
            Self::Perlmutter => ("shifter.sh", format!("docker:{IMAGE}")),
        };
        format!("{script} $NODENAME {image}")
    }

    /// Table 3.
    pub(crate) fn command(self) -> &'static str {
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
pub(crate) enum Reader {
    Serve,
    Loop,
    /// `run/*.sh` starts it.
    Script,
}

/// A control plane here.
pub(crate) enum Plane {
    Embedded(Up),
    Real(RealCluster),
}

impl Plane {
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Embedded(up) => up.kubeconfig.clone(),
            Self::Real(cluster) => cluster.kubeconfig(),
        }
    }

    pub(crate) fn kubectl(&self) -> Option<Kubectl> {
        match self {
            Self::Embedded(up) => up.kubectl(),
            Self::Real(cluster) => cluster.kubectl(),
        }
    }
}

/// A row at work.
pub(crate) struct Site {
    pub(crate) row: Row,
    pub(crate) world: World,
    pub(crate) kubectl: Kubectl,
    pub(crate) api_port: u16,
    pub(crate) kubelet_port: u16,
    pub(crate) reader: Option<Daemon>,
    pub(crate) agent: Option<Daemon>,
    pub(crate) container: String,
    /// More options of `docker run`.
    pub(crate) options: &'static str,
}

pub(crate) const OLD_LOOP: &str = "mkfifo -m 600 hostpipe/vk-cmd && while true; do eval \"$(cat $HOME/hostpipe/vk-cmd)\" > \
                        $HOME/hostpipe/pipeline.out 2> $HOME/hostpipe/pipeline.err; done";

impl Site {
    pub(crate) fn new(row: Row, plane: &Plane) -> Result<Self, String> {
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
            options: "",
        })
    }

    /// Step 0, by hand.
    pub(crate) fn tunnels_by_hand(&self) {
        let (api, kubelet) = (self.api_port, self.kubelet_port);
        self.world.types(&format!(
            "export APISERVER_PORT={api} KUBELET_PORT={kubelet} CONTROL_PLANE_IP=control-plane\n\
             ssh -NfL $APISERVER_PORT:localhost:$APISERVER_PORT $CONTROL_PLANE_IP\n\
             ssh -NfR *:$KUBELET_PORT:localhost:$KUBELET_PORT $CONTROL_PLANE_IP"
        ));
    }

    /// Step 1.
    pub(crate) fn reader(&mut self, reader: Reader) {
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
    pub(crate) fn agent(&mut self, reader: Reader, more: &str) {
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
            let line = line.replacen(
                "docker run -d",
                &format!("docker run -d{}", self.options),
                1,
            );
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

    pub(crate) fn log(&self) -> String {
        match self.row {
            Row::Jiriaf2301 => self.world.docker_does(&["logs", &self.container]).stderr,
            Row::Ifarm | Row::Perlmutter => self.world.log("agent.log"),
        }
    }

    #[track_caller]
    pub(crate) fn is(&self, object: &str, path: &str, wanted: &str) {
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

    pub(crate) fn apply(&self, name: &str, image: &str, command: &str, more: &str) {
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

    pub(crate) fn ends_with(&self, name: &str, code: &str, said: &str) {
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
    pub(crate) fn runs_pods(&self) {
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
    pub(crate) fn runs_images(&self, image: &str) {
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
    pub(crate) fn ends(mut self) {
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

pub(crate) fn embedded() -> Plane {
    Plane::Embedded(Up::of(VK_CMD).args(&["--no-node"]).start())
}
