//! Life cycle hooks: what is run right after a container's start and before its end.
//!
//! As a kubelet runs them (`pkg/kubelet/lifecycle` of Kubernetes 1.34): no timeout of their own, and of a GET any
//! answer is a success, whatever its status says.
//! Dropping the future of [`run`] ends the hook.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::{
    api::chain,
    probe::{
        HttpGet, MAX_OUTPUT, Ports, VERSION,
        http::{self, Client, Fault, PLAIN_SERVER},
    },
};
use crate::container::{ExecError, ExecRequest, Handle};

/// A hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A GET.
    Http(HttpGet),
    /// Time to pass.
    Sleep(Duration),
    /// `tcpSocket`, which the API lets through and no kubelet runs, or nothing at all.
    Invalid(&'static str),
}

/// Whose hook it is.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    /// The container that runs.
    pub(crate) handle: &'a Handle,
    /// Its name.
    pub(crate) container: &'a str,
    /// `<name>_<namespace>(<uid>)`.
    pub(crate) pod: &'a str,
}

/// Something that people should know though the hook went well: reason and message of a warning event.
pub(crate) type Notice = (&'static str, String);

impl Hook {
    /// The hook that a handler asks for.
    pub fn new(handler: &LifecycleHandler, container: &Container) -> Self {
        if let Some(exec) = &handler.exec {
            Self::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(get) = &handler.http_get {
            Self::Http(HttpGet::new(get, &Ports::of(container)))
        } else if let Some(sleep) = &handler.sleep {
            Self::Sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs()))
        } else if handler.tcp_socket.is_some() {
            Self::Invalid("tcpSocket is deprecated and never ran as a hook: use exec or httpGet")
        } else {
            Self::Invalid("it has neither exec, httpGet nor sleep")
        }
    }
}

/// Runs a hook to its end. An error is what the container's status shows.
pub(crate) async fn run(
    hook: &Hook,
    subject: &Subject<'_>,
    client: &Client,
) -> Result<Option<Notice>, String> {
    let Subject {
        handle,
        container,
        pod,
    } = subject;
    match hook {
        Hook::Exec(argv) => exec(argv, handle).await.map(|()| None).map_err(|(error, output)| {
            let argv = argv.join(" ");
            format!(
                "Exec lifecycle hook ([{argv}]) for Container {container:?} in Pod {pod:?} failed - error: \
                 {error}, message: {output:?}"
            )
        }),
        Hook::Http(get) => get_once(get, client).await.map_err(|error| {
            let path = &get.path;
            format!(
                "HTTP lifecycle hook ({path}) for Container {container:?} in Pod {pod:?} failed - error: {error}"
            )
        }),
        Hook::Sleep(duration) => {
            tokio::time::sleep(*duration).await;
            Ok(None)
        }
        Hook::Invalid(why) => Err(format!("Cannot run handler: invalid handler: {why}")),
    }
}

/// The error and the output.
async fn exec(argv: &[String], handle: &Handle) -> Result<(), (String, String)> {
    let request = ExecRequest {
        argv: argv.to_vec(),
        timeout: None,
        capture: MAX_OUTPUT,
    };
    let outcome = match handle.exec(request).await {
        Ok(outcome) if outcome.exit.code == 0 => return Ok(()),
        Ok(outcome) => outcome,
        Err(error @ ExecError::NotStarted { .. }) => {
            let error = format!("failed to exec in container: {error}");
            return Err((error, String::new()));
        }
        Err(error) => return Err((chain(&error), String::new())),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&outcome.stdout), text(&outcome.stderr));
    let (argv, code) = (argv.join(" "), outcome.exit.code);
    Err((
        format!("command '{argv}' exited with {code}: {stderr}"),
        stdout + &stderr,
    ))
}

async fn get_once(get: &HttpGet, client: &Client) -> Result<Option<Notice>, String> {
    let agent = format!("kube-lifecycle/{VERSION}");
    let send = |url: http::Url| client.get(url, &get.headers, &agent, None);
    let url = http::Url::new(get)?;
    let answer = match send(url.clone()).await {
        // Hooks were sent without TLS for years, whatever they asked for.
        Err(Fault::Request(text)) if get.https && text.ends_with(PLAIN_SERVER) => send(
            url.clone().plain(),
        )
        .await
        .map(|_| {
            let at = url.authority();
            let message = format!(
                "request to HTTPS lifecycle hook {at} got HTTP response, retry with HTTP succeeded"
            );
            Some(("LifecycleHTTPFallback", message))
        }),
        other => other.map(|_| None),
    };
    match answer {
        Ok(notice) => Ok(notice),
        // It answered.
        Err(Fault::Body(_)) => Ok(None),
        Err(Fault::Request(text)) => Err(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{
        api::core::v1::{ContainerPort, HTTPGetAction, SleepAction, TCPSocketAction},
        apimachinery::pkg::util::intstr::IntOrString,
    };

    #[test]
    fn a_handler_is_read_as_a_kubelet_reads_it() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 81,
                ..ContainerPort::default()
            }]),
            ..Container::default()
        };
        let get = |port| LifecycleHandler {
            http_get: Some(HTTPGetAction {
                port,
                ..HTTPGetAction::default()
            }),
            ..LifecycleHandler::default()
        };
        let port = |handler| match Hook::new(&handler, &container) {
            Hook::Http(get) => get.port,
            other => panic!("{other:?}"),
        };
        assert_eq!(port(get(IntOrString::String("web".into()))), Ok(81));
        assert_eq!(port(get(IntOrString::Int(8080))), Ok(8080));
        assert!(port(get(IntOrString::String("nosuch".into()))).is_err());
        let sleep = LifecycleHandler {
            sleep: Some(SleepAction { seconds: 3 }),
            ..LifecycleHandler::default()
        };
        assert_eq!(
            Hook::new(&sleep, &container),
            Hook::Sleep(Duration::from_secs(3))
        );
        let tcp = LifecycleHandler {
            tcp_socket: Some(TCPSocketAction::default()),
            ..LifecycleHandler::default()
        };
        assert!(matches!(Hook::new(&tcp, &container), Hook::Invalid(_)));
    }
}
