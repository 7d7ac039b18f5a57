//! Probes: whether a container has started, is ready, is alive.
//!
//! | module | idea |
//! |---|---|
//! | here | what a pod asks for, as it is used |
//! | `track` | when to look and what follows from what was seen, pure |
//! | `check` | one look: exec, HTTP, TCP, gRPC |
//! | `http`, `grpc` | the two protocols; hooks use the first as well |
//! | `prober` | the one task that looks after all probes of a node |
//!
//! Semantics and messages are the kubelet's (`pkg/kubelet/prober`, `pkg/probe` of Kubernetes 1.34), but for the host
//! where none is given: processes share the node's network, so that is the node's loopback.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

mod check;
mod grpc;
pub(super) mod http;
mod prober;
mod track;

pub(crate) use http::Client;
pub(crate) use prober::{Guard, News, Prober, Report, Target};
pub use track::{Change, Initial, KINDS, Timing, Tracker};

use super::machine::{Probe as Kind, Probing as Mode};

/// Bytes of a command's output or a body that are looked at; the kubelet's.
pub(super) const MAX_OUTPUT: usize = 10 * 1024;
/// The node's own loopback.
pub(super) const LOOPBACK: &str = "127.0.0.1";
/// Version in user agents.
pub(super) const VERSION: &str = "1.34";

/// The probes of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Each where it is asked for.
    pub startup: Option<Spec>,
    /// See [`Kind::Readiness`].
    pub readiness: Option<Spec>,
    /// See [`Kind::Liveness`].
    pub liveness: Option<Spec>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// When to look, and how often before it counts.
    pub timing: Timing,
    /// How long one look may take.
    pub timeout: Duration,
    /// How to look.
    pub action: Action,
}

/// How to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A command in the container: 0 is well.
    Exec(Vec<String>),
    /// A GET: 200 to 399 is well.
    Http(HttpGet),
    /// A connection.
    Tcp {
        /// Where to, if not the loopback.
        host: Option<String>,
        /// Which port, or why none.
        port: Result<u16, String>,
    },
    /// `Check` of `grpc.health.v1.Health`: `SERVING` is well.
    Grpc {
        /// Which port, or why none.
        port: Result<u16, String>,
        /// The service that is asked for.
        service: String,
    },
    /// A probe without a handler, which the API does not let through.
    Nothing,
}

/// A GET to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// Whether over TLS.
    pub https: bool,
    /// Where to, if not the loopback.
    pub host: Option<String>,
    /// Which port, or why none.
    pub port: Result<u16, String>,
    /// As given.
    pub path: String,
    /// As given, in order.
    pub headers: Vec<(String, String)>,
}

impl Probes {
    /// The probes of a container; `None` where it has none, as most.
    pub fn of(container: &Container) -> Option<Self> {
        let ports = Ports::of(container);
        let spec = |probe: &Option<Probe>| probe.as_ref().map(|it| Spec::new(it, &ports));
        let probes = Self {
            startup: spec(&container.startup_probe),
            readiness: spec(&container.readiness_probe),
            liveness: spec(&container.liveness_probe),
        };
        let any = [&probes.startup, &probes.readiness, &probes.liveness];
        any.iter().any(|it| it.is_some()).then_some(probes)
    }

    /// The probe of a kind.
    pub fn get(&self, kind: Kind) -> Option<&Spec> {
        match kind {
            Kind::Startup => self.startup.as_ref(),
            Kind::Readiness => self.readiness.as_ref(),
            Kind::Liveness => self.liveness.as_ref(),
        }
    }
}

impl Spec {
    fn new(probe: &Probe, ports: &Ports<'_>) -> Self {
        let number = |value: Option<i32>, default: u32| {
            let given = value.and_then(|it| u32::try_from(it).ok());
            given.filter(|it| *it > 0).unwrap_or(default)
        };
        let seconds =
            |value: Option<i32>, default| Duration::from_secs(u64::from(number(value, default)));
        let timing = Timing {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            success: number(probe.success_threshold, 1),
            failure: number(probe.failure_threshold, 3),
        };
        let given = |host: &Option<String>| host.clone().filter(|host| !host.is_empty());
        let action = if let Some(exec) = &probe.exec {
            Action::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(get) = &probe.http_get {
            Action::Http(HttpGet::new(get, ports))
        } else if let Some(tcp) = &probe.tcp_socket {
            Action::Tcp {
                host: given(&tcp.host),
                port: ports.resolve(&tcp.port),
            }
        } else if let Some(grpc) = &probe.grpc {
            Action::Grpc {
                port: in_range(grpc.port),
                service: grpc.service.clone().unwrap_or_default(),
            }
        } else {
            Action::Nothing
        };
        Self {
            timing,
            timeout: seconds(probe.timeout_seconds, 1),
            action,
        }
    }
}

impl HttpGet {
    pub(super) fn new(get: &HTTPGetAction, ports: &Ports<'_>) -> Self {
        let headers = get.http_headers.iter().flatten();
        Self {
            https: get
                .scheme
                .as_deref()
                .is_some_and(|it| it.eq_ignore_ascii_case("https")),
            host: get.host.clone().filter(|host| !host.is_empty()),
            port: ports.resolve(&get.port),
            path: get.path.clone().unwrap_or_default(),
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        }
    }
}

/// The named ports of a container.
pub(super) struct Ports<'a>(BTreeMap<&'a str, i32>);

impl<'a> Ports<'a> {
    pub(super) fn of(container: &'a Container) -> Self {
        let ports = container.ports.iter().flatten();
        // Of equal names the API lets none through.
        Self(
            ports
                .filter_map(|port| Some((port.name.as_deref()?, port.container_port)))
                .collect(),
        )
    }

    /// A number, or the name of one; a name that no port has may still be a number in quotes.
    pub(super) fn resolve(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => match self.0.get(name.as_str()) {
                Some(number) => *number,
                None => name.parse().map_err(|_| self.unknown(name))?,
            },
        };
        in_range(number)
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.0.keys().copied().collect();
        let known = match names.as_slice() {
            [] => "its ports have no names".to_owned(),
            names => format!("its ports are named {}", names.join(", ")),
        };
        format!("the container has no port named {name:?} ({known}); a number works as well")
    }
}

fn in_range(port: i32) -> Result<u16, String> {
    u16::try_from(port)
        .ok()
        .filter(|it| *it > 0)
        .ok_or_else(|| format!("invalid port number: {port}"))
}

#[cfg(test)]
mod tests;
