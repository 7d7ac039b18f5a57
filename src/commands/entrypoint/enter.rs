//! Before anything runs: the user, the environment, and the first process of a container.
//!
//! The documented `docker run` passes one directory and one variable, and starts as root. All else comes from that
//! directory: its owner is whom we become (root is nobody on network homes), and its files `env` and `kubeconfig` say
//! what the command line does not. Each of these changes is an `exec` of this very program, so that no thread and no
//! open file has seen the state before.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{exit::UsageError, hostpipe::DIR_VARIABLE, printer, settings::env};

/// Settles user and environment; returns only where nothing is left to change, or with the end of the program.
///
/// # Errors
/// A file of the shared directory that cannot be used.
pub fn enter(args: &[OsString]) -> Result<Option<ExitCode>, UsageError> {
    if std::env::var_os(env::VK_CMD_ENTERED).is_some() {
        return Ok(None);
    }
    let dir = shared_directory();
    let euid = nix::unistd::geteuid();
    if let Some(dir) = &dir
        && euid.is_root()
        && let Ok(meta) = fs::metadata(dir)
        && meta.uid() != 0
    {
        if let Err(error) = introduce(Path::new("/etc/passwd"), meta.uid(), meta.gid()) {
            // All but ssh does without; that says what it lacks.
            printer::note(format!(
                "no entry of /etc/passwd for user {}: {error}",
                meta.uid()
            ));
        }
        let mut command = again(args);
        command.uid(meta.uid()).gid(meta.gid());
        return Err(failed("become the user of", dir, &command.exec()));
    }
    let mut more = BTreeMap::new();
    if let Some(dir) = &dir {
        more = variables(dir)?;
        more.insert(DIR_VARIABLE.into(), dir.clone().into());
    }
    let lacks = |name: &str, more: &BTreeMap<OsString, OsString>| {
        std::env::var_os(name).is_none_or(|value| value.is_empty())
            && !more.contains_key(&OsString::from(name))
    };
    if lacks(env::NODENAME, &more)
        && let Some(name) = std::env::var_os(env::JOBNAME).filter(|name| !name.is_empty())
    {
        more.insert(env::NODENAME.into(), name);
    }
    if lacks(env::KUBECONFIG, &more)
        && let Some(file) = dir.as_ref().map(|dir| dir.join("kubeconfig"))
        && file.exists()
    {
        more.insert(env::KUBECONFIG.into(), file.into());
    }
    let mut command = again(args);
    command.envs(more).env(env::VK_CMD_ENTERED, "1");
    if std::process::id() == 1 {
        return Ok(Some(first_process(command)));
    }
    let error = command.exec();
    Err(failed("start", Path::new("/proc/self/exe"), &error))
}

/// Gives a user of the host an entry in the container's list of users, where it has none: ssh ends without one.
fn introduce(list: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let text = match fs::read_to_string(list) {
        // An image without users has no ssh either.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let id = uid.to_string();
    if text.lines().any(|line| line.split(':').nth(2) == Some(&id)) {
        return Ok(());
    }
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let entry = format!("{end}vk-cmd-{uid}:x:{uid}:{gid}:vk-cmd:/root:/bin/sh\n");
    let mut file = fs::File::options().append(true).open(list)?;
    io::Write::write_all(&mut file, entry.as_bytes())
}

fn again(args: &[OsString]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vk-cmd").arg("entrypoint").args(args);
    command
}

fn failed(what: &str, path: &Path, error: &io::Error) -> UsageError {
    UsageError {
        key: DIR_VARIABLE.to_owned(),
        value: path.display().to_string(),
        problem: format!("failed to {what} it: {error}"),
        origin: "the container's mounts".to_owned(),
        mend: "mount a directory of your own, or start the container with --user".to_owned(),
    }
}

/// The directory that the documents mount, where there is one.
fn shared_directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = set(DIR_VARIABLE).map(PathBuf::from);
    let home = || set("HOME").map(|home| PathBuf::from(home).join("hostpipe"));
    let mounted = || Some(PathBuf::from("/root/hostpipe"));
    [named, home(), mounted()]
        .into_iter()
        .flatten()
        .find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.is_dir()))
}

/// The variables of the file `env` that are not set already.
fn variables(dir: &Path) -> Result<BTreeMap<OsString, OsString>, UsageError> {
    let path = dir.join("env");
    let wrong = |value: &str, problem: String, mend: &str| UsageError {
        key: path.display().to_string(),
        value: value.to_owned(),
        problem,
        origin: "the hostpipe's directory".to_owned(),
        mend: mend.to_owned(),
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => {
            let problem = format!("cannot be read: {error}");
            return Err(wrong(
                "",
                problem,
                "give it to the user of the directory, chmod 600",
            ));
        }
    };
    let meta = fs::metadata(&path);
    let private = meta.is_ok_and(|meta| {
        meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0
    });
    if !private {
        let problem = "can be read or written by others".to_owned();
        return Err(wrong("", problem, "it may hold secrets: chmod 600"));
    }
    let parsed = parse(&text).map_err(|line| {
        let problem = "is no NAME=value".to_owned();
        wrong(
            &line,
            problem,
            "write one variable a line, without export and substitutions",
        )
    })?;
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    Ok(parsed
        .into_iter()
        .filter(|(name, _)| unset(name))
        .map(|(name, value)| (name.into(), value.into()))
        .collect())
}

/// Lines `NAME=value`; `#` begins a comment, one pair of quotes around the value is taken off, `export ` before the
/// name too. The error is the line that is none.
fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = pair.split_once('=').ok_or_else(|| line.to_owned())?;
        let good = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !good {
            return Err(line.to_owned());
        }
        let unquoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        found.push((name.to_owned(), unquoted.unwrap_or(value).to_owned()));
    }
    Ok(found)
}

/// What the first process of a container owes: it hands signals on and reaps what nobody else does.
fn first_process(mut command: Command) -> ExitCode {
    let signals = SigSet::all();
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    let child = match crate::init::hear_signals(&mut command).spawn() {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(_) => return ExitCode::FAILURE,
    };
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return ExitCode::from(code);
                }
            }
            Ok(signal) => {
                // It has ended where this fails, and SIGCHLD says so.
                let _ = kill(child, signal);
            }
            Err(_) => {}
        }
    }
}

/// Reaps all that has ended; the code of `main` where it is among them.
fn reap(main: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == main => {
                code = Some(u8::try_from(status).unwrap_or(255));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => {
                code = Some(128 + u8::try_from(signal as i32).unwrap_or(127));
            }
            Ok(WaitStatus::StillAlive) => return code,
            Ok(_) => {}
            Err(Errno::ECHILD) => return code.or(Some(255)),
            // A real-time signal ended it, for which there is no name; it is reaped.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_the_host_is_introduced_once() {
        let temp = tempfile::tempdir().expect("a directory");
        let list = temp.path().join("passwd");
        introduce(&list, 1000, 100).expect("no list, no entry");
        assert!(!list.exists());
        fs::write(&list, "root:x:0:0:root:/root:/bin/sh").expect("written");
        for _ in 0..2 {
            introduce(&list, 0, 0).expect("there");
            introduce(&list, 1000, 100).expect("added");
        }
        let wanted = "root:x:0:0:root:/root:/bin/sh\nvk-cmd-1000:x:1000:100:vk-cmd:/root:/bin/sh\n";
        assert_eq!(fs::read_to_string(&list).expect("read"), wanted);
    }

    #[test]
    fn the_environment_file_is_plain_assignments() {
        let text = "# ours\n\nNODENAME=vk\nexport A=\"b c\"\nEMPTY=\nQ='x=y'\n";
        let pairs = parse(text).expect("good");
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(pairs, ["NODENAME=vk", "A=b c", "EMPTY=", "Q=x=y"]);
        for bad in ["NODENAME", "1A=x", "A B=x", "=x"] {
            assert_eq!(parse(bad).expect_err("bad"), bad);
        }
    }
}
