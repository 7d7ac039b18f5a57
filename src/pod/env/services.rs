//! The variables that tell of services, named as a kubelet and Docker links name them.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::Service as Object;

/// What of a service reaches environments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    address: Box<str>,
    ports: Box<[Port]>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty where it has none.
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// Its number.
    pub number: i32,
}

impl Service {
    /// A service at an address.
    pub fn new(address: &str, ports: impl IntoIterator<Item = Port>) -> Self {
        Self {
            address: address.into(),
            ports: ports.into_iter().collect(),
        }
    }

    /// The service of an object; none where it has no address (headless, external name).
    pub fn of(object: &Object) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let address = spec.cluster_ip.as_deref()?;
        if matches!(address, "" | "None") {
            return None;
        }
        let ports = spec.ports.iter().flatten().map(|port| Port {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            number: port.port,
        });
        Some(Self::new(address, ports)).filter(|it| !it.ports.is_empty())
    }

    /// Its variables.
    pub fn variables(&self, name: &str, mut add: impl FnMut(String, String)) {
        let prefix = variable(name);
        let host = match self.address.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.address.to_string(),
        };
        let Some(first) = self.ports.first() else {
            return;
        };
        let url = |port: &Port| {
            let protocol = port.protocol.to_lowercase();
            format!("{protocol}://{host}:{}", port.number)
        };
        add(format!("{prefix}_SERVICE_HOST"), self.address.to_string());
        add(format!("{prefix}_SERVICE_PORT"), first.number.to_string());
        add(format!("{prefix}_PORT"), url(first));
        for port in &self.ports {
            let number = port.number.to_string();
            if !port.name.is_empty() {
                let named = format!("{prefix}_SERVICE_PORT_{}", variable(&port.name));
                add(named, number.clone());
            }
            let link = format!("{prefix}_PORT_{number}_{}", port.protocol.to_uppercase());
            add(format!("{link}_PROTO"), port.protocol.to_lowercase());
            add(format!("{link}_PORT"), number);
            add(format!("{link}_ADDR"), self.address.to_string());
            add(link, url(port));
        }
    }
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Services by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(BTreeMap<(Box<str>, Box<str>), Service>);

impl Services {
    /// Takes an object's present state.
    pub fn put(&mut self, object: &Object) {
        let Some(key) = key(object) else { return };
        match Service::of(object) {
            Some(service) => {
                self.0.insert(key, service);
            }
            None => {
                self.0.remove(&key);
            }
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, object: &Object) {
        if let Some(key) = key(object) {
            self.0.remove(&key);
        }
    }

    /// Variables of the services of a namespace. That of the API server is the node's to
    /// tell: its address in the cluster leads nowhere from a batch node.
    pub fn links(&self, namespace: &str, mut add: impl FnMut(String, String)) {
        let from = (Box::from(namespace), Box::from(""));
        let all = self.0.range(from..);
        for ((_, name), service) in all.take_while(|((it, _), _)| &**it == namespace) {
            if (namespace, &**name) != ("default", "kubernetes") {
                service.variables(name, &mut add);
            }
        }
    }
}

fn key(object: &Object) -> Option<(Box<str>, Box<str>)> {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    Some((namespace.into(), metadata.name.as_deref()?.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, spec: serde_json::Value) -> Object {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name}, "spec": spec}))
        .unwrap()
    }

    fn links(services: &Services, namespace: &str) -> Vec<String> {
        let mut found = Vec::new();
        services.links(namespace, |name, value| {
            found.push(format!("{name}={value}"))
        });
        found.sort();
        found
    }

    #[test]
    fn names_are_those_of_the_kubelet() {
        let mut services = Services::default();
        let ports = json!([
            {"name": "web-ui", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let web = object(
            "ns",
            "my-web",
            json!({"clusterIP": "10.0.0.1", "ports": ports}),
        );
        services.put(&web);
        services.put(&object(
            "other",
            "x",
            json!({"clusterIP": "10.0.0.2", "ports": [{"port": 1}]}),
        ));
        services.put(&object(
            "ns",
            "headless",
            json!({"clusterIP": "None", "ports": [{"port": 1}]}),
        ));
        services.put(&object("ns", "external", json!({"externalName": "x"})));
        assert_eq!(
            links(&services, "ns"),
            [
                "MY_WEB_PORT=tcp://10.0.0.1:80",
                "MY_WEB_PORT_53_UDP=udp://10.0.0.1:53",
                "MY_WEB_PORT_53_UDP_ADDR=10.0.0.1",
                "MY_WEB_PORT_53_UDP_PORT=53",
                "MY_WEB_PORT_53_UDP_PROTO=udp",
                "MY_WEB_PORT_80_TCP=tcp://10.0.0.1:80",
                "MY_WEB_PORT_80_TCP_ADDR=10.0.0.1",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_SERVICE_HOST=10.0.0.1",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_DNS=53",
                "MY_WEB_SERVICE_PORT_WEB_UI=80",
            ]
        );
        services.remove(&web);
        assert_eq!(links(&services, "ns"), [""; 0]);
    }

    #[test]
    fn addresses_with_colons_are_bracketed_in_urls() {
        let mut services = Services::default();
        let spec = json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]});
        services.put(&object("ns", "a", spec));
        let all = links(&services, "ns");
        assert!(
            all.contains(&"A_PORT=tcp://[fd00::1]:80".to_owned()),
            "{all:?}"
        );
        assert!(
            all.contains(&"A_SERVICE_HOST=fd00::1".to_owned()),
            "{all:?}"
        );
    }
}
