//! How a node looks after its resources.

use std::time::Duration;

use super::env;
use crate::cli::{MountNamespace, ResourceArgs};
use crate::container::{LogPolicy, cgroup};
use crate::exit::UsageError;
use crate::node::pressure::Thresholds;
use crate::pod::mounts::Layout;
use crate::quantity::Quantity;

/// Logs, data of pods that are over, eviction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Upkeep {
    /// When logs are rotated.
    pub log: LogPolicy,
    /// How long data of pods that are over is kept.
    pub dead: Retention,
    /// When pods are evicted.
    pub eviction: Thresholds,
    /// Which control group the containers' are made in.
    pub cgroup: cgroup::Choice,
    /// How many processes a pod has at most.
    pub pod_pids: Option<u64>,
    /// How mounts are made where pods do not say; none: as the site's profile says.
    pub layout: Option<Layout>,
}

pub use crate::pod::garbage::Retention;

/// The least size of a log file: less would be all rotation.
const LEAST_LOG: u64 = 4096;

/// Checks what was typed and set.
///
/// # Errors
/// The first value that is wrong, with its origin.
pub fn resolve(args: &ResourceArgs) -> Result<Upkeep, UsageError> {
    let size = &args.container_log_max_size;
    let max_bytes = Quantity::parse(size)
        .and_then(Quantity::to_units)
        .filter(|bytes| *bytes >= LEAST_LOG);
    let max_bytes = max_bytes.ok_or_else(|| {
        let variable = env::VK_CMD_CONTAINER_LOG_MAX_SIZE;
        let mend = "give a quantity of 4Ki or more, such as 10Mi";
        wrong(
            size,
            "--container-log-max-size",
            variable,
            "is no size of a log",
            mend,
        )
    })?;
    let files = &args.container_log_max_files;
    let max_files = files.trim().parse().ok().filter(|it: &u32| *it >= 2);
    let max_files = max_files.ok_or_else(|| {
        let variable = env::VK_CMD_CONTAINER_LOG_MAX_FILES;
        let mend = "give a number of 2 or more";
        wrong(
            files,
            "--container-log-max-files",
            variable,
            "is no number of log files",
            mend,
        )
    })?;
    let count = &args.dead_pods_max_count;
    let max_count = count.trim().parse().map_err(|_| {
        let variable = env::VK_CMD_DEAD_PODS_MAX_COUNT;
        wrong(
            count,
            "--dead-pods-max-count",
            variable,
            "is not a count",
            "give a number",
        )
    })?;
    let age = &args.dead_pods_max_age;
    let seconds: u64 = age.trim().parse().map_err(|_| {
        let variable = env::VK_CMD_DEAD_PODS_MAX_AGE;
        let mend = "give seconds, or 0 for no limit";
        wrong(age, "--dead-pods-max-age", variable, "is not an age", mend)
    })?;
    let eviction = match &args.eviction_hard {
        None => Thresholds::default(),
        Some(text) => Thresholds::parse(text).map_err(|problem| {
            let variable = env::VK_CMD_EVICTION_HARD;
            let mend = "write SIGNAL<QUANTITY, such as memory.available<100Mi,nodefs.available<5%";
            wrong(text, "--eviction-hard", variable, &problem, mend)
        })?,
    };
    Ok(Upkeep {
        log: LogPolicy {
            max_bytes,
            max_files,
        },
        dead: Retention {
            max_count,
            max_age: (seconds > 0).then(|| Duration::from_secs(seconds)),
        },
        eviction,
        cgroup: cgroup_choice(&args.cgroup)?,
        pod_pids: pod_pids(&args.pod_max_pids)?,
        layout: args.mount_namespace.map(|kind| match kind {
            MountNamespace::Host => Layout::Relative,
            MountNamespace::Private => Layout::Private,
        }),
    })
}

fn cgroup_choice(text: &str) -> Result<cgroup::Choice, UsageError> {
    match text {
        "auto" => Ok(cgroup::Choice::Auto),
        "off" => Ok(cgroup::Choice::Off),
        path if path.starts_with('/') => Ok(cgroup::Choice::At(path.into())),
        other => Err(wrong(
            other,
            "--cgroup",
            env::VK_CMD_CGROUP,
            "is no control group",
            "give auto, off, or the absolute path of a group that was delegated to this user",
        )),
    }
}

fn pod_pids(text: &str) -> Result<Option<u64>, UsageError> {
    match text.trim().parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(count) if count > 0 => Ok(Some(count.unsigned_abs())),
        _ => Err(wrong(
            text,
            "--pod-max-pids",
            env::VK_CMD_POD_MAX_PIDS,
            "is no number of processes",
            "give a number of 1 or more, or -1 for no limit",
        )),
    }
}

/// The error about `value`: it came from the variable where the variable says the same.
fn wrong(value: &str, flag: &str, variable: &str, problem: &str, mend: &str) -> UsageError {
    let set = std::env::var(variable).is_ok_and(|set| set == value);
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
        resources: ResourceArgs,
    }

    fn read(words: &[&str]) -> Result<Upkeep, UsageError> {
        let line = Line::try_parse_from(std::iter::once("x").chain(words.iter().copied()));
        resolve(&line.expect("flags that parse").resources)
    }

    #[test]
    fn what_is_not_said_is_as_a_kubelet_has_it() {
        let upkeep = read(&[]).expect("defaults");
        assert_eq!(upkeep.log, LogPolicy::default());
        assert_eq!(upkeep, Upkeep::default());
    }

    #[test]
    fn what_is_said_is_taken() {
        let upkeep = read(&[
            "--container-log-max-size=1Mi",
            "--container-log-max-files=3",
            "--dead-pods-max-age=60",
            "--dead-pods-max-count=2",
        ])
        .expect("good");
        assert_eq!((upkeep.log.max_bytes, upkeep.log.max_files), (1 << 20, 3));
        assert_eq!(upkeep.dead.max_age, Some(Duration::from_secs(60)));
        assert_eq!(upkeep.dead.max_count, 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for words in [
            "--container-log-max-size=10Mb",
            "--container-log-max-size=1",
            "--container-log-max-files=1",
            "--dead-pods-max-age=x",
            "--dead-pods-max-count=-1",
            "--eviction-hard=memory.available",
        ] {
            let error = read(&[words]).expect_err(words).to_string();
            let flag = words.split('=').next().expect("a flag");
            assert!(error.starts_with(flag), "{error}");
        }
    }
}
