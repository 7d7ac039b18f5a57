//! The reader on the host: `vk-cmd hostpipe serve`.
//!
//! It keeps the FIFO open for reading and writing, so that writers come and go and it never sees an end. Each line is
//! run in a shell of its own, many at once; what a line does to its shell is nothing to the reader. Lines of our own
//! start something in the background and have no output; a plain line gets files for what it writes:
//! `lines/<time>-<n>.{sh,out,err,code}`, and `pipeline.out`/`pipeline.err` are links to those of the last one.
//!
//! Whatever runs when the reader ends goes on: its shell writes the files, not the reader.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::Command,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    DIR_VARIABLE, SERVED_VARIABLE,
    line::MARK,
    place::{PipeDir, PlaceError},
};

/// Longest line that is run.
pub const MAX_LINE: usize = 4 * 1024 * 1024;
/// Plain lines whose files are kept.
const KEPT: usize = 100;
/// Commands at once; more wait in the pipe.
const AT_ONCE: usize = 512;
/// A line without an end is taken as whole when nothing more has come for so long: `printf 'date' > pipe`.
const QUIET: Duration = Duration::from_millis(500);
/// Runs a plain line (`$2`, in the shell `$1`) and keeps its exit code, whatever becomes of the reader.
const KEEP: &str = "\"$1\" \"$2.sh\" >\"$2.out\" 2>\"$2.err\" </dev/null; echo $? >\"$2.code~\" && \
                    mv \"$2.code~\" \"$2.code\"";

/// Why there can be no reader.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory or the FIFO.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There is one already.
    #[error("{} is read by another `vk-cmd hostpipe serve` already", fifo.display())]
    Taken {
        /// The pipe.
        fifo: PathBuf,
    },
    /// The system refused.
    #[error("the hostpipe cannot be read")]
    Io(#[from] io::Error),
}

/// A reader that holds the pipe.
#[derive(Debug)]
pub struct Server {
    dir: PipeDir,
    pipe: pipe::Receiver,
    shell: &'static str,
    made: bool,
    count: u64,
    _lock: Flock<fs::File>,
}

impl Server {
    /// Makes the directory and the FIFO where they are missing, checks them, and opens the pipe. Needs a runtime.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn open(path: &Path) -> Result<Self, ServeError> {
        let dir = PipeDir::create(path)?;
        dir.prepare()?;
        let lines = dir.path().join("lines");
        fs::create_dir_all(&lines).map_err(PlaceError::io("create directory", &lines))?;
        let lock = lock(&dir)?;
        let made = dir.make_fifo()?;
        let pipe = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(dir.fifo())?;
        let shell = if Path::new("/bin/bash").exists() {
            "/bin/bash"
        } else {
            "/bin/sh"
        };
        Ok(Self {
            dir,
            pipe,
            shell,
            made,
            count: 0,
            _lock: lock,
        })
    }

    /// Where it reads.
    pub fn fifo(&self) -> PathBuf {
        self.dir.fifo()
    }

    /// Runs lines until `stop`. Then the FIFO is removed where it was made by this run; commands go on.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut commands: JoinSet<()> = JoinSet::new();
        let mut lines = Lines::default();
        let mut buffer = vec![0; 64 * 1024];
        let mut quiet_at: Option<Instant> = None;
        loop {
            let room = commands.len() < AT_ONCE;
            let quiet = quiet_at.unwrap_or_else(Instant::now);
            let found = tokio::select! {
                // Cancel-safe per docs on `read`.
                read = self.pipe.read(&mut buffer), if room => match read {
                    Ok(length) => {
                        let found = lines.feed(&buffer[..length]);
                        quiet_at = lines.is_open().then(|| Instant::now() + QUIET);
                        found
                    }
                    // Nothing can be done about it here; a pause, so that it is told once a while.
                    Err(error) => {
                        tracing::error!(%error, "the hostpipe cannot be read");
                        tokio::time::sleep(QUIET).await;
                        Vec::new()
                    }
                },
                // Cancel-safe: made anew each time.
                () = sleep_until(quiet), if quiet_at.is_some() => {
                    quiet_at = None;
                    lines.rest().into_iter().collect()
                }
                // Cancel-safe per docs on `join_next`.
                Some(ended) = commands.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a command could not be followed");
                    }
                    Vec::new()
                }
                () = stop.cancelled() => break,
            };
            for line in found {
                match line {
                    Line::Text(text) => match self.command(&text) {
                        Ok(command) => drop(commands.spawn(follow(command))),
                        Err(error) => tracing::error!(%error, "a line could not be run"),
                    },
                    Line::Long => {
                        tracing::error!(limit = MAX_LINE, "a line was too long and was not run")
                    }
                    Line::Nul => tracing::error!("a line held a NUL byte and was not run"),
                }
            }
        }
        commands.detach_all();
        if self.made {
            // Gone already: all the better.
            let _ = fs::remove_file(self.dir.fifo());
        }
    }

    /// What runs a line.
    fn command(&mut self, text: &[u8]) -> io::Result<Command> {
        let mut command;
        if text.starts_with(MARK.as_bytes()) {
            let line = std::str::from_utf8(text).map_err(io::Error::other)?;
            command = Command::new("/bin/sh");
            command.arg("-c").arg(line);
        } else {
            let stem = self.files(text)?;
            command = Command::new("/bin/sh");
            command.args(["-c", KEEP, "sh", self.shell]).arg(stem);
        }
        command
            .env(DIR_VARIABLE, self.dir.path())
            .env(SERVED_VARIABLE, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(command)
    }

    /// Writes a plain line down and returns the path of its files without their endings.
    fn files(&mut self, text: &[u8]) -> io::Result<PathBuf> {
        let lines = self.dir.path().join("lines");
        fs::create_dir_all(&lines)?;
        forget(&lines);
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
        loop {
            self.count += 1;
            let stem = lines.join(format!("{stamp}-{:04}", self.count));
            let created = fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(stem.with_extension("sh"));
            let mut file = match created {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            io::Write::write_all(&mut file, text)?;
            io::Write::write_all(&mut file, b"\n")?;
            tracing::info!(output = %stem.with_extension("out").display(), "running a line");
            for end in ["out", "err"] {
                point(&self.dir, end, &stem);
            }
            return Ok(stem);
        }
    }
}

/// Runs a command and waits for its end.
async fn follow(mut command: Command) {
    match command.spawn() {
        Ok(mut child) => {
            // It wrote its code down itself.
            let _ = child.wait().await;
        }
        Err(error) => tracing::error!(%error, "no shell could be started"),
    }
}

/// Makes `pipeline.out` or `pipeline.err` show the last line's output; a file that somebody else made stays.
fn point(dir: &PipeDir, end: &str, stem: &Path) {
    let link = dir.path().join(format!("pipeline.{end}"));
    let ours = fs::symlink_metadata(&link).map(|meta| meta.is_symlink());
    let target = stem.with_extension(end);
    let Ok(target) = target.strip_prefix(dir.path()) else {
        return;
    };
    if matches!(ours, Ok(true)) {
        // The new link says so where it fails.
        let _ = fs::remove_file(&link);
    }
    if !matches!(ours, Ok(false))
        && let Err(error) = std::os::unix::fs::symlink(target, &link)
    {
        tracing::debug!(%error, "no link to the last output");
    }
}

/// Removes the files of the oldest lines that have ended.
fn forget(lines: &Path) {
    let mut ended: Vec<(i64, PathBuf)> = fs::read_dir(lines)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "code"))
        .filter_map(|path| Some((fs::symlink_metadata(&path).ok()?.mtime(), path)))
        .collect();
    ended.sort_unstable();
    let surplus = ended.len().saturating_sub(KEPT - 1);
    for (_, path) in ended.into_iter().take(surplus) {
        for end in ["sh", "out", "err", "code"] {
            // Gone already: all the better.
            let _ = fs::remove_file(path.with_extension(end));
        }
    }
}

fn lock(dir: &PipeDir) -> Result<Flock<fs::File>, ServeError> {
    let path = dir.private().join("serve.lock");
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .map_err(PlaceError::io("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => ServeError::Taken { fifo: dir.fifo() },
        errno => PlaceError::io("lock", &path)(errno.into()).into(),
    })
}

/// Something that came through the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Text(Vec<u8>),
    /// Longer than [`MAX_LINE`].
    Long,
    /// No shell takes a NUL byte.
    Nul,
}

/// Bytes, cut into lines. Holds at most one line, and that no longer than [`MAX_LINE`].
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
    long: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut found = Vec::new();
        let mut pieces = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.open.len() + piece.len() > MAX_LINE {
                self.long = true;
                self.open = Vec::new();
            }
            if !self.long {
                self.open.extend_from_slice(piece);
            }
            if pieces.peek().is_some() {
                found.extend(self.rest());
            }
        }
        found
    }

    /// Whether there is a line without an end.
    fn is_open(&self) -> bool {
        self.long || !self.open.is_empty()
    }

    /// The line without an end, as if it had one.
    fn rest(&mut self) -> Option<Line> {
        let text = std::mem::take(&mut self.open);
        if std::mem::take(&mut self.long) {
            return Some(Line::Long);
        }
        if text.contains(&0) {
            return Some(Line::Nul);
        }
        let blank = text.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(Line::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], cut: usize) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut found: Vec<Line> = bytes
            .chunks(cut)
            .flat_map(|piece| lines.feed(piece))
            .collect();
        found.extend(lines.rest());
        found
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_bad_ones_named() {
        let long = vec![b'x'; MAX_LINE + 1];
        let mut bytes = b"a b\n\n  \nc\0d\n".to_vec();
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(b"\nlast");
        assert_eq!(
            all(&bytes, 65_536),
            [
                Line::Text(b"a b".to_vec()),
                Line::Nul,
                Line::Long,
                Line::Text(b"last".to_vec())
            ]
        );
    }

    #[test]
    fn the_oldest_files_go_and_those_of_running_lines_stay() {
        let temp = tempfile::tempdir().expect("tempdir");
        for number in 0..KEPT + 5 {
            let stem = temp.path().join(format!("x-{number:04}"));
            for end in ["sh", "out", "err", "code"] {
                fs::write(stem.with_extension(end), "").expect("write");
            }
        }
        fs::write(temp.path().join("running.out"), "").expect("write");
        forget(temp.path());
        let left = fs::read_dir(temp.path()).expect("listed").count();
        assert_eq!(left, (KEPT - 1) * 4 + 1);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(0_u8), any::<u8>()], 0..200),
            cut in 1_usize..20,
        ) {
            prop_assert_eq!(all(&bytes, cut), all(&bytes, 1000));
        }
    }
}
