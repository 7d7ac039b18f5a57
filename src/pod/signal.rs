//! The words of `lifecycle.stopSignal`.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The first real-time signal. C libraries take some for themselves and name the next one so, each another; the API
/// means what GNU programs and container runtimes mean.
const FIRST: i32 = 34;
const LAST: i32 = 64;

/// The number of a signal as the API names it: `SIGUSR1`, `SIGRTMIN+3`, `SIGRTMAX-1`.
pub fn number(name: &str) -> Option<i32> {
    let real_time = |text: &str| {
        text.parse()
            .ok()
            .filter(|by| (0..=LAST - FIRST).contains(by))
    };
    match name {
        "SIGRTMIN" => return Some(FIRST),
        "SIGRTMAX" => return Some(LAST),
        _ => {}
    }
    if let Some(by) = name.strip_prefix("SIGRTMIN+") {
        return real_time(by).map(|by| FIRST + by);
    }
    if let Some(by) = name.strip_prefix("SIGRTMAX-") {
        return real_time(by).map(|by: i32| LAST - by);
    }
    // Older names, which the API has as well.
    let name = match name {
        "SIGIOT" => "SIGABRT",
        "SIGCLD" => "SIGCHLD",
        "SIGPOLL" => "SIGIO",
        name => name,
    };
    Signal::from_str(name).ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_api_has_a_number() {
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("SIGUSR1"), Some(10));
        assert_eq!(number("SIGIOT"), number("SIGABRT"));
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!(number("SIGRTMAX-14"), Some(50));
        for wrong in ["TERM", "SIGNOTHING", "SIGRTMIN+99", "SIGRTMIN+-1", "15", ""] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
