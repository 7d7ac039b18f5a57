//! Who holds a node's lease: this run of the agent, and where it runs.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

/// `<node>_<host>_<place>_<run>`: the place is the same for every run on the same data, the run is this one alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// As the lease has it.
    pub(super) text: String,
    /// Without the run.
    place: String,
}

impl Holder {
    /// A run on the data below `data`.
    pub(super) fn new(node: &str, data: &Path) -> Self {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Self::at(node, &host.to_string_lossy(), data)
    }

    fn at(node: &str, host: &str, data: &Path) -> Self {
        // FNV-1a, 32 bits: paths may be long, and one node has few of them.
        let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let bytes = data.as_os_str().as_encoded_bytes();
        let digest = bytes.iter().fold(0x811c_9dc5, step);
        let place = format!("{node}_{host}_{digest:08x}");
        let text = format!("{place}_{}", uuid::Uuid::new_v4());
        Self { text, place }
    }

    /// Who else holds a lease that is good at this moment, for people. Not an earlier run on the same data: that one
    /// has ended, since the data have one agent at a time.
    pub(super) fn elsewhere(&self, lease: &Value, now: Timestamp) -> Option<String> {
        let holder = lease["holderIdentity"].as_str()?;
        let of_here = holder
            .rsplit_once('_')
            .is_some_and(|(place, _)| place == self.place);
        if of_here || holder.is_empty() {
            return None;
        }
        let renewed: Timestamp = lease["renewTime"].as_str()?.parse().ok()?;
        let good_for = lease["leaseDurationSeconds"].as_i64()?;
        let age = now.duration_since(renewed).as_secs();
        (age < good_for).then(|| format!("{holder} (its lease was renewed {} s ago)", age.max(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_place_with_a_good_lease_is_elsewhere() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let ours = Holder::at("n", "h1", Path::new("/data/a"));
        let lease = |holder: &str, renewed: &str| json!({"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 40});
        let fresh = "2026-01-01T00:00:55.123456Z";
        let next = Holder::at("n", "h1", Path::new("/data/a"));
        assert_ne!(next.text, ours.text);
        assert_eq!(ours.elsewhere(&lease(&next.text, fresh), now), None);
        for other in [
            Holder::at("n", "h2", Path::new("/data/a")),
            Holder::at("n", "h1", Path::new("/data/b")),
        ] {
            let said = ours
                .elsewhere(&lease(&other.text, fresh), now)
                .expect("elsewhere");
            assert!(
                said.starts_with(&other.text) && said.contains("4 s ago"),
                "{said}"
            );
            assert_eq!(
                ours.elsewhere(&lease(&other.text, "2026-01-01T00:00:20Z"), now),
                None
            );
        }
        assert_eq!(ours.elsewhere(&json!({}), now), None);
        assert_eq!(ours.elsewhere(&lease("", fresh), now), None);
    }
}
