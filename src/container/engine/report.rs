//! What an engine says of a container's end.

use serde::Deserialize;

/// Docker's and Podman's `State`, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    status: String,
}

/// How a container ended, beyond the exit code of the engine's client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its command never started; the engine's words.
    NeverStarted(String),
    /// The kernel killed it for memory.
    OutOfMemory,
}

impl End {
    /// Reads a report; none where it says no more than the exit code does.
    pub fn read(report: &str) -> Option<Self> {
        let state: State = serde_json::from_str(report).ok()?;
        if state.oom_killed {
            return Some(Self::OutOfMemory);
        }
        // The zero time of Go.
        let started = !state.started_at.is_empty() && !state.started_at.starts_with("0001-");
        match (started, state.error.is_empty(), state.status.as_str()) {
            (false, false, _) => Some(Self::NeverStarted(state.error)),
            // Podman keeps its words to itself; its client has printed them.
            (false, true, "created" | "configured" | "initialized") => Some(Self::NeverStarted(
                "the container engine could not start the container; its words are in the container's log"
                    .to_owned(),
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_own_words_are_understood() {
        // Docker 20.10.
        let created = r#"{"Status":"created","Running":false,"OOMKilled":false,"Pid":0,"ExitCode":127,"Error":"exec: \"nope\": executable file not found in $PATH: unknown","StartedAt":"0001-01-01T00:00:00Z","FinishedAt":"0001-01-01T00:00:00Z"}"#;
        assert_eq!(
            End::read(created),
            Some(End::NeverStarted(
                "exec: \"nope\": executable file not found in $PATH: unknown".to_owned()
            ))
        );
        let killed = r#"{"Status":"exited","OOMKilled":true,"ExitCode":137,"Error":"","StartedAt":"2026-01-01T00:00:00.1Z"}"#;
        assert_eq!(End::read(killed), Some(End::OutOfMemory));
        let ended = r#"{"Status":"exited","OOMKilled":false,"ExitCode":7,"Error":"","StartedAt":"2026-01-01T00:00:00.1Z"}"#;
        assert_eq!(End::read(ended), None);
        for strange in ["", "[]", "null", "{\"OOMKilled\":3}"] {
            assert_eq!(End::read(strange), None, "{strange}");
        }
    }
}
