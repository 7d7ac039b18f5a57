//! One test, two control planes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use crate::agent::{Agent, AgentBuilder};
use crate::keeper::Keeper;
use crate::kubectl::{Kubectl, Output};
use crate::place::Place;
use crate::real::RealCluster;
use crate::up::Up;
use crate::wait::eventually;

/// Which control plane a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// `vk-cmd up --no-node`, one for each test.
    Embedded,
    /// Kubernetes' own, with its scheduler and controllers: one for all tests of a run. A minute's work of a
    /// test is worth its start, and clusters take memory.
    Real,
}

/// A namespace of its own on a control plane without nodes: a test brings its own agents.
#[derive(Debug)]
pub struct Cluster {
    program: String,
    plane: Plane,
    up: Option<Up>,
    /// The embedded control plane with real controllers, where it is that one.
    controlled: Option<Keeper>,
    place: TempDir,
    kubeconfig: PathBuf,
    pki: PathBuf,
    kubectl: Kubectl,
    namespace: String,
}

/// The label of a test's own nodes.
const OWN_NODES: &str = "vk-cmd.test/namespace";

/// Fields that pods ask for here and most servers still drop.
const ALPHA: &str = "--feature-gates=ContainerStopSignals=true,ContainerRestartRules=true";

/// Ends with the process: its keeper sees that its standard input is closed.
static REAL: OnceLock<Option<RealCluster>> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// A new namespace on that plane; `None`, said loudly, where it cannot be had. `program` is vk-cmd.
    ///
    /// # Panics
    /// Where it does not start.
    #[track_caller]
    pub fn on(plane: Plane, program: &str) -> Option<Self> {
        let (up, kubeconfig) = match plane {
            Plane::Embedded => {
                let up = Up::of(program).args(&["--no-node"]).start();
                let kubeconfig = up.kubeconfig.clone();
                (Some(up), kubeconfig)
            }
            Plane::Real => {
                let cluster = REAL
                    .get_or_init(|| {
                        let cluster = RealCluster::builder().for_tests();
                        cluster.apiserver_arg(ALPHA).start()
                    })
                    .as_ref()?;
                (None, cluster.kubeconfig())
            }
        };
        Self::in_namespace(plane, (up, None), program, &kubeconfig)
    }

    /// The same with Kubernetes' own controllers on either plane. The embedded one runs them in place of its
    /// own; `None`, said loudly, where they are not built.
    ///
    /// # Panics
    /// Where it does not start.
    #[track_caller]
    pub fn with_controllers(plane: Plane, program: &str) -> Option<Self> {
        if plane == Plane::Real {
            return Self::on(plane, program);
        }
        let programs =
            ["kube-controller-manager", "kube-scheduler"].map(|it| format!("v1.34/{it}"));
        if !crate::keeper::are_built(&programs) {
            return None;
        }
        let words = ["--nodes=0".to_owned()];
        let keeper = Keeper::start("embedded.sh", &words, &[("VK_CMD", program)]);
        // That of `up`: its directory holds the keys of the control plane.
        let kubeconfig = keeper.dir().join("state/admin.kubeconfig");
        Self::in_namespace(plane, (None, Some(keeper)), program, &kubeconfig)
    }

    /// A new namespace of a real cluster that the test started itself, to do harm to.
    ///
    /// # Panics
    /// Where kubectl fails.
    #[track_caller]
    pub fn of(cluster: &RealCluster, program: &str) -> Option<Self> {
        Self::in_namespace(Plane::Real, (None, None), program, &cluster.kubeconfig())
    }

    #[track_caller]
    fn in_namespace(
        plane: Plane,
        (up, controlled): (Option<Up>, Option<Keeper>),
        program: &str,
        kubeconfig: &Path,
    ) -> Option<Self> {
        let place = tempfile::tempdir().expect("a directory");
        let pki = kubeconfig.with_file_name("pki");
        let own = place.path().join("kubeconfig");
        std::fs::copy(kubeconfig, &own).expect("a kubeconfig");
        let Some(kubectl) = Kubectl::new(&own, place.path()) else {
            crate::skip!("kubectl is missing");
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("test-{number}");
        let made = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  annotations: \
             {{scheduler.alpha.kubernetes.io/node-selector: {OWN_NODES}={namespace}}}\n"
        );
        kubectl.pipe("create -f -", &made).ok();
        kubectl
            .run(&format!(
                "config set-context --current --namespace={namespace}"
            ))
            .ok();
        eventually("pods may be created", || {
            let found = kubectl.run("get serviceaccount default -o name");
            if found.code == 0 { Ok(()) } else { Err(found) }
        });
        Some(Self {
            program: program.to_owned(),
            plane,
            up,
            controlled,
            place,
            kubeconfig: own,
            pki,
            kubectl,
            namespace,
        })
    }

    /// Where it runs.
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// What a program of the embedded control plane with real controllers wrote so far, such as `vk-cmd`.
    pub fn log(&self, program: &str) -> Option<String> {
        self.controlled.as_ref().map(|keeper| keeper.log(program))
    }

    /// The embedded control plane, where it is that one.
    pub fn up(&self) -> Option<&Up> {
        self.up.as_ref()
    }

    /// The administrator's kubeconfig, with this namespace.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The keys of the control plane: `ca.crt`, `ca.key` and others.
    pub fn pki(&self) -> &Path {
        &self.pki
    }

    /// Runs the program's own client, in this namespace.
    #[track_caller]
    pub fn client(&self, line: &str) -> Output {
        Output::of_client(Path::new(&self.program), &self.kubeconfig, self.dir(), line)
    }

    /// The real kubectl, as the administrator, in this namespace.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A directory of the test's own.
    pub fn dir(&self) -> &Path {
        self.place.path()
    }

    /// A node's name that no other test uses.
    pub fn node(&self, name: &str) -> String {
        format!("{name}-{}", self.namespace)
    }

    /// Describes an agent for the node of that name, with the administrator's kubeconfig and no taint.
    pub fn agent(&self, name: &str) -> AgentBuilder {
        self.agent_with(&self.kubeconfig, name)
    }

    /// The same, with another kubeconfig.
    pub fn agent_with(&self, kubeconfig: &Path, name: &str) -> AgentBuilder {
        let own = format!("{OWN_NODES}={}", self.namespace);
        Agent::of(&self.program, kubeconfig, &self.node(name)).args(&[
            "--no-taint",
            "--node-labels",
            &own,
        ])
    }

    /// Starts the agent of the node `n` with more words on its command line, and waits until it is Ready.
    ///
    /// # Panics
    /// As [`Cluster::ready`].
    #[track_caller]
    pub fn start_node(&self, args: &[&str]) -> Agent {
        self.ready_node(self.agent("n").args(args))
    }

    /// Starts the next agent of the node `n` where an earlier one left home and pod data.
    ///
    /// # Panics
    /// As [`Cluster::ready`].
    #[track_caller]
    pub fn restart_node(&self, place: &Arc<Place>, args: &[&str]) -> Agent {
        self.ready_node(self.agent("n").args(args).at(place))
    }

    /// Starts a described agent of the node `n`, and waits until it is Ready.
    ///
    /// # Panics
    /// As [`Cluster::ready`].
    #[track_caller]
    pub fn ready_node(&self, builder: AgentBuilder) -> Agent {
        let node = self.node("n");
        let holder = || {
            let path = "jsonpath={.spec.holderIdentity}";
            let words = ["-n", "kube-node-lease", "get", "lease", &node, "-o", path];
            self.kubectl.words(&words).stdout
        };
        let before = holder();
        let agent = builder.start();
        // An agent that was killed leaves a node that looks Ready.
        eventually("the agent takes the lease of its node", || {
            if holder() == before {
                Err(agent.log())
            } else {
                Ok(())
            }
        });
        self.ready("n");
        agent
    }

    /// Takes a node that was not started by [`Cluster::agent`] for the test's own: its pods may land there, and
    /// it goes with the test. Waits until the node is registered.
    ///
    /// # Panics
    /// Where it is not within a minute.
    #[track_caller]
    pub fn own(&self, node: &str) {
        let line = format!("label node {node} {OWN_NODES}={}", self.namespace);
        eventually("the node is registered", || {
            let done = self.kubectl.run(&line);
            if done.code == 0 { Ok(()) } else { Err(done) }
        });
    }

    /// Waits until the node of that name is Ready.
    ///
    /// # Panics
    /// Where it is not within a minute, with what it is.
    #[track_caller]
    pub fn ready(&self, name: &str) {
        self.node_is(
            name,
            "{.status.conditions[?(@.type==\"Ready\")].status}",
            "True",
        );
    }

    /// Waits until a JSONPath of the node of that name gives `value`.
    ///
    /// # Panics
    /// Where it does not within two minutes, with what it gives.
    #[track_caller]
    pub fn node_is(&self, name: &str, path: &str, value: &str) {
        let node = self.node(name);
        self.is(&format!("node/{node}"), path, value);
    }

    /// Waits until a JSONPath of an object gives `value`.
    ///
    /// # Panics
    /// Where it does not within two minutes, with what it gives.
    #[track_caller]
    pub fn is(&self, object: &str, path: &str, value: &str) {
        let what = format!("{object}: {path} is {value:?}");
        crate::eventually_within(std::time::Duration::from_secs(120), &what, || {
            let found = self.get(object, path);
            if found == value { Ok(()) } else { Err(found) }
        });
    }

    /// What a JSONPath of an object gives; kubectl's error where it cannot be had.
    #[track_caller]
    pub fn get(&self, object: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        let found = self.kubectl.words(&["get", object, "-o", &path]);
        if found.code == 0 {
            found.stdout
        } else {
            found.stderr
        }
    }

    /// Applies manifests.
    ///
    /// # Panics
    /// Where kubectl fails.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        self.kubectl.pipe("apply -f -", manifests).ok();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.plane == Plane::Real {
            // The cluster goes on for the other tests.
            let namespace = &self.namespace;
            let line = format!("delete namespace {namespace} --wait=false");
            let _ = self.kubectl.run(&line);
            // Pods of a node that is gone are collected; those of one that is silent stay.
            let line = format!("delete nodes -l {OWN_NODES}={namespace} --wait=false");
            let _ = self.kubectl.run(&line);
        }
    }
}
