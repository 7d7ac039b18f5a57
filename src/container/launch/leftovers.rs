//! What a dead shim leaves behind.
//!
//! Nothing links its processes to it any more but what they carry: the recorded main process with its start time, the
//! mark in their environment, and the session that the shim had made.

use std::{collections::HashSet, ffi::OsStr, io};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;

use super::{AdoptError, adopt::Found};
use crate::container::{
    cgroup::Group,
    claim::{self, Claimed, Start},
    dir::AttemptDir,
    engine,
    files::Durability,
    held::Held,
    process::{self, ProcessId, Stat},
    status::{FORMAT_VERSION, Status, StatusFile},
};

/// Ends the processes of a dead shim and records the loss.
pub(super) async fn settle(records: &AttemptDir, found: &Found) -> Result<Status, AdoptError> {
    kill(found).await.map_err(AdoptError::Processes)?;
    let started_at = match found.status.as_ref().map(|file| &file.status) {
        Some(Status::Running { started_at, .. }) => Some(*started_at),
        _ => None,
    };
    let message = if claimant(found).is_some_and(|shim| !found.here.holds(shim)) {
        "the container ran on a host or boot that is gone"
    } else {
        "the supervisor of the container died; its exit code is unknown"
    };
    let status = Status::Lost {
        started_at,
        finished_at: Timestamp::now(),
        message: message.to_owned(),
    };
    let file = StatusFile {
        version: FORMAT_VERSION,
        attempt: records.number(),
        epoch: found.intent.as_ref().map_or(0, |intent| intent.epoch),
        writer: found.here.own_process().map_err(AdoptError::Processes)?,
        status: status.clone(),
    };
    let socket = found.start().map(|start| start.socket.clone());
    let records = records.clone();
    let write = move || {
        if let Some(socket) = socket {
            // Nobody listens on it any more; where it is gone already, all the better.
            let _ = std::fs::remove_file(socket);
        }
        match records.open()? {
            Some(dir) => {
                engine::settle_left(&dir)?;
                claim::write_status(&dir, &file, Durability::Power)
            }
            None => Ok(()),
        }
    };
    spawn_blocking(write)
        .await
        .map_err(|error| AdoptError::Processes(io::Error::other(error)))??;
    Ok(status)
}

fn claimant(found: &Found) -> Option<&ProcessId> {
    match &found.claimed {
        Claimed::By(claim) => Some(&claim.claimant),
        Claimed::No | Claimed::Torn => None,
    }
}

/// Kills the processes of an attempt until none is left.
async fn kill(found: &Found) -> io::Result<()> {
    let mut search = Search::new(found);
    if let Some(group) = &search.group {
        group.kill();
    }
    loop {
        let (searched, living) = spawn_blocking(move || {
            let living = search.living();
            (search, living)
        })
        .await
        .map_err(io::Error::other)?;
        search = searched;
        let living = living?;
        if living.is_empty() {
            return Ok(());
        }
        let mut immune = 0;
        for stat in &living {
            let Some(process) = Held::of(stat)? else {
                continue;
            };
            match process.signal(Signal::SIGKILL) {
                Ok(true) => process.ended().await?,
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => immune += 1,
                Err(error) => return Err(error),
            }
        }
        if immune == living.len() {
            tracing::warn!(
                processes = immune,
                "processes of another user outlive their container"
            );
            return Ok(());
        }
    }
}

/// The group of a start. Only one of its own name: what stands in the records is a hint.
fn group(start: &Start) -> Option<Group> {
    let path = start.group.as_deref()?;
    let named = path.file_name() == Some(OsStr::new(&start.container));
    named.then(|| Group::existing(path)).flatten()
}

/// Finds processes of one attempt.
struct Search {
    container: Option<String>,
    shim: Option<ProcessId>,
    main: Option<ProcessId>,
    /// Its control group, where there still is one; it goes with this search.
    group: Option<Group>,
    /// Whether the shim's session number was seen in use by a process that is certainly the container's. As long as
    /// it is in use the kernel gives it to nobody else.
    session_is_ours: bool,
}

impl Search {
    fn new(found: &Found) -> Self {
        let of_here = |id: &&ProcessId| found.here.holds(id);
        let main = match found.status.as_ref().map(|file| &file.status) {
            Some(Status::Running { process, .. }) => Some(process),
            _ => None,
        };
        Self {
            container: found.start().map(|start| start.container.clone()),
            shim: claimant(found).filter(of_here).cloned(),
            main: main.filter(of_here).cloned(),
            group: found.start().and_then(group),
            session_is_ours: false,
        }
    }

    /// Processes that live now.
    fn living(&mut self) -> io::Result<Vec<Stat>> {
        let all = process::all()?;
        let mut ours: HashSet<i32> = HashSet::new();
        for stat in &all {
            let is_main = self
                .main
                .as_ref()
                .is_some_and(|main| main.pid == stat.pid && main.start_time == stat.start_time);
            let is_marked = || {
                self.container
                    .as_ref()
                    .is_some_and(|container| process::is_marked(stat.pid, container))
            };
            if !stat.is_dead() && (is_main || is_marked()) {
                ours.insert(stat.pid);
            }
        }
        ours.extend(self.group.iter().flat_map(Group::processes));
        let session = self.shim.as_ref().map(|shim| shim.pid);
        self.session_is_ours |= all
            .iter()
            .any(|stat| Some(stat.session) == session && ours.contains(&stat.pid));
        if self.session_is_ours {
            ours.extend(
                all.iter()
                    .filter(|stat| Some(stat.session) == session)
                    .map(|stat| stat.pid),
            );
        }
        // Their descendants are the container's, whatever they have done to their environment.
        loop {
            let before = ours.len();
            let born: Vec<i32> = all
                .iter()
                .filter(|stat| ours.contains(&stat.ppid))
                .map(|stat| stat.pid)
                .collect();
            ours.extend(born);
            if ours.len() == before {
                break;
            }
        }
        Ok(all
            .into_iter()
            .filter(|stat| ours.contains(&stat.pid) && !stat.is_dead())
            .collect())
    }
}
