//! The machine, the agent, the control plane and what can befall them.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Agent, Kubectl, Place, Up, end_processes_of, eventually};

use super::pods::{Deleted, Pod};
use super::{Act, Random};
use crate::VK_CMD;
use crate::clock::Clock;

/// The node's name.
pub(crate) const NODE: &str = "node";
/// So many pods that are not deleted, at most.
const PODS: usize = 10;
/// The clock is never so far behind that the control plane's certificates are not valid yet.
const BEHIND: i64 = 240;
/// Nor more than a day ahead.
const AHEAD: i64 = 86_400;

/// The control plane.
pub(crate) enum Api {
    Up(Up),
    Stopped(Up),
    Down(Arc<Place>),
}

pub(crate) struct World {
    pub(crate) api: Option<Api>,
    port: u16,
    kubeconfig: PathBuf,
    pub(crate) kubectl: Kubectl,
    pub(crate) agent: Option<Agent>,
    place: Arc<Place>,
    /// A file in each place that a test of mounts and clocks needs.
    bench: TempDir,
    clock: Clock,
    boots: usize,
    pub(crate) full: bool,
    pub(crate) pods: Vec<Pod>,
    created: usize,
    /// Processes that have the numbers of containers of an earlier boot.
    strangers: Vec<Child>,
    /// Processes that somebody has stopped, until they go on.
    stopped: RefCell<Vec<Stopped>>,
    seed: u64,
    story: Vec<String>,
    counts: std::collections::BTreeMap<String, usize>,
}

impl World {
    /// A control plane, a small disk, an agent; none where there is no kubectl.
    pub(crate) fn new(seed: u64) -> Option<Self> {
        let up = Up::of(VK_CMD).args(&["--no-node"]).start();
        let kubectl = up.kubectl()?;
        let text = std::fs::read_to_string(&up.kubeconfig).expect("a kubeconfig");
        let port = text.split("https://127.0.0.1:").nth(1).expect("an address");
        let port = port.split(|c: char| !c.is_ascii_digit()).next();
        let port = port.and_then(|port| port.parse().ok()).expect("a port");
        let bench = tempfile::tempdir().expect("a directory");
        let place = Arc::new(Place::new());
        let root = place.path().join("root");
        std::fs::create_dir(&root).expect("a directory");
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "size=24m,mode=700",
                "tmpfs",
                &path(&root),
            ],
        );
        let home = place.path().join("home");
        let precious = home.join("precious");
        std::fs::create_dir_all(precious.join("deep")).expect("a directory");
        std::fs::write(precious.join("deep/file"), "theirs").expect("a file");
        std::os::unix::fs::symlink("deep/file", precious.join("link")).expect("a link");
        // The user has something of a pod's name.
        std::fs::create_dir(home.join("p1")).expect("a directory");
        std::fs::write(home.join("p1/file"), "theirs").expect("a file");
        let clock = Clock::new(bench.path());
        let kubeconfig = up.kubeconfig.clone();
        let mut world = Self {
            api: Some(Api::Up(up)),
            port,
            kubeconfig,
            kubectl,
            agent: None,
            place,
            bench,
            clock,
            boots: 0,
            full: false,
            pods: Vec::new(),
            created: 0,
            strangers: Vec::new(),
            stopped: RefCell::default(),
            seed,
            story: Vec::new(),
            counts: std::collections::BTreeMap::new(),
        };
        world.boot();
        world.start_agent();
        world.shifts_reach_the_agent();
        Some(world)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.place.path().join("home")
    }

    pub(crate) fn place(&self) -> &Path {
        self.place.path()
    }

    /// Whether all is well but for what happened to pods.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.api, Some(Api::Up(_))) && self.agent.is_some() && !self.full
    }

    pub(crate) fn api_answers(&self) -> bool {
        matches!(self.api, Some(Api::Up(_)))
    }

    pub(crate) fn strangers_live(&mut self) -> bool {
        { self.strangers.iter_mut() }.all(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Notes what happened, for the panic that tells of a broken invariant.
    pub(crate) fn log(&mut self, line: &str) {
        self.story.push(line.to_owned());
        let kind = line.split(": ").nth(1).unwrap_or(line);
        let kind = kind.split(" p").next().unwrap_or(kind).to_owned();
        *self.counts.entry(kind).or_default() += 1;
    }

    pub(crate) fn summary(&self) -> String {
        let counts = self
            .counts
            .iter()
            .map(|(what, count)| format!("{count} × {what}"));
        counts.collect::<Vec<_>>().join(", ")
    }

    /// What came before, and the agent's last words.
    pub(crate) fn story(&self) -> String {
        let log = std::fs::read_to_string(self.place.path().join(format!("{NODE}.log")))
            .unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(60)..];
        let story = &self.story[self.story.len().saturating_sub(60)..];
        format!(
            "seed {}\n{}\nthe agent's log ends with:\n{}",
            self.seed,
            story.join("\n"),
            last.join("\n")
        )
    }

    pub(crate) fn can(&self, act: Act) -> bool {
        let api = self.api_answers();
        let living = self.pods.iter().any(|pod| !pod.is_over());
        match act {
            Act::Create => api && self.here().count() < PODS,
            Act::Delete | Act::ForceDelete => api && self.here().next().is_some(),
            Act::End | Act::KillShim | Act::StopShim | Act::KillContainer | Act::StopContainer => {
                living
            }
            Act::KillAgent => self.agent.is_some(),
            // The first is to hold its root.
            Act::SecondAgent => self.agent.is_some() && !self.full,
            Act::StartAgent => self.agent.is_none(),
            Act::TwoAgents => self.agent.is_none() && !self.full,
            Act::StopApi | Act::KillApi => api,
            Act::HealApi => !api,
            Act::FillDisk => !self.full,
            Act::EmptyDisk => self.full,
            Act::ShiftClock => true,
            Act::Reboot => !self.full,
        }
    }

    /// Pods that nobody has asked to delete.
    fn here(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.deleted == Deleted::No)
    }

    fn some(&self, random: &mut Random, wanted: impl Fn(&Pod) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.pods.len())
            .filter(|index| wanted(&self.pods[*index]))
            .collect();
        random.one_of(&all).copied()
    }

    /// Does it, and says what was done.
    pub(crate) fn act(&mut self, act: Act, random: &mut Random) -> String {
        match act {
            Act::Create => self.create(random),
            Act::End => self.on_a_pod(random, "ends", |pod, random| {
                let code = random.below(4) as u8;
                pod.end(code);
            }),
            Act::Delete => self.delete(random, Deleted::Asked),
            Act::ForceDelete => self.delete(random, Deleted::Forced),
            Act::KillAgent => {
                self.kill_agent();
                "the agent is killed".to_owned()
            }
            Act::StartAgent => {
                self.start_agent();
                "an agent starts".to_owned()
            }
            Act::TwoAgents => self.two_agents(),
            Act::SecondAgent => self.second_agent(),
            Act::KillShim => self.on_a_shim(random, "the shim is killed:", Signal::SIGKILL),
            Act::StopShim => self.on_a_shim(random, "the shim is stopped:", Signal::SIGSTOP),
            Act::KillContainer => {
                self.on_a_process(random, "the container is killed:", Signal::SIGKILL)
            }
            Act::StopContainer => {
                self.on_a_process(random, "the container is stopped:", Signal::SIGSTOP)
            }
            Act::StopApi => {
                if let Some(Api::Up(up)) = self.api.take() {
                    kill(up.pid(), Signal::SIGSTOP).expect("it runs");
                    self.api = Some(Api::Stopped(up));
                }
                "the API server is stopped".to_owned()
            }
            Act::KillApi => {
                if let Some(Api::Up(up)) = self.api.take() {
                    self.api = Some(Api::Down(up.kill()));
                }
                "the API server is killed".to_owned()
            }
            Act::HealApi => {
                self.heal_api();
                "the API server is back".to_owned()
            }
            Act::FillDisk => {
                self.fill_disk();
                "the disk is full".to_owned()
            }
            Act::EmptyDisk => {
                self.empty_disk();
                "the disk has room".to_owned()
            }
            Act::ShiftClock => {
                let far = [5, 60, 700, 3600, 40_000][random.below(5)];
                let by = if random.below(2) == 0 { far } else { -far };
                let shift = self.clock.shift() + by;
                self.clock.set_shift(shift.clamp(-BEHIND, AHEAD));
                format!("the clock is shifted to {:+} s", self.clock.shift())
            }
            Act::Reboot => self.reboot(random),
        }
    }

    /// Lets those go on whose time has come.
    pub(crate) fn wake(&self) {
        let now = Instant::now();
        self.stopped.borrow_mut().retain(|it| {
            let due = it.due <= now;
            if due {
                it.go_on();
            }
            !due
        });
    }

    /// Ends everything that is wrong with the machine.
    pub(crate) fn heal(&mut self) {
        for it in self.stopped.get_mut().drain(..) {
            it.go_on();
        }
        self.empty_disk();
        self.heal_api();
        if self.agent.is_none() {
            self.start_agent();
        }
    }

    fn create(&mut self, random: &mut Random) -> String {
        let mut pod = Pod::new(&self.home(), self.created, random);
        self.created += 1;
        pod.starved = self.full;
        let manifest = pod.manifest(&self.home());
        let uid = self
            .kubectl
            .pipe("create -f - -o jsonpath={.metadata.uid}", &manifest)
            .ok();
        pod.uid = uid.trim().to_owned();
        let said = format!("created {} {:?}", pod.name, pod.kind);
        self.pods.push(pod);
        said
    }

    fn on_a_pod(
        &mut self,
        random: &mut Random,
        what: &str,
        act: impl FnOnce(&mut Pod, &mut Random),
    ) -> String {
        let Some(index) = self.some(random, |pod| !pod.is_over()) else {
            return format!("nobody {what}");
        };
        act(&mut self.pods[index], random);
        format!("{what} {}", self.pods[index].name)
    }

    fn delete(&mut self, random: &mut Random, how: Deleted) -> String {
        let Some(index) = self.some(random, |pod| pod.deleted == Deleted::No) else {
            return "nothing to delete".to_owned();
        };
        let name = self.pods[index].name.clone();
        let words = if how == Deleted::Forced {
            "--force --grace-period=0"
        } else {
            ""
        };
        self.kubectl
            .run(&format!("delete pod {name} --wait=false {words}"))
            .ok();
        self.pods[index].deleted = how;
        // SIGTERM ends it, or SIGKILL after the grace.
        for code in [143, 137] {
            self.pods[index].caused("Error", code);
        }
        format!("deleted {how:?} {name}")
    }

    fn on_a_process(&mut self, random: &mut Random, what: &str, signal: Signal) -> String {
        let home = self.home();
        let Some(index) = self.some(random, |pod| !pod.is_over()) else {
            return format!("{what} none");
        };
        let pod = &mut self.pods[index];
        let living = super::check::processes(self.place.path(), &pod.name);
        let starts = pod.starts(&home);
        let Some(pid) = starts.iter().rev().find(|pid| living.contains(pid)) else {
            return format!("{what} none of {}", pod.name);
        };
        // It may end by itself at this moment.
        let _ = kill(Pid::from_raw(*pid), signal);
        if signal == Signal::SIGKILL {
            pod.caused("Error", 137);
        } else {
            // Stopped by somebody else; who wants it to end, ends it all the same.
            self.stopped.get_mut().extend(Stopped::now(*pid));
        }
        format!("{what} {}", self.pods[index].name)
    }

    fn on_a_shim(&mut self, random: &mut Random, what: &str, signal: Signal) -> String {
        let shims = super::check::shims(self.place.path());
        let known = |uid: &str| self.pods.iter().position(|pod| pod.uid == uid);
        let of_pods: Vec<(i32, usize)> = { shims.iter() }
            .filter_map(|(pid, uid)| Some((*pid, known(uid)?)))
            .collect();
        let Some(&(pid, index)) = random.one_of(&of_pods) else {
            return format!("{what} none");
        };
        let _ = kill(Pid::from_raw(pid), signal);
        if signal == Signal::SIGKILL {
            self.pods[index].caused("ContainerStatusUnknown", 137);
            // The start itself may have been under way.
            self.pods[index].caused("StartError", 128);
        } else {
            self.stopped.get_mut().extend(Stopped::now(pid));
        }
        format!("{what} {}", self.pods[index].name)
    }

    fn builder(&self) -> testkit::AgentBuilder {
        let agent = Agent::of(VK_CMD, &self.kubeconfig, NODE)
            .args(&["--no-taint", "--eviction-hard=pid.available<1"])
            .env("FAULTS_PLACE", &path(self.place.path()))
            .at(&self.place);
        self.clock.of(agent)
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.builder().start());
    }

    fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// One on the root of the one that runs.
    fn second_agent(&mut self) -> String {
        if self.agent.is_none() {
            return "no agent".to_owned();
        }
        // The first has the lock once it has reached the API server.
        if self.api_down() {
            return "no second agent while nobody can start".to_owned();
        }
        self.wait_for_the_root();
        let mut second = self.builder().start();
        let status = second.ended();
        assert_eq!(
            status.code(),
            Some(1),
            "a second agent started\n{}",
            self.story()
        );
        "a second agent is refused".to_owned()
    }

    fn api_down(&self) -> bool {
        !self.api_answers()
    }

    /// Until the agent holds its root.
    fn wait_for_the_root(&self) {
        let pid = self.agent.as_ref().map(Agent::pid).expect("an agent");
        eventually("the agent holds its root", || {
            let found = Command::new("sh")
                .args(["-c", "cat \"$0\"/root/*/node/lock"])
                .arg(self.place.path())
                .output()
                .expect("sh runs");
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            if found.starts_with(&format!("pid {pid} ")) {
                Ok(())
            } else {
                Err(found)
            }
        });
    }

    /// Two at once: one of them becomes the agent.
    fn two_agents(&mut self) -> String {
        if self.api_down() {
            self.start_agent();
            return "an agent starts".to_owned();
        }
        let mut both = [self.builder().start(), self.builder().start()].map(Some);
        let loser = eventually("one of two agents ends", || {
            let ended = |agent: &mut Option<Agent>| agent.as_mut().is_some_and(|it| !it.runs());
            both.iter_mut().position(ended).ok_or(())
        });
        let mut loser_agent = both[loser].take().expect("there were two");
        assert_eq!(loser_agent.ended().code(), Some(1), "{}", self.story());
        drop(loser_agent);
        self.agent = both[1 - loser].take();
        "two agents start and one is refused".to_owned()
    }

    fn heal_api(&mut self) {
        self.api = match self.api.take() {
            Some(Api::Stopped(up)) => {
                kill(up.pid(), Signal::SIGCONT).expect("it was stopped");
                Some(Api::Up(up))
            }
            Some(Api::Down(place)) => {
                let up = Up::of(VK_CMD)
                    .args(&["--no-node"])
                    .port(self.port)
                    .at(&place)
                    .start();
                Some(Api::Up(up))
            }
            other => other,
        };
    }

    fn filler(&self) -> PathBuf {
        self.place.path().join("root/filler")
    }

    fn fill_disk(&mut self) {
        let mut file = File::create(self.filler()).expect("a file");
        // Large pieces, then what is left.
        for piece in [1 << 16, 1 << 12] {
            let piece = vec![0; piece];
            while file.write_all(&piece).is_ok() {}
        }
        self.full = true;
        for pod in self.pods.iter_mut().filter(|pod| !pod.is_over()) {
            pod.starved = true;
        }
    }

    fn empty_disk(&mut self) {
        if std::mem::take(&mut self.full) {
            std::fs::remove_file(self.filler()).expect("it was made");
        }
    }

    /// The times that an agent writes are those of its clock: else the test would shift nothing.
    fn shifts_reach_the_agent(&mut self) {
        self.clock.set_shift(40_000);
        let ahead = jiff::Timestamp::now() + Duration::from_secs(30_000);
        eventually("the agent renews its lease at the shifted time", || {
            let line = "get lease node -n kube-node-lease -o jsonpath={.spec.renewTime}";
            let found = self.kubectl.run(line);
            let time = found.stdout.parse::<jiff::Timestamp>();
            if time.is_ok_and(|time| time > ahead) {
                Ok(())
            } else {
                Err(found)
            }
        });
        self.clock.set_shift(0);
    }

    /// Another boot id from now on.
    fn boot(&mut self) {
        self.boots += 1;
        let file = self.bench.path().join(format!("boot-{}", self.boots));
        let id = format!("00000000-0000-4000-8000-{:012}\n", self.boots);
        std::fs::write(&file, id).expect("a file");
        run(
            "mount",
            &["--bind", &path(&file), "/proc/sys/kernel/random/boot_id"],
        );
    }

    /// Everything ends without a word, and other processes get the numbers that were those of containers.
    fn reboot(&mut self, random: &mut Random) -> String {
        self.kill_agent();
        end_processes_of(self.place.path());
        for mut old in self.strangers.drain(..) {
            let _ = old.kill();
            let _ = old.wait();
        }
        self.boot();
        let mut used = 0;
        for records in records(&self.place.path().join("root")) {
            if used < 4 && random.below(2) == 0 {
                let stranger = Command::new("sleep")
                    .arg("100000")
                    .stdin(Stdio::null())
                    .spawn();
                let stranger = stranger.expect("sleep runs");
                if use_again(&records, &stranger) {
                    used += 1;
                }
                self.strangers.push(stranger);
            }
        }
        for pod in self.pods.iter_mut().filter(|pod| !pod.is_over()) {
            pod.caused("ContainerStatusUnknown", 137);
        }
        self.start_agent();
        format!("the machine boots anew; strangers have the pids of {used} containers")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.strangers {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(Api::Stopped(up)) = &self.api {
            let _ = kill(up.pid(), Signal::SIGCONT);
        }
        // The agent's place goes with the last that holds it, and cannot while it is mounted.
        if let Some(agent) = self.agent.take() {
            drop(agent);
        }
        end_processes_of(self.place.path());
        let root = self.place.path().join("root");
        let _ = Command::new("umount").arg("-l").arg(root).status();
    }
}

/// A process that was stopped, known by number and start.
struct Stopped {
    pid: i32,
    start: u64,
    due: Instant,
}

impl Stopped {
    /// One that goes on in a second; none where it has ended.
    fn now(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start: start_time(pid)?,
            due: Instant::now() + Duration::from_secs(1),
        })
    }

    fn go_on(&self) {
        if start_time(self.pid) == Some(self.start) {
            // It may end at this moment; another has its number only later.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGCONT);
        }
    }
}

/// When a process started, in ticks since the boot.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(") ")?.1;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Directories with the records of attempts.
fn records(root: &Path) -> Vec<PathBuf> {
    let found = Command::new("find")
        .arg(root)
        .args(["-name", "claim.json", "-printf", "%h\n"])
        .output()
        .expect("find runs");
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    found.lines().map(PathBuf::from).collect()
}

/// Lets the records of a container that ran name this process, in their own boot.
fn use_again(records: &Path, stranger: &Child) -> bool {
    let pid = stranger.id().cast_signed();
    let start = start_time(pid).expect("it runs");
    let read = |name: &str| -> Option<Value> {
        serde_json::from_slice(&std::fs::read(records.join(name)).ok()?).ok()
    };
    let (Some(mut claim), Some(mut status)) = (read("claim.json"), read("status.json")) else {
        return false;
    };
    if status["status"]["state"] != "running" {
        return false;
    }
    for process in [&mut claim["claimant"], &mut status["status"]["process"]] {
        process["pid"] = json!(pid);
        process["start_time"] = json!(start);
    }
    status["status"]["pgid"] = json!(pid);
    std::fs::write(records.join("claim.json"), claim.to_string()).expect("a record");
    std::fs::write(records.join("status.json"), status.to_string()).expect("a record");
    true
}

pub(crate) fn path(path: &Path) -> String {
    path.to_str().expect("a path of the test's own").to_owned()
}

fn run(program: &str, words: &[&str]) {
    let done = Command::new(program).args(words).output().expect("it runs");
    assert!(
        done.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
