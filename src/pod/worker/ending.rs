//! What is read from the disk when an attempt has ended: its last words, and what it
//! wrote to stderr.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Context, start};
use crate::{
    container::{
        AttemptDir, ContainerDir, Status,
        log::{ReadOptions, Reader},
    },
    pod::{
        api::chain,
        compat::{self, Compat, Stderr},
        containers,
        machine::{Ended, Waiting},
        mounts,
    },
};

/// Name of the file beside an attempt's records; containers find its path in
/// [`TERMINATION_LOG`].
pub(super) const FILE: &str = "termination-log";
/// Tells a container where to leave its termination message.
pub(super) const TERMINATION_LOG: &str = "VK_CMD_TERMINATION_LOG";
/// Where a message is left when the pod does not say: Kubernetes' default.
pub(super) const DEFAULT_PATH: &str = "/dev/termination-log";
/// Bytes of a message, from the end of the file: the kubelet's.
const LONGEST_MESSAGE: u64 = 4096;
/// Bytes and lines of a log that stands in for a message: the kubelet's.
const LONGEST_LOG: usize = 2048;
const LOG_LINES: u64 = 80;

/// How the end of a container is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    compat: Compat,
    /// `terminationMessagePolicy: FallbackToLogsOnError`.
    fall_back: bool,
}

impl How {
    pub(super) fn of(context: &Context, pod: &Pod, container: &str) -> Self {
        let mut all = containers::all(pod);
        let container = all.find(|(_, it)| it.name == container);
        let policy = container.and_then(|(_, it)| it.termination_message_policy.clone());
        Self {
            compat: Compat::of(pod, context.host.compat),
            fall_back: policy.as_deref() == Some("FallbackToLogsOnError"),
        }
    }
}

/// Makes the place for an attempt's last words; tells its path.
pub(super) fn prepare(
    dir: &ContainerDir,
    attempt: u32,
    container: &Container,
) -> Result<String, crate::container::dir::DirError> {
    let records = dir.attempt(attempt);
    records.create_file(FILE)?;
    let wanted = container.termination_message_path.as_deref();
    let wanted = wanted.filter(|it| !it.is_empty()).unwrap_or(DEFAULT_PATH);
    // A mount may stand there, or another file of the user's: the variable holds anyway.
    if let Ok(path) = mounts::relative(wanted)
        && let Err(error) = dir.link_record(&path, attempt, FILE)
    {
        tracing::debug!(%error, wanted, "no link to the termination log");
    }
    Ok(records.path().join(FILE).display().to_string())
}

/// The end of an attempt with all that is known of it.
pub(super) async fn read(
    context: &Context,
    dir: &ContainerDir,
    how: How,
    attempt: u32,
    status: &Status,
) -> Ended {
    let mut end = start::ended(attempt, status);
    if matches!(status, Status::StartFailed { .. }) {
        return match start::obstacle(dir, status).filter(|_| how.compat.documented()) {
            Some(obstacle) => start::not_started(end, &obstacle),
            None => end,
        };
    }
    let records = dir.attempt(attempt);
    let stderr = dir.path().join("stderr");
    let documented = how.compat.documented();
    let look = move || {
        let message = last_words(&records);
        let stderr = documented.then(|| stderr_of(&stderr));
        (message, stderr)
    };
    let (message, stderr) = match context.on_disk(look).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(error, "the end of a container could not be looked at");
            return end;
        }
    };
    if let Some(stderr) = stderr {
        end = compat::ended(end, stderr);
    }
    let mut words = match message {
        Ok(words) => words,
        Err(error) => {
            let path = dir.attempt(attempt).path().join(FILE);
            format!(
                "Error on reading termination log {}: {error}",
                path.display()
            )
        }
    };
    if words.is_empty() && how.fall_back && end.code != 0 {
        words = log_tail(&dir.attempt(attempt)).await;
    }
    if !words.is_empty() {
        end.message = if end.message.is_empty() {
            words
        } else {
            format!("{}: {words}", end.message)
        };
    }
    end
}

/// What to show while a start waits for room on a disk, as a kubelet's does; none for every other end.
///
/// The attempt is forgotten with that: nothing of it ran, so that the next try may have its number.
/// The documented semantics end the container there.
pub(super) async fn not_yet(
    context: &Context,
    dir: &ContainerDir,
    how: How,
    attempt: u32,
    status: &Status,
) -> Option<Waiting> {
    let Status::StartFailed {
        message,
        no_room: true,
        ..
    } = status
    else {
        return None;
    };
    if how.compat.documented() {
        return None;
    }
    let forgotten = {
        let dir = dir.clone();
        context.on_disk(move || dir.remove_attempt(attempt)).await
    };
    match forgotten {
        Ok(Ok(())) => {}
        // The next try finds it again.
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), attempt, "an attempt stays on record")
        }
        Err(error) => tracing::warn!(error, attempt, "an attempt stays on record"),
    }
    Some(start::create_error(message.clone()))
}

fn last_words(records: &AttemptDir) -> io::Result<String> {
    let Some(file) = records.open_file(FILE).map_err(io::Error::other)? else {
        return Ok(String::new());
    };
    read_end(file, LONGEST_MESSAGE)
}

/// At most so many bytes from the end of a file.
fn read_end(mut file: File, limit: u64) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn stderr_of(path: &std::path::Path) -> Stderr {
    // What was rotated away was not empty.
    let rotated = path.with_extension("1").symlink_metadata().is_ok();
    match path.symlink_metadata() {
        Ok(found) if found.is_file() && found.len() == 0 && !rotated => Stderr::Empty,
        Ok(found) if found.is_file() => Stderr::NotEmpty,
        _ => Stderr::Unknown,
    }
}

async fn log_tail(records: &AttemptDir) -> String {
    let options = ReadOptions {
        tail: Some(LOG_LINES),
        ..ReadOptions::default()
    };
    let mut bytes = Vec::new();
    let read = async {
        let mut reader = Reader::open(records, options).await?;
        while let Some(piece) = reader.next().await? {
            bytes.extend_from_slice(&piece);
            let surplus = bytes.len().saturating_sub(LONGEST_LOG);
            bytes.drain(..surplus);
        }
        io::Result::Ok(())
    };
    match read.await {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("Error on reading termination message from logs: {error}"),
    }
}

/// What an end needs to be told well, for the task that waits for it.
#[derive(Clone)]
pub(super) struct Witness {
    pub(super) context: Arc<Context>,
    pub(super) uid: String,
    pub(super) name: Arc<str>,
    pub(super) how: How,
}

impl Witness {
    pub(super) async fn read(&self, attempt: u32, status: &Status) -> Ended {
        match self.context.root.container(&self.uid, &self.name) {
            Ok(dir) => read(&self.context, &dir, self.how, attempt, status).await,
            // Its name would be none of a container.
            Err(_) => start::ended(attempt, status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_end_of_its_file() {
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("log");
        for (length, wanted) in [(0, 0), (10, 10), (4096, 4096), (5000, 4096)] {
            let text: String = ('a'..='z').cycle().take(length).collect();
            std::fs::write(&path, &text).unwrap();
            let read = read_end(File::open(&path).unwrap(), LONGEST_MESSAGE).unwrap();
            assert_eq!(read, text[length - wanted..]);
        }
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        let read = read_end(File::open(&path).unwrap(), LONGEST_MESSAGE).unwrap();
        assert_eq!(read, "a\u{fffd}");
    }

    #[test]
    fn stderr_is_empty_or_not_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr");
        assert_eq!(stderr_of(&path), Stderr::Unknown);
        std::fs::write(&path, "").unwrap();
        assert_eq!(stderr_of(&path), Stderr::Empty);
        std::fs::write(&path, "x").unwrap();
        assert_eq!(stderr_of(&path), Stderr::NotEmpty);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(stderr_of(&path), Stderr::Unknown);
    }
}
