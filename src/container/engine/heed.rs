//! Which variables of a job are for engines, which for containers, and what stands for them in paths.

/// Variables that an engine's own programs heed; `*` stands for any rest.
const OF_ENGINES: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_*",
    "CONTAINER_HOST",
    "CONTAINERS_*",
    "PODMANHPC_*",
    "APPTAINER_*",
    "SINGULARITY_*",
    "CH_*",
    "SSL_CERT_*",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Variables of the host that mean nothing in an image, or break it.
const OF_THE_HOST: [&str; 13] = [
    "PATH", "HOME", "PWD", "OLDPWD", "SHELL", "SHLVL", "HOSTNAME", "TMPDIR", "LD_*", "XDG_*", "_",
    "MANPATH", "TERM",
];

fn listed<S: AsRef<str>>(list: &[S], name: &str) -> bool {
    list.iter()
        .any(|pattern| match pattern.as_ref().strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern.as_ref(),
        })
}

/// Whether an engine's own programs heed a variable.
pub fn is_for_engines(name: &str) -> bool {
    listed(&OF_ENGINES, name)
}

/// Whether a variable of the job goes into an image, by the site's patterns.
pub fn passes<S: AsRef<str>>(patterns: &[S], name: &str) -> bool {
    listed(patterns, name) && !listed(&OF_THE_HOST, name)
}

/// `~` and `$NAME` at the start of a path; as it stands where there is no such variable.
pub fn expand<'a>(path: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let (name, rest) = match path.strip_prefix('~') {
        Some(rest) => ("HOME", rest),
        None => match path.strip_prefix('$') {
            Some(after) => {
                let end = after.find('/').unwrap_or(after.len());
                (after[..end].trim_matches(['{', '}']), &after[end..])
            }
            None => return path.to_owned(),
        },
    };
    match lookup(name) {
        Some(value) => format!("{value}{rest}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_an_image_never_passes() {
        for name in ["PATH", "LD_LIBRARY_PATH", "HOME", "XDG_RUNTIME_DIR"] {
            assert!(!passes(&["*"], name), "{name}");
        }
        assert!(passes(&["*"], "SLURM_JOB_ID") && passes(&["SLURM_*"], "SLURM_JOB_ID"));
        assert!(!passes(&["SLURM_*"], "OTHER") && !passes::<&str>(&[], "SLURM_JOB_ID"));
    }

    #[test]
    fn paths_begin_with_variables() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/home/u"),
            "SCRATCH" => Some("/scratch/u"),
            _ => None,
        };
        for (path, wanted) in [
            ("~/a", "/home/u/a"),
            ("$SCRATCH", "/scratch/u"),
            ("${SCRATCH}/b", "/scratch/u/b"),
            ("$NONE/b", "$NONE/b"),
            ("/a/$HOME", "/a/$HOME"),
        ] {
            assert_eq!(expand(path, lookup), wanted);
        }
    }
}
