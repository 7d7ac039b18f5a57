//! Exact memory of a few processes, where a limit is near.
//!
//! The proportional set size divides each page among those who map it, so the sum over a tree
//! counts a shared page once: what a control group would have charged, less the page cache. The
//! kernel walks the page tables for it, so it is asked only about a container whose resident sets
//! sum up to more than its limit. That sum is never less than the exact one: a container below it
//! needs no second look.

use std::{fs, io};

use super::pass::Process;

/// Bytes of a tree. A process that may not be looked at (it made itself undumpable, or ended)
/// counts with its resident set, or not at all.
pub fn exact(tree: &[Process], page: u64) -> u64 {
    tree.iter()
        .filter(|it| !it.dead)
        .map(|it| match proportional(it.pid) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => 0,
            Err(_) => it.resident_bytes(page),
        })
        .sum()
}

fn proportional(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `Pss:` in kibibytes, less what could be read again from files (`Pss_File`, Linux 5.9).
fn parse(text: &str) -> Option<u64> {
    let kibibytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let all = kibibytes("Pss:")?;
    let of_files = kibibytes("Pss_File:").unwrap_or(0);
    Some(all.saturating_sub(of_files) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::stats::Pass;

    #[test]
    fn files_are_not_counted() {
        let text = "00400000-7ffc2 ---p 00000000 00:00 0 [rollup]\nRss:   5000 kB\nPss:   3000 kB\nPss_Anon:  1000 kB\nPss_File:  1900 kB\nPss_Shmem:  100 kB\n";
        assert_eq!(parse(text), Some(1100 * 1024));
        assert_eq!(parse("Rss: 1 kB\nPss: 7 kB\n"), Some(7 * 1024));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_memory_that_is_less_than_its_resident_set() {
        let pass = Pass::take().expect("procfs");
        let me = pass.process(std::process::id().cast_signed()).expect("me");
        let bytes = exact(&[me], pass.page());
        assert!(bytes > 0 && bytes <= me.resident_bytes(pass.page()));
    }
}
