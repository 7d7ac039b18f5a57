//! What pods are told of the machine they are on.

use std::net::IpAddr;

use super::{admission::Identity, compat::Compat};

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
}

impl Host {
    /// `KUBERNETES_SERVICE_HOST` and its kin. They name the address that this node
    /// uses itself: a cluster IP leads nowhere from a batch node.
    pub fn service_environment(&self) -> impl Iterator<Item = (String, String)> {
        let (host, port) = (self.api.0.clone(), self.api.1.to_string());
        [
            ("KUBERNETES_SERVICE_HOST", host),
            ("KUBERNETES_SERVICE_PORT", port.clone()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", port),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
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
        }
    }
}
