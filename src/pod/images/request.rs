//! From a container's spec to a request that its engine understands.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext};

use super::{Images, Via, waiting};
use crate::container::{
    ContainerSpec,
    engine::{self, Bind, EngineClient, Found, Gpus, Image, Kind as Engines, Request},
};
use crate::pod::{containers, env::expand, machine::Waiting, resources::amounts};

impl Images {
    /// What the shim runs for a container.
    ///
    /// # Errors
    /// What the engine cannot do, named.
    pub fn spec(&self, asked: Asked<'_>) -> Result<ContainerSpec, Waiting> {
        let Asked {
            pod,
            container,
            image,
            own,
            binds,
            name,
            cwd,
            inherited,
        } = asked;
        let expand =
            |text: &String| expand::references(text, |name| own.get(name).map(String::as_str));
        let list = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(expand).collect()
        };
        let command = Some(list(&container.command)).filter(|words| !words.is_empty());
        let lookup = |name: &str| {
            let found = inherited.iter().find(|it| it.0 == name);
            found.map(|it| it.1.as_str())
        };
        let passed = inherited
            .iter()
            .filter(|(name, _)| engine::passes(&self.job.pass, name));
        let mut environment: BTreeMap<String, String> = passed.cloned().collect();
        environment.extend(self.job.set.clone());
        environment.extend(own.clone());
        // One whose variable is not set has nothing to show.
        let of_site = self.job.binds.iter().map(|bind| Bind {
            source: engine::expand(&bind.source, lookup),
            target: engine::expand(&bind.target, lookup),
            read_only: bind.read_only,
        });
        let mut all: Vec<Bind> = of_site
            .filter(|bind| bind.source.starts_with('/'))
            .collect();
        all.extend(binds);
        let mut client = self.engine.clone();
        if let Via::Host(_) = self.via {
            let there = inherited
                .iter()
                .filter(|(name, _)| engine::is_for_engines(name));
            let own = std::mem::take(&mut client.environment);
            client.environment = there.cloned().collect();
            client.environment.extend(own);
        }
        let limits = Some(amounts::limits(container)).filter(|_| self.has_limits());
        let limit = |name: &str| {
            let amount = limits.as_ref().and_then(|it| it.get(name)).copied();
            amount.filter(|amount| *amount > 0)
        };
        let request = Request {
            name,
            image,
            command,
            args: list(&container.args),
            environment,
            workdir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
            binds: all,
            user: user(pod, container),
            groups: groups(pod),
            gpus: gpus(container, own),
            home: lookup("HOME").filter(|_| self.job.home).map(str::to_owned),
            read_only: container
                .security_context
                .as_ref()
                .and_then(|it| it.read_only_root_filesystem)
                == Some(true),
            memory: limit(amounts::MEMORY),
            cpu_millis: limit(amounts::CPU),
            stdin: container.stdin == Some(true),
            tty: container.tty == Some(true),
        };
        let invocation = client
            .run(&request)
            .map_err(|error| waiting("CreateContainerConfigError", error.to_string()))?;
        let mut spec = ContainerSpec::new(invocation.argv.clone(), invocation.env.clone(), cwd);
        let environment = client.environment.into_iter().collect();
        spec.on_host = matches!(self.via, Via::Host(_));
        spec.engine = Some(Box::new(EngineClient::new(invocation, environment)));
        spec.interactive = containers::interactive(container);
        Ok(spec)
    }
}

/// What a container's command line is made of.
pub struct Asked<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its image, as [`Images::ensure`] found it.
    pub image: Image,
    /// Its own variables.
    pub own: &'a BTreeMap<String, String>,
    /// Its volumes.
    pub binds: Vec<Bind>,
    /// The engine's name for it.
    pub name: String,
    /// The directory that the client runs in.
    pub cwd: &'a Path,
    /// The environment that processes start from where the engine is.
    pub inherited: &'a [(String, String)],
}

/// The engine's name for a container: unique on the host, and found by its pod's UID.
pub fn engine_name(uid: &str, container: &str, attempt: u32) -> String {
    format!("vk-cmd-{uid}-{container}-{attempt}")
}

impl Images {
    /// Whether containers are no processes of ours: a daemon has them, and holds their limits.
    pub fn is_daemons(&self) -> bool {
        self.engine.kind == Engines::Docker
    }

    /// Whether the engine can hold a container to its limits. Podman without root can where somebody has delegated
    /// control groups to it, and fails where not; its containers are below their supervisor, whose agent holds them.
    fn has_limits(&self) -> bool {
        let root = match &self.via {
            Via::Here => nix::unistd::geteuid().is_root(),
            Via::Host(client) => client.facts().is_some_and(|facts| facts.uid == 0),
        };
        self.is_daemons() || self.engine.kind == Engines::Podman && root
    }

    /// `runAsNonRoot`, where the engine gives a container any user.
    ///
    /// # Errors
    /// Where it would run as root, or nobody can tell; in the kubelet's words.
    pub fn non_root(&self, pod: &Pod, container: &Container, found: &Found) -> Result<(), Waiting> {
        if !self.engine.kind.has_users() || !asks_for_non_root(pod, container) {
            return Ok(());
        }
        let problem = match user(pod, container) {
            Some((0, _)) => "container's runAsUser breaks non-root policy".to_owned(),
            Some(_) => return Ok(()),
            None => {
                let name = found.user.split(':').next().unwrap_or_default();
                match name.parse::<u32>() {
                    Ok(0) => "container has runAsNonRoot and image will run as root".to_owned(),
                    Ok(_) => return Ok(()),
                    Err(_) if name.is_empty() => {
                        "container has runAsNonRoot and image will run as root".to_owned()
                    }
                    Err(_) => format!(
                        "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
                    ),
                }
            }
        };
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let label = format!(
            "{}_{}({})",
            of(&meta.name),
            of(&meta.namespace),
            of(&meta.uid)
        );
        let message = format!("{problem} (pod: {label:?}, container: {})", container.name);
        Err(waiting("CreateContainerConfigError", message))
    }
}

fn asks_for_non_root(pod: &Pod, container: &Container) -> bool {
    let own = container.security_context.as_ref();
    let own = own.and_then(|it| it.run_as_non_root);
    own.or(of_pod(pod).and_then(|it| it.run_as_non_root)) == Some(true)
}

fn of_pod(pod: &Pod) -> Option<&PodSecurityContext> {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.security_context.as_ref())
}

fn user(pod: &Pod, container: &Container) -> Option<(u32, Option<u32>)> {
    let of_pod = of_pod(pod);
    let own = container.security_context.as_ref();
    let user = own
        .and_then(|it| it.run_as_user)
        .or(of_pod.and_then(|it| it.run_as_user))?;
    let group = own
        .and_then(|it| it.run_as_group)
        .or(of_pod.and_then(|it| it.run_as_group));
    let id = |number: i64| u32::try_from(number).ok();
    Some((id(user)?, group.and_then(id)))
}

fn groups(pod: &Pod) -> Vec<u32> {
    let context = of_pod(pod);
    let more = context
        .iter()
        .flat_map(|it| it.supplemental_groups.iter().flatten());
    let of_files = context.and_then(|it| it.fs_group);
    more.chain(&of_files)
        .filter_map(|gid| u32::try_from(*gid).ok())
        .collect()
}

/// GPUs that the container asks for: those that were handed out to it, where that is known.
fn gpus(container: &Container, own: &BTreeMap<String, String>) -> Gpus {
    let asked = container
        .resources
        .iter()
        .flat_map(|it| [&it.limits, &it.requests])
        .flatten()
        .any(|list| {
            list.iter().any(|(name, amount)| {
                let gpu = name.ends_with("/gpu") || name.contains("gpu");
                gpu && amount.0 != "0"
            })
        });
    let named = ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]
        .into_iter()
        .find_map(|name| own.get(name));
    match (asked, named) {
        (false, _) => Gpus::None,
        (true, Some(list)) => Gpus::Devices(list.split(',').map(str::to_owned).collect()),
        (true, None) => Gpus::Visible,
    }
}
