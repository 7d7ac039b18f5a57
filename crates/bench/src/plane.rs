//! The control planes under test, and what the kernel says about their processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testkit::{Client, RealCluster, Request, Up};

/// A running control plane.
pub(crate) struct Plane {
    kind: Kind,
    /// Name and id of each of its processes.
    processes: Vec<(String, i32)>,
}

enum Kind {
    Embedded(Up),
    Real(RealCluster),
}

impl Plane {
    /// `vk-cmd up` with its node.
    pub(crate) fn whole(program: &str) -> Self {
        Self::of(Up::of(program).start())
    }

    fn of(up: Up) -> Self {
        let processes = vec![("control plane".to_owned(), up.pid().as_raw())];
        Self {
            kind: Kind::Embedded(up),
            processes,
        }
    }

    /// `vk-cmd up` without a node; without `workers` it is an API server alone.
    pub(crate) fn embedded(program: &str, workers: bool) -> Self {
        let mut words = vec!["--no-node"];
        if !workers {
            words.extend(["--no-scheduler", "--no-controllers"]);
        }
        Self::of(Up::of(program).args(&words).start())
    }

    /// etcd and kube-apiserver, with `workers` also kube-scheduler and kube-controller-manager. `None`, said
    /// loudly, where they are not built.
    pub(crate) fn real(workers: bool) -> Result<Option<Self>> {
        let builder = RealCluster::builder();
        let builder = if workers {
            builder.controllers()
        } else {
            builder
        };
        let Some(cluster) = builder.start() else {
            return Ok(None);
        };
        let mut processes = Vec::new();
        for entry in std::fs::read_dir(cluster.dir())? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "pid") {
                let text = std::fs::read_to_string(&path)?;
                let pid = text.split(' ').next().unwrap_or_default().parse()?;
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                processes.push((name.into_owned(), pid));
            }
        }
        processes.sort();
        Ok(Some(Self {
            kind: Kind::Real(cluster),
            processes,
        }))
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        match &self.kind {
            Kind::Embedded(up) => up.kubeconfig.clone(),
            Kind::Real(cluster) => cluster.kubeconfig(),
        }
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.kubeconfig())
    }

    /// Resident memory of all its processes, in MB.
    pub(crate) fn resident(&self) -> f64 {
        self.processes.iter().map(|(_, pid)| resident(*pid)).sum()
    }

    /// Time on processors that all its processes took so far, in seconds.
    pub(crate) fn processor_time(&self) -> f64 {
        let each = self.processes.iter().map(|(_, pid)| processor_time(*pid));
        each.sum()
    }

    /// Says what each process takes.
    pub(crate) fn describe(&self) {
        for (name, pid) in &self.processes {
            testkit::note(&format!("  ({name}: {:.1} MB)", resident(*pid)));
        }
    }
}

/// Resident memory of a process, in MB; nothing of one that is gone.
pub(crate) fn resident(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0 / 1e6
}

/// Memory that each shim on this machine has for itself, in MB.
pub(crate) fn private_memory_of_shims() -> Vec<f64> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let shims = processes.map(|entry| entry.path()).filter(|path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        program.ends_with(b"vk-cmd") && words.next() == Some(b"shim")
    });
    let private = shims.map(|path| {
        let text = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
        let kib: f64 = text
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
            .sum();
        kib * 1024.0 / 1e6
    });
    private.collect()
}

/// User and system time of a process with all its threads, in seconds.
pub(crate) fn processor_time(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: f64 = after
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100);
    ticks / per_second as f64
}

/// The newest revision of the store: each write makes one more, whoever writes.
pub(crate) async fn revision(client: &Client) -> Result<f64> {
    let answer = client
        .send(&Request {
            method: "GET".to_owned(),
            path: "/api/v1/namespaces/default/configmaps?limit=1".to_owned(),
            ..Request::default()
        })
        .await?;
    let list: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let revision = list["metadata"]["resourceVersion"].as_str();
    Ok(revision.context("a list without a revision")?.parse()?)
}

/// A program to test: `--program`, `$VK_CMD`, or the one built beside this one.
pub(crate) fn program(given: Option<PathBuf>) -> Result<String> {
    let beside =
        || -> Option<PathBuf> { Some(std::env::current_exe().ok()?.with_file_name("vk-cmd")) };
    let path = given
        .or_else(|| std::env::var_os("VK_CMD").map(PathBuf::from))
        .or_else(beside)
        .context("no program")?;
    let path = path.canonicalize().with_context(|| {
        format!(
            "{}: build it first (make build), or set VK_CMD",
            path.display()
        )
    })?;
    Ok(Path::new(&path).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_time() {
        let me = std::process::id().cast_signed();
        assert!(resident(me) > 0.1);
        assert!(processor_time(me) >= 0.0);
        assert_eq!(resident(-1), 0.0);
    }
}
