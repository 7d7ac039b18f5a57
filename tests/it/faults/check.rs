//! The invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::pods::{Deleted, Kind, LINES, Pod};
use super::world::{World, path};

/// A container that crashes waits for five minutes at most, an agent that finds no API server for less.
const PATIENCE: Duration = Duration::from_secs(120);

/// Numbers, and what `judge` finds in the environment, of processes that have not ended.
fn living<T>(judge: impl Fn(&str, &[u8], &[u8]) -> Option<T>) -> Vec<(i32, T)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("procfs").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
        if state.is_empty() || state.starts_with(['Z', 'X']) {
            continue;
        }
        if let Some(it) = judge(&state, &read("environ"), &read("cmdline")) {
            found.push((pid, it));
        }
    }
    found
}

fn variable<'a>(environ: &'a [u8], name: &str) -> Option<&'a str> {
    let mut all = environ
        .split(|byte| *byte == 0)
        .filter_map(|it| std::str::from_utf8(it).ok());
    all.find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
}

/// Processes of containers below `place`, and the pods that they are of.
fn of_pods(place: &Path) -> Vec<(i32, String)> {
    let place = path(place);
    living(|_, environ, _| {
        (variable(environ, "FAULTS_PLACE") == Some(&place))
            .then(|| variable(environ, "FAULTS_POD").map(str::to_owned))
            .flatten()
    })
}

/// Processes of a pod.
pub(crate) fn processes(place: &Path, pod: &str) -> BTreeSet<i32> {
    let all = of_pods(place).into_iter().filter(|(_, of)| of == pod);
    all.map(|(pid, _)| pid).collect()
}

/// Shims below `place`, and the UIDs of their pods.
pub(crate) fn shims(place: &Path) -> Vec<(i32, String)> {
    let place = path(place);
    living(|_, _, line| {
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        match words.as_slice() {
            [_, b"shim", root, uid, ..] if root.starts_with(place.as_bytes()) => {
                Some(String::from_utf8_lossy(uid).into_owned())
            }
            _ => None,
        }
    })
}

/// A pod as the API has it.
struct Told<'a>(&'a Value);

impl Told<'_> {
    fn phase(&self) -> &str {
        self.0["status"]["phase"].as_str().unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        matches!(self.phase(), "Failed" | "Succeeded")
    }

    fn main(&self) -> &Value {
        &self.0["status"]["containerStatuses"][0]
    }

    fn end(&self) -> Option<(String, i64)> {
        let of = |status: &Value| {
            let end = &status["state"]["terminated"];
            Some((
                end["reason"].as_str()?.to_owned(),
                end["exitCode"].as_i64()?,
            ))
        };
        // Where an init container was the end, the main one has none.
        of(self.main()).or_else(|| of(&self.0["status"]["initContainerStatuses"][0]))
    }
}

impl World {
    /// What holds at any time; and, where nothing but pods is broken, that all comes to what it should be.
    pub(crate) fn check(&mut self) {
        self.wake();
        self.check_processes();
        if self.api_answers() {
            self.listed(true);
        }
        if self.is_whole() {
            self.converges();
        }
    }

    fn check_processes(&mut self) {
        let home = self.home();
        let all = of_pods(self.place());
        for pod in &self.pods {
            let starts = pod.starts(&home);
            let alive = starts
                .iter()
                .filter(|pid| all.iter().any(|(it, of)| it == *pid && *of == pod.name));
            let alive: Vec<_> = alive.collect();
            assert!(
                alive.len() <= 1,
                "{} runs twice: {alive:?}\n{}",
                pod.name,
                self.story()
            );
            let once = pod.kind == Kind::Always || starts.len() <= 1;
            assert!(
                once,
                "{} was started again: {starts:?}\n{}",
                pod.name,
                self.story()
            );
            let inits = pod.inits(&home);
            assert!(
                inits <= 1,
                "the init container of {} ran {inits} times\n{}",
                pod.name,
                self.story()
            );
        }
        let read = |name: &str| std::fs::read_to_string(home.join(name)).unwrap_or_default();
        let theirs = (
            read("precious/deep/file"),
            read("precious/link"),
            read("p1/file"),
        );
        assert_eq!(
            theirs,
            ("theirs".into(), "theirs".into(), "theirs".into()),
            "the user's files\n{}",
            self.story()
        );
        assert!(
            self.strangers_live(),
            "a process of somebody else was ended\n{}",
            self.story()
        );
    }

    /// What the API says, held against what it was told. Returns what is not yet as it should be.
    fn listed(&mut self, quick: bool) -> Vec<String> {
        let list = self.kubectl.run("get pods -o json");
        assert_eq!(list.code, 0, "{list:?}\n{}", self.story());
        // After the list: what ended by then has no process now.
        let processes = of_pods(self.place());
        let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
        let items = list["items"].as_array().expect("a list");
        let by_uid: BTreeMap<&str, &Value> = { items.iter() }
            .filter_map(|pod| Some((pod["metadata"]["uid"].as_str()?, pod)))
            .collect();
        let (whole, home) = (self.is_whole(), self.home());
        let mut wrong = Vec::new();
        let mut problems = Vec::new();
        let mut gone = Vec::new();
        for (index, pod) in self.pods.iter_mut().enumerate() {
            let has_processes = || processes.iter().any(|(_, of)| *of == pod.name);
            let Some(told) = by_uid.get(pod.uid.as_str()).map(|it| Told(it)) else {
                match pod.deleted {
                    Deleted::No => problems.push(format!("{} is lost", pod.name)),
                    Deleted::Asked if has_processes() => {
                        problems.push(format!("{} is gone and its processes are not", pod.name));
                    }
                    Deleted::Forced if has_processes() => {
                        wrong.push(format!("{} is to end", pod.name))
                    }
                    _ => gone.push(index),
                }
                continue;
            };
            if pod.deleted != Deleted::No {
                wrong.push(format!("{} is to go", pod.name));
                if told.0["metadata"]["deletionTimestamp"].is_null() {
                    problems.push(format!("the delete of {} is lost", pod.name));
                }
            }
            if told.is_over() {
                if has_processes() {
                    problems.push(format!("{} has ended and its processes have not", pod.name));
                }
                let end = told.end();
                match (pod.told.clone(), end) {
                    (Some(before), Some(now)) if before != now => {
                        problems.push(format!(
                            "{} ended with {before:?}, and now with {now:?}",
                            pod.name
                        ));
                    }
                    (_, Some(now)) => pod.told = Some(now),
                    (_, None) => problems.push(format!(
                        "{} is over and says not how: {}",
                        pod.name, told.0["status"]
                    )),
                }
            } else if pod.told.is_some() {
                problems.push(format!(
                    "{} was over and is {} again",
                    pod.name,
                    told.phase()
                ));
            }
            let restarts = told.main()["restartCount"].as_i64().unwrap_or_default();
            if restarts < pod.restarts {
                problems.push(format!(
                    "{} had {} restarts and has {restarts}",
                    pod.name, pod.restarts
                ));
            }
            pod.restarts = pod.restarts.max(restarts);
            if pod.deleted == Deleted::No && whole {
                wrong.extend(judge(pod, &told, &home));
            }
        }
        for index in gone.into_iter().rev() {
            let _ = self.pods.remove(index);
        }
        assert!(problems.is_empty(), "{problems:#?}\n{}", self.story());
        if quick { Vec::new() } else { wrong }
    }

    fn converges(&mut self) {
        let start = std::time::Instant::now();
        loop {
            self.wake();
            let wrong = self.listed(false);
            self.check_processes();
            if wrong.is_empty() {
                break;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {wrong:#?}\n{}",
                self.story()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.owned();
        self.logs();
    }

    /// Looks until nothing is left that should not be.
    fn none_left<T: std::fmt::Debug>(&self, what: &str, look: impl Fn() -> Vec<T>) {
        let start = std::time::Instant::now();
        loop {
            self.wake();
            let left = look();
            if left.is_empty() {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: {left:?} after {PATIENCE:?}\n{}",
                self.story()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// No process is left that no pod owns.
    fn owned(&self) {
        let place = self.place().to_owned();
        let living: Vec<&Pod> = { self.pods.iter() }
            .filter(|pod| pod.told.is_none())
            .collect();
        self.none_left("shims without a pod that lives", || {
            let all = shims(&place).into_iter();
            all.filter(|(_, uid)| !living.iter().any(|pod| pod.uid == *uid))
                .collect()
        });
        self.none_left("processes without a pod that lives", || {
            let all = of_pods(&place).into_iter();
            all.filter(|(_, name)| !living.iter().any(|pod| pod.name == *name))
                .collect()
        });
    }

    /// What ended has said all that it had to say.
    fn logs(&mut self) {
        let mut checked = Vec::new();
        for (index, pod) in self.pods.iter().enumerate() {
            let Some((reason, code)) = &pod.told else {
                continue;
            };
            if pod.logged || pod.starved || pod.kind == Kind::Always || reason == "StartError" {
                continue;
            }
            // What was never begun has no log.
            if pod.starts(&self.home()).is_empty() {
                continue;
            }
            let log = self.kubectl.run(&format!("logs {} -c c", pod.name));
            let by_itself = matches!(reason.as_str(), "Completed" | "Error") && *code < 128;
            let whole = if by_itself {
                let lines: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
                log.stdout == format!("begin\n{lines}end\n")
            } else {
                // It was killed at any moment, before its first line too.
                log.stdout.is_empty() || log.stdout.starts_with("begin\n")
            };
            assert!(
                log.code == 0 && whole,
                "{} ended with {reason} {code}: {log:?}\n{}",
                pod.name,
                self.story()
            );
            checked.push(index);
        }
        for index in checked {
            self.pods[index].logged = true;
        }
    }

    /// Once all is over nothing is left of what is gone.
    pub(crate) fn check_the_end(&mut self) {
        let known: BTreeSet<String> = self.pods.iter().map(|pod| pod.uid.clone()).collect();
        let root = self.place().join("root");
        self.none_left("data of pods that are gone", || {
            let mut left = Vec::new();
            for cluster in std::fs::read_dir(&root).expect("a root").flatten() {
                let pods = std::fs::read_dir(cluster.path().join("node/pods"));
                let names = pods
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|it| it.file_name());
                left.extend(names.map(|name| name.to_string_lossy().into_owned()));
            }
            left.retain(|uid| !known.contains(uid));
            left
        });
    }
}

/// What is not yet as it should be.
fn judge(pod: &Pod, told: &Told<'_>, home: &Path) -> Option<String> {
    let name = &pod.name;
    if pod.kind == Kind::Always {
        let state = &told.main()["state"];
        let fine = state["running"].is_object() || state["waiting"]["reason"] == "CrashLoopBackOff";
        let starts = pod.starts(home).len();
        // A start that its shim did not survive left no line.
        let counted = starts as i64 <= pod.restarts + 1;
        return (!fine || !counted || told.is_over()).then(|| {
            format!(
                "{name} is to go on, with {starts} starts: {}",
                told.0["status"]
            )
        });
    }
    if let Some(end) = &pod.told {
        let starved = pod.starved && end.0 == "StartError";
        return (!pod.causes.contains(end) && !starved).then(|| {
            format!(
                "{name} ended with {end:?}, and what happened to it is {:?}",
                pod.causes
            )
        });
    }
    if pod.causes.is_empty() {
        let runs = told.phase() == "Running" && told.main()["state"]["running"].is_object();
        return (!runs).then(|| format!("{name} is to run: {}", told.0["status"]));
    }
    // A reboot may have found it waiting, and a signal may have come too late: it goes on, or ends.
    let runs = told.phase() == "Running" && told.main()["state"]["running"].is_object();
    let may_go_on = { pod.causes.iter() }
        .all(|(reason, _)| reason == "ContainerStatusUnknown" || reason == "StartError");
    (!(runs && may_go_on)).then(|| format!("{name} is to end: {}", told.0["status"]))
}
