//! `vk-cmd exec` and `vk-cmd attach`.

use std::{io::Read, os::fd::AsFd};

use anyhow::{Context, Result, bail};
use futures::SinkExt;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{Api, AttachParams, AttachedProcess, TerminalSize};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::cli::{AttachArgs, ExecArgs};
use crate::container::terminal;
use crate::exit::Exit;
use crate::printer;

/// Runs a command in a container and passes its output and exit code on.
///
/// # Errors
/// Those of the cluster; a command that could not be started.
pub async fn run(args: ExecArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let pod = args.pod.strip_prefix("pod/").unwrap_or(&args.pod);
    let wanted = streams(args.container, args.stdin, args.tty);
    let process = pods
        .exec(pod, args.command, &wanted)
        .await
        .with_context(|| format!("cannot run a command in pod {pod}"))?;
    exit(pod, pass_on(process).await?)
}

/// Shows what a container writes, and passes input on to it.
///
/// # Errors
/// Those of the cluster.
pub async fn attach(args: AttachArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let pod = args.pod.strip_prefix("pod/").unwrap_or(&args.pod);
    let wanted = streams(args.container, args.stdin, args.tty);
    let process = pods
        .attach(pod, &wanted)
        .await
        .with_context(|| format!("cannot attach to pod {pod}"))?;
    exit(pod, pass_on(process).await?)
}

fn streams(container: Option<String>, stdin: bool, tty: bool) -> AttachParams {
    AttachParams {
        container,
        stdin,
        stdout: true,
        // A terminal has one output.
        stderr: !tty,
        tty,
        ..AttachParams::default()
    }
}

/// Passes all streams on until the end; the last word, where there was one.
async fn pass_on(mut process: AttachedProcess) -> Result<Option<Status>> {
    let sizes = process.terminal_size();
    let raw = match &sizes {
        Some(_) => Raw::begin(),
        None => None,
    };
    if sizes.is_some() && raw.is_none() {
        printer::note("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let (stdin, status) = (process.stdin(), process.take_status());
    let ended = async {
        let outputs =
            futures::future::try_join(copy(stdout, printer::out), copy(stderr, printer::err));
        outputs.await?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        anyhow::Ok(status)
    };
    let fed = async {
        feed(stdin).await?;
        // Its end is not that of the command.
        std::future::pending::<Result<()>>().await
    };
    let watched = watch_size(sizes.filter(|_| raw.is_some()));
    let status = tokio::select! {
        status = ended => status?,
        failed = fed => failed.map(|()| None)?,
        failed = watched => failed.map(|()| None)?,
    };
    drop(raw);
    Ok(status)
}

/// The terminal of the user, with nothing done to what is typed; as it was before once this is dropped.
struct Raw(Termios);

impl Raw {
    /// None where standard input is no terminal.
    fn begin() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // One that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Tells the size of our terminal, now and whenever it changes; does not return but for a failure.
async fn watch_size(to: Option<impl futures::Sink<TerminalSize> + Unpin>) -> Result<()> {
    if let Some(mut to) = to {
        let mut changed = signal(SignalKind::window_change())?;
        while let Ok(size) = terminal::size(std::io::stdin().as_fd()) {
            let size = TerminalSize {
                width: size.columns,
                height: size.rows,
            };
            // Nobody listens after the end.
            if to.send(size).await.is_err() || changed.recv().await.is_none() {
                break;
            }
        }
    }
    std::future::pending().await
}

async fn copy(
    from: Option<impl AsyncRead + Unpin>,
    to: fn(&[u8]) -> std::io::Result<()>,
) -> Result<()> {
    let Some(mut from) = from else {
        return Ok(());
    };
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            length => to(&buffer[..length])?,
        }
    }
}

/// Passes standard input on to its end.
async fn feed(to: Option<impl AsyncWrite + Unpin>) -> Result<()> {
    let Some(mut to) = to else {
        return std::future::pending().await;
    };
    let (tell, mut told) = mpsc::channel::<Vec<u8>>(1);
    // Nothing ends a read of a terminal: a thread that waits in one must not hold up the end of the program, as one of
    // the runtime's would.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            if tell.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    while let Some(piece) = told.recv().await {
        to.write_all(&piece).await?;
    }
    Ok(to.shutdown().await?)
}

fn exit(pod: &str, status: Option<Status>) -> Result<Exit> {
    let Some(status) = status else {
        bail!("the connection to the container of pod {pod} broke before the command ended");
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(Exit::Success);
    }
    let causes = status.details.as_ref().and_then(|it| it.causes.as_ref());
    let code = causes
        .into_iter()
        .flatten()
        .find(|it| it.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|it| it.message.as_ref()?.parse::<u8>().ok());
    match code {
        Some(code) => Ok(Exit::Process(code)),
        None => bail!(
            status
                .message
                .unwrap_or_else(|| "the command did not run".to_owned())
        ),
    }
}
