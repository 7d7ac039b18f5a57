//! One look at every process of the host, and what the tree of a container uses.
//!
//! CPU is what the living processes have used, and what the dead ones had: a process that is
//! reaped adds its time to its parent's account of children (`cutime`, `cstime`), and the shim, as
//! subreaper, inherits the rest.
//!
//! Memory of a tree is the sum of what each process has for itself, and the largest part that any
//! of them shares: a segment that sixty-four ranks map is there once. Exact shares cost a walk of
//! the page tables ([`super::memory`]) and are left to those who have a limit near.

use std::{collections::HashMap, fs, io, io::Read, path::Path, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::process::ProcessId;

/// The name of a shim's process.
const SHIM: &[u8] = b"vk-shim";

/// One process as a pass found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Number.
    pub pid: i32,
    /// Parent.
    pub ppid: i32,
    /// Session.
    session: i32,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// Ended, and not reaped.
    pub dead: bool,
    /// Its name is a shim's.
    shim: bool,
    /// Ticks of its own.
    own: u64,
    /// Ticks of children that it has reaped.
    reaped: u64,
    /// Resident pages.
    resident: u64,
}

/// What a tree uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since the container started, as far as the kernel tells now.
    pub cpu: Duration,
    /// Bytes that cannot be had back without writing them somewhere (estimated as said above).
    pub working_set: u64,
    /// Sum of the resident sets; what is shared counts for each process.
    pub rss: u64,
    /// Processes.
    pub processes: u32,
}

/// A shim's process, by which the rest of a tree is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shim {
    pid: i32,
    /// [`HIDDEN`] where it cannot be seen.
    start_time: u64,
}

/// No start time: init alone starts in the first tick.
const HIDDEN: u64 = 0;

impl Shim {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// Every process at one moment.
#[derive(Debug)]
pub struct Pass {
    /// By parent.
    processes: Vec<Process>,
    by_pid: HashMap<i32, u32>,
    taken_at: Timestamp,
    tick: Duration,
    page: u64,
    proc: std::path::PathBuf,
}

impl Process {
    /// Its resident set in bytes, for pages of this many.
    pub fn resident_bytes(&self, page: u64) -> u64 {
        self.resident * page
    }
}

impl Pass {
    /// Looks at every process now.
    ///
    /// # Errors
    /// Where `/proc` cannot be listed.
    pub fn take() -> io::Result<Self> {
        Self::take_from(Path::new("/proc"))
    }

    /// The same from a directory that looks like `/proc`.
    ///
    /// # Errors
    /// Where it cannot be listed.
    pub fn take_from(proc: &Path) -> io::Result<Self> {
        let taken_at = Timestamp::now();
        let mut processes = Vec::new();
        let mut path = proc.as_os_str().to_owned();
        let mut buffer = [0; 2048];
        for entry in fs::read_dir(proc)? {
            let name = entry?.file_name();
            if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            path.clear();
            path.push(proc);
            path.push("/");
            path.push(&name);
            path.push("/stat");
            // Gone meanwhile, or another user's that is hidden from us.
            let Ok(length) = fs::File::open(&path).and_then(|mut it| it.read(&mut buffer)) else {
                continue;
            };
            processes.extend(parse(&buffer[..length]));
        }
        Ok(Self::of(processes, taken_at, proc))
    }

    fn of(mut processes: Vec<Process>, taken_at: Timestamp, proc: &Path) -> Self {
        processes.sort_unstable_by_key(|it| (it.ppid, it.pid));
        let by_pid = processes.iter().zip(0..).map(|(it, at)| (it.pid, at));
        let per_second = procfs::ticks_per_second().max(1);
        Self {
            by_pid: by_pid.collect(),
            processes,
            taken_at,
            tick: Duration::from_secs(1) / u32::try_from(per_second).unwrap_or(100),
            page: procfs::page_size(),
            proc: proc.to_owned(),
        }
    }

    /// When it was taken.
    pub fn taken_at(&self) -> Timestamp {
        self.taken_at
    }

    /// How many processes there are.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Bytes of a page.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// A process by its number.
    pub fn process(&self, pid: i32) -> Option<Process> {
        let at = *self.by_pid.get(&pid)?;
        Some(self.processes[at as usize])
    }

    fn find(&self, pid: i32, start_time: u64) -> Option<&Process> {
        let at = *self.by_pid.get(&pid)?;
        let found = &self.processes[at as usize];
        (found.start_time == start_time).then_some(found)
    }

    /// The shim of a container, found by its main process.
    pub fn shim_of(&self, main: &ProcessId) -> Option<Shim> {
        let main = self.find(main.pid, main.start_time)?;
        let Some(&at) = self.by_pid.get(&main.ppid) else {
            // `hidepid=2` hides who lets nobody look into its memory, shims among them. A shim leads the session of
            // what it starts; whoever inherits an orphan does not.
            return (main.ppid == main.session).then_some(Shim {
                pid: main.ppid,
                start_time: HIDDEN,
            });
        };
        let parent = &self.processes[at as usize];
        // A process whose shim died has a stranger as parent.
        parent.shim.then_some(Shim {
            pid: parent.pid,
            start_time: parent.start_time,
        })
    }

    fn children(&self, pid: i32) -> &[Process] {
        let first = self.processes.partition_point(|it| it.ppid < pid);
        let rest = &self.processes[first..];
        &rest[..rest.partition_point(|it| it.ppid == pid)]
    }

    /// Everything below a shim, parents first; empty where it is gone.
    pub fn tree(&self, shim: Shim) -> Vec<Process> {
        let mut found: Vec<Process> = Vec::new();
        if shim.start_time != HIDDEN && self.find(shim.pid, shim.start_time).is_none() {
            return found;
        }
        found.extend(self.children(shim.pid));
        let mut next = 0;
        // A pass is no snapshot: it may show a circle where numbers were used again meanwhile.
        while next < found.len() && found.len() <= self.processes.len() {
            let parent = found[next].pid;
            next += 1;
            if parent != shim.pid {
                found.extend(self.children(parent));
            }
        }
        found
    }

    /// The shim that has this number; none where nothing has.
    pub fn shim_at(&self, pid: i32) -> Option<Shim> {
        let found = self.process(pid)?;
        Some(Shim {
            pid,
            start_time: found.start_time,
        })
    }

    /// Everything below a shim, and a process elsewhere with everything below it, each once.
    pub fn tree_with(&self, shim: Shim, other: Option<i32>) -> Vec<Process> {
        let mut found = self.tree(shim);
        let Some(root) = other.and_then(|pid| self.process(pid)) else {
            return found;
        };
        if !found.iter().any(|it| it.pid == root.pid) {
            let below = self.tree(Shim {
                pid: root.pid,
                start_time: root.start_time,
            });
            found.push(root);
            found.extend(below);
        }
        found
    }

    /// What the tree below a shim uses; none where the shim is gone.
    pub fn usage(&self, shim: Shim) -> Option<Usage> {
        self.usage_of(shim, self.tree(shim))
    }

    /// The same, with processes that are elsewhere.
    pub fn usage_of(&self, shim: Shim, tree: Vec<Process>) -> Option<Usage> {
        let root = self.find(shim.pid, shim.start_time);
        if root.is_none() && tree.is_empty() {
            return None;
        }
        let mut ticks = root.map_or(0, |it| it.reaped);
        let (mut private, mut largest_shared, mut resident) = (0, 0, 0);
        // One that is alone has all of its pages for itself; most containers are one process.
        let alone = tree.iter().filter(|it| it.resident > 0).count() == 1;
        for process in &tree {
            ticks += process.own + process.reaped;
            if process.resident == 0 {
                continue;
            }
            let shared = if alone {
                0
            } else {
                self.shared_pages(process).min(process.resident)
            };
            resident += process.resident;
            private += process.resident - shared;
            largest_shared = largest_shared.max(shared);
        }
        let tick_nanos = u64::try_from(self.tick.as_nanos()).unwrap_or(10_000_000);
        Some(Usage {
            cpu: Duration::from_nanos(ticks.saturating_mul(tick_nanos)),
            working_set: (private + largest_shared) * self.page,
            rss: resident * self.page,
            processes: u32::try_from(tree.len()).unwrap_or(u32::MAX),
        })
    }

    /// Third word of `statm`: resident pages of files and shared memory. Without it none.
    fn shared_pages(&self, process: &Process) -> u64 {
        let mut buffer = [0; 256];
        let path = self.proc.join(process.pid.to_string()).join("statm");
        let length = fs::File::open(path).and_then(|mut it| it.read(&mut buffer));
        let text = std::str::from_utf8(&buffer[..length.unwrap_or(0)]).unwrap_or_default();
        text.split_ascii_whitespace()
            .nth(2)
            .and_then(|it| it.parse().ok())
            .unwrap_or(0)
    }
}

/// Reads `/proc/<pid>/stat` (proc_pid_stat(5)); fields are counted from the last `)`.
fn parse(line: &[u8]) -> Option<Process> {
    let open = line.iter().position(|&b| b == b'(')?;
    let close = line.iter().rposition(|&b| b == b')')?;
    let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim();
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let ppid = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // Fields 7 to 13 lie between the session (6) and utime (14).
    let mut next = |skip: usize| -> Option<u64> { fields.nth(skip)?.parse().ok() };
    let own = next(7)? + next(0)?;
    let reaped = next(0)? + next(0)?;
    // Priority, nice, threads and a zero (18 to 21) come before the start time (22).
    let start_time = next(4)?;
    let resident = next(1)?;
    Some(Process {
        pid: pid.parse().ok()?,
        ppid,
        session,
        start_time,
        dead: matches!(state, "Z" | "X" | "x"),
        shim: line.get(open + 1..close)? == SHIM,
        own,
        reaped,
        resident,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::process::Here;
    use proptest::prelude::*;

    fn process(pid: i32, ppid: i32, shim: bool, own: u64, reaped: u64) -> Process {
        Process {
            pid,
            ppid,
            session: 0,
            start_time: 1,
            dead: false,
            shim,
            own,
            reaped,
            resident: 0,
        }
    }

    fn pass(processes: Vec<Process>) -> Pass {
        Pass::of(processes, Timestamp::UNIX_EPOCH, Path::new("/nowhere"))
    }

    fn main(pid: i32) -> ProcessId {
        let here = Here::current().expect("procfs");
        here.process(pid, 1)
    }

    #[test]
    fn what_a_daemon_started_is_counted_with_its_client() {
        let all = pass(vec![
            process(10, 1, true, 1, 2),
            process(11, 10, false, 4, 0),
            process(20, 1, false, 100, 100),
            process(21, 20, false, 8, 0),
            process(22, 21, false, 16, 32),
        ]);
        let shim = all.shim_at(10).expect("there");
        let pids = |other| {
            let tree = all.tree_with(shim, other);
            tree.iter().map(|it| it.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(None), [11]);
        assert_eq!(pids(Some(21)), [11, 21, 22]);
        assert_eq!(pids(Some(11)), [11], "counted once");
        assert_eq!(pids(Some(99)), [11], "gone");
        let ticks = |other| {
            let usage = all.usage_of(shim, all.tree_with(shim, other));
            usage.expect("there").cpu.as_nanos() / all.tick.as_nanos()
        };
        assert_eq!((ticks(None), ticks(Some(21))), (6, 62));
    }

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line =
            b"42 (a (b) c) S 7 8 9 0 -1 4194560 1 2 3 4 15 5 7 3 20 0 1 0 987654 1000 25 1\n";
        let found = parse(line).expect("a line");
        assert_eq!((found.pid, found.ppid, found.start_time), (42, 7, 987_654));
        assert_eq!((found.own, found.reaped, found.resident), (20, 10, 25));
        assert_eq!(found.session, 9);
        assert!(!found.shim && !found.dead);
        assert_eq!(parse(b"42 (x) S 7"), None);
    }

    #[test]
    fn a_tree_counts_its_living_and_its_dead() {
        let pass = pass(vec![
            process(1, 0, false, 999, 999),
            process(10, 1, true, 5, 40),
            process(11, 10, false, 100, 7),
            process(12, 11, false, 30, 0),
            // A daemon that the shim has inherited.
            process(13, 10, false, 3, 0),
            process(20, 1, true, 0, 0),
            process(21, 20, false, 500, 0),
        ]);
        let shim = pass.shim_of(&main(11)).expect("its shim");
        let usage = pass.usage(shim).expect("there");
        // The shim's own time is the node's, not the container's.
        assert_eq!(usage.cpu, pass.tick * 180);
        assert_eq!(usage.processes, 3);
        assert_eq!(pass.shim_of(&main(99)), None);
        assert_eq!(pass.shim_of(&main(10)), None, "init is no shim");
    }

    #[test]
    fn a_shim_that_is_hidden_is_known_by_its_session() {
        let within = |pid, ppid, session| Process {
            session,
            ..process(pid, ppid, false, 10, 0)
        };
        let pass = pass(vec![
            within(11, 10, 10),
            within(12, 11, 10),
            within(13, 10, 13),
            // An orphan of a session that is gone.
            within(21, 5, 20),
            within(22, 5, 5),
        ]);
        let shim = pass.shim_of(&main(11)).expect("its shim");
        let usage = pass.usage(shim).expect("there");
        assert_eq!((usage.processes, usage.cpu), (3, pass.tick * 30));
        assert_eq!(pass.shim_of(&main(21)), None);
    }

    #[test]
    fn this_process_and_its_child_are_seen() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat");
        let pass = Pass::take().expect("procfs");
        let own = std::process::id().cast_signed();
        let pid = child.id().cast_signed();
        assert!(pass.children(own).iter().any(|it| it.pid == pid));
        let me = pass.processes[pass.by_pid[&own] as usize];
        assert!(me.resident > 0 && pass.shared_pages(&me) > 0);
        drop(child.stdin.take());
        child.wait().expect("it ends at the end of its input");
    }

    proptest! {
        /// Whatever the parents say, circles included, a tree is finite and holds nobody's shim.
        #[test]
        fn any_table_has_trees(parents in prop::collection::vec(0..30_i32, 1..30)) {
            let all = parents.iter().zip(1..).map(|(&ppid, pid)| process(pid, ppid, pid % 3 == 0, 1, 1));
            let pass = pass(all.collect());
            for pid in 1..=parents.len() {
                if let Some(shim) = pass.shim_of(&main(pid as i32)) {
                    prop_assert!(pass.tree(shim).len() <= 2 * pass.len());
                    prop_assert!(pass.usage(shim).is_some());
                }
            }
        }

        #[test]
        fn strange_lines_are_no_process(bytes: Vec<u8>) {
            parse(&bytes);
        }
    }
}
