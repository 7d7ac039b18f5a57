//! What the facts mean for a site, and what helps.

use super::facts::{Directory, EngineFacts, Facts};
use super::{Finding, Level};
use crate::container::engine::Kind;
use crate::site::label;
use crate::site::profile::{BatchSystem, EngineChoice};
use crate::site::{EngineAccess, LaunchMode, Seat, Site};

/// Below this a pod's log or an unpacked image may fill the disk.
const LITTLE: u64 = 1 << 30;
/// Clocks that differ by more make timestamps of logs and files contradict each other.
const SKEW_MS: i64 = 2_000;

/// Everything that is worth saying, in the order in which a person would ask.
pub fn judge(site: &Site, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![placement(site)];
    findings.extend(engines(site, facts));
    findings.push(user_namespaces(site, facts));
    findings.push(cgroups(facts));
    findings.extend(hostpipe(site, facts));
    findings.extend(batch(site, facts));
    findings.extend(ssh(site, facts));
    findings.extend(
        facts
            .reached
            .iter()
            .map(|(target, result)| reached(target, result)),
    );
    findings.extend(facts.directories.iter().flat_map(directory));
    findings.push(clock(facts));
    findings.push(limits(facts));
    findings
}

fn finding(
    id: impl Into<String>,
    level: Level,
    found: impl Into<String>,
    means: &str,
    mend: &str,
) -> Finding {
    Finding {
        id: id.into(),
        level,
        found: found.into(),
        means: means.to_owned(),
        mend: mend.to_owned(),
        label: None,
    }
}

fn labelled(mut finding: Finding, key: &str, value: &str) -> Finding {
    finding.label = Some((key.to_owned(), label::value(value)));
    finding
}

fn placement(site: &Site) -> Finding {
    let seat = match site.seat {
        Seat::Host => "on the host".to_owned(),
        Seat::Inside(kind) => format!("in a container of {kind}"),
    };
    let found = format!(
        "site {} ({}); the agent sits {seat}",
        site.name(),
        site.chosen
    );
    let means = match site.launch {
        LaunchMode::Direct => "scripts and host commands run where the agent is",
        LaunchMode::Hostpipe => "scripts and host commands run on the host, through the hostpipe",
    };
    labelled(
        finding("site", Level::Ok, found, means, ""),
        label::SITE,
        site.name(),
    )
}

fn engines(site: &Site, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (kind, engine) in &facts.engines {
        findings.push(engine_itself(*kind, engine, site));
        if matches!(kind, Kind::Apptainer | Kind::Singularity) && !facts.fuse {
            findings.push(finding(
                format!("engine.{kind}.fuse"),
                Level::Info,
                "/dev/fuse cannot be opened",
                "SIF files are unpacked before each start, which takes time and space, unless the engine is \
                 installed set-uid",
                "as root: chmod 666 /dev/fuse; or map images to directories (images: in the profile)",
            ));
        }
        if *kind == Kind::Podman && !facts.subuids && !nix::unistd::geteuid().is_root() {
            findings.push(finding(
                "engine.podman.subuid",
                Level::Warn,
                "/etc/subuid has no range for this user",
                "images whose files belong to several users cannot be unpacked",
                "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 <user>",
            ));
        }
    }
    let wanted = !matches!(
        site.profile.engine.kind,
        EngineChoice::None | EngineChoice::Auto
    );
    findings.push(match &site.engine {
        EngineAccess::Reached { kind, launch, .. } => {
            let by = match launch {
                LaunchMode::Direct => "directly",
                LaunchMode::Hostpipe => "on the host, through the hostpipe",
            };
            let found = format!("images are run by {kind}, {by}");
            labelled(
                finding("engine", Level::Ok, found, "pods with ordinary images run here", ""),
                label::ENGINE,
                kind.name(),
            )
        }
        EngineAccess::Unreached { mend } => labelled(
            finding(
                "engine",
                if wanted { Level::Fail } else { Level::Info },
                "no engine is used for images",
                "pods with ordinary images wait with ErrImageNeverPull; scripts and host commands run",
                mend,
            ),
            label::ENGINE,
            "none",
        ),
    });
    findings
}

fn engine_itself(kind: Kind, engine: &EngineFacts, site: &Site) -> Finding {
    let id = format!("engine.{kind}");
    let program = engine.program.display();
    let ours = matches!(&site.engine, EngineAccess::Reached { kind: used, .. } if *used == kind);
    let bad = if ours { Level::Fail } else { Level::Info };
    match (&engine.version, &engine.usable) {
        (Err(error), _) => finding(
            id,
            bad,
            format!("{program} does not say its version: {error}"),
            "it is installed and does not run",
            "run it by hand; load its module, or install it anew",
        ),
        (Ok(version), Err(error)) => {
            let mend = match kind {
                Kind::Docker => {
                    "start the daemon, ask to be let into the group docker, or name the daemon's socket \
                     (engine.environment.DOCKER_HOST in the profile)"
                }
                _ => "run its own `info` by hand; it says what it misses",
            };
            finding(
                id,
                bad,
                format!("{kind} {version} at {program}: {error}"),
                "it is installed and cannot run containers for this user",
                mend,
            )
        }
        (Ok(version), Ok(())) => labelled(
            finding(
                id,
                Level::Ok,
                format!("{kind} {version} at {program}"),
                "it can run images",
                "",
            ),
            &format!("vk-cmd.io/engine-{kind}"),
            version,
        ),
    }
}

fn user_namespaces(site: &Site, facts: &Facts) -> Finding {
    let needed = matches!(
        &site.engine,
        EngineAccess::Reached {
            kind: Kind::Apptainer | Kind::Podman | Kind::PodmanHpc | Kind::Charliecloud,
            launch: LaunchMode::Direct,
            ..
        }
    );
    let (finding, value) = match &facts.user_namespace {
        Some(Ok(())) => (
            finding(
                "userns",
                Level::Ok,
                "user namespaces can be made",
                "engines need no set-uid program",
                "",
            ),
            "true",
        ),
        Some(Err(error)) => (
            finding(
                "userns",
                if needed { Level::Warn } else { Level::Info },
                format!("no user namespace: {error}"),
                "rootless engines work only where they are installed set-uid",
                "as root: sysctl user.max_user_namespaces=15000 (Debian also kernel.unprivileged_userns_clone=1, \
                 Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)",
            ),
            "false",
        ),
        None => (
            finding(
                "userns",
                Level::Info,
                "not tried: there is no program unshare",
                "whether rootless engines work shows with the first image",
                "install util-linux",
            ),
            "unknown",
        ),
    };
    labelled(finding, "vk-cmd.io/userns", value)
}

fn cgroups(facts: &Facts) -> Finding {
    let cgroup = &facts.cgroup;
    let path = cgroup.path.display();
    let (finding, value) = match (cgroup.version, cgroup.writable) {
        (0, _) => (
            finding(
                "cgroup",
                Level::Info,
                "no cgroup was found",
                "limits of memory are watched by the agent instead of held by the kernel",
                "",
            ),
            "none",
        ),
        (version, true) => (
            finding(
                "cgroup",
                Level::Ok,
                format!(
                    "cgroup v{version} at {path} can be divided ({})",
                    cgroup.controllers.join(" ")
                ),
                "the kernel can hold pods to their limits",
                "",
            ),
            "delegated",
        ),
        (version, false) => (
            finding(
                "cgroup",
                Level::Info,
                format!("cgroup v{version} at {path} cannot be divided"),
                "limits of memory are watched by the agent instead of held by the kernel",
                "start the agent in a delegated group: systemd-run --user --scope -p Delegate=yes …",
            ),
            "shared",
        ),
    };
    labelled(finding, "vk-cmd.io/cgroup", value)
}

fn hostpipe(site: &Site, facts: &Facts) -> Option<Finding> {
    let by_pipe = site.launch == LaunchMode::Hostpipe
        || matches!(
            site.engine,
            EngineAccess::Reached {
                launch: LaunchMode::Hostpipe,
                ..
            }
        );
    let missing = if by_pipe { Level::Fail } else { Level::Info };
    let serve = "on the host: vk-cmd hostpipe serve (the run scripts start it)";
    match &facts.hostpipe {
        None if !by_pipe => None,
        None => Some(finding(
            "hostpipe",
            Level::Fail,
            format!("{} has no pipe", site.hostpipe.display()),
            "nothing can be started on the host",
            serve,
        )),
        Some((path, Ok(true))) => Some(finding(
            "hostpipe",
            Level::Ok,
            format!("{} is read", path.display()),
            "commands reach the host",
            "",
        )),
        Some((path, Ok(false))) => Some(finding(
            "hostpipe",
            missing,
            format!("nobody reads {}", path.display()),
            "nothing can be started on the host",
            serve,
        )),
        Some((path, Err(error))) => Some(finding(
            "hostpipe",
            missing,
            format!("{}: {error}", path.display()),
            "nothing can be started on the host",
            "take away what stands there, then serve the pipe anew",
        )),
    }
}

fn batch(site: &Site, facts: &Facts) -> Vec<Finding> {
    let wanted = match site.profile.batch.system {
        BatchSystem::Slurm => Some("slurm"),
        BatchSystem::Pbs => Some("pbs"),
        BatchSystem::Htcondor => Some("htcondor"),
        BatchSystem::Auto | BatchSystem::Local => None,
    };
    let mut findings: Vec<Finding> = facts
        .batch
        .iter()
        .map(|(name, version)| {
            finding(
                format!("batch.{name}"),
                Level::Ok,
                version.clone(),
                "jobs can be submitted from here",
                "",
            )
        })
        .collect();
    if let Some(wanted) = wanted.filter(|wanted| !facts.batch.contains_key(wanted)) {
        findings.push(finding(
            format!("batch.{wanted}"),
            Level::Warn,
            format!("the commands of {wanted} are not in PATH"),
            "pilots cannot be submitted from here; an agent in a job runs all the same",
            "load the batch system's module, or submit from a login node",
        ));
    }
    if let Some((name, id)) = &facts.job {
        let (level, means, mend) = if facts.job_end {
            (Level::Ok, "the agent knows when the job ends", "")
        } else {
            (
                Level::Warn,
                "the environment does not say when the job ends",
                "set JIRIAF_WALLTIME to the job's seconds, or let the agent ask the batch system",
            )
        };
        let found = format!("in {name} job {id}");
        findings.push(labelled(
            finding("batch.job", level, found, means, mend),
            "vk-cmd.io/batch",
            name,
        ));
    }
    findings
}

fn ssh(site: &Site, facts: &Facts) -> Vec<Finding> {
    let tunnels = site.profile.tunnels.control_plane.is_some();
    let mut findings = vec![match &facts.ssh {
        Some(version) => finding(
            "ssh",
            Level::Ok,
            version.clone(),
            "tunnels can be built",
            "",
        ),
        None => finding(
            "ssh",
            if tunnels { Level::Fail } else { Level::Info },
            "there is no program ssh",
            "no tunnel can be built to a control plane that cannot be reached directly",
            "install openssh-client, or name the program in tunnels.ssh",
        ),
    }];
    if let Some((path, mode)) = &facts.identity {
        let path = path.display();
        findings.push(match mode {
            Err(error) => finding(
                "ssh.key",
                Level::Fail,
                format!("{path}: {error}"),
                "tunnels have no key to log in with",
                "make one (ssh-keygen), or fetch the day's one (sshproxy at NERSC)",
            ),
            Ok(mode) if mode & 0o077 != 0 => finding(
                "ssh.key",
                Level::Fail,
                format!("{path} has the mode {mode:o}"),
                "ssh refuses keys that others may read",
                "chmod 600 the key",
            ),
            Ok(_) => finding(
                "ssh.key",
                Level::Ok,
                path.to_string(),
                "tunnels have a key",
                "",
            ),
        });
    }
    findings
}

fn reached(target: &str, result: &Result<std::time::Duration, String>) -> Finding {
    let id = format!("reach.{target}");
    match result {
        Ok(time) => finding(
            id,
            Level::Ok,
            format!("{target} answers after {} ms", time.as_millis()),
            "this machine reaches it directly",
            "",
        ),
        Err(error) => finding(
            id,
            Level::Warn,
            format!("{target}: {error}"),
            "this machine does not reach it directly: a control plane needs a tunnel, images have to be here already",
            "configure tunnels: in the profile; pull images on a login node, or map them (images:)",
        ),
    }
}

fn directory(directory: &Directory) -> Vec<Finding> {
    let Directory { name, kind, .. } = directory;
    let path = directory.path.display();
    let id = |end: &str| format!("fs.{name}{end}");
    if let Some(error) = &directory.unusable {
        return vec![finding(
            id(""),
            if name == "root" {
                Level::Fail
            } else {
                Level::Warn
            },
            format!("{path}: {error}"),
            "nothing can be written there",
            "name another directory (--root, VK_CMD_ROOT)",
        )];
    }
    let network = matches!(
        kind.as_str(),
        "nfs" | "cifs" | "lustre" | "gpfs" | "beegfs" | "ceph" | "afs" | "9p"
    );
    let gib = directory.free >> 30;
    let found = format!("{path} is on {kind}, {gib} GiB free");
    let first = if directory.free < LITTLE {
        finding(
            id(""),
            Level::Warn,
            found,
            "logs and images may fill it",
            "free space, or name another directory (--root)",
        )
    } else if network {
        finding(
            id(""),
            Level::Info,
            found,
            "it is shared with other nodes; each file takes longer than on a local disk",
            "name a local directory for pod data (--root), where the site has one",
        )
    } else {
        finding(id(""), Level::Ok, found, "a local file system", "")
    };
    let mut findings = vec![labelled(first, &format!("vk-cmd.io/fs-{name}"), kind)];
    let mut lacks = |works: bool, end: &str, found: &str, level: Level, means: &str, mend: &str| {
        if !works {
            findings.push(finding(
                id(end),
                level,
                format!("{path}: {found}"),
                means,
                mend,
            ));
        }
    };
    lacks(
        directory.sockets,
        ".sockets",
        "no sockets",
        Level::Info,
        "control sockets lie in XDG_RUNTIME_DIR or /tmp instead",
        "",
    );
    lacks(
        directory.tmpfile,
        ".tmpfile",
        "no files without a name (O_TMPFILE)",
        Level::Info,
        "claims are written under a temporary name first",
        "",
    );
    lacks(
        directory.links,
        ".links",
        "no hard links",
        Level::Warn,
        "a claim is taken by O_EXCL alone, which old network file systems do not keep",
        "name a directory on another file system (--root)",
    );
    lacks(
        directory.exec,
        ".exec",
        "programs cannot be run from there (noexec)",
        if name == "root" {
            Level::Warn
        } else {
            Level::Info
        },
        "scripts without a command cannot be run as programs",
        "name a directory on another file system (--root)",
    );
    if directory.ahead_ms.abs() > SKEW_MS {
        findings.push(finding(
            id(".clock"),
            Level::Warn,
            format!(
                "{path}: its clock differs from ours by {} ms",
                directory.ahead_ms
            ),
            "times of files and of logs contradict each other",
            "tell the site's administrators: host and file server need the same NTP",
        ));
    }
    findings
}

fn clock(facts: &Facts) -> Finding {
    match facts.clock_synchronised {
        Some(true) => finding("clock", Level::Ok, "the clock is synchronised", "", ""),
        Some(false) => finding(
            "clock",
            Level::Info,
            "the kernel does not call its clock synchronised",
            "leases and certificates fail where the clock is minutes off",
            "compare `date -u` with the control plane's; ask for NTP on this host",
        ),
        None => finding("clock", Level::Info, "the kernel does not tell", "", ""),
    }
}

fn limits(facts: &Facts) -> Finding {
    let (soft, hard, processes) = facts.limits;
    let found = format!(
        "open files {soft} (up to {hard}), processes {}",
        amount(processes)
    );
    if hard < 4096 || processes < 1024 {
        return finding(
            "limits",
            Level::Warn,
            found,
            "fewer than a thousand pods fit: each takes a shim, its processes and a connection",
            "ask for higher limits (ulimit -Hn, ulimit -Hu)",
        );
    }
    finding("limits", Level::Ok, found, "a thousand pods fit", "")
}

fn amount(limit: u64) -> String {
    if limit == u64::MAX {
        "unlimited".to_owned()
    } else {
        limit.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::site::{Catalog, Surroundings};

    fn site(name: &str, here: &Surroundings) -> Site {
        let catalog = Catalog::load(None, None).expect("profiles");
        let (profile, origin, chosen) = catalog.choose(Some((name, "flag")), here).expect("one");
        Site::settle(profile, origin, chosen, here)
    }

    fn find<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
        findings
            .iter()
            .find(|it| it.id == id)
            .unwrap_or_else(|| panic!("{id} in {findings:#?}"))
    }

    #[test]
    fn a_bare_machine_is_told_what_it_lacks_and_what_helps() {
        let here = Surroundings::default();
        let findings = judge(&site("perlmutter", &here), &Facts::default());
        assert_eq!(find(&findings, "engine").level, Level::Fail);
        assert!(find(&findings, "engine").mend.contains("shifter"));
        assert_eq!(find(&findings, "batch.slurm").level, Level::Warn);
        assert_eq!(find(&findings, "ssh").level, Level::Info);
        for finding in &findings {
            let needs_mend = matches!(finding.level, Level::Warn | Level::Fail);
            assert!(!needs_mend || !finding.mend.is_empty(), "{finding:?}");
        }
        // The same machine as nobody's site: images are refused, and that is no failure.
        let findings = judge(&site("local", &here), &Facts::default());
        assert_eq!(find(&findings, "engine").level, Level::Info);
    }

    #[test]
    fn an_engine_that_is_installed_and_does_not_work_is_named() {
        let mut facts = Facts::default();
        let engine = EngineFacts {
            program: PathBuf::from("/usr/bin/docker"),
            version: Ok("28.2.2".to_owned()),
            usable: Err("permission denied".to_owned()),
        };
        facts.engines.insert(Kind::Docker, engine);
        let mut site = site("local", &Surroundings::default());
        let findings = judge(&site, &facts);
        assert_eq!(find(&findings, "engine.docker").level, Level::Info);
        site.engine = EngineAccess::Reached {
            kind: Kind::Docker,
            program: "docker".to_owned(),
            launch: LaunchMode::Direct,
        };
        let findings = judge(&site, &facts);
        let docker = find(&findings, "engine.docker");
        assert_eq!(docker.level, Level::Fail);
        assert!(docker.mend.contains("group docker"), "{docker:?}");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_a_failure_where_it_is_needed() {
        let mut facts = Facts::default();
        let here = Surroundings {
            environment: [("HOME".to_owned(), "/root".to_owned())].into(),
            seat: Seat::Inside(Kind::Docker),
            ..Surroundings::default()
        };
        let site = site("jiriaf2301", &here);
        assert_eq!(find(&judge(&site, &facts), "hostpipe").level, Level::Fail);
        facts.hostpipe = Some((PathBuf::from("/root/hostpipe/vk-cmd"), Ok(false)));
        let findings = judge(&site, &facts);
        assert!(find(&findings, "hostpipe").found.contains("nobody reads"));
        facts.hostpipe = Some((PathBuf::from("/root/hostpipe/vk-cmd"), Ok(true)));
        assert_eq!(find(&judge(&site, &facts), "hostpipe").level, Level::Ok);
    }

    #[test]
    fn file_systems_are_judged_by_what_they_cannot_do() {
        let mut dir = Directory {
            name: "root".to_owned(),
            path: PathBuf::from("/r"),
            kind: "nfs".to_owned(),
            free: 10 << 30,
            unusable: None,
            sockets: false,
            tmpfile: false,
            links: true,
            exec: true,
            ahead_ms: 5_000,
        };
        let found = directory(&dir);
        let ids: Vec<&str> = found.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "fs.root",
                "fs.root.sockets",
                "fs.root.tmpfile",
                "fs.root.clock"
            ]
        );
        assert_eq!(
            found[0].label,
            Some(("vk-cmd.io/fs-root".to_owned(), "nfs".to_owned()))
        );
        dir.unusable = Some("denied".to_owned());
        assert_eq!(directory(&dir)[0].level, Level::Fail);
    }
}
