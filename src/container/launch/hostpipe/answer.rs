//! The host's side of a call: what the line in the pipe starts.
//!
//! Small and without a runtime, since it becomes the shim.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crate::{
    container::{
        dir::Root,
        process,
        shim::{self, Arguments},
    },
    hostpipe::{
        Facts, Order,
        place::PRIVATE,
        protocol::{Done, read_message, write_message},
        run,
    },
};

use super::super::adopt;

/// How long the other side may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(60);

/// Entry of the hidden verb; `args` are the shared directory and the identity of the call.
///
/// Exit code 0 when the order was carried out, 1 where nobody waits for an answer any more, 2 for wrong arguments.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let Ok([dir, id]) = <[OsString; 2]>::try_from(args) else {
        return ExitCode::from(2);
    };
    let Some(id) = id.to_str().filter(|id| is_identity(id)) else {
        return ExitCode::from(2);
    };
    process::close_inherited(3);
    match answer(Path::new(&dir), id) {
        Ok(code) => code,
        // Nobody reads what could be said here; the other side sees the connection end.
        Err(_) => ExitCode::FAILURE,
    }
}

/// It becomes part of a path.
fn is_identity(id: &str) -> bool {
    !id.is_empty() && id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn answer(dir: &Path, id: &str) -> io::Result<ExitCode> {
    let sockets = dir.join(PRIVATE).join("s");
    // Where the shell puts its complaints. There is none: this runs.
    let _ = fs::remove_file(sockets.join(format!("{id}.err")));
    let mut stream = UnixStream::connect(sockets.join(format!("{id}+")))?;
    write_message(&mut stream, &Facts::gather(dir)?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let order: Order = read_message(&mut stream)?;
    stream.set_read_timeout(None)?;
    match order {
        Order::Nothing => Ok(ExitCode::SUCCESS),
        Order::Run { task } => run::run(stream, &task).map(|()| ExitCode::SUCCESS),
        Order::Shim { arguments } => {
            let words = arguments.into_iter().map(OsString::from).collect();
            let Some(arguments) = Arguments::parse(words) else {
                return Ok(ExitCode::from(2));
            };
            // Standard input and error are what the reader's shell has made of them.
            drop(process::take_stdin()?);
            discard_stderr()?;
            Ok(shim::supervise_for(arguments, stream))
        }
        Order::Settle {
            root,
            uid,
            name,
            attempt,
        } => {
            let done = match settle(root, &uid, &name, attempt) {
                Ok(()) => Done::Exit(0),
                Err(error) => Done::Failed(error.to_string()),
            };
            write_message(&mut stream, &done)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A file without a name would otherwise stay as long as the container.
fn discard_stderr() -> io::Result<()> {
    let null = fs::File::options()
        .write(true)
        .custom_flags(nix::libc::O_CLOEXEC)
        .open("/dev/null")?;
    Ok(nix::unistd::dup2_stderr(&null)?)
}

/// Ends what a dead shim left, seen from where its processes are.
fn settle(
    root: PathBuf,
    uid: &str,
    name: &str,
    attempt: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let records = Root::existing(&root)?
        .container(uid, name)?
        .attempt(attempt);
    runtime.block_on(adopt::resolve(&records, None))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_one_harmless_word() {
        assert!(is_identity("0123456789abcdef"));
        for bad in ["", "../x", "a b", "a/b", &"x".repeat(33)] {
            assert!(!is_identity(bad), "{bad}");
        }
    }
}
