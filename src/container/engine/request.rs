//! What is asked of an engine, and the command line that asks it.

use std::collections::BTreeMap;

/// An engine as a site has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Which one.
    pub kind: super::Kind,
    /// Its program.
    pub program: String,
    /// Before the subcommand.
    pub global_args: Vec<String>,
    /// More arguments of run.
    pub run_args: Vec<String>,
    /// More arguments of pull.
    pub pull_args: Vec<String>,
    /// In place of the engine's own arguments for GPUs.
    pub gpu_args: Option<Vec<String>>,
    /// The environment of the engine's own programs: where it finds its configuration, its caches and its daemon.
    /// Nothing of it is meant for containers.
    pub environment: BTreeMap<String, String>,
    /// Where images are pulled to, for engines that leave that to us.
    pub image_dir: String,
}

/// What an engine is given as image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A reference in the engine's own store.
    Reference(String),
    /// A SIF file.
    Sif(String),
    /// An unpacked image.
    Directory {
        /// Where.
        path: String,
        /// Whether it has `/ch/environment`, the variables that the image sets.
        environment: bool,
    },
    /// No image: words that come before the container's own.
    Command(Vec<String>),
}

/// A host path in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host, absolute.
    pub source: String,
    /// In the container, absolute.
    pub target: String,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// GPUs of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gpus {
    /// None asked for.
    #[default]
    None,
    /// Those that the process may see.
    Visible,
    /// These, by the index that the driver gives them.
    Devices(Vec<String>),
}

/// One container.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The engine's name for it; unique on the host.
    pub name: String,
    /// What it runs in.
    pub image: Image,
    /// In place of the image's entry point.
    pub command: Option<Vec<String>>,
    /// In place of the image's arguments.
    pub args: Vec<String>,
    /// Variables of the container; those of the image hold beside them.
    pub environment: BTreeMap<String, String>,
    /// The working directory in the container; none for the image's own.
    pub workdir: Option<String>,
    /// What of the host it sees.
    pub binds: Vec<Bind>,
    /// User and group, where they are not the engine's choice.
    pub user: Option<(u32, Option<u32>)>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// GPUs.
    pub gpus: Gpus,
    /// The home of the user, where the container is to see it.
    pub home: Option<String>,
    /// Whether the root file system must not be written to.
    pub read_only: bool,
    /// Limit of memory in bytes, for engines that hold one.
    pub memory: Option<u64>,
    /// Limit of CPU in thousandths, for engines that hold one.
    pub cpu_millis: Option<u64>,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// The command line of an engine's client, in the foreground.
#[derive(Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Program and arguments; nothing of it is secret.
    pub argv: Vec<String>,
    /// The client's environment; holds secrets.
    pub env: Vec<(String, String)>,
    /// Contents of the files that `argv` names as `/proc/self/fd/3` and on; hold secrets.
    pub memory_files: Vec<String>,
    /// What goes before a command that is run in the same container, or in one like it where the engine has no
    /// other way in.
    pub exec: super::ExecPrefix,
    /// Tells how the container ended, once the client has.
    pub autopsy: Vec<String>,
    /// Ends and removes what the client may leave behind.
    pub teardown: Vec<Vec<String>>,
    /// Tells number and id of a container that is no descendant of the client.
    pub whereabouts: Vec<String>,
}

/// Leaves the values of variables out.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("binds", &self.binds)
            .finish_non_exhaustive()
    }
}

/// Leaves the values of variables out.
impl std::fmt::Debug for Invocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invocation")
            .field("argv", &self.argv)
            .field("env", &self.env.len())
            .finish_non_exhaustive()
    }
}

/// Why a request cannot be put to an engine; a sentence that names the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// A variable that cannot reach the container.
    #[error(
        "{engine} cannot give a container the variable {name:?}: {why}; take it out of env, or set it in the container's own command"
    )]
    Variable {
        /// Which engine.
        engine: super::Kind,
        /// Which variable.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A user.
    #[error(
        "{engine} runs containers as the user of this node; take runAsUser and runAsGroup out, or set them to its own"
    )]
    User {
        /// Which engine.
        engine: super::Kind,
    },
    /// An image of a form that the engine does not know.
    #[error("{engine} cannot run {form} (images: of the site's profile)")]
    Form {
        /// Which engine.
        engine: super::Kind,
        /// `a SIF file` and the like.
        form: &'static str,
    },
    /// Nothing to run.
    #[error(
        "no command specified: {engine} keeps no entry point of an image; give the container a command"
    )]
    NoCommand {
        /// Which engine.
        engine: super::Kind,
    },
    /// A path that the engine cannot be told.
    #[error(
        "{engine} cannot mount {path:?}: its command line has no way to write ':'; choose another mountPath"
    )]
    Path {
        /// Which engine.
        engine: super::Kind,
        /// The path.
        path: String,
    },
    /// A terminal.
    #[error("{engine} gives a container no terminal here; take tty out")]
    Terminal {
        /// Which engine.
        engine: super::Kind,
    },
}
