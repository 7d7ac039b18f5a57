//! When the user's certificate ends.
//!
//! Sites hand out certificates for a day. A connection that is up survives their end, the next one does not come up;
//! so the end is announced before.

use std::{path::PathBuf, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use tokio::process::Command;

use super::spec::TunnelSpec;

/// An end that is nearer than this is announced.
pub const SOON: Duration = Duration::from_secs(2 * 3600);

/// A certificate and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its file.
    pub path: PathBuf,
    /// When it ends; `None`: never.
    pub until: Option<Timestamp>,
}

impl Certificate {
    /// What is to be said about it at `now`; `None` while it is good for long.
    pub fn notice(&self, now: Timestamp) -> Option<String> {
        let until = self.until?;
        let left = until.duration_since(now).as_secs();
        let path = self.path.display();
        if left <= 0 {
            return Some(format!(
                "the ssh certificate {path} ended at {until:.0}: the tunnel stays up, and does not come back once it \
                 is lost; renew the certificate"
            ));
        }
        let soon = i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX);
        (left < soon).then(|| {
            let minutes = left / 60;
            format!("the ssh certificate {path} ends in {minutes} minutes, at {until:.0}: renew it")
        })
    }
}

/// The certificates that ssh would use for a destination. Where the system does not tell there are none.
pub async fn certificates(spec: &TunnelSpec) -> Vec<Certificate> {
    let configuration = Command::new(&spec.ssh)
        .args(spec.configuration_line())
        .stdin(std::process::Stdio::null())
        .output()
        .await;
    let Ok(configuration) = configuration else {
        return Vec::new();
    };
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let mut found = Vec::new();
    for path in files(&String::from_utf8_lossy(&configuration.stdout)) {
        let path = match path.strip_prefix("~") {
            Ok(below) => home.join(below),
            Err(_) => path,
        };
        if !path.is_file() {
            continue;
        }
        let listing = Command::new("ssh-keygen")
            .args(["-L", "-f"])
            .arg(&path)
            .env("TZ", "UTC")
            .stdin(std::process::Stdio::null())
            .output()
            .await;
        if let Ok(listing) = listing
            && let Some(until) = validity(&String::from_utf8_lossy(&listing.stdout))
        {
            found.push(Certificate { path, until });
        }
    }
    found
}

/// Files that may be certificates, from `ssh -G`: those that it names, and those beside the keys.
fn files(configuration: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = configuration
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            match key {
                "certificatefile" => Some(PathBuf::from(value)),
                "identityfile" => Some(PathBuf::from(format!("{value}-cert.pub"))),
                _ => None,
            }
        })
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// The end in a listing of `ssh-keygen -L` with `TZ=UTC`; `Some(None)` for a certificate without an end.
fn validity(listing: &str) -> Option<Option<Timestamp>> {
    let line = listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("Valid: "))?;
    if line == "forever" {
        return Some(None);
    }
    let (_, end) = line
        .split_once(" to ")
        .or_else(|| line.split_once("before "))?;
    if end == "forever" {
        return Some(None);
    }
    let end: DateTime = end.parse().ok()?;
    Some(Some(end.to_zoned(TimeZone::UTC).ok()?.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_and_announced_in_time() {
        let listing = "/k-cert.pub:\n        Type: ssh-ed25519-cert-v01@openssh.com user certificate\n        \
                       Valid: from 2026-01-01T00:00:00 to 2026-01-02T00:00:00\n";
        let until = validity(listing).expect("a certificate").expect("an end");
        let certificate = Certificate {
            path: "/k-cert.pub".into(),
            until: Some(until),
        };
        let notice = |text: &str| certificate.notice(text.parse().expect("a time"));
        assert_eq!(notice("2026-01-01T12:00:00Z"), None);
        let soon = notice("2026-01-01T23:00:00Z").expect("soon");
        assert!(soon.contains("ends in 60 minutes"), "{soon}");
        let late = notice("2026-01-02T01:00:00Z").expect("late");
        assert!(late.contains("renew"), "{late}");
        assert_eq!(validity("Valid: forever"), Some(None));
        assert_eq!(validity("Valid: after 2026-01-01T00:00:00"), None);
        assert_eq!(validity("nothing"), None);
    }

    #[test]
    fn certificates_lie_beside_keys_or_where_the_configuration_says() {
        let text = "user u\nidentityfile ~/.ssh/nersc\ncertificatefile /c.pub\nport 22\n";
        assert_eq!(
            files(text),
            [
                PathBuf::from("/c.pub"),
                PathBuf::from("~/.ssh/nersc-cert.pub")
            ]
        );
    }
}
