//! What pods are told of the machine they are on.

use std::{borrow::Cow, net::IpAddr};

use super::{
    admission::Identity,
    compat::Compat,
    env::{Port, Service},
    fields::resource::Allocatable,
    images::Means,
    mounts::Layout,
};

/// Facts of the node that end up in environments and statuses; fixed for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The node's name.
    pub node: String,
    /// `hostIP` and `podIP`.
    pub address: IpAddr,
    /// Host and port of the API server, as this node reaches it.
    pub api: (String, u16),
    /// What processes inherit.
    pub environment: Vec<(String, String)>,
    /// Who processes run as.
    pub identity: Identity,
    /// Whose semantics pods get that do not choose.
    pub compat: Compat,
    /// What becomes of image references.
    pub images: Means,
    /// The host, where the agent itself sits in a container and reaches it through the hostpipe.
    pub on_host: Option<OnHost>,
    /// What a container without a limit may use.
    pub allocatable: Allocatable,
    /// How mounts are made where a pod says nothing of it.
    pub layout: Layout,
}

/// The host behind the hostpipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnHost {
    /// Whether every container runs there, not only those that need the host.
    pub everything: bool,
    /// What processes there inherit; empty until the host has answered.
    pub environment: Vec<(String, String)>,
}

impl Host {
    /// The facts for one container, and whether it runs on the host behind the pipe.
    /// `needs_host`: it starts an engine, or is a line meant for the pipe.
    pub fn for_container(&self, needs_host: bool) -> (Cow<'_, Self>, bool) {
        match &self.on_host {
            Some(host) if host.everything || needs_host => {
                let environment = host.environment.clone();
                let there = Self {
                    environment,
                    ..self.clone()
                };
                (Cow::Owned(there), true)
            }
            _ => (Cow::Borrowed(self), false),
        }
    }

    /// `KUBERNETES_SERVICE_HOST` and its kin. They name the address that this node
    /// uses itself: a cluster IP leads nowhere from a batch node.
    pub fn service_environment(&self, add: impl FnMut(String, String)) {
        let port = Port {
            name: "https".into(),
            protocol: "TCP".into(),
            number: self.api.1.into(),
        };
        Service::new(&self.api.0, [port]).variables("kubernetes", add);
    }

    /// The home directory that `~` stands for: the pod's own `HOME`, else the inherited one.
    pub fn home_for<'a>(&'a self, own: Option<&'a String>) -> Option<&'a str> {
        let inherited = || {
            self.environment
                .iter()
                .find(|(name, _)| name == "HOME")
                .map(|it| &it.1)
        };
        own.or_else(inherited).map(String::as_str)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        use crate::quantity::Quantity;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            node: "node".into(),
            address: IpAddr::from([10, 0, 0, 7]),
            api: ("api.example".into(), 6443),
            environment: vec![pair("PATH", "/bin"), pair("HOME", "/home/user")],
            identity: Identity {
                uid: 1000,
                gid: 100,
            },
            compat: Compat::default(),
            images: Means::Nothing,
            on_host: None,
            allocatable: Allocatable {
                cpu: Quantity::units(8),
                memory: Quantity::units(16 << 30),
                storage: Quantity::units(100 << 30),
            },
            layout: Layout::default(),
        }
    }
}
