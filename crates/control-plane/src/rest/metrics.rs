//! Counters of the server, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

/// What is counted together.
type Key = (&'static str, String, u16);

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    requests: u64,
    time: Duration,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<Key, Count>>,
}

impl Metrics {
    /// Counts a request. `resource` is a plural of the table or empty, so that clients cannot
    /// make new counters.
    pub(super) fn count(&self, verb: &'static str, resource: &str, code: u16, time: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        let count = requests
            .entry((verb, resource.to_owned(), code))
            .or_default();
        count.requests += 1;
        count.time += time;
    }

    pub(super) fn render(&self, revision: u64) -> String {
        let requests = self
            .requests
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone();
        let mut text = String::new();
        text.push_str("# HELP apiserver_request_total Requests by verb, resource and code.\n# TYPE apiserver_request_total counter\n");
        for ((verb, resource, code), count) in &requests {
            let verb = verb.to_uppercase();
            let _ = writeln!(
                text,
                "apiserver_request_total{{code=\"{code}\",resource=\"{resource}\",verb=\"{verb}\"}} {}",
                count.requests
            );
        }
        text.push_str("# HELP apiserver_request_duration_seconds_sum Time spent until the head of the answer.\n# TYPE apiserver_request_duration_seconds_sum counter\n");
        for ((verb, resource, code), count) in &requests {
            let verb = verb.to_uppercase();
            let _ = writeln!(
                text,
                "apiserver_request_duration_seconds_sum{{code=\"{code}\",resource=\"{resource}\",verb=\"{verb}\"}} {}",
                count.time.as_secs_f64()
            );
        }
        let _ = writeln!(
            text,
            "# HELP apiserver_storage_revision The newest revision.\n# TYPE apiserver_storage_revision counter\napiserver_storage_revision {revision}"
        );
        text
    }
}
