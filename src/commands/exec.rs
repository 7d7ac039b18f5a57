//! `vk-cmd exec`.

use std::io::Read;

use anyhow::{Context, Result, bail};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{Api, AttachParams};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::cli::ExecArgs;
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
    let wanted = AttachParams {
        container: args.container,
        stdin: args.stdin,
        stdout: true,
        stderr: true,
        tty: false,
        ..AttachParams::default()
    };
    let mut process = pods
        .exec(pod, args.command, &wanted)
        .await
        .with_context(|| format!("cannot run a command in pod {pod}"))?;
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
    tokio::pin!(ended);
    let status = tokio::select! {
        status = &mut ended => status?,
        // Its end is not that of the command.
        fed = feed(stdin) => {
            fed?;
            ended.await?
        }
    };
    exit(pod, status)
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
