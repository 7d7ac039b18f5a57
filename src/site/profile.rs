//! The schema of a site profile: what is written in YAML, and nothing that was found out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de};

use crate::container::engine::Kind;

/// A site: how containers run there, and what the site needs before an agent can run.
///
/// Every key may be left out; what a file leaves out comes from its `base`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Profile {
    /// The name that `--site` takes.
    pub name: String,
    /// The profile whose keys hold where this one says nothing; one of a built-in's name has that as its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// One line for people.
    pub description: String,
    /// How the site is known when nobody names it. All that is given must hold.
    #[serde(rename = "match", skip_serializing_if = "Match::is_empty")]
    pub matches: Match,
    /// What runs ordinary images.
    pub engine: EngineProfile,
    /// Where the agent usually sits.
    pub agent: Placement,
    /// How commands of pods are started.
    pub launch: Launch,
    /// The hostpipe's directory as the agent sees it; default `$HOME/hostpipe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostpipe: Option<String>,
    /// The documented semantics of virtual-kubelet-cmd for every pod of this site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
    /// Whether containers get mount namespaces of their own where pods do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_namespace: Option<MountNamespace>,
    /// Host paths that every image container sees: `path`, `path:target`, `path:target:ro`.
    pub binds: Vec<Bind>,
    /// What of the job's environment containers see.
    pub environment: Environment,
    /// The way to the control plane and back.
    pub tunnels: Tunnels,
    /// What a batch job of this site asks for unless told otherwise.
    pub batch: Batch,
    /// What the site really has for an image name.
    pub images: BTreeMap<String, ImageSource>,
}

/// Where the mounts of a container are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountNamespace {
    /// As links in the container's directory.
    Host,
    /// In a namespace of its own, at their own paths.
    Private,
}

/// How a site is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Match {
    /// Variables with these values (`*` stands for any text).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// One of these is the host's name (`*` stands for any text).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostname: Vec<String>,
}

impl Match {
    /// Whether nothing is asked: such a site is never found by probing.
    pub fn is_empty(&self) -> bool {
        self.environment.is_empty() && self.hostname.is_empty()
    }
}

/// The engine and how it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct EngineProfile {
    /// Which engine; `auto` takes the first that is installed, `none` refuses images.
    pub kind: EngineChoice,
    /// The program, where it is not the engine's own name in `PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Arguments before the engine's subcommand (`docker -H …`).
    pub global_args: Vec<String>,
    /// More arguments of the engine's run.
    pub run_args: Vec<String>,
    /// More arguments of the engine's pull (`--no-https`, `--tls-verify=false`).
    pub pull_args: Vec<String>,
    /// Arguments of the run of a container that asks for GPUs; default the engine's own (`--nv`, `--gpus`, `--module=gpu`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_args: Option<Vec<String>>,
    /// Variables of the engine's own programs (`APPTAINER_CACHEDIR`).
    pub environment: BTreeMap<String, String>,
    /// Where pulled images lie, for engines that leave that to the caller (apptainer, charliecloud).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_dir: Option<String>,
}

/// `auto`, `none`, or an engine's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The first that is installed.
    #[default]
    Auto,
    /// Images are refused.
    None,
    /// This one.
    Use(Kind),
}

/// The words of [`EngineChoice`].
const ENGINES: [&str; 9] = [
    "auto",
    "none",
    "docker",
    "podman",
    "podman-hpc",
    "apptainer",
    "singularity",
    "shifter",
    "charliecloud",
];

impl EngineChoice {
    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Use(kind) => kind.name(),
        }
    }
}

impl Serialize for EngineChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for EngineChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.as_str() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            word => Kind::ALL
                .into_iter()
                .find(|kind| kind.name() == word)
                .map(Self::Use)
                .ok_or_else(|| de::Error::unknown_variant(word, &ENGINES)),
        }
    }
}

/// Where the agent sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Found out: in a container, or not.
    #[default]
    Auto,
    /// Copied out of the image, on the host.
    Host,
    /// In the image.
    Image,
}

/// How commands of pods are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launch {
    /// Through the hostpipe where the agent sits in Docker's or Podman's container, else directly.
    #[default]
    Auto,
    /// As children of the agent, where the agent is.
    Direct,
    /// On the host, by whoever reads the hostpipe.
    Hostpipe,
}

/// Names of documented semantics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// Those of virtual-kubelet-cmd.
    VirtualKubeletCmd,
}

/// A host path in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host, absolute; `~` and `$VARIABLE` at the start are the user's.
    pub source: String,
    /// In the container, absolute; `None` for the same path.
    pub target: Option<String>,
    /// Whether the container may only read it.
    pub read_only: bool,
}

impl Serialize for Bind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let target = match (&self.target, self.read_only) {
            (None, true) => format!(":{}", self.source),
            (Some(target), _) => format!(":{target}"),
            (None, false) => String::new(),
        };
        let end = if self.read_only { ":ro" } else { "" };
        serializer.collect_str(&format_args!("{}{target}{end}", self.source))
    }
}

impl<'de> Deserialize<'de> for Bind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            de::Error::invalid_value(
                de::Unexpected::Str(&text),
                &"path, path:target or path:target:ro, with absolute paths ($VAR or ~ may begin the first)",
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source] => (source, None, false),
            [source, target] => (source, Some(target), false),
            [source, target, "ro"] => (source, Some(target), true),
            [source, target, "rw"] => (source, Some(target), false),
            _ => return Err(wrong()),
        };
        let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|it| it == "..");
        if !(absolute(source) || source.starts_with(['~', '$'])) || !target.is_none_or(absolute) {
            return Err(wrong());
        }
        Ok(Self {
            source: source.to_owned(),
            target: target.filter(|it| *it != source).map(str::to_owned),
            read_only,
        })
    }
}

/// What of the job's environment containers see. Names may end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Environment {
    /// Variables that image containers get; script and host containers get all that is not denied.
    pub pass: Vec<String>,
    /// Variables that no container gets, beside those that never pass.
    pub deny: Vec<String>,
    /// Variables that every container gets, unless its pod says otherwise.
    pub set: BTreeMap<String, String>,
    /// Whether image containers see the user's home at its own path.
    pub home: bool,
}

/// The way to the control plane and back, by the system's `ssh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Tunnels {
    /// ssh's destination: `host`, `user@host` or a name of ssh_config; `CONTROL_PLANE_IP` says the same. None: no tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
    /// Hosts on the way (`-J`).
    pub jump: Vec<String>,
    /// The program.
    pub ssh: String,
    /// The private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<String>,
    /// ssh's configuration, in place of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// Known host keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_hosts_file: Option<String>,
    /// More of ssh's options, `Name=value`.
    pub options: Vec<String>,
    /// The API server's port, on the far side's loopback and on ours; `APISERVER_PORT` says the same. None: no forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server_port: Option<u16>,
    /// Where the API server listens, seen from the far side.
    pub api_server_host: String,
    /// The far side's port of the kubelet API; none: no reverse forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet_port: Option<KubeletPort>,
    /// The address that reverse forwards bind on the far side.
    pub bind_address: String,
    /// Ports of applications that the far side reaches.
    pub ports: Vec<PortForward>,
    /// Seconds between ssh's signs of life.
    pub keep_alive_seconds: u32,
    /// Signs of life without an answer before ssh gives up.
    pub keep_alive_count: u32,
    /// Seconds that a connection may take.
    pub connect_timeout_seconds: u32,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            control_plane: None,
            jump: Vec::new(),
            ssh: "ssh".to_owned(),
            identity_file: None,
            config_file: None,
            known_hosts_file: None,
            options: Vec::new(),
            api_server_port: None,
            api_server_host: "localhost".to_owned(),
            kubelet_port: None,
            bind_address: "*".to_owned(),
            ports: Vec::new(),
            keep_alive_seconds: 15,
            keep_alive_count: 3,
            connect_timeout_seconds: 10,
        }
    }
}

/// The far side's port of a reverse forward of the kubelet API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletPort {
    /// The same as on this side (`KUBELET_PORT`), as documented.
    Same,
    /// Whichever the far side has free; the node's status then tells it.
    Any,
    /// This one.
    Port(u16),
}

impl Serialize for KubeletPort {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Same => serializer.serialize_str("same"),
            Self::Any => serializer.serialize_str("any"),
            Self::Port(port) => serializer.serialize_u16(*port),
        }
    }
}

impl<'de> Deserialize<'de> for KubeletPort {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "same" => Ok(Self::Same),
            "any" | "0" => Ok(Self::Any),
            text => match text.parse() {
                Ok(port) => Ok(Self::Port(port)),
                Err(_) => Err(de::Error::invalid_value(
                    de::Unexpected::Str(text),
                    &"same, any, or a port from 1 to 65535",
                )),
            },
        }
    }
}

/// A port of this side that the far side reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// Here.
    pub local: u16,
    /// There.
    pub remote: u16,
}

impl Serialize for PortForward {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.local == self.remote {
            serializer.serialize_u16(self.local)
        } else {
            serializer.collect_str(&format_args!("{}:{}", self.local, self.remote))
        }
    }
}

impl<'de> Deserialize<'de> for PortForward {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (local, remote) = text.split_once(':').unwrap_or((&text, &text));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        match (port(local), port(remote)) {
            (Some(local), Some(remote)) => Ok(Self { local, remote }),
            _ => Err(de::Error::invalid_value(
                de::Unexpected::Str(&text),
                &"a port, or local:remote, each from 1 to 65535",
            )),
        }
    }
}

/// What a batch job of the site asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Batch {
    /// The batch system.
    pub system: BatchSystem,
    /// Account or project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Partition (Slurm) or queue (PBS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Quality of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// Features that the nodes must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    /// Number of nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// The limit of the job's time: seconds, or `[D-]HH:MM:SS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub walltime: Option<Walltime>,
    /// More lines for the batch system, as they stand in a job script (`--licenses=scratch`).
    pub options: Vec<String>,
    /// Shell lines that the job runs before the agent (`module load …`).
    pub prologue: Vec<String>,
}

/// A batch system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchSystem {
    /// Found out by its commands.
    #[default]
    Auto,
    /// Slurm.
    Slurm,
    /// PBS Pro, OpenPBS.
    Pbs,
    /// HTCondor.
    Htcondor,
    /// None: jobs are processes.
    Local,
}

/// A walltime in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walltime(pub u64);

impl Serialize for Walltime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Walltime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        seconds(&text).map(Self).ok_or_else(|| {
            de::Error::invalid_value(
                de::Unexpected::Str(&text),
                &"seconds, MM:SS, HH:MM:SS or D-HH:MM:SS",
            )
        })
    }
}

/// Seconds of `[D-]HH:MM:SS`, `MM:SS` or a number.
fn seconds(text: &str) -> Option<u64> {
    let number = |text: &str| text.parse::<u64>().ok();
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (number(days)?, rest),
        None => (0, text),
    };
    let parts: Vec<u64> = rest.split(':').map(number).collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match (parts[..].len(), &parts[..]) {
        (1, [seconds]) if days == 0 => (0, 0, *seconds),
        (2, [minutes, seconds]) if days == 0 => (0, *minutes, *seconds),
        (3, [hours, minutes, seconds]) => (*hours, *minutes, *seconds),
        _ => return None,
    };
    let hours = days.checked_mul(24)?.checked_add(hours)?;
    let minutes = hours.checked_mul(60)?.checked_add(minutes)?;
    minutes.checked_mul(60)?.checked_add(seconds)
}

/// What the site has for an image name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageSource {
    /// Another reference.
    Reference(String),
    /// A SIF file (apptainer, singularity).
    Sif(String),
    /// An unpacked image: a directory (apptainer, charliecloud).
    Directory(String),
    /// A program on the host, in place of an image: its words come before the container's own.
    Command(Vec<String>),
}

/// As a mapping of one key: YAML's own form of such a value is a tag, which nobody would write.
impl Serialize for ImageSource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reference(it) => serializer.collect_map([("reference", it)]),
            Self::Sif(it) => serializer.collect_map([("sif", it)]),
            Self::Directory(it) => serializer.collect_map([("directory", it)]),
            Self::Command(it) => serializer.collect_map([("command", it)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::decode::decode;

    fn read(yaml: &str) -> Result<Profile, String> {
        let value = serde_norway::from_str(yaml).expect("YAML");
        decode(&value).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_wrong_key_is_answered_with_the_nearest_one() {
        for (yaml, said) in [
            (
                "enigne: {kind: docker}",
                "enigne: \"enigne\" is no known key; did you mean \"engine\"?",
            ),
            (
                "engine: {kinds: docker}",
                "engine.kinds: \"kinds\" is no known key; did you mean \"kind\"?",
            ),
            (
                "engine: {kind: apptaner}",
                "engine.kind: \"apptaner\" is no known word; did you mean \"apptainer\"?",
            ),
            (
                "launch: pipe",
                "launch: \"pipe\" is no known word; use one of auto, direct, hostpipe",
            ),
            (
                "binds: [/a, b]",
                "binds[1]: \"b\" does not fit; give path, path:target or path:target:ro, with absolute paths ($VAR or ~ may begin the first)",
            ),
            (
                "tunnels: {ports: [1776, 70000]}",
                "tunnels.ports[1]: \"70000\" does not fit; give a port, or local:remote, each from 1 to 65535",
            ),
            (
                "environment: {home: perhaps}",
                "environment.home: \"perhaps\" does not fit; give true or false",
            ),
            (
                "images: {a: {sift: /x.sif}}",
                "images.a: \"sift\" is no known word; did you mean \"sif\"?",
            ),
            (
                "batch: {walltime: soon}",
                "batch.walltime: \"soon\" does not fit; give seconds, MM:SS, HH:MM:SS or D-HH:MM:SS",
            ),
            (
                "engine: docker",
                "engine: \"docker\" does not fit; give keys with values",
            ),
        ] {
            assert_eq!(read(yaml).expect_err(yaml), said);
        }
    }

    #[test]
    fn walltimes_are_seconds_or_a_clock() {
        for (text, wanted) in [
            ("300", Some(300)),
            ("00:05:00", Some(300)),
            ("05:00", Some(300)),
            ("1-00:00:01", Some(86_401)),
            ("1-5", None),
            ("", None),
            ("-5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
        let profile = read("batch: {walltime: 00:05:00, nodes: 2}").expect("a profile");
        assert_eq!(profile.batch.walltime, Some(Walltime(300)));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let yaml = "
name: x
match: {environment: {A: 'b*'}, hostname: [h]}
engine: {kind: podman-hpc, runArgs: [--x], gpuArgs: []}
agent: image
launch: hostpipe
compat: virtual-kubelet-cmd
mountNamespace: private
binds: [/a, '/b:/c', '/d:/d:ro', '$SCRATCH:/scratch']
environment: {pass: ['SLURM_*'], home: true, set: {K: V}}
tunnels: {controlPlane: u@h, apiServerPort: 6443, kubeletPort: same, ports: [1776, '8088:18088']}
batch: {system: slurm, walltime: 01:00:00}
images: {a: {sif: /x.sif}, b: {command: [srun, x]}, c: {reference: d}, e: {directory: /f}}
";
        let profile = read(yaml).expect("a profile");
        let written = serde_norway::to_string(&profile).expect("YAML");
        assert_eq!(read(&written).expect(&written), profile);
        assert_eq!(
            profile.tunnels.ports[1],
            PortForward {
                local: 8088,
                remote: 18088
            }
        );
        assert!(profile.binds[2].read_only);
    }
}
