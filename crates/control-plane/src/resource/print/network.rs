//! Services and what belongs to networks.

use serde_json::Value;

use super::format::{
    NONE, UNSET, age, count, items, joined, joined_texts, label_selector, labels, name, number,
    number_or_text, text, text_or,
};
use super::{AGE, Columns, NAME, string, wide};

pub(in crate::resource) static SERVICES: Columns = Columns {
    definitions: &[
        NAME,
        string("Type", "How the service is reached"),
        string("Cluster-IP", "The address inside the cluster"),
        string("External-IP", "The address from outside the cluster"),
        string("Port(s)", "The ports"),
        AGE,
        wide("Selector", "The labels that select the pods"),
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            text(&spec["type"]).into(),
            text_or(&spec["clusterIPs"][0], text_or(&spec["clusterIP"], NONE)).into(),
            external_addresses(object).into(),
            ports(&spec["ports"]).into(),
            age(object, now),
            labels(&spec["selector"]).into(),
        ]
    },
};

fn external_addresses(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses = joined_texts(&spec["externalIPs"], ",");
    match text(&spec["type"]) {
        "ExternalName" => return text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let given = load_balancer_addresses(service);
            addresses = [given, addresses]
                .into_iter()
                .filter(|list| !list.is_empty())
                .collect::<Vec<_>>()
                .join(",");
            if addresses.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    if addresses.is_empty() {
        NONE.to_owned()
    } else {
        addresses
    }
}

fn load_balancer_addresses(object: &Value) -> String {
    items(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|ingress| text_or(&ingress["ip"], text(&ingress["hostname"])))
        .filter(|address| !address.is_empty())
        .collect::<Vec<_>>()
        .join(",")
}

fn ports(ports: &Value) -> String {
    if items(ports).is_empty() {
        return NONE.to_owned();
    }
    items(ports)
        .iter()
        .map(|port| {
            let (inner, node) = (number(&port["port"]), number(&port["nodePort"]));
            let protocol = text_or(&port["protocol"], "TCP");
            if node > 0 {
                format!("{inner}:{node}/{protocol}")
            } else {
                format!("{inner}/{protocol}")
            }
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// The first few of a list, and how many more there are.
fn some_of(list: &[String]) -> String {
    const SHOWN: usize = 3;
    match list.len() {
        0 => NONE.to_owned(),
        1..=SHOWN => list.join(","),
        many => format!("{} + {} more...", list[..SHOWN].join(","), many - SHOWN),
    }
}

pub(in crate::resource) static ENDPOINTS: Columns = Columns {
    definitions: &[
        NAME,
        string("Endpoints", "The addresses and ports of the pods"),
        AGE,
    ],
    cells: |object, now| {
        let mut list = Vec::new();
        for subset in items(&object["subsets"]) {
            for address in items(&subset["addresses"]) {
                let ip = text(&address["ip"]);
                if items(&subset["ports"]).is_empty() {
                    list.push(ip.to_owned());
                }
                for port in items(&subset["ports"]) {
                    list.push(format!("{ip}:{}", number(&port["port"])));
                }
            }
        }
        vec![name(object), some_of(&list).into(), age(object, now)]
    },
};

pub(in crate::resource) static ENDPOINT_SLICES: Columns = Columns {
    definitions: &[
        NAME,
        string("AddressType", "The kind of the addresses"),
        string("Ports", "The ports of the endpoints"),
        string("Endpoints", "The addresses of the endpoints"),
        AGE,
    ],
    cells: |object, now| {
        let ports: Vec<String> = items(&object["ports"])
            .iter()
            .map(|port| number_or_text(&port["port"], "*"))
            .collect();
        let addresses: Vec<String> = items(&object["endpoints"])
            .iter()
            .flat_map(|endpoint| items(&endpoint["addresses"]))
            .map(|address| text(address).to_owned())
            .collect();
        let or_unset = |list: &[String]| match list {
            [] => UNSET.to_owned(),
            list => some_of(list),
        };
        vec![
            name(object),
            text(&object["addressType"]).into(),
            or_unset(&ports).into(),
            or_unset(&addresses).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static INGRESS_CLASSES: Columns = Columns {
    definitions: &[
        NAME,
        string("Controller", "What handles ingresses of the class"),
        string("Parameters", "Where more settings stand"),
        AGE,
    ],
    cells: |object, now| {
        let parameters = &object["spec"]["parameters"];
        let shown = if parameters.is_object() {
            let kind = crate::status::group_resource(
                text(&parameters["apiGroup"]),
                text(&parameters["kind"]),
            );
            format!("{kind}/{}", text(&parameters["name"]))
        } else {
            NONE.to_owned()
        };
        vec![
            name(object),
            text(&object["spec"]["controller"]).into(),
            shown.into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static INGRESSES: Columns = Columns {
    definitions: &[
        NAME,
        string("Class", "The class of the ingress"),
        string("Hosts", "The host names"),
        string("Address", "The addresses of the load balancer"),
        string("Ports", "The ports"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let hosts: Vec<String> = items(&spec["rules"])
            .iter()
            .map(|rule| text(&rule["host"]).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        let hosts = if hosts.is_empty() {
            "*".to_owned()
        } else {
            some_of(&hosts)
        };
        let ports = if count(&spec["tls"]) > 0 {
            "80, 443"
        } else {
            "80"
        };
        vec![
            name(object),
            text_or(&spec["ingressClassName"], NONE).into(),
            hosts.into(),
            load_balancer_addresses(object).into(),
            ports.into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static POLICIES: Columns = Columns {
    definitions: &[
        NAME,
        string("Pod-Selector", "The pods that the policy is for"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            label_selector(&object["spec"]["podSelector"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static SERVICE_RANGES: Columns = Columns {
    definitions: &[
        NAME,
        string("CIDRs", "The ranges that services get addresses from"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            joined_texts(&object["spec"]["cidrs"], ",").into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static ADDRESSES: Columns = Columns {
    definitions: &[NAME, string("ParentRef", "What has the address")],
    cells: |object, _now| {
        let parent = &object["spec"]["parentRef"];
        let place = [&parent["namespace"], &parent["name"]]
            .map(text)
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/");
        let resource =
            crate::status::group_resource(text(&parent["group"]), text(&parent["resource"]));
        vec![name(object), format!("{resource}/{place}").into()]
    },
};

/// Subject names of one kind, for role bindings.
pub(super) fn subjects(object: &Value, kind: &str) -> String {
    let chosen: Vec<Value> = items(&object["subjects"])
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .cloned()
        .map(|mut subject| {
            if kind == "ServiceAccount" {
                let full = format!("{}/{}", text(&subject["namespace"]), text(&subject["name"]));
                subject["name"] = full.into();
            }
            subject
        })
        .collect();
    joined(&chosen.into(), "name", ", ")
}
