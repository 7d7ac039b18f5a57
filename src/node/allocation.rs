//! What the batch system says of the end of this job.
//!
//! | system | job | end |
//! |---|---|---|
//! | Slurm | `SLURM_JOB_ID` | `SLURM_JOB_END_TIME` (since 22.11 or so), else `squeue -o %L` |
//! | PBS (Torque) | `PBS_JOBID` | `PBS_WALLTIME` seconds after the job's oldest process started |
//! | LSF, Flux, HTCondor, Grid Engine | `LSB_JOBID`, `FLUX_JOB_ID`, `_CONDOR_JOB_AD`, `SGE_TASK_ID` with `JOB_ID` | not told in the environment: `JIRIAF_WALLTIME` or `VK_CMD_END_TIME` |

use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;

/// How long the batch system may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A job of a batch system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The system's name.
    pub system: &'static str,
    /// The variable that names the job.
    pub variable: &'static str,
    /// The job.
    pub id: String,
}

/// What the environment tells of the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// So much is left; the variable says so.
    In(Duration, &'static str),
    /// The batch system has to be asked.
    Ask(Job),
    /// Nothing.
    Unknown,
}

/// The job that this process belongs to, if any.
pub fn job(variable: impl Fn(&str) -> Option<String>) -> Option<Job> {
    let systems = [
        ("Slurm", "SLURM_JOB_ID"),
        ("PBS", "PBS_JOBID"),
        ("LSF", "LSB_JOBID"),
        ("Flux", "FLUX_JOB_ID"),
        ("HTCondor", "_CONDOR_JOB_AD"),
        ("Grid Engine", "SGE_TASK_ID"),
    ];
    systems.into_iter().find_map(|(system, name)| {
        let id = variable(name).filter(|id| !id.is_empty())?;
        Some(Job {
            system,
            variable: name,
            id,
        })
    })
}

/// What the environment says of the end. `age` tells how long ago the oldest process of the job started
/// that we descend from; `now` is the wall clock, which is what batch systems write.
pub fn end(
    job: Option<Job>,
    variable: impl Fn(&str) -> Option<String>,
    age: impl Fn(&Job) -> Option<Duration>,
    now: Timestamp,
) -> End {
    let Some(job) = job else { return End::Unknown };
    let number = |name: &'static str| {
        let text = variable(name).filter(|text| !text.is_empty())?;
        let number = text.trim().parse::<u32>().ok();
        if number.is_none() {
            tracing::warn!(variable = name, value = text, "not a number: ignored");
        }
        number
    };
    match job.system {
        "Slurm" => match number("SLURM_JOB_END_TIME") {
            Some(at) => {
                let left = i64::from(at).saturating_sub(now.as_second());
                let left = Duration::from_secs(left.max(0).unsigned_abs());
                End::In(left, "SLURM_JOB_END_TIME")
            }
            None => End::Ask(job),
        },
        "PBS" => match number("PBS_WALLTIME") {
            Some(total) => {
                let total = Duration::from_secs(total.into());
                let gone = age(&job).unwrap_or_default();
                End::In(total.saturating_sub(gone), "PBS_WALLTIME")
            }
            None => End::Unknown,
        },
        _ => End::Unknown,
    }
}

/// How long ago the oldest ancestor started that carries the job's variable.
pub fn age(job: &Job) -> Option<Duration> {
    let mut oldest = None;
    let mut pid = std::process::id().cast_signed();
    loop {
        let process = procfs::process::Process::new(pid).ok()?;
        // Unreadable: another user's, which is none of the job's.
        let ours = process.environ().is_ok_and(|all| {
            all.get(std::ffi::OsStr::new(job.variable))
                .is_some_and(|id| id.as_os_str() == job.id.as_str())
        });
        if !ours {
            break;
        }
        let stat = process.stat().ok()?;
        oldest = Some(stat.starttime);
        pid = stat.ppid;
        if pid <= 0 {
            break;
        }
    }
    let ticks = procfs::ticks_per_second();
    let up = <procfs::Uptime as procfs::Current>::current()
        .ok()?
        .uptime_duration();
    let started = Duration::from_millis(oldest?.checked_mul(1000)? / ticks);
    Some(up.saturating_sub(started))
}

/// Asks the batch system how long the job may go on; none where there is nothing to ask, no limit, or no
/// answer, which is logged.
pub(crate) async fn ask(job: Option<Job>) -> Option<Duration> {
    let job = job?;
    let mut command = tokio::process::Command::new("squeue");
    command
        .args(["-h", "-o", "%L", "-j", &job.id])
        .env_remove("SQUEUE_FORMAT")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let answer = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => output.stdout,
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            tracing::warn!(
                job = job.id,
                said,
                "squeue does not tell when this job ends"
            );
            return None;
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "squeue cannot be run: the end of this job is not known");
            return None;
        }
        Err(_) => {
            tracing::warn!("squeue does not answer: the end of this job is not known");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&answer);
    let text = text.lines().next().unwrap_or_default().trim();
    let left = time_left(text);
    tracing::info!(
        job = job.id,
        left = text,
        "asked squeue for the end of this job"
    );
    left
}

/// `[days-]hours:minutes:seconds` or `minutes:seconds`, as squeue's `%L` writes it.
fn time_left(text: &str) -> Option<Duration> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let parts: Vec<u64> = clock
        .split(':')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let seconds = match parts[..] {
        [minutes, seconds] => minutes.checked_mul(60)?.checked_add(seconds)?,
        [hours, minutes, seconds] => hours
            .checked_mul(3600)?
            .checked_add(minutes.checked_mul(60)?)?
            .checked_add(seconds)?,
        _ => return None,
    };
    let total = days.checked_mul(86_400)?.checked_add(seconds)?;
    // More than a century is no limit, and no clock holds it.
    (total <= u64::from(u32::MAX)).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(pairs: &[(&str, &str)]) -> End {
        let variable = |name: &str| {
            let mut all = pairs.iter();
            all.find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let now = Timestamp::from_second(1_000_000).expect("a time");
        let age = |_: &Job| Some(Duration::from_secs(100));
        end(job(variable), variable, age, now)
    }

    #[test]
    fn each_system_tells_in_its_way() {
        let secs = Duration::from_secs;
        assert_eq!(end_of(&[]), End::Unknown);
        assert_eq!(
            end_of(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", "1000090")]),
            End::In(secs(90), "SLURM_JOB_END_TIME")
        );
        assert_eq!(
            end_of(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", "999")]),
            End::In(secs(0), "SLURM_JOB_END_TIME")
        );
        for rest in [&[][..], &[("SLURM_JOB_END_TIME", "never")]] {
            let mut pairs = vec![("SLURM_JOB_ID", "7")];
            pairs.extend(rest);
            assert!(matches!(end_of(&pairs), End::Ask(job) if job.id == "7"));
        }
        assert_eq!(
            end_of(&[("PBS_JOBID", "7.s"), ("PBS_WALLTIME", "3600")]),
            End::In(secs(3500), "PBS_WALLTIME")
        );
        assert_eq!(end_of(&[("LSB_JOBID", "7")]), End::Unknown);
    }

    #[test]
    fn squeues_time_left_is_read() {
        for (text, seconds) in [
            ("0:00", Some(0)),
            ("9:59", Some(599)),
            ("1:02:03", Some(3723)),
            ("2-01:02:03", Some(176_523)),
            ("UNLIMITED", None),
            ("NOT_SET", None),
            ("INVALID", None),
            ("", None),
            ("1", None),
            ("99999999999-0:00", None),
        ] {
            assert_eq!(time_left(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn the_age_of_a_job_is_that_of_its_oldest_process() {
        let Ok(path) = std::env::var("PATH") else {
            return;
        };
        let job = Job {
            system: "PBS",
            variable: "PATH",
            id: path,
        };
        let own = procfs::process::Process::myself()
            .and_then(|it| it.stat())
            .expect("our stat");
        let up = <procfs::Uptime as procfs::Current>::current()
            .expect("uptime")
            .uptime_duration();
        let since = up - Duration::from_millis(own.starttime * 1000 / procfs::ticks_per_second());
        assert!(age(&job).expect("an age") + Duration::from_secs(1) >= since);
        let other = Job {
            id: "no such value".to_owned(),
            ..job
        };
        assert_eq!(age(&other), None);
    }
}
