//! Where this process sits, found out without running anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::container::engine::Kind;
use crate::hostpipe::DIR_VARIABLE;

/// What a profile is matched and settled with; read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// This host's name.
    pub hostname: String,
    /// On the host, or in whose container.
    pub seat: Seat,
    /// The FIFO of the hostpipe, where there is one.
    pub hostpipe: Option<PathBuf>,
    /// Programs of engines that were found in `PATH`.
    pub engines: BTreeMap<Kind, PathBuf>,
}

/// Where the agent sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seat {
    /// On the host.
    #[default]
    Host,
    /// In this engine's container.
    Inside(Kind),
}

/// The FIFO's name in the hostpipe's directory, as documented.
pub const FIFO: &str = "vk-cmd";

impl Surroundings {
    /// Looks around. `hostpipe` is the directory that a flag or variable names.
    pub fn look(hostpipe: Option<&Path>) -> Self {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let directory = match (hostpipe, set(DIR_VARIABLE)) {
            (Some(path), _) => Some(path.to_owned()),
            (None, Some(path)) => Some(PathBuf::from(path)),
            (None, None) => set("HOME").map(|home| Path::new(home).join("hostpipe")),
        };
        Self {
            hostname: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            seat: seat(&environment, Path::exists),
            hostpipe: directory.map(|it| it.join(FIFO)).filter(|it| is_fifo(it)),
            engines: installed(&environment),
            environment,
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo())
}

/// Engines leave marks in what they start: Docker and Podman a file, the others a variable.
fn seat(environment: &BTreeMap<String, String>, exists: impl Fn(&Path) -> bool) -> Seat {
    let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    if set("SHIFTER_RUNTIME") {
        return Seat::Inside(Kind::Shifter);
    }
    if set("APPTAINER_CONTAINER") {
        return Seat::Inside(Kind::Apptainer);
    }
    if set("SINGULARITY_CONTAINER") {
        return Seat::Inside(Kind::Singularity);
    }
    if set("CH_RUNNING") {
        return Seat::Inside(Kind::Charliecloud);
    }
    if exists(Path::new("/run/.containerenv")) {
        return Seat::Inside(Kind::Podman);
    }
    if exists(Path::new("/.dockerenv")) {
        return Seat::Inside(Kind::Docker);
    }
    Seat::Host
}

/// The engines whose program is in `path`. Docker's program alone is no engine: its daemon has a socket.
fn installed(environment: &BTreeMap<String, String>) -> BTreeMap<Kind, PathBuf> {
    let path = environment.get("PATH").map_or("", String::as_str);
    let usable = |kind: Kind| kind != Kind::Docker || docker_socket(environment).is_some();
    Kind::ALL
        .into_iter()
        .filter(|kind| usable(*kind))
        .filter_map(|kind| find_program(kind.program(), path).map(|found| (kind, found)))
        .collect()
}

/// Where Docker's daemon is reached: `DOCKER_HOST`, else its own socket where this user may write to it.
pub fn docker_socket(environment: &BTreeMap<String, String>) -> Option<String> {
    const SOCKET: &str = "/var/run/docker.sock";
    match environment.get("DOCKER_HOST").filter(|it| !it.is_empty()) {
        Some(host) => Some(host.clone()),
        None => nix::unistd::access(SOCKET, nix::unistd::AccessFlags::W_OK)
            .ok()
            .map(|()| format!("unix://{SOCKET}")),
    }
}

/// Finds an executable in a `PATH`.
pub fn find_program(name: &str, path: &str) -> Option<PathBuf> {
    let runs = |path: &Path| {
        path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| runs(path));
    }
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(dir).join(name))
        .find(|path| runs(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_is_known_by_its_mark() {
        let with = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let nothing = |_: &Path| false;
        for (name, kind) in [
            ("SHIFTER_RUNTIME", Kind::Shifter),
            ("APPTAINER_CONTAINER", Kind::Apptainer),
            ("SINGULARITY_CONTAINER", Kind::Singularity),
            ("CH_RUNNING", Kind::Charliecloud),
        ] {
            assert_eq!(seat(&with(name), nothing), Seat::Inside(kind));
        }
        let docker = |path: &Path| path == Path::new("/.dockerenv");
        assert_eq!(seat(&with("HOME"), docker), Seat::Inside(Kind::Docker));
        let podman = |path: &Path| path == Path::new("/run/.containerenv");
        assert_eq!(seat(&with("HOME"), podman), Seat::Inside(Kind::Podman));
        assert_eq!(seat(&with("HOME"), nothing), Seat::Host);
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert_eq!(
            find_program("sh", "/nowhere::/bin"),
            Some(PathBuf::from("/bin/sh"))
        );
        assert_eq!(find_program("sh", "/nowhere"), None);
        assert_eq!(find_program("/etc/passwd", "/bin"), None);
    }
}
