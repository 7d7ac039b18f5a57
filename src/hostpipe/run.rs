//! One command on the host, for the inner side.
//!
//! Two threads copy its output into frames, a third waits for the other end to go away, which ends the command.

use std::{
    io::{self, Read, Write},
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::protocol::{self, Done, Task};

/// How long output is waited for that a grandchild may still hold open, once the command itself has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the command has between SIGTERM and SIGKILL once nobody wants it any more.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the task and tells the other end what it writes and how it ends. A single word with white space is a line for
/// the shell.
///
/// # Errors
/// Where the other end cannot be told.
pub fn run(mut stream: UnixStream, task: &Task) -> io::Result<()> {
    let argv = task.argv.as_slice();
    let mut command = match argv {
        [line] if line.contains(char::is_whitespace) => {
            let mut command = Command::new("sh");
            command.arg("-c").arg(line);
            command
        }
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest);
            command
        }
        [] => return fail(&mut stream, "no command".to_owned()),
    };
    let stdin = match &task.stdin {
        Some(text) => match memory_file(text) {
            Ok(file) => file.into(),
            Err(error) => return fail(&mut stream, format!("its standard input: {error}")),
        },
        None => Stdio::null(),
    };
    let spawned = command
        .envs(task.env.iter().map(|(name, value)| (name, value)))
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let name = argv.first().map_or("", String::as_str);
            return fail(&mut stream, format!("{name}: {error}"));
        }
    };
    let group = Pid::from_raw(child.id().cast_signed());
    let sink = Arc::new(Mutex::new(stream.try_clone()?));
    let (finished, ends) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        copy(out, protocol::STDOUT, Arc::clone(&sink), finished.clone());
    }
    if let Some(err) = child.stderr.take() {
        copy(err, protocol::STDERR, Arc::clone(&sink), finished);
    }
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    std::thread::spawn(move || end_with(stream, group, &told));
    let status = child.wait()?;
    // From here on the number may be another group's.
    ended.store(true, Ordering::SeqCst);
    while ends.recv_timeout(DRAIN).is_ok() {}
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    protocol::write_message(&mut *sink, &Done::Exit(code(status)))
}

/// A file without a name, in memory alone: it may hold secrets.
fn memory_file(text: &str) -> io::Result<std::fs::File> {
    use std::io::Seek;
    let fd = nix::sys::memfd::memfd_create(c"vk-cmd", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn fail(stream: &mut UnixStream, message: String) -> io::Result<()> {
    protocol::write_message(stream, &Done::Failed(message))
}

/// The code that a shell would tell.
fn code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

fn copy(
    mut from: impl Read + Send + 'static,
    kind: u8,
    to: Arc<Mutex<UnixStream>>,
    finished: Sender<()>,
) {
    std::thread::spawn(move || {
        let mut buffer = [0; 32 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let frame = protocol::frame(kind, &buffer[..length]);
            let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
            if to.write_all(&frame).is_err() {
                break;
            }
        }
        // Nobody waits any more where this fails.
        let _ = finished.send(());
    });
}

/// Ends the command when the other end goes away, which is all that it can do after its order.
fn end_with(mut stream: UnixStream, group: Pid, ended: &AtomicBool) {
    let mut buffer = [0; 64];
    while let Ok(1..) = stream.read(&mut buffer) {}
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        // It has ended where this fails.
        let _ = killpg(group, signal);
        std::thread::sleep(GRACE);
    }
}
