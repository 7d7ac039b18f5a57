//! Shims that the host starts.
//!
//! The agent calls through the pipe, the host's side answers and becomes the shim; from there on it is as with a shim
//! of our own: the spec goes over the connection, the records lie in the shared directory, and the control socket too.
//! Only two things differ. Paths: each side sees the directory at a place of its own. And the agent may not see the
//! host's processes, so what a dead shim has left is ended by the host, on an order.

use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::{
    AdoptError, Handle, HostError, Launcher, SOCKET_NAME, StartError,
    adopt::{self, Found, Resolved},
    direct::{self, Spawned},
};
use crate::{
    container::{
        claim::{Claim, Claimed, Purpose, Start},
        dir::{AttemptDir, ContainerDir},
        process::Here,
        shim::Arguments,
        spec::ContainerSpec,
    },
    hostpipe::{Client, Facts, Order, place::PRIVATE},
};

pub mod answer;

/// A path of the shared directory as the host sees it; `None` for a path outside of it.
fn on_host(path: &Path, client: &Client, facts: &Facts) -> Option<PathBuf> {
    let below = path.strip_prefix(client.dir().path()).ok()?;
    Some(facts.dir.join(below))
}

fn here(facts: &Facts) -> Here {
    Here {
        host: facts.host.clone(),
        boot_id: facts.boot_id.clone(),
        pid_namespace: facts.pid_namespace,
    }
}

fn check_user(facts: &Facts) -> Result<(), HostError> {
    let ours = nix::unistd::geteuid().as_raw();
    if facts.uid == ours {
        return Ok(());
    }
    let theirs = facts.uid;
    Err(HostError::Foreign { theirs, ours })
}

/// Writes paths of pod data as the host sees them, wherever they stand in the spec: scripts in argv, mounts in
/// variables, the working directory.
fn translate(spec: &mut ContainerSpec, ours: &Path, theirs: &Path) {
    if ours == theirs {
        return;
    }
    // Pod data alone: nothing else in the shared directory is known by our name for it.
    let of = |dir: &Path| {
        let path = dir.join(PRIVATE).join("root");
        format!("{}/", path.display())
    };
    let (ours, theirs) = (of(ours), of(theirs));
    let of_engine = spec.engine.iter_mut().flat_map(|engine| engine.texts());
    let texts = spec
        .argv
        .iter_mut()
        .chain(spec.env.iter_mut().map(|(_, value)| value))
        .chain(of_engine);
    for text in texts {
        if text.contains(&ours) {
            *text = text.replace(&ours, &theirs);
        }
    }
    if let Some(text) = spec.cwd.to_str() {
        spec.cwd = text.replace(&ours, &theirs).into();
    }
}

/// See [`Launcher::start`].
pub(super) async fn start(
    launcher: &Launcher,
    dir: &ContainerDir,
    attempt: u32,
    epoch: u64,
    spec: &ContainerSpec,
) -> Result<Handle, StartError> {
    let client = launcher.host.as_ref().ok_or(HostError::NoPipe)?;
    let permit = launcher.permit().await?;
    let mut answered = client.call().await.map_err(HostError::from)?;
    let facts = answered.facts.clone();
    check_user(&facts)?;
    let records = dir.attempt(attempt);
    let container = uuid::Uuid::new_v4().simple().to_string();
    let start = Start {
        socket: facts
            .dir
            .join(PRIVATE)
            .join("s")
            .join(&container[..SOCKET_NAME]),
        container,
        on_host: true,
        group: None,
    };
    let intended = {
        let (records, here) = (records.clone(), here(&facts));
        spawn_blocking(move || direct::intend(&records, epoch, start, here))
    };
    let intent = intended
        .await
        .map_err(|error| launcher.failed(std::io::Error::other(error)))??;
    let root = on_host(dir.root().path(), client, &facts).ok_or_else(|| {
        let message = format!(
            "{} lies outside of the shared directory {}",
            dir.root().path().display(),
            client.dir().path().display()
        );
        launcher.failed(std::io::Error::other(message))
    })?;
    let arguments = Arguments {
        root,
        uid: dir.uid().to_owned(),
        name: dir.name().to_owned(),
        attempt,
        epoch,
        container: intent.start.container.clone(),
        socket: intent.start.socket.clone(),
    };
    let words: Option<Vec<String>> = arguments
        .to_args()
        .into_iter()
        .map(|word| word.into_string().ok())
        .collect();
    let words = words.ok_or_else(|| {
        let message = format!("{} is no text", arguments.root.display());
        launcher.failed(std::io::Error::other(message))
    })?;
    answered
        .order(&Order::Shim { arguments: words })
        .await
        .map_err(|error| launcher.failed(error))?;
    let mut spec = spec.clone();
    translate(&mut spec, client.dir().path(), &facts.dir);
    let frame = direct::start_frame(launcher, spec)?;
    let spawned = Spawned {
        stream: answered.stream,
        child: None,
        socket: seen_from_here(&intent.start, client).socket,
        intent,
    };
    direct::converse(launcher, records, epoch, spawned, &frame, permit).await
}

/// What became of an attempt that the host was to start.
pub(super) async fn resolve(
    records: &AttemptDir,
    found: &Found,
    client: &Client,
) -> Result<Resolved, AdoptError> {
    match &found.claimed {
        Claimed::By(Claim {
            purpose: Purpose::Cancel,
            ..
        }) => return Ok(Resolved::Cancelled),
        Claimed::No => {
            // As with our own: a claim of this boot would be seen, one of an earlier boot may be forgotten.
            let facts = match client.facts() {
                Some(facts) => facts,
                None => client.call().await.map_err(HostError::from)?.facts,
            };
            let same = |intent: &crate::container::claim::Intent| {
                intent.here.host == facts.host && intent.here.boot_id == facts.boot_id
            };
            if found.intent.as_ref().is_none_or(same) {
                return Ok(Resolved::NeverStarted);
            }
        }
        Claimed::Torn | Claimed::By(_) => {}
    }
    let Some(start) = found.start() else {
        return Ok(Resolved::NeverStarted);
    };
    let start = seen_from_here(start, client);
    if let Some(alive) = adopt::connect(&start, None).await? {
        return Ok(alive);
    }
    let container = records.container();
    let root = container.root().path().to_owned();
    let (uid, name) = (container.uid().to_owned(), container.name().to_owned());
    let attempt = records.number();
    client
        .order(|facts| Order::Settle {
            root: on_host(&root, client, facts).unwrap_or(root),
            uid,
            name,
            attempt,
        })
        .await
        .map_err(HostError::from)?;
    // Its records say it now, or it listens again.
    let Some(found) = adopt::read(records).await? else {
        return Ok(Resolved::NeverStarted);
    };
    if let Some(status) = adopt::ended(&found) {
        return Ok(Resolved::Ended(status));
    }
    match adopt::connect(&start, None).await? {
        Some(alive) => Ok(alive),
        None => Err(AdoptError::Unreachable {
            pid: 0,
            socket: start.socket,
            source: std::io::ErrorKind::ConnectionRefused.into(),
        }),
    }
}

/// The same start with its socket where this side sees it.
fn seen_from_here(start: &Start, client: &Client) -> Start {
    let name = start.socket.file_name().unwrap_or_default();
    Start {
        socket: client.dir().sockets().join(name),
        ..start.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_pod_data_are_written_as_the_host_sees_them_and_others_are_left_alone() {
        let mut spec = ContainerSpec::new(
            vec![
                "bash".into(),
                "/root/hostpipe/.vk/root/c/n/pods/u/containers/c/job/a.sh".into(),
                "/root/hostpipe/mine".into(),
            ],
            vec![(
                "P".into(),
                "/bin:/root/hostpipe/.vk/root/c/n/x:/root/hostpipe/.vk/root/y".into(),
            )],
            "/root/hostpipe/.vk/root/c/n/pods/u/containers/c",
        );
        translate(
            &mut spec,
            Path::new("/root/hostpipe"),
            Path::new("/home/u/hostpipe"),
        );
        assert_eq!(
            spec.argv,
            [
                "bash",
                "/home/u/hostpipe/.vk/root/c/n/pods/u/containers/c/job/a.sh",
                "/root/hostpipe/mine"
            ]
        );
        assert_eq!(
            spec.env[0].1,
            "/bin:/home/u/hostpipe/.vk/root/c/n/x:/home/u/hostpipe/.vk/root/y"
        );
        assert_eq!(
            spec.cwd,
            Path::new("/home/u/hostpipe/.vk/root/c/n/pods/u/containers/c")
        );
    }
}
