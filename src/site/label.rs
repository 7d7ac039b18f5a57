//! What a node says of its site, as labels that pods can select by.

use std::collections::BTreeMap;

use super::{EngineAccess, LaunchMode, Seat, Site};

/// The site profile's name.
pub const SITE: &str = "vk-cmd.io/site";
/// The engine that runs images; `none` where nothing does.
pub const ENGINE: &str = "vk-cmd.io/engine";
/// Where the agent sits: `host`, or the engine of its container.
pub const AGENT: &str = "vk-cmd.io/agent-in";
/// How scripts and host commands are started: `direct` or `hostpipe`.
pub const LAUNCH: &str = "vk-cmd.io/launch";

/// The labels of a node at this site.
pub fn labels(site: &Site) -> BTreeMap<String, String> {
    let engine = match &site.engine {
        EngineAccess::Reached { kind, .. } => kind.name(),
        EngineAccess::Unreached { .. } => "none",
    };
    let agent = match site.seat {
        Seat::Host => "host",
        Seat::Inside(kind) => kind.name(),
    };
    let launch = match site.launch {
        LaunchMode::Direct => "direct",
        LaunchMode::Hostpipe => "hostpipe",
    };
    [
        (SITE, value(site.name())),
        (ENGINE, engine.to_owned()),
        (AGENT, agent.to_owned()),
        (LAUNCH, launch.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Text as the value of a label: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
pub fn value(text: &str) -> String {
    let good = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
            c
        } else {
            '-'
        }
    };
    let text: String = text.chars().map(good).take(63).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_becomes_a_value_that_a_label_may_have(text in ".{0,80}") {
            let value = value(&text);
            prop_assert!(value.len() <= 63);
            let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
            prop_assert!(edge(value.chars().next()) && edge(value.chars().next_back()));
            prop_assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
        }
    }
}
