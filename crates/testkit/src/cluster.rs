//! One test, two control planes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::agent::{Agent, AgentBuilder};
use crate::kubectl::Kubectl;
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
    place: TempDir,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    namespace: String,
}

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
                    .get_or_init(|| RealCluster::builder().controllers().start())
                    .as_ref()?;
                (None, cluster.kubeconfig())
            }
        };
        let place = tempfile::tempdir().expect("a directory");
        let Some(kubectl) = Kubectl::new(&kubeconfig, place.path()) else {
            crate::skip!("kubectl is missing");
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("test-{number}");
        kubectl.run(&format!("create namespace {namespace}")).ok();
        let kubectl = kubectl.in_namespace(&namespace);
        eventually("pods may be created", || {
            let found = kubectl.run("get serviceaccount default -o name");
            if found.code == 0 { Ok(()) } else { Err(found) }
        });
        Some(Self {
            program: program.to_owned(),
            plane,
            up,
            place,
            kubeconfig,
            kubectl,
            namespace,
        })
    }

    /// Where it runs.
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// The embedded control plane, where it is that one.
    pub fn up(&self) -> Option<&Up> {
        self.up.as_ref()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
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
        Agent::of(&self.program, kubeconfig, &self.node(name)).args(&["--no-taint"])
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
        }
    }
}
