//! One look.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Action, LOOPBACK, MAX_OUTPUT, VERSION, grpc,
    http::{self, Client, Fault},
};
use crate::container::{ExecError, ExecRequest, Handle};

/// What a look has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is well.
    Success,
    /// All is well, but people should know something.
    Warning(String),
    /// It is not, and why.
    Failure(String),
    /// It could not be looked (`failure` or `unknown`, as messages call it), and why; counts for nothing.
    Error(&'static str, String),
    /// The container has ended: there is nothing to look at.
    Gone,
}

impl Outcome {
    /// What counts.
    pub(super) fn healthy(&self) -> Option<bool> {
        match self {
            Self::Success | Self::Warning(_) => Some(true),
            Self::Failure(_) => Some(false),
            Self::Error(..) | Self::Gone => None,
        }
    }
}

/// Looks once, for at most as long as is given.
pub(super) async fn look(
    action: &Action,
    limit: Duration,
    container: &Handle,
    client: &Client,
) -> Outcome {
    match action {
        Action::Exec(argv) => exec(argv, limit, container).await,
        Action::Http(get) => {
            let agent = format!("kube-probe/{VERSION}");
            let url = match http::Url::new(get) {
                Ok(url) => url,
                Err(problem) => return Outcome::Error("unknown", problem),
            };
            match client.get(url, &get.headers, &agent, Some(limit)).await {
                Ok(response) => judge(&response),
                Err(Fault::Request(text)) => Outcome::Failure(text),
                Err(Fault::Body(text)) => Outcome::Error("failure", text),
            }
        }
        Action::Tcp { host, port } => match port {
            Ok(port) => tcp(host.as_deref().unwrap_or(LOOPBACK), *port, limit).await,
            Err(problem) => Outcome::Error("unknown", problem.clone()),
        },
        Action::Grpc { port, service } => match port {
            Ok(port) => match grpc::check(LOOPBACK, *port, service, limit).await {
                Ok(()) => Outcome::Success,
                Err(text) => Outcome::Failure(text),
            },
            Err(problem) => Outcome::Error("unknown", problem.clone()),
        },
        Action::Nothing => Outcome::Error("unknown", "missing probe handler".to_owned()),
    }
}

pub(super) fn judge(response: &http::Response) -> Outcome {
    match response.status {
        200..300 => Outcome::Success,
        // Redirects to other hosts are not followed.
        300..400 => {
            let body = String::from_utf8_lossy(&response.body);
            Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

async fn exec(argv: &[String], limit: Duration, container: &Handle) -> Outcome {
    let request = ExecRequest {
        argv: argv.to_vec(),
        timeout: Some(limit),
        capture: MAX_OUTPUT,
    };
    match container.exec(request).await {
        Ok(outcome) if outcome.timed_out => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}",
            argv.join(" "),
            go_duration(limit)
        )),
        Ok(outcome) if outcome.exit.code == 0 => Outcome::Success,
        Ok(outcome) => {
            let mut output = outcome.stdout;
            output.extend(outcome.stderr);
            output.truncate(MAX_OUTPUT);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(ExecError::Ended) => Outcome::Gone,
        Err(error @ ExecError::NotStarted { .. }) => {
            Outcome::Error("unknown", format!("failed to exec in container: {error}"))
        }
        Err(error) => Outcome::Error("unknown", crate::pod::api::chain(&error)),
    }
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Outcome {
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(dial_failure(host, port, &error)),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", join(host, port))),
    }
}

/// As a Go program words it.
pub(super) fn dial_failure(host: &str, port: u16, error: &io::Error) -> String {
    let at = join(host, port);
    match error.raw_os_error() {
        Some(number) => {
            let text = nix::errno::Errno::from_raw(number).desc().to_lowercase();
            format!("dial tcp {at}: connect: {text}")
        }
        None => format!("dial tcp: lookup {host}: {error}"),
    }
}

/// Host and port; an IPv6 address in brackets.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// `1s`, `1m30s`: probes have whole seconds.
pub(super) fn go_duration(duration: Duration) -> String {
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs() % 60);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}
