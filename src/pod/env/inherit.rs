//! What pods have from the batch job's environment.

/// Never for pods: what the agent proves itself with, where it is, and keys to
/// the user's other accounts. `*` at the end stands for any rest.
const DENIED: [&str; 21] = [
    "APISERVER_CERT_LOCATION",
    "APISERVER_KEY_LOCATION",
    "APISERVER_CA_CERT_LOCATION",
    "KUBECONFIG",
    "KUBELET_PORT",
    "KUBERNETES_*",
    "NODENAME",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "PWD",
    "VKUBELET_*",
    "VK_CMD_*",
    "VK_PATH",
    "VK_BIN",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "SSH_ASKPASS",
    "GPG_AGENT_INFO",
    "SLURM_JWT",
    "SLURM_PMI_FD",
    "LISTEN_*",
];

/// The job's environment less the denied names; `more` holds names the site denies.
pub fn inherited(environment: &[(String, String)], more: &[String]) -> Vec<(String, String)> {
    let rules: Vec<&str> = DENIED
        .into_iter()
        .chain(more.iter().map(String::as_str))
        .collect();
    let denied = |name: &str| {
        rules.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *rule,
        })
    };
    environment
        .iter()
        .filter(|(name, _)| !denied(name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_behind() {
        let environment = [
            "PATH",
            "HOME",
            "SLURM_JOB_ID",
            "KUBECONFIG",
            "SSH_AUTH_SOCK",
            "SLURM_JWT",
            "KUBERNETES_SERVICE_HOST",
            "APISERVER_KEY_LOCATION",
            "MY_SECRET",
            "MY_OTHER",
        ]
        .map(|name| (name.to_owned(), "x".to_owned()));
        let names = |more: &[String]| {
            inherited(&environment, more)
                .into_iter()
                .map(|it| it.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(&[]),
            ["PATH", "HOME", "SLURM_JOB_ID", "MY_SECRET", "MY_OTHER"]
        );
        assert_eq!(
            names(&["MY_SECRET".into()]),
            ["PATH", "HOME", "SLURM_JOB_ID", "MY_OTHER"]
        );
        assert_eq!(names(&["MY_*".into()]), ["PATH", "HOME", "SLURM_JOB_ID"]);
    }
}
