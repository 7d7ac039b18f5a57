//! `vk-cmd shim`: the supervisor of one container.
//!
//! Small and synchronous: one thread, one `poll` loop, no runtime; a thousand shims must fit on a node.
//! Nobody but the kernel can end it in the ordinary course of things: it ignores what a batch system sends to a whole
//! job, and neither the agent's death nor a closed pipe concerns it.
//!
//! | module | idea |
//! |---|---|
//! | here | from the command line to the claim |
//! | `start` | from the claim to a running command |
//! | `supervise` | the loop: output, children, requests, the end |
//! | `mounts` | a mount namespace, where one is wanted |
//! | `born` | a process that begins in a control group |
//! | `control` | connections and who may connect |
//! | `streams` | pipes and terminals |
//! | `output` | pipes into files |
//! | `input` | what attached clients send to the command |
//! | `exec` | further commands and their streams |
//!
//! Order of a start, and what a death after each step means to [`crate::container::launch::Launcher::adopt`]:
//!
//! 1. intent (agent): nothing can have started;
//! 2. control socket, claim: an attempt that is claimed and whose socket is dead has ended, and what its session or
//!    its marker finds is ended too;
//! 3. exec, `pgid`, `status.json`: the same, and the status tells what ran;
//! 4. exit, `status.json`: the end is known.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    fcntl::OFlag,
    sys::{
        signal::SigSet,
        signalfd::{SfdFlags, SignalFd},
        stat::Mode,
    },
};

use super::{
    claim::{self, Claim, Purpose, Start},
    dir::Root,
    files::Dir,
    process::{self, Here, ProcessId},
    protocol::{self, Answer, Message, Refusal, RefusalCode, Request},
    spec::ContainerSpec,
    status::{FORMAT_VERSION, StatusFile},
};

mod born;
mod control;
mod exec;
mod input;
mod mounts;
mod output;
mod start;
mod streams;
mod supervise;

/// What the command line of a shim says; it is public, so nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Root of the node.
    pub root: PathBuf,
    /// UID of the pod.
    pub uid: String,
    /// Name of the container.
    pub name: String,
    /// The attempt.
    pub attempt: u32,
    /// Epoch of the agent.
    pub epoch: u64,
    /// Identity of this start.
    pub container: String,
    /// Control socket.
    pub socket: PathBuf,
}

impl Arguments {
    /// The arguments in their order on the command line, after the verb.
    pub fn to_args(&self) -> [OsString; 7] {
        [
            self.root.clone().into(),
            self.uid.clone().into(),
            self.name.clone().into(),
            self.attempt.to_string().into(),
            self.epoch.to_string().into(),
            self.container.clone().into(),
            self.socket.clone().into(),
        ]
    }

    /// Reads them back.
    pub fn parse(args: Vec<OsString>) -> Option<Self> {
        let [root, uid, name, attempt, epoch, container, socket] =
            <[OsString; 7]>::try_from(args).ok()?;
        Some(Self {
            root: root.into(),
            uid: uid.into_string().ok()?,
            name: name.into_string().ok()?,
            attempt: attempt.to_str()?.parse().ok()?,
            epoch: epoch.to_str()?.parse().ok()?,
            container: container.into_string().ok()?,
            socket: socket.into(),
        })
    }
}

/// What all steps need.
struct Context {
    arguments: Arguments,
    here: Here,
    own: ProcessId,
    /// Records of the attempt.
    records: Dir,
    /// Working directory of the container.
    workdir: Dir,
    /// SIGCHLD, and SIGUSR1 to listen again.
    signals: SignalFd,
}

impl Context {
    /// Makes the socket's path one that leads through an open directory.
    fn hold_socket(&mut self) -> nix::Result<OwnedFd> {
        let socket = &self.arguments.socket;
        let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(nix::errno::Errno::EINVAL);
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(directory, flags, Mode::empty())?;
        let held = format!("/proc/self/fd/{}", opened.as_raw_fd());
        self.arguments.socket = Path::new(&held).join(name);
        Ok(opened)
    }

    fn status_file(&self, status: super::status::Status) -> StatusFile {
        StatusFile {
            version: FORMAT_VERSION,
            attempt: self.arguments.attempt,
            epoch: self.arguments.epoch,
            writer: self.own.clone(),
            status,
        }
    }
}

/// Entry of `vk-cmd shim`; `args` are the arguments after the verb. Standard input is the agent's socket.
///
/// Exit code 0 after a container was supervised to its end, 1 where nothing was started, 2 for wrong arguments.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if args == [OsStr::new(PROBE_MOUNTS)] {
        return probe_mounts();
    }
    let Some(arguments) = Arguments::parse(args) else {
        return ExitCode::from(2);
    };
    process::close_inherited(3);
    let Ok(agent) = process::take_stdin().and_then(agent_socket) else {
        return ExitCode::from(2);
    };
    supervise_for(arguments, agent)
}

/// Supervises a container for the agent at the other end of a connection, to its end.
pub(super) fn supervise_for(arguments: Arguments, agent: UnixStream) -> ExitCode {
    match run(arguments, agent) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody listens on standard error; what there is to tell went to the agent.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Instead of all arguments: tries whether a mount namespace can be had.
pub const PROBE_MOUNTS: &str = "probe-mounts";

/// Exit code 0 where one can be had; 1 with the cause on standard output.
fn probe_mounts() -> ExitCode {
    match mounts::enter(&[], &std::env::temp_dir()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Whoever asked may be gone.
            let _ = std::io::Write::write_all(&mut io::stdout(), problem.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Why a shim ended without having supervised anything; the agent has been told.
struct NotStarted;

impl<E> From<E> for NotStarted
where
    E: std::error::Error,
{
    fn from(_: E) -> Self {
        Self
    }
}

fn agent_socket(stdin: OwnedFd) -> io::Result<UnixStream> {
    nix::sys::socket::getsockopt(&stdin, nix::sys::socket::sockopt::SockType)?;
    Ok(UnixStream::from(stdin))
}

fn run(arguments: Arguments, mut agent: UnixStream) -> Result<(), NotStarted> {
    // A session of its own: signals of the agent's terminal do not reach it, and the session's number finds whatever
    // a killed shim leaves behind. Fails where the launcher has made it a group leader, which serves as well.
    let _ = nix::unistd::setsid();
    let signals = process::shield_from_signals()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_name(c"vk-shim")?;
    nix::sys::stat::umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let (kind, payload) = protocol::read_frame(&mut agent, protocol::MAX_SPEC_FRAME)?;
    // From here on there are secrets in this memory, and the pods run under the same uid.
    nix::sys::prctl::set_dumpable(false)?;
    let refuse = |agent: &mut UnixStream, id, refusal| {
        // An agent that is gone finds the records instead.
        let _ = protocol::send(
            agent,
            &Message::Reply {
                id,
                answer: Answer::Refused(refusal),
            },
        );
        NotStarted
    };
    if kind != protocol::KIND_MESSAGE {
        return Err(NotStarted);
    }
    let (id, spec) = match Request::decode(&payload)? {
        (id, Ok(Request::Start(spec))) => (id, *spec),
        (id, Ok(other)) => {
            let message = format!("{:?} before \"start\"", other.name());
            return Err(refuse(
                &mut agent,
                id,
                Refusal::new(RefusalCode::Invalid, message),
            ));
        }
        (id, Err(refusal)) => return Err(refuse(&mut agent, id, refusal)),
    };
    drop(payload);
    match prepare(arguments, signals, &spec) {
        Ok((mut context, listener, claim)) => {
            // Mounts of the container may cover the socket's directory. Where it cannot be
            // opened its path is as good.
            let sockets = spec
                .mounts
                .as_ref()
                .and_then(|_| context.hold_socket().ok());
            let started = start::start(&context, &spec);
            // What further commands need of it is kept with what was started.
            drop::<ContainerSpec>(spec);
            supervise::supervise(
                &context,
                control::Control::new(listener, agent, id),
                &claim,
                started,
            );
            control::unbind(&context.arguments.socket);
            drop(sockets);
            Ok(())
        }
        Err(refusal) => Err(refuse(&mut agent, id, refusal)),
    }
}

/// Opens the directories and the socket and takes the claim.
fn prepare(
    arguments: Arguments,
    signals: SigSet,
    spec: &ContainerSpec,
) -> Result<(Context, UnixListener, std::fs::File), Refusal> {
    let system = |error: &dyn std::error::Error| Refusal::new(RefusalCode::System, chain(error));
    let here = Here::current().map_err(|error| system(&error))?;
    let own = here.own_process().map_err(|error| system(&error))?;
    let container = Root::existing(&arguments.root)
        .and_then(|root| root.container(&arguments.uid, &arguments.name))
        .map_err(|error| system(&error))?;
    let superseded = |what: &str| Refusal::new(RefusalCode::Superseded, what.to_owned());
    let records = container
        .attempt(arguments.attempt)
        .open()
        .map_err(|error| system(&error))?
        .ok_or_else(|| superseded("the attempt was removed"))?;
    let workdir = container.open_or_create().map_err(|error| system(&error))?;
    let intent = claim::read_intent(&records).map_err(|error| system(&error))?;
    let start: Start = match intent {
        Some(intent)
            if intent.attempt == arguments.attempt
                && intent.epoch == arguments.epoch
                && intent.start.container == arguments.container =>
        {
            intent.start
        }
        Some(intent) => {
            return Err(superseded(&format!(
                "the attempt was taken over by epoch {}",
                intent.epoch
            )));
        }
        None => return Err(superseded("the intent was withdrawn")),
    };
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| system(&errno))?;
    // Before the claim: who finds a claim and no living socket knows that its shim is dead.
    let listener = control::bind(&arguments.socket).map_err(|error| system(&error))?;
    let claim = Claim {
        version: FORMAT_VERSION,
        epoch: arguments.epoch,
        purpose: Purpose::Start(Start {
            socket: arguments.socket.clone(),
            group: spec.group.as_ref().map(|it| it.path(&start.container)),
            ..start
        }),
        claimant: own.clone(),
    };
    let taken = claim::take(&records, &claim).map_err(|error| system(&error));
    let context = Context {
        arguments,
        own,
        here,
        records,
        workdir,
        signals,
    };
    match taken {
        Ok(Some(file)) => Ok((context, listener, file)),
        Ok(None) => {
            control::unbind(&context.arguments.socket);
            Err(Refusal::new(
                RefusalCode::Claimed,
                "the attempt is already claimed",
            ))
        }
        Err(refusal) => {
            control::unbind(&context.arguments.socket);
            Err(refusal)
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
