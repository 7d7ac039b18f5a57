//! Looking at the machine. Nothing here decides; nothing that is not there is an error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;

use crate::container::engine::Kind;
use crate::site::surroundings::{Seat, Surroundings, find_program};

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may take.
const REACH: Duration = Duration::from_secs(3);

/// What is to be looked at beside the machine itself.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Directories by a name for people.
    pub directories: Vec<(String, PathBuf)>,
    /// `host:port` of what must be reachable from here.
    pub reach: Vec<String>,
    /// The engine's program, where the profile names one.
    pub engine_program: Option<(Kind, String)>,
    /// The engine's own environment, as the profile sets it.
    pub engine_environment: BTreeMap<String, String>,
    /// The private key of tunnels.
    pub identity_file: Option<PathBuf>,
    /// The hostpipe's directory.
    pub hostpipe: Option<PathBuf>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Where the process sits.
    pub seat: Seat,
    /// Each engine whose program is there.
    pub engines: BTreeMap<Kind, EngineFacts>,
    /// Whether a user namespace could be made; why not.
    pub user_namespace: Option<Result<(), String>>,
    /// Ranges of further uids, from `/etc/subuid`.
    pub subuids: bool,
    /// Whether `/dev/fuse` can be opened.
    pub fuse: bool,
    /// The cgroup.
    pub cgroup: Cgroup,
    /// Batch systems by their command, and what it says of itself.
    pub batch: BTreeMap<&'static str, String>,
    /// The batch job that this runs in.
    pub job: Option<(&'static str, String)>,
    /// Whether the job's environment says when it ends.
    pub job_end: bool,
    /// ssh's version.
    pub ssh: Option<String>,
    /// The private key: none where none is named; else whether it is there, and its mode.
    pub identity: Option<(PathBuf, Result<u32, String>)>,
    /// Directories.
    pub directories: Vec<Directory>,
    /// What was to be reached, and how that went.
    pub reached: Vec<(String, Result<Duration, String>)>,
    /// Whether the kernel calls its clock synchronised.
    pub clock_synchronised: Option<bool>,
    /// Soft and hard limit of open files, hard limit of processes.
    pub limits: (u64, u64, u64),
    /// The hostpipe: its FIFO, and whether somebody reads it.
    pub hostpipe: Option<(PathBuf, Result<bool, String>)>,
}

/// One engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its program.
    pub program: PathBuf,
    /// What it says of itself; or why it does not.
    pub version: Result<String, String>,
    /// Whether it can run anything (Docker's daemon); or why not.
    pub usable: Result<(), String>,
}

/// The cgroup of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// 0 where there is none that we know.
    pub version: u8,
    /// Its directory.
    pub path: PathBuf,
    /// Whether groups can be made below it.
    pub writable: bool,
    /// Controllers that are handed down (version 2).
    pub controllers: Vec<String>,
}

/// A directory and its file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// For people: `home`, `root`, `tmp`.
    pub name: String,
    /// Where.
    pub path: PathBuf,
    /// The file system's name, or its magic number.
    pub kind: String,
    /// Bytes free for us.
    pub free: u64,
    /// What went wrong before anything could be tried.
    pub unusable: Option<String>,
    /// Whether a socket can be bound there.
    pub sockets: bool,
    /// Whether a file without a name can be linked (`O_TMPFILE`).
    pub tmpfile: bool,
    /// Whether hard links work.
    pub links: bool,
    /// Whether programs can be run from there.
    pub exec: bool,
    /// How far the file system's clock is ahead of ours, in milliseconds.
    pub ahead_ms: i64,
}

impl Facts {
    /// Looks at everything; takes as long as the slowest of what is reached for. Blocks.
    pub fn gather(here: &Surroundings, wish: &Wish) -> Self {
        let path = here.environment.get("PATH").map_or("", String::as_str);
        let mut environment = here.environment.clone();
        environment.extend(wish.engine_environment.clone());
        let say = |program: &str, args: &[&str]| {
            find_program(program, path).map(|it| (it.clone(), output(&it, args, &environment)))
        };
        let mut engines = BTreeMap::new();
        for kind in Kind::ALL {
            let named = wish.engine_program.as_ref().filter(|it| it.0 == kind);
            let program = named.map_or(kind.program(), |it| it.1.as_str());
            if let Some((program, version)) = say(program, &["--version"]) {
                let usable = match kind {
                    Kind::Docker => output(
                        &program,
                        &["info", "--format={{.ServerVersion}}"],
                        &environment,
                    ),
                    Kind::Podman => output(
                        &program,
                        &["info", "--format={{.Version.Version}}"],
                        &environment,
                    ),
                    _ => Ok(String::new()),
                };
                let facts = EngineFacts {
                    version: version.map(|text| number(&text)),
                    usable: usable.map(drop),
                    program,
                };
                engines.insert(kind, facts);
            }
        }
        let mut batch = BTreeMap::new();
        for (name, program, arg) in [
            ("slurm", "sbatch", "--version"),
            ("pbs", "qsub", "--version"),
            ("htcondor", "condor_submit", "-version"),
        ] {
            if let Some((_, said)) = say(program, &[arg]) {
                batch.insert(
                    name,
                    said.map_or_else(|error| error, |text| first_line(&text)),
                );
            }
        }
        let job = [
            ("slurm", "SLURM_JOB_ID"),
            ("pbs", "PBS_JOBID"),
            ("htcondor", "_CONDOR_JOB_AD"),
        ]
        .into_iter()
        .find_map(|(name, variable)| Some((name, environment.get(variable)?.clone())));
        let limit = |resource| getrlimit(resource).unwrap_or((0, 0));
        let files = limit(Resource::RLIMIT_NOFILE);
        Self {
            seat: here.seat,
            engines,
            user_namespace: say("unshare", &["--user", "--map-root-user", "true"])
                .map(|it| it.1.map(drop)),
            subuids: subuids(),
            fuse: fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .is_ok(),
            cgroup: cgroup(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
            batch,
            job,
            job_end: ["SLURM_JOB_END_TIME", "JIRIAF_WALLTIME"]
                .iter()
                .any(|name| environment.contains_key(*name)),
            // ssh tells its version on standard error.
            ssh: say("ssh", &["-V"]).map(|it| it.1.unwrap_or_else(|error| error)),
            identity: wish.identity_file.clone().map(|path| {
                let mode = fs::metadata(&path).map(|it| it.permissions().mode() & 0o777);
                (path, mode.map_err(|error| error.to_string()))
            }),
            directories: wish
                .directories
                .iter()
                .map(|(name, path)| directory(name, path))
                .collect(),
            reached: reach(&wish.reach),
            clock_synchronised: clock(),
            limits: (files.0, files.1, limit(Resource::RLIMIT_NPROC).1),
            hostpipe: wish.hostpipe.as_ref().and_then(|path| hostpipe(path)),
        }
    }
}

/// What a program prints, on either output; an error where it fails or hangs.
fn output(
    program: &Path,
    args: &[&str],
    environment: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |from: Option<Box<dyn io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(from) = from {
                // What could be read is what there is to say.
                let _ = io::Read::read_to_end(&mut io::Read::take(from, 64 * 1024), &mut text);
            }
            String::from_utf8_lossy(&text).trim().to_owned()
        })
    };
    let stdout = read(stdout.map(|it| Box::new(it) as _));
    let stderr = read(stderr.map(|it| Box::new(it) as _));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let (stdout, stderr) = (
        stdout.join().unwrap_or_default(),
        stderr.join().unwrap_or_default(),
    );
    match (status.success(), stdout.is_empty()) {
        (true, false) => Ok(stdout),
        (true, true) => Ok(stderr),
        (false, _) if stderr.is_empty() => Err(format!("it ended with {status}")),
        (false, _) => Err(first_line(stderr.lines().last().unwrap_or_default())),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The first word that looks like a version.
fn number(text: &str) -> String {
    let word = text.split([' ', ',', '\n']).find(|word| {
        word.contains('.')
            && word
                .trim_start_matches('v')
                .starts_with(|c: char| c.is_ascii_digit())
    });
    word.map_or_else(
        || first_line(text),
        |word| word.trim_start_matches('v').to_owned(),
    )
}

fn subuids() -> bool {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten();
    let (name, uid) = (
        user.map(|it| it.name).unwrap_or_default(),
        nix::unistd::geteuid().to_string(),
    );
    fs::read_to_string("/etc/subuid").is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.split(':').next())
            .any(|owner| owner == name || owner == uid)
    })
}

fn cgroup(of_self: &Path, mount: &Path) -> Cgroup {
    let text = fs::read_to_string(of_self).unwrap_or_default();
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    let memory = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        controllers
            .split(',')
            .any(|it| it == "memory")
            .then(|| parts.next())?
    });
    let below = |base: PathBuf, path: &str| base.join(path.trim_start_matches('/'));
    let (version, path) = match (unified, memory) {
        (_, Some(path)) => (1, below(mount.join("memory"), path)),
        (Some(path), None) => (2, below(mount.to_owned(), path)),
        (None, None) => return Cgroup::default(),
    };
    // Making a group is the only honest test; an empty one leaves nothing behind.
    let probe = path.join(format!("vk-cmd-probe-{}", std::process::id()));
    let writable = fs::create_dir(&probe).is_ok() && fs::remove_dir(&probe).is_ok();
    let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    Cgroup {
        version,
        writable,
        controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        path,
    }
}

fn reach(targets: &[String]) -> Vec<(String, Result<Duration, String>)> {
    let threads: Vec<_> = targets
        .iter()
        .map(|target| {
            let target = target.clone();
            std::thread::spawn(move || {
                let began = Instant::now();
                let result = target
                    .to_socket_addrs()
                    .and_then(|mut all| all.next().ok_or_else(|| io::Error::other("no address")))
                    .and_then(|address| TcpStream::connect_timeout(&address, REACH))
                    .map(|_| began.elapsed())
                    .map_err(|error| error.to_string());
                (target, result)
            })
        })
        .collect();
    threads
        .into_iter()
        .filter_map(|thread| thread.join().ok())
        .collect()
}

/// Whether the kernel's clock is kept by somebody (adjtimex(2)).
fn clock() -> Option<bool> {
    // SAFETY: all fields of timex are integers, for which zero is a value; modes 0 changes nothing.
    let mut timex: nix::libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a timex of our own.
    let state = unsafe { nix::libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & nix::libc::STA_UNSYNC == 0)
}

fn hostpipe(dir: &Path) -> Option<(PathBuf, Result<bool, String>)> {
    let fifo = dir.join(crate::site::surroundings::FIFO);
    fs::symlink_metadata(&fifo).ok()?;
    let is_fifo = {
        use std::os::unix::fs::FileTypeExt;
        fs::metadata(&fifo).is_ok_and(|it| it.file_type().is_fifo())
    };
    if !is_fifo {
        return Some((fifo, Err("it is no FIFO".to_owned())));
    }
    let opened = fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&fifo);
    let read = match opened {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => Ok(false),
        Err(error) => Err(error.to_string()),
    };
    Some((fifo, read))
}

/// Tries a directory, in a directory of its own, which goes again.
fn directory(name: &str, path: &Path) -> Directory {
    let mut facts = Directory {
        name: name.to_owned(),
        path: path.to_owned(),
        kind: String::new(),
        free: 0,
        unusable: None,
        sockets: false,
        tmpfile: false,
        links: false,
        exec: false,
        ahead_ms: 0,
    };
    if let Ok(stat) = nix::sys::statfs::statfs(path) {
        facts.kind = file_system(whole(stat.filesystem_type().0));
        facts.free = stat.blocks_available() * whole::<_, u64>(stat.block_size());
    }
    let probe = path.join(format!(".vk-cmd-probe-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&probe) {
        facts.unusable = Some(error.to_string());
        return facts;
    }
    facts.sockets = UnixListener::bind(probe.join("s")).is_ok();
    facts.tmpfile = unnamed(&probe).is_ok();
    let file = probe.join("f");
    if fs::write(&file, "#!/bin/sh\nexit 0\n").is_ok() {
        let now = SystemTime::now();
        if let Ok(modified) = fs::metadata(&file).and_then(|it| it.modified()) {
            let ahead = modified.duration_since(now).map(|it| it.as_millis() as i64);
            facts.ahead_ms = ahead.unwrap_or_else(|behind| -(behind.duration().as_millis() as i64));
        }
        facts.links = fs::hard_link(&file, probe.join("l")).is_ok();
        facts.exec = fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).is_ok()
            && nix::unistd::access(&file, nix::unistd::AccessFlags::X_OK).is_ok();
    }
    // Made a moment ago, with nothing in it but what is named here.
    let _ = fs::remove_dir_all(&probe);
    facts
}

fn unnamed(dir: &Path) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(dir, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(
        AT_FDCWD,
        from.as_str(),
        AT_FDCWD,
        &dir.join("t"),
        AtFlags::AT_SYMLINK_FOLLOW,
    )
}

/// Numbers of the kernel, whose types differ between C libraries.
fn whole<N: TryInto<M>, M: Default>(number: N) -> M {
    number.try_into().unwrap_or_default()
}

/// Names of magic numbers (statfs(2), and the sources of Lustre, GPFS and BeeGFS).
fn file_system(magic: i64) -> String {
    let name = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "beegfs",
        0x00c3_6400 => "ceph",
        0x5346_414f => "afs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        _ => return format!("{magic:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, wanted) in [
            ("Docker version 28.2.2, build e6534b4", "28.2.2"),
            ("podman version 4.3.1", "4.3.1"),
            ("apptainer version 1.4.5", "1.4.5"),
            ("0.31", "0.31"),
            ("shifter", "shifter"),
        ] {
            assert_eq!(number(text), wanted);
        }
    }

    #[test]
    fn a_directory_is_tried_and_left_as_it_was() {
        let temp = tempfile::tempdir().expect("a directory");
        let facts = directory("t", temp.path());
        assert_eq!(facts.unusable, None);
        assert!(facts.sockets && facts.links && facts.exec, "{facts:?}");
        assert!(facts.ahead_ms.abs() < 5_000, "{facts:?}");
        assert_eq!(fs::read_dir(temp.path()).expect("there").count(), 0);
        assert!(directory("t", Path::new("/nowhere")).unusable.is_some());
    }

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let temp = tempfile::tempdir().expect("a directory");
        let text = temp.path().join("cgroup");
        fs::write(&text, "0::/user.slice/a\n").expect("written");
        let mount = temp.path().join("mount");
        fs::create_dir_all(mount.join("user.slice/a")).expect("made");
        fs::write(
            mount.join("user.slice/a/cgroup.controllers"),
            "cpu memory\n",
        )
        .expect("written");
        let found = cgroup(&text, &mount);
        assert_eq!((found.version, found.writable), (2, true));
        assert_eq!(found.controllers, ["cpu", "memory"]);
        fs::write(&text, "5:memory:/job\n0::/\n").expect("written");
        let found = cgroup(&text, &mount);
        assert_eq!((found.version, found.writable), (1, false));
        assert_eq!(found.path, mount.join("memory/job"));
    }

    #[test]
    fn a_pipe_without_a_reader_is_told_from_one_with() {
        let temp = tempfile::tempdir().expect("a directory");
        assert_eq!(hostpipe(temp.path()), None);
        let fifo = temp.path().join("vk-cmd");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        assert_eq!(hostpipe(temp.path()), Some((fifo.clone(), Ok(false))));
        let _reader = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&fifo)
            .expect("opened");
        assert_eq!(hostpipe(temp.path()), Some((fifo, Ok(true))));
    }

    #[test]
    fn what_is_reached_is_told_from_what_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let there = listener.local_addr().expect("an address").to_string();
        let reached = reach(&[there.clone(), "127.0.0.1:1".to_owned()]);
        assert!(reached[0].0 == there && reached[0].1.is_ok(), "{reached:?}");
        assert!(reached[1].1.is_err(), "{reached:?}");
    }
}
