//! `vk-cmd logs`.

use anyhow::Result;
use futures::AsyncReadExt;

use crate::cli::LogsArgs;
use crate::client::{Connection, LogOptions};
use crate::exit::Exit;
use crate::printer;

/// Prints a container's log.
///
/// # Errors
/// Those of the cluster; a pod that has not started is the server's to explain.
pub async fn run(args: LogsArgs) -> Result<Exit> {
    let connection = super::connect(&args.cluster).await?;
    let options = LogOptions {
        container: args.container,
        follow: args.follow,
        previous: args.previous,
        timestamps: args.timestamps,
        tail: args.tail,
        since: args.since,
        limit_bytes: args.limit_bytes,
    };
    let pod = args.pod.strip_prefix("pod/").unwrap_or(&args.pod);
    print(&connection, &connection.namespace.clone(), pod, &options).await?;
    Ok(Exit::Success)
}

/// Copies a log to stdout until it ends.
///
/// # Errors
/// Those of the cluster and of stdout.
pub async fn print(
    connection: &Connection,
    namespace: &str,
    pod: &str,
    options: &LogOptions,
) -> Result<()> {
    let mut log = Box::pin(connection.logs(namespace, pod, options).await?);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match log.read(&mut buffer).await? {
            0 => return Ok(()),
            length => printer::out(&buffer[..length])?,
        }
    }
}
