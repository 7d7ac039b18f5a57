//! From the claim to a running command.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sched::{CpuSet, sched_setaffinity},
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::SigSet,
        stat::{Mode, umask},
    },
    unistd::{AccessFlags, Pid, access},
};

use super::{
    Context, born, chain,
    output::Sink,
    streams::{self, Ends, Streams},
};
use crate::container::{
    cgroup::Group,
    claim::Reserve,
    engine::{EngineClient, ExecPrefix},
    files,
    process::{MARKER, ProcessId, Stat},
    spec::{ContainerSpec, Interactive, Rlimit, RlimitResource},
    status::StartFailure,
};

/// `PATH` of a container that sets none; what container runtimes use.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `POSIX_SPAWN_SETSID` of both glibc and musl (`spawn.h`), which the `nix` crate has no name for.
const SETSID: nix::libc::c_int = 0x80;

/// What every command of a container has in common.
pub(super) struct Surroundings {
    /// In the form that the kernel takes; with the mark.
    environment: Vec<CString>,
    /// Where programs are looked up.
    path: String,
    cwd: PathBuf,
    rlimits: Vec<Rlimit>,
    umask: u32,
    /// Files in memory, which every command finds from descriptor 3 on.
    files: Vec<OwnedFd>,
    /// What goes before a further command.
    prefix: ExecPrefix,
    /// Where every command begins, if groups can be had.
    pub(super) group: Option<Group>,
}

/// A command that runs.
pub(super) struct Started {
    pub(super) engine: Option<Box<EngineClient>>,
    pub(super) surroundings: Surroundings,
    pub(super) main: ProcessId,
    pub(super) started_at: Timestamp,
    /// Our ends of its streams, and what they are for.
    pub(super) ends: Ends,
    pub(super) interactive: Interactive,
    pub(super) sink: Sink,
    pub(super) reserve: Option<Reserve>,
}

/// A command that could not be started.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: StartFailure,
    pub(super) message: String,
    /// Whether a disk is full.
    pub(super) no_room: bool,
}

impl Failure {
    fn new(reason: StartFailure, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            no_room: false,
        }
    }

    pub(super) fn caused(
        reason: StartFailure,
        what: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self {
            no_room: files::wants_room(error),
            ..Self::new(reason, format!("{what}: {}", chain(error)))
        }
    }

    pub(super) fn errno(reason: StartFailure, what: &str, errno: Errno) -> Self {
        Self::new(reason, format!("{what}: {}", errno.desc()))
    }
}

/// Everything that can fail without a process is done before the process is made.
pub(super) fn start(context: &Context, spec: &ContainerSpec) -> Result<Started, Failure> {
    let argv = c_strings(&spec.argv, "an argument")?;
    let surroundings = Surroundings::new(spec, &context.arguments.container)?;
    let sink = Sink::create(context, spec.log)?;
    let pgid_file = create_pgid_file(context)?;
    if let Some(engine) = &spec.engine {
        // Before the client can leave anything behind.
        engine.record(&context.records).map_err(|error| {
            Failure::caused(
                StartFailure::System,
                "failed to record the teardown",
                &error,
            )
        })?;
    }
    // Where there is no room for it, the end of the container may still find some.
    let reserve = Reserve::take(&context.records).ok();
    if let Some(cpus) = &spec.cpu_affinity {
        // For this process and all that it will start.
        set_affinity(cpus)?;
    }
    if let Some(wanted) = &spec.mounts {
        let records = context.records.path();
        // Not the records themselves, which may be covered for a moment.
        let staging = records.join("root");
        let made = std::fs::create_dir_all(&staging);
        made.map_err(|error| Failure::caused(StartFailure::Mounts, "mount namespace", &error))?;
        super::mounts::enter(wanted, &staging)
            .map_err(|problem| Failure::new(StartFailure::Mounts, problem))?;
    }
    let wanted = spec.interactive.unwrap_or_default();
    let terminal = wanted.terminal.then_some(streams::TERMINAL);
    let (main, ends) = streams::start(wanted.stdin, terminal, |streams| {
        surroundings.spawn(&argv, streams)
    })?;
    let started_at = Timestamp::now();
    write_pgid(&pgid_file, main);
    let main = context.here.process(main.as_raw(), start_time(main));
    Ok(Started {
        engine: spec.engine.clone(),
        surroundings,
        main,
        started_at,
        ends,
        interactive: wanted,
        sink,
        reserve,
    })
}

/// When our child started; it is not reaped yet, so the number is its own.
///
/// Where `/proc` is mounted with `hidepid=2`, the child is hidden as we are until the kernel has ended its `exec`,
/// which is a moment after it has told us of it, and nothing tells when. A program that stays hidden (one that is
/// set-uid, or cannot be read) has no start time that we could know: 0.
fn start_time(child: Pid) -> u64 {
    const LOOKS: u32 = 200;
    const BETWEEN: Duration = Duration::from_micros(100);
    for _ in 0..LOOKS {
        match Stat::read(child.as_raw()) {
            Ok(Some(stat)) => return stat.start_time,
            Ok(None) => std::thread::sleep(BETWEEN),
            Err(_) => break,
        }
    }
    0
}

impl Surroundings {
    fn new(spec: &ContainerSpec, container: &str) -> Result<Self, Failure> {
        let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
        Ok(Self {
            environment: environment(spec, container)?,
            path: path.map_or(DEFAULT_PATH, |(_, value)| value).to_owned(),
            cwd: spec.cwd.clone(),
            rlimits: spec.rlimits.clone(),
            umask: spec.umask,
            files: memory_files(spec)?,
            prefix: spec
                .engine
                .as_ref()
                .map(|it| it.exec.clone())
                .unwrap_or_default(),
            // Without it the agent watches, as it does where nothing was delegated.
            group: (spec.group.as_ref()).and_then(|it| Group::create(it, container).ok()),
        })
    }

    /// Starts a further command.
    pub(super) fn exec(&self, argv: &[String], streams: &Streams<'_>) -> Result<Pid, Failure> {
        if argv.is_empty() {
            return Err(Failure::new(
                StartFailure::InvalidSpec,
                "no command specified",
            ));
        }
        let (stdin, terminal) = match streams {
            Streams::Pipes([stdin, ..]) => (stdin.is_some(), false),
            Streams::Terminal(_) => (true, true),
        };
        let argv = self.prefix.wrap(argv, stdin, terminal);
        self.spawn(&c_strings(&argv, "an argument")?, streams)
    }

    fn spawn(&self, argv: &[CString], streams: &Streams<'_>) -> Result<Pid, Failure> {
        std::env::set_current_dir(&self.cwd).map_err(|error| {
            Failure::caused(
                StartFailure::WorkingDirectory,
                &format!("working directory {}", self.cwd.display()),
                &error,
            )
        })?;
        let name = argv.first().and_then(|name| name.to_str().ok());
        let spawned = find_program(name.unwrap_or_default(), &self.path)
            .and_then(|program| self.spawn_program(&program, argv, streams));
        // A working directory that is in use cannot be unmounted.
        let _ = std::env::set_current_dir("/");
        spawned
    }
}

fn c_strings<T: AsRef<str>>(texts: &[T], what: &str) -> Result<Vec<CString>, Failure> {
    texts
        .iter()
        .map(|text| {
            CString::new(text.as_ref()).map_err(|_| {
                Failure::new(
                    StartFailure::InvalidSpec,
                    format!("{what} holds a NUL byte"),
                )
            })
        })
        .collect()
}

/// The files of a spec in memory. Their descriptors are beyond those that they get in a command, so that none is
/// overwritten before it was copied.
fn memory_files(spec: &ContainerSpec) -> Result<Vec<OwnedFd>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::caused(
            StartFailure::System,
            "failed to make a file in memory",
            &error,
        )
    };
    let contents = spec.engine.iter().flat_map(|engine| &engine.memory_files);
    let make = |text: &String| {
        let fd = nix::sys::memfd::memfd_create(c"vk-cmd", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        let mut file = File::from(fd);
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        let high = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(64))?;
        // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(high) })
    };
    contents.map(|text| make(text).map_err(failed)).collect()
}

/// The environment: of equal names the last one, and the mark of the container.
fn environment(spec: &ContainerSpec, container: &str) -> Result<Vec<CString>, Failure> {
    let mut variables: BTreeMap<&str, &str> = spec
        .env
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    variables.insert(MARKER, container);
    if let Some(name) = variables
        .keys()
        .find(|name| name.is_empty() || name.contains('='))
    {
        return Err(Failure::new(
            StartFailure::InvalidSpec,
            format!("{name:?} cannot be the name of a variable"),
        ));
    }
    let texts: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    c_strings(&texts, "a variable")
}

/// Creates the `pgid` file with room for any number; until the number is known it holds white space.
fn create_pgid_file(context: &Context) -> Result<File, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::caused(
            StartFailure::PgidFile,
            "failed to write the pgid file",
            error,
        )
    };
    let file = context
        .workdir
        .create_fresh("pgid")
        .map_err(|error| failed(&error))?;
    file.write_all_at(&[b'\n'; 12], 0)
        .map_err(|error| failed(&error))?;
    Ok(file)
}

fn write_pgid(file: &File, pgid: Pid) {
    let text = format!("{pgid}\n");
    // The room is there, and the number stands in the status too.
    let _ = file
        .write_all_at(text.as_bytes(), 0)
        .and_then(|()| file.set_len(text.len() as u64));
}

/// Finds the program as a shell does: by the container's `PATH` unless its name has a slash.
fn find_program(name: &str, path: &str) -> Result<PathBuf, Failure> {
    if name.is_empty() {
        return Err(Failure::new(
            StartFailure::InvalidSpec,
            "no command specified",
        ));
    }
    if name.contains('/') {
        return check_program(name, Path::new(name)).map(|()| PathBuf::from(name));
    }
    let mut refused = None;
    for dir in path.split(':') {
        // An empty entry is the working directory.
        let candidate = if dir.is_empty() {
            Path::new("./").join(name)
        } else {
            Path::new(dir).join(name)
        };
        match check_program(name, &candidate) {
            Ok(()) => return Ok(candidate),
            Err(failure) if failure.reason == StartFailure::NotExecutable => {
                refused.get_or_insert(failure);
            }
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| {
        Failure::new(
            StartFailure::NotFound,
            format!("exec: {name:?}: executable file not found in $PATH"),
        )
    }))
}

fn check_program(name: &str, path: &Path) -> Result<(), Failure> {
    let refused = |errno: Errno| {
        let reason = match errno {
            Errno::ENOENT | Errno::ENOTDIR => StartFailure::NotFound,
            _ => StartFailure::NotExecutable,
        };
        Err(Failure::errno(reason, &format!("exec: {name:?}"), errno).lower())
    };
    match std::fs::metadata(path) {
        Err(error) => refused(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        Ok(meta) if meta.is_dir() => refused(Errno::EISDIR),
        Ok(_) => access(path, AccessFlags::X_OK).or_else(refused),
    }
}

impl Failure {
    /// Error texts of container runtimes begin with a small letter.
    fn lower(mut self) -> Self {
        if let Some((head, tail)) = self.message.rsplit_once(": ") {
            self.message = format!("{head}: {}", tail.to_lowercase());
        }
        self
    }
}

impl Surroundings {
    /// Makes the process, in a process group of its own.
    fn spawn_program(
        &self,
        program: &Path,
        argv: &[CString],
        streams: &Streams<'_>,
    ) -> Result<Pid, Failure> {
        let limits = set_limits(&self.rlimits)?;
        let own_mask = umask(Mode::from_bits_truncate(self.umask));
        let spawned = match &self.group {
            Some(group) => self.spawn_into(group, program, argv, streams),
            None => self.spawn_beside(program, argv, streams),
        };
        umask(own_mask);
        for (resource, soft, hard) in limits {
            // Back to what it was a moment ago, under the same hard limit.
            let _ = setrlimit(resource, soft, hard);
        }
        spawned.map_err(|errno| {
            let name = argv.first().map(|name| name.to_string_lossy());
            exec_failure(&name.unwrap_or_default(), program, errno)
        })
    }

    /// `posix_spawn` shares our memory until the `exec`, so it copies nothing, and its error is that of the `exec`.
    fn spawn_beside(
        &self,
        program: &Path,
        argv: &[CString],
        streams: &Streams<'_>,
    ) -> nix::Result<Pid> {
        let mut actions = PosixSpawnFileActions::init()?;
        let mut attributes = PosixSpawnAttr::init()?;
        let mut flags =
            PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
        match streams {
            Streams::Pipes(pipes) => {
                // What is missing is /dev/null, as our own three are.
                for (number, pipe) in (0..).zip(pipes) {
                    if let Some(pipe) = pipe {
                        actions.add_dup2(pipe.as_raw_fd(), number)?;
                    }
                }
                attributes.set_pgroup(Pid::from_raw(0))?;
                flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
            }
            Streams::Terminal(path) => {
                // A session leader without a terminal gets the first one that it opens.
                actions.add_open(0, *path, OFlag::O_RDWR, Mode::empty())?;
                actions.add_dup2(0, 1)?;
                actions.add_dup2(0, 2)?;
                flags |= PosixSpawnFlags::from_bits_retain(SETSID);
            }
        }
        for (number, file) in (3..).zip(&self.files) {
            actions.add_dup2(file.as_raw_fd(), number)?;
        }
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_flags(flags)?;
        posix_spawn(program, &actions, &attributes, argv, &self.environment)
    }

    fn spawn_into(
        &self,
        group: &Group,
        program: &Path,
        argv: &[CString],
        streams: &Streams<'_>,
    ) -> nix::Result<Pid> {
        let terminal = match streams {
            Streams::Terminal(path) => Some(CString::new(*path).map_err(|_| Errno::EINVAL)?),
            Streams::Pipes(_) => None,
        };
        let pipes = match streams {
            Streams::Pipes(pipes) => *pipes,
            Streams::Terminal(_) => [None; 3],
        };
        let pipes = (0..).zip(pipes);
        let pipes = pipes.filter_map(|(number, pipe)| Some((pipe?.as_raw_fd(), number)));
        let memory = (3..).zip(&self.files);
        let memory = memory.map(|(number, file)| (file.as_raw_fd(), number));
        let files: Vec<_> = pipes.chain(memory).collect();
        let plan = born::Plan {
            files: &files,
            terminal: terminal.as_deref(),
        };
        born::spawn(group.descriptor(), program, argv, &self.environment, &plan)
    }
}

fn exec_failure(name: &str, program: &Path, errno: Errno) -> Failure {
    let what = format!("exec: {name:?}");
    match errno {
        Errno::ENOENT if program.exists() => Failure::new(
            StartFailure::NotFound,
            format!(
                "{what}: the interpreter that the file names does not exist: {}",
                errno.desc().to_lowercase()
            ),
        ),
        Errno::ENOENT | Errno::ENOTDIR => {
            Failure::errno(StartFailure::NotFound, &what, errno).lower()
        }
        Errno::EACCES | Errno::EPERM | Errno::EISDIR => {
            Failure::errno(StartFailure::NotExecutable, &what, errno).lower()
        }
        Errno::ENOEXEC | Errno::ELIBBAD => {
            Failure::errno(StartFailure::ExecFormat, &what, errno).lower()
        }
        Errno::E2BIG => Failure::new(
            StartFailure::System,
            format!(
                "{what}: argument list too long: the kernel takes no argument or variable of \
                 128 KiB or more, and all of them together only up to a quarter of the stack limit; \
                 mount large values as files"
            ),
        ),
        _ => Failure::errno(StartFailure::System, &what, errno).lower(),
    }
}

fn set_affinity(cpus: &[usize]) -> Result<(), Failure> {
    let failed = |errno: Errno| {
        Failure::errno(
            StartFailure::Limits,
            &format!("failed to use the CPUs {cpus:?}"),
            errno,
        )
    };
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).map_err(failed)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(failed)
}

/// Sets soft limits and returns what they were.
fn set_limits(limits: &[Rlimit]) -> Result<Vec<(Resource, u64, u64)>, Failure> {
    let mut before = Vec::new();
    for limit in limits {
        let resource = match limit.resource {
            RlimitResource::Nofile => Resource::RLIMIT_NOFILE,
            RlimitResource::Core => Resource::RLIMIT_CORE,
            RlimitResource::Stack => Resource::RLIMIT_STACK,
            RlimitResource::Memlock => Resource::RLIMIT_MEMLOCK,
        };
        let failed = |errno| {
            Failure::errno(
                StartFailure::Limits,
                &format!("failed to limit {:?}", limit.resource),
                errno,
            )
        };
        let (soft, hard) = getrlimit(resource).map_err(failed)?;
        setrlimit(resource, limit.soft.min(hard), hard).map_err(failed)?;
        before.push((resource, soft, hard));
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(argv: &[&str], path: &str) -> ContainerSpec {
        let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        ContainerSpec::new(argv, vec![("PATH".into(), path.into())], "/")
    }

    #[test]
    fn the_program_is_found_as_a_shell_finds_it() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (first, second) = (temp.path().join("1"), temp.path().join("2"));
        for dir in [&first, &second] {
            std::fs::create_dir(dir).expect("mkdir");
        }
        std::fs::write(first.join("tool"), "").expect("write");
        std::fs::create_dir(first.join("dir")).expect("mkdir");
        let path = format!("{}:{}", first.display(), second.display());

        let reason = |name: &str| find_program(name, &path).expect_err("no program").reason;
        assert_eq!(reason("tool"), StartFailure::NotExecutable);
        assert_eq!(reason("dir"), StartFailure::NotExecutable);
        assert_eq!(reason("nothing"), StartFailure::NotFound);
        assert_eq!(reason(""), StartFailure::InvalidSpec);
        assert_eq!(reason("/nowhere/tool"), StartFailure::NotFound);

        std::fs::copy("/bin/true", second.join("tool")).expect("copy");
        let found = find_program("tool", &path).expect("the executable one");
        assert_eq!(found, second.join("tool"));
        let missing = find_program("nothing", &path)
            .expect_err("no program")
            .message;
        assert_eq!(
            missing,
            "exec: \"nothing\": executable file not found in $PATH"
        );
    }

    #[test]
    fn of_equal_variables_the_last_one_holds_and_the_mark_cannot_be_forged() {
        let mut spec = spec(&["true"], "/bin");
        spec.env.extend([
            ("A".into(), "1".into()),
            ("A".into(), "2".into()),
            (MARKER.into(), "forged".into()),
        ]);
        let texts: Vec<String> = environment(&spec, "id")
            .expect("valid")
            .into_iter()
            .map(|text| text.into_string().expect("text"))
            .collect();
        assert_eq!(texts, ["A=2", "PATH=/bin", &format!("{MARKER}=id")]);
        spec.env.push(("B=C".into(), String::new()));
        assert_eq!(
            environment(&spec, "id").expect_err("a bad name").reason,
            StartFailure::InvalidSpec
        );
    }
}
