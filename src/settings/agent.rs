//! The agent's settings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::env;
use super::resources::Upkeep;
use super::walltime::WalltimeConfig;
use crate::cli::{AgentArgs, Semantics};
use crate::exit::UsageError;

/// All that `vk-cmd agent` was told, checked.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    /// A kubeconfig that may ask for the node's own certificate, instead.
    pub bootstrap: Option<PathBuf>,
    /// The node's name.
    pub node_name: String,
    /// Where the control plane reaches the node.
    pub address: IpAddr,
    /// The port of the kubelet API; 0 takes a free one.
    pub kubelet_port: u16,
    /// The address that the kubelet API listens on.
    pub kubelet_address: IpAddr,
    /// The value of the taint; none for no taint.
    pub provider: Option<String>,
    /// Labels beside those that the agent knows itself.
    pub labels: BTreeMap<String, String>,
    /// The base of pod data.
    pub base: PathBuf,
    /// Certificate and key of the kubelet API.
    pub serving: Option<(PathBuf, PathBuf)>,
    /// The CA of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whose semantics pods get that do not choose.
    pub compat: Option<Semantics>,
    /// When and how the node ends.
    pub walltime: WalltimeConfig,
    /// How the node looks after its resources.
    pub upkeep: Upkeep,
}

impl AgentConfig {
    /// Checks what was typed and set.
    ///
    /// # Errors
    /// The first value that is wrong, with its origin.
    pub fn resolve(args: AgentArgs) -> Result<Self, UsageError> {
        let bootstrap = args.bootstrap_kubeconfig;
        let kubeconfig = match args.kubeconfig.or_else(|| bootstrap.clone()) {
            Some(path) => path,
            None => home()?.join(".kube/config"),
        };
        let node_name = node_name(args.nodename)?;
        let address = match args.pod_ip {
            None => IpAddr::from([127, 0, 0, 1]),
            Some(text) => text.parse().map_err(|_| {
                wrong(&text, "--pod-ip", env::VKUBELET_POD_IP, "is not an IP address",
                      "give the address at which the control plane reaches this node, such as 172.17.0.1")
            })?,
        };
        let kubelet_port = port(&args.kubelet_port)?;
        let mut labels = BTreeMap::new();
        for (key, value) in [
            ("jiriaf.nodetype", args.nodetype),
            ("jiriaf.site", args.site_label),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                labels.insert(key.to_owned(), label_value(key, &value)?);
            }
        }
        labels.append(&mut node_labels(&args.node_labels)?);
        let base = match args.root {
            Some(path) => absolute(path)?,
            None => super::default_state_dir()?.join("agent"),
        };
        let serving = match (args.tls_cert_file, args.tls_private_key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (certificate, key) => {
                let given = certificate.or(key).unwrap_or_default();
                return Err(wrong(
                    &given.display().to_string(),
                    "--tls-cert-file",
                    env::APISERVER_CERT_LOCATION,
                    "stands alone",
                    "give both the certificate (--tls-cert-file) and its key (--tls-private-key-file), or neither",
                ));
            }
        };
        Ok(Self {
            kubeconfig,
            bootstrap,
            node_name,
            address,
            kubelet_port,
            kubelet_address: args.kubelet_address,
            provider: (!args.no_taint).then_some(args.provider),
            labels,
            base,
            serving,
            client_ca: args.client_ca_file,
            compat: args.compat,
            walltime: WalltimeConfig::resolve(args.walltime, |name| std::env::var(name).ok())?,
            upkeep: super::resources::resolve(&args.resources)?,
        })
    }
}

/// The labels of `--node-labels`.
///
/// # Errors
/// The first that is not `key=value` with a value that a label may have.
pub fn node_labels(pairs: &[String]) -> Result<BTreeMap<String, String>, UsageError> {
    let mut labels = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            let mend = "write key=value";
            wrong(pair, "--node-labels", "", "is not a label", mend)
        })?;
        labels.insert(key.to_owned(), label_value(key, value)?);
    }
    Ok(labels)
}

/// The node's name: as given, else this host's, in lower case.
///
/// # Errors
/// Where it is no DNS subdomain (RFC 1123), which names of nodes must be.
pub fn node_name(given: Option<String>) -> Result<String, UsageError> {
    let name = match given {
        Some(name) => name,
        None => hostname().to_lowercase(),
    };
    if is_subdomain(&name) {
        return Ok(name);
    }
    Err(wrong(
        &name,
        "--nodename",
        env::NODENAME,
        "cannot be the name of a node",
        "use lower case letters, digits, '-' and '.', beginning and ending with a letter or digit, 253 at most",
    ))
}

/// This host's name; `localhost` where it has none.
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

fn home() -> Result<PathBuf, UsageError> {
    std::env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .ok_or_else(|| {
            let mend = "set HOME, or name the kubeconfig with --kubeconfig";
            wrong("", "HOME", "HOME", "is no absolute path", mend)
        })
}

fn absolute(path: PathBuf) -> Result<PathBuf, UsageError> {
    std::path::absolute(&path).map_err(|error| {
        wrong(
            &path.display().to_string(),
            "--root",
            env::VK_CMD_ROOT,
            &format!("cannot be made absolute: {error}"),
            "give an absolute path",
        )
    })
}

fn port(text: &str) -> Result<u16, UsageError> {
    text.trim().parse().map_err(|_| {
        wrong(
            text,
            "--kubelet-port",
            env::KUBELET_PORT,
            "is not a port",
            "give a number from 1 to 65535 that is free on this host, or 0 for any free one",
        )
    })
}

fn label_value(key: &str, value: &str) -> Result<String, UsageError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let good = value.len() <= 63
        && value.chars().all(inner)
        && edge(value.chars().next())
        && edge(value.chars().next_back());
    if good && !key.is_empty() {
        return Ok(value.to_owned());
    }
    let variable = match key {
        "jiriaf.nodetype" => env::JIRIAF_NODETYPE,
        "jiriaf.site" => env::JIRIAF_SITE,
        _ => "",
    };
    Err(wrong(
        value,
        &format!("label {key}"),
        variable,
        "cannot be the value of a label",
        "use at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    ))
}

fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = label.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The error about `value`: it came from the variable where the variable says the same.
pub(super) fn wrong(
    value: &str,
    flag: &str,
    variable: &str,
    problem: &str,
    mend: &str,
) -> UsageError {
    let set = !variable.is_empty() && std::env::var(variable).is_ok_and(|set| set == value);
    UsageError {
        key: if set { variable } else { flag }.to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        origin: if set { "environment" } else { "command line" }.to_owned(),
        mend: mend.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        agent: AgentArgs,
    }

    fn resolve(words: &[&str]) -> Result<AgentConfig, UsageError> {
        let all = [
            "agent",
            "--nodename",
            "n",
            "--kubeconfig",
            "k",
            "--root",
            "/r",
        ];
        let line = Line::try_parse_from(all.iter().chain(words)).expect("flags that parse");
        AgentConfig::resolve(line.agent)
    }

    #[test]
    fn labels_come_from_the_documents_variables_and_from_the_flag() {
        let words = [
            "--nodetype",
            "cpu",
            "--site-label",
            "Local",
            "--node-labels",
            "a=b,c=",
        ];
        let config = resolve(&words).expect("a good line");
        let labels: Vec<_> = config
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            labels,
            ["a=b", "c=", "jiriaf.nodetype=cpu", "jiriaf.site=Local"]
        );
        assert_eq!(config.provider.as_deref(), Some("mock"));
    }

    #[test]
    fn what_is_wrong_is_named_with_key_value_and_mend() {
        for (words, start) in [
            (
                ["--kubelet-port", "70000"],
                "--kubelet-port: \"70000\" is not a port",
            ),
            (
                ["--kubelet-port", "x"],
                "--kubelet-port: \"x\" is not a port",
            ),
            (
                ["--pod-ip", "here"],
                "--pod-ip: \"here\" is not an IP address",
            ),
            (
                ["--node-labels", "a"],
                "--node-labels: \"a\" is not a label",
            ),
            (
                ["--nodetype", "-x"],
                "label jiriaf.nodetype: \"-x\" cannot be",
            ),
            (
                ["--tls-cert-file", "c"],
                "--tls-cert-file: \"c\" stands alone",
            ),
        ] {
            let joined = format!("{}={}", words[0], words[1]);
            let error = resolve(&[&joined]).expect_err(start).to_string();
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains("command line"), "{error}");
        }
    }

    #[test]
    fn names_of_nodes_are_subdomains() {
        for good in ["vk", "vk-1.site", "0"] {
            assert!(is_subdomain(good), "{good}");
        }
        for bad in ["", "VK", "-a", "a-", "a..b", "a_b", "a/b", &"a".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }
}
