//! Control groups (version 2), below one that was delegated to this user.
//!
//! ```text
//! <delegated>/vk-cmd.agent          the agent, its shims, and whoever was there before
//! <delegated>/vk-cmd.pods/<pod>/<container's identity>
//! ```
//!
//! A group that hands controllers on holds no processes itself, so that all that the delegated group holds moves
//! into the first of these when an agent begins. The facts are those of the kernel's `cgroup-v2.rst`; who may use
//! what of the tree is systemd's `CGROUP_DELEGATION.md`.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
    unistd::{AccessFlags, access, geteuid},
};
use serde::{Deserialize, Serialize};

/// Holds the agent.
const AGENT: &str = "vk-cmd.agent";
/// Holds the pods.
const PODS: &str = "vk-cmd.pods";
/// How often processes that come while others are moved are moved as well.
const MOVES: usize = 16;
/// The period of `cpu.max`, in microseconds; a kubelet's.
const PERIOD: u64 = 100_000;
/// The kernel takes no smaller quota, in microseconds.
const LEAST_QUOTA: u64 = 1_000;

/// Whether control groups are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Where the group of this process was delegated to it.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Below this directory, which was delegated to us.
    At(PathBuf),
}

/// What can be limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controllers {
    /// `memory.max`.
    pub memory: bool,
    /// `cpu.max`.
    pub cpu: bool,
    /// `pids.max`.
    pub pids: bool,
}

impl Controllers {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let has = |name| text.split_whitespace().any(|it| it == name);
        Self {
            memory: has("memory"),
            cpu: has("cpu"),
            pids: has("pids"),
        }
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("memory", self.memory),
            ("cpu", self.cpu),
            ("pids", self.pids),
        ];
        all.into_iter().filter(|it| it.1).map(|it| it.0)
    }
}

/// Why there are no groups.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// This host has none, or another version.
    #[error("there is no control group of version 2 here")]
    None,
    /// It is somebody else's.
    #[error("{} is not delegated to this user ({why})", group.display())]
    NotOurs {
        /// The group.
        group: PathBuf,
        /// What shows it.
        why: &'static str,
    },
    /// The system refused.
    #[error("failed to use the control group {}", group.display())]
    Io {
        /// The group.
        group: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A place for the groups of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated {
    base: PathBuf,
    /// What it can limit.
    pub controllers: Controllers,
}

impl Delegated {
    /// Looks for a delegated group and makes it ready; none where none is wanted.
    ///
    /// # Errors
    /// Where there is none. With [`Choice::Auto`] that is no fault of anybody's.
    pub fn find(choice: &Choice) -> Result<Option<Self>, GroupError> {
        let group = match choice {
            Choice::Off => return Ok(None),
            Choice::At(group) => group.clone(),
            Choice::Auto => {
                let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                let group = own_group(&groups, &mounts).ok_or(GroupError::None)?;
                if geteuid().is_root() && !is_roots(&group) {
                    let why = "root may write to every group, and this one does not say that it was handed on";
                    return Err(GroupError::NotOurs { group, why });
                }
                group
            }
        };
        Self::below(group).map(Some)
    }

    /// Makes the group ready.
    fn below(mut group: PathBuf) -> Result<Self, GroupError> {
        if group.file_name() == Some(OsStr::new(AGENT)) {
            // Where an earlier agent has put us.
            group.pop();
        }
        let ours = ["", "cgroup.procs", "cgroup.subtree_control"];
        let closed = |name: &&str| access(&group.join(name), AccessFlags::W_OK).is_err();
        if ours.iter().any(closed) {
            let why = "it cannot be written to";
            return Err(GroupError::NotOurs { group, why });
        }
        match Self::prepare(&group) {
            Ok(ready) => Ok(ready),
            Err(source) => Err(GroupError::Io { group, source }),
        }
    }

    fn prepare(group: &Path) -> io::Result<Self> {
        let (agent, base) = (group.join(AGENT), group.join(PODS));
        for dir in [&agent, &base] {
            make(dir)?;
        }
        for _ in 0..MOVES {
            let listed = fs::read_to_string(group.join("cgroup.procs"))?;
            if listed.is_empty() {
                break;
            }
            for pid in listed.lines() {
                match fs::write(agent.join("cgroup.procs"), pid) {
                    Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
        }
        hand_on(group, Controllers::read(&group.join("cgroup.controllers")));
        let controllers = Controllers::read(&base.join("cgroup.controllers"));
        hand_on(&base, controllers);
        forget_empty(&base);
        let controllers = Controllers::read(&base.join("cgroup.subtree_control"));
        Ok(Self { base, controllers })
    }

    /// The group of a container that is to start.
    pub fn of(&self, pod: &str, limits: Limits) -> GroupSpec {
        GroupSpec {
            base: self.base.clone(),
            pod: pod.to_owned(),
            limits,
        }
    }
}

/// Hands controllers on to the groups below, one by one: what cannot be handed on is not in force.
fn hand_on(group: &Path, controllers: Controllers) {
    for name in controllers.names() {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

/// Removes what shims that were killed have left; a group with processes stays by itself.
fn forget_empty(base: &Path) {
    let below = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|it| it.file_type().is_ok_and(|it| it.is_dir()));
        dirs.map(|it| it.path()).collect::<Vec<_>>()
    };
    for pod in below(base) {
        for container in below(&pod) {
            let _ = fs::remove_dir(container);
        }
        let _ = fs::remove_dir(pod);
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The directory of this process's group, as `/proc/self/cgroup` and `/proc/self/mountinfo` tell it.
fn own_group(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|it| it.strip_prefix("0::"))?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some((root, point))
    });
    let (root, point) = mount?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some(Path::new(point).join(below))
}

/// Whether root may take a group for its own: it is the root of a namespace, or says that it was delegated.
fn is_roots(group: &Path) -> bool {
    let group = match group.file_name() {
        Some(name) if name == AGENT => group.parent().unwrap_or(group),
        _ => group,
    };
    // The root of the whole machine has no type.
    if !group.join("cgroup.type").exists() {
        return false;
    }
    let mount = group.parent().and_then(|it| fs::metadata(it).ok());
    let is_top =
        fs::metadata(group).is_ok_and(|it| mount.is_some_and(|above| above.dev() != it.dev()));
    is_top
        || ["trusted.delegate", "user.delegate"]
            .iter()
            .any(|name| marked(group, name))
}

/// Whether an extended attribute of a file is `1`.
fn marked(path: &Path, name: &str) -> bool {
    let (Ok(path), Ok(name)) = (
        std::ffi::CString::new(path.as_os_str().as_bytes()),
        std::ffi::CString::new(name),
    ) else {
        return false;
    };
    let mut value = [0_u8; 4];
    // SAFETY: both texts end with a NUL byte, the buffer is as long as is said, and all live until the call returns.
    let length = unsafe {
        nix::libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    length == 1 && value[0] == b'1'
}

/// What a container may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Thousandths of a core.
    #[serde(default)]
    pub millicpus: Option<u64>,
    /// Thousandths of a core that it asked for, which decide who gets how much where there is too little.
    #[serde(default)]
    pub cpu_request: u64,
    /// Processes and threads of the whole pod.
    #[serde(default)]
    pub pod_pids: Option<u64>,
}

/// The group that a container is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    base: PathBuf,
    pod: String,
    limits: Limits,
}

impl GroupSpec {
    /// Where it is for a start of that identity.
    pub fn path(&self, container: &str) -> PathBuf {
        self.base.join(&self.pod).join(container)
    }
}

/// A container's group.
#[derive(Debug)]
pub struct Group {
    dir: OwnedFd,
    path: PathBuf,
    /// What of its limits the kernel has taken.
    pub holds: Controllers,
}

impl Group {
    /// Makes it. What the kernel does not take of the limits is not in [`Group::holds`].
    ///
    /// # Errors
    /// Where there can be no such group.
    pub fn create(spec: &GroupSpec, container: &str) -> io::Result<Self> {
        let (path, limits) = (spec.path(container), &spec.limits);
        let pod = spec.base.join(&spec.pod);
        // The last container of the pod may be taking the pod's group with it.
        let mut tries = 0;
        loop {
            make(&pod)?;
            match make(&path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < MOVES => {
                    tries += 1
                }
                Err(error) => return Err(error),
            }
        }
        hand_on(&pod, Controllers::read(&pod.join("cgroup.controllers")));
        let set = |dir: &Path, name: &str, value: String| fs::write(dir.join(name), value).is_ok();
        let memory = limits.memory.is_some_and(|bytes| {
            // As a kubelet sets it: no swap, and all processes end together.
            set(&path, "memory.swap.max", "0".to_owned());
            set(&path, "memory.oom.group", "1".to_owned());
            set(&path, "memory.max", bytes.to_string())
        });
        let cpu = limits.millicpus.is_some_and(|millis| {
            let quota = (millis.saturating_mul(PERIOD) / 1000).max(LEAST_QUOTA);
            set(&path, "cpu.max", format!("{quota} {PERIOD}"))
        });
        set(&path, "cpu.weight", weight(limits.cpu_request).to_string());
        let pids = (limits.pod_pids).is_some_and(|most| set(&pod, "pids.max", most.to_string()));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(&path, flags, Mode::empty())?;
        Ok(Self {
            dir,
            path,
            holds: Controllers { memory, cpu, pids },
        })
    }

    /// Finds the group of an earlier start; none where it is gone.
    pub fn existing(path: &Path) -> Option<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let dir = nix::fcntl::open(path, flags, Mode::empty()).ok()?;
        Some(Self {
            dir,
            path: path.to_owned(),
            holds: Controllers::default(),
        })
    }

    /// Its directory, for `clone3(2)`.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Sends SIGKILL to all that it holds, also to what is being born (Linux 5.14; before, others have to look).
    pub fn kill(&self) {
        let _ = self.write("cgroup.kill", "1");
    }

    /// Whether the kernel has killed for want of memory in here.
    pub fn ran_out_of_memory(&self) -> bool {
        let text = self.read("memory.events").unwrap_or_default();
        oom_kills(&text) > 0
    }

    /// The processes that it holds.
    pub fn processes(&self) -> Vec<i32> {
        let text = self.read("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|it| it.parse().ok()).collect()
    }

    // By the descriptor: the container's own mounts may cover the path.
    fn open(&self, name: &str, flags: OFlag) -> nix::Result<fs::File> {
        openat(&self.dir, name, flags | OFlag::O_CLOEXEC, Mode::empty()).map(fs::File::from)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        self.open(name, OFlag::O_WRONLY)?.write_all(text.as_bytes())
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.open(name, OFlag::O_RDONLY)?
            .read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Removes it where it is empty, and the pod's where this was the last.
impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
        if let Some(pod) = self.path.parent() {
            let _ = fs::remove_dir(pod);
        }
    }
}

fn oom_kills(events: &str) -> u64 {
    let count = events.lines().find_map(|it| it.strip_prefix("oom_kill "));
    count.and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// `cpu.weight` of a request, through the shares of version 1 as runtimes reckon (2…262,144 to 1…10,000).
fn weight(millicpus: u64) -> u64 {
    let shares = (millicpus * 1024 / 1000).clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 30 0:22 / /proc rw - proc proc rw\n\
        30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_group_is_found_where_it_is_mounted() {
        let found = |groups, mounts| own_group(groups, mounts);
        let slice = "0::/user.slice/user-7.slice/a.scope\n";
        assert_eq!(
            found(slice, MOUNTS),
            Some("/sys/fs/cgroup/user.slice/user-7.slice/a.scope".into())
        );
        // Beside version 1.
        let both = "9:pids:/\n0::/x\n";
        let unified = MOUNTS.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified");
        assert_eq!(
            found(both, &unified),
            Some("/sys/fs/cgroup/unified/x".into())
        );
        // A part of the tree is mounted.
        let part = MOUNTS.replace(" / /sys", " /user.slice /sys");
        assert_eq!(
            found(slice, &part),
            Some("/sys/fs/cgroup/user-7.slice/a.scope".into())
        );
        assert_eq!(found("0::/elsewhere\n", &part), None);
        assert_eq!(found("9:pids:/\n", MOUNTS), None);
        assert_eq!(found(slice, ""), None);
    }

    #[test]
    fn a_group_of_another_is_left_alone() {
        let temp = tempfile::tempdir().expect("tempdir");
        let group = temp.path().join("g");
        fs::create_dir(&group).expect("mkdir");
        let refused = Delegated::find(&Choice::At(group.clone()));
        assert!(matches!(refused, Err(GroupError::NotOurs { .. })));
        assert_eq!(fs::read_dir(&group).expect("list").count(), 0);
        assert_eq!(Delegated::find(&Choice::Off).expect("none wanted"), None);
        assert!(!is_roots(&group));
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let temp = tempfile::tempdir().expect("tempdir");
        let limits = Limits {
            memory: Some(64 << 20),
            millicpus: Some(1500),
            cpu_request: 1000,
            pod_pids: Some(100),
        };
        let spec = GroupSpec {
            base: temp.path().to_owned(),
            pod: "uid".to_owned(),
            limits,
        };
        let group = Group::create(&spec, "id").expect("a group");
        let all = Controllers {
            memory: true,
            cpu: true,
            pids: true,
        };
        assert_eq!(group.holds, all);
        let read = |name: &str| fs::read_to_string(temp.path().join(name)).expect(name);
        assert_eq!(read("uid/id/memory.max"), "67108864");
        assert_eq!(read("uid/id/memory.swap.max"), "0");
        assert_eq!(read("uid/id/memory.oom.group"), "1");
        assert_eq!(read("uid/id/cpu.max"), "150000 100000");
        assert_eq!(read("uid/id/cpu.weight"), "39");
        assert_eq!(read("uid/pids.max"), "100");

        // The kernel takes no quota below a hundredth of a core.
        let least = Limits {
            millicpus: Some(1),
            ..Limits::default()
        };
        let spec = GroupSpec {
            limits: least,
            ..spec
        };
        let group = Group::create(&spec, "other").expect("a group");
        assert_eq!(read("uid/other/cpu.max"), "1000 100000");
        assert!(!group.holds.memory && !temp.path().join("uid/other/memory.max").exists());
    }

    #[test]
    fn weights_are_those_of_runtimes() {
        assert_eq!(weight(0), 1);
        assert_eq!(weight(100), 4);
        assert_eq!(weight(1000), 39);
        assert_eq!(weight(u64::from(u32::MAX)), 10_000);
    }

    #[test]
    fn kills_are_counted_and_not_mere_pressure() {
        assert_eq!(
            oom_kills("low 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n"),
            2
        );
        assert_eq!(oom_kills("oom 3\noom_kill 0\n"), 0);
        assert_eq!(oom_kills(""), 0);
    }
}
