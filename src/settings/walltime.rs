//! When the node ends: the documents' variable, the batch system, and how the end is gone about.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::agent::wrong;
use super::env;
use crate::cli::WalltimeArgs;
use crate::duration;
use crate::exit::UsageError;
use crate::node::Limits;
use crate::node::allocation::{self, End, Job};

/// Slurm's default `KillWait`.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// How the node ends.
#[derive(Debug, Clone)]
pub struct WalltimeConfig {
    /// The end itself.
    pub limits: Limits,
    /// The time between the batch system's SIGTERM and its SIGKILL.
    pub kill_wait: Duration,
    /// Whether SIGTERM ends the pods: it does in a batch job, whose processes all end with it.
    pub drain_on_exit: bool,
    /// Whether the agent runs in a batch job.
    pub job: Option<Job>,
}

impl WalltimeConfig {
    /// Checks what was typed and set; `variable` reads the environment.
    ///
    /// # Errors
    /// The first value that is wrong, with its origin.
    pub fn resolve(
        args: WalltimeArgs,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, UsageError> {
        let job = allocation::job(&variable);
        let walltime = args
            .walltime
            .filter(|text| !text.is_empty())
            .map(|text| seconds(&text))
            .transpose()?;
        let announced = args
            .end_time
            .filter(|text| !text.is_empty())
            .map(|text| end_time(&text))
            .transpose()?;
        let length = |text: Option<String>, flag, name| {
            text.filter(|text| !text.is_empty())
                .map(|text| {
                    duration::parse(&text).ok_or_else(|| {
                        wrong(&text, flag, name, "is not a length of time", duration::FORM)
                    })
                })
                .transpose()
        };
        let window = length(
            args.drain_window,
            "--drain-window",
            env::VK_CMD_DRAIN_WINDOW,
        )?;
        let kill_wait = length(args.kill_wait, "--kill-wait", env::VK_CMD_KILL_WAIT)?;

        let now = Instant::now();
        let mut ends = Vec::new();
        let mut know = |left: Duration, origin: &str| {
            tracing::info!(
                left = duration::show(left),
                origin,
                "this node's time is limited"
            );
            ends.push(now + left);
        };
        if let Some(limit) = walltime.filter(|limit| !limit.is_zero()) {
            know(limit, env::JIRIAF_WALLTIME);
        }
        if let Some(left) = announced {
            know(left, env::VK_CMD_END_TIME);
        }
        let wall = Timestamp::now();
        let ask = match allocation::end(job.clone(), &variable, allocation::age, wall) {
            End::In(left, origin) => {
                know(left, origin);
                None
            }
            End::Ask(job) => Some(job),
            End::Unknown => None,
        };
        Ok(Self {
            limits: Limits {
                end: ends.into_iter().min(),
                window,
                labelled: walltime != Some(Duration::ZERO),
                ask,
                exit_at_end: args.exit_at_walltime,
            },
            kill_wait: kill_wait.unwrap_or(KILL_WAIT),
            drain_on_exit: args.drain_on_exit.unwrap_or(job.is_some()),
            job,
        })
    }
}

/// `JIRIAF_WALLTIME`, as documented: seconds, a multiple of 60, 0 for no limit.
fn seconds(text: &str) -> Result<Duration, UsageError> {
    let bad =
        |problem: &str, mend: &str| wrong(text, "--walltime", env::JIRIAF_WALLTIME, problem, mend);
    let trimmed = text.trim();
    let number: u32 = match trimmed.parse::<i64>() {
        Ok(negative) if negative < 0 => {
            return Err(bad(
                "is negative",
                "give seconds, a multiple of 60, or 0 for no limit",
            ));
        }
        Ok(number) if !trimmed.starts_with('+') => u32::try_from(number).map_err(|_| {
            bad(
                "is more than a century",
                "give seconds, a multiple of 60, or 0 for no limit",
            )
        })?,
        _ => {
            let mend = match duration::parse(trimmed) {
                Some(length) => format!("give it in seconds: {}", length.as_secs()),
                None => "give seconds, a multiple of 60, or 0 for no limit".to_owned(),
            };
            return Err(bad("is not a number of seconds", &mend));
        }
    };
    if !number.is_multiple_of(60) {
        let below = number / 60 * 60;
        let near = match below {
            0 => "60".to_owned(),
            below => format!("{below} or {}", below.saturating_add(60)),
        };
        let mend = format!("give whole minutes in seconds, such as {near}, or 0 for no limit");
        return Err(bad("is not a multiple of 60", &mend));
    }
    Ok(Duration::from_secs(number.into()))
}

/// How much is left until a moment on the wall clock: seconds since 1970, or RFC 3339.
fn end_time(text: &str) -> Result<Duration, UsageError> {
    let text = text.trim();
    let at = match text.parse::<u32>() {
        Ok(seconds) => Timestamp::from_second(seconds.into()).ok(),
        Err(_) => text.parse::<Timestamp>().ok(),
    };
    let at = at.ok_or_else(|| {
        let mend = "give seconds since 1970, as `date +%s` prints them, or a time such as 2026-11-21T16:05:00Z";
        wrong(text, "--end-time", env::VK_CMD_END_TIME, "is not a moment", mend)
    })?;
    let left = at.duration_since(Timestamp::now());
    Ok(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(walltime: &str, pairs: &[(&str, &str)]) -> Result<WalltimeConfig, UsageError> {
        let args = WalltimeArgs {
            walltime: Some(walltime.to_owned()),
            ..WalltimeArgs::default()
        };
        WalltimeConfig::resolve(args, |name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn left(config: &WalltimeConfig) -> Option<Duration> {
        config.limits.end.map(|end| end - Instant::now())
    }

    #[test]
    fn wrong_walltimes_are_named_with_the_mend() {
        for (text, problem, mend) in [
            (
                "abc",
                "is not a number of seconds",
                "a multiple of 60, or 0",
            ),
            (
                "1h",
                "is not a number of seconds",
                "give it in seconds: 3600",
            ),
            ("6e1", "is not a number of seconds", "a multiple of 60"),
            ("-60", "is negative", "0 for no limit"),
            ("90", "is not a multiple of 60", "60 or 120"),
            ("30", "is not a multiple of 60", "such as 60,"),
            ("99999999999", "is more than a century", "0 for no limit"),
        ] {
            let error = resolve(text, &[]).expect_err(text).to_string();
            let start = format!("--walltime: {text:?} {problem} (from command line); ");
            assert!(error.starts_with(&start) && error.contains(mend), "{error}");
        }
    }

    #[test]
    fn the_sooner_end_holds() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let config = resolve("600", &[]).expect("a walltime");
        assert!(config.limits.labelled && !config.drain_on_exit);
        assert!(left(&config).is_some_and(|left| left <= minutes(10) && left > minutes(9)));

        let soon = (Timestamp::now().as_second() + 300).to_string();
        let slurm = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", soon.as_str())];
        let config = resolve("600", &slurm).expect("a walltime");
        assert!(config.drain_on_exit);
        assert!(left(&config).is_some_and(|left| left <= minutes(5) && left > minutes(4)));
        assert_eq!(config.limits.ask, None);

        // No limit of its own and no label, but the job ends all the same.
        let config = resolve("0", &slurm).expect("a walltime");
        assert!(!config.limits.labelled && left(&config).is_some());
        let config = resolve("0", &[]).expect("a walltime");
        assert!(!config.limits.labelled && left(&config).is_none());
        let config = resolve("0", &slurm[..1]).expect("a walltime");
        assert!(config.limits.ask.is_some());
    }
}
