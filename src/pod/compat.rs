//! The semantics of virtual-kubelet-cmd's documents, as one switch.
//!
//! With it containers run once, the end of a process is judged by its exit code and by
//! what it wrote to stderr, and what keeps a container from starting is one of the
//! documented states instead of something to wait for. `docs/compat.md` has the table.

use k8s_openapi::api::core::v1::Pod;

use super::machine::Ended;
use crate::container::StartFailure;

/// Chooses the semantics of one pod, whatever its node's are.
pub const COMPAT_ANNOTATION: &str = "vk-cmd/compat";

/// Whose semantics a pod gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// A kubelet's.
    #[default]
    Kubernetes,
    /// Those of the documents.
    VirtualKubeletCmd,
}

impl Compat {
    /// The word that a flag, a variable or an annotation says; none for another word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "kubernetes" => Some(Self::Kubernetes),
            "virtual-kubelet-cmd" => Some(Self::VirtualKubeletCmd),
            _ => None,
        }
    }

    /// What the pod's annotation says, else what its node does.
    pub fn of(pod: &Pod, node: Self) -> Self {
        annotation(pod).and_then(Self::parse).unwrap_or(node)
    }

    /// Whether the documents' semantics hold.
    pub fn documented(self) -> bool {
        self == Self::VirtualKubeletCmd
    }
}

/// An annotation that says neither, for the pod's warning.
pub fn unknown_annotation(pod: &Pod) -> Option<String> {
    let word = annotation(pod).filter(|word| Compat::parse(word).is_none())?;
    Some(format!(
        "annotation {COMPAT_ANNOTATION}={word:?} (neither \"kubernetes\" nor \"virtual-kubelet-cmd\")"
    ))
}

fn annotation(pod: &Pod) -> Option<&str> {
    let all = pod.metadata.annotations.as_ref()?;
    all.get(COMPAT_ANNOTATION).map(String::as_str)
}

/// What an ended attempt left in its file `stderr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stderr {
    /// Nothing.
    Empty,
    /// Something.
    NotEmpty,
    /// The file cannot be looked at.
    Unknown,
}

/// What kept a container from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The directory of its script's volume could not be read.
    ReadVolume {
        /// The directory.
        directory: String,
        /// Why.
        error: String,
    },
    /// A volume could not be brought to its mount path.
    Copy {
        /// From where.
        from: String,
        /// To where.
        to: String,
        /// Why.
        error: String,
    },
    /// The start itself failed.
    Start {
        /// At which step.
        step: StartFailure,
        /// The shim's words.
        message: String,
        /// The pgid file.
        pgid_file: String,
    },
}

/// Codes of the documents.
const CREATE_FAILED: i32 = 1;
const LOOK_FAILED: i32 = 2;
const STDERR: i32 = 3;

/// Reasons of the documents, for ends that are read back from the API.
pub const REASONS: [&str; 11] = [
    "readDefaultVolDirError",
    "copyFileError",
    "cmdStartError",
    "createStdoutFileError",
    "createStderrFileError",
    "cmdWaitError",
    "writePgidError",
    "getStderrFileInfoError",
    "stderrNotEmpty",
    "completed",
    "getPgidError",
];

/// The documented state of a container that could not be started: reason and message;
/// the code is always 1.
pub fn not_started(obstacle: &Obstacle) -> (i32, &'static str, String) {
    let (reason, message) = match obstacle {
        Obstacle::ReadVolume { directory, error } => (
            "readDefaultVolDirError",
            format!("Failed to read default volume directory {directory}; error: {error}"),
        ),
        Obstacle::Copy { from, to, error } => (
            "copyFileError",
            format!("Failed to copy file {from} to {to}; error: {error}"),
        ),
        Obstacle::Start {
            step,
            message,
            pgid_file,
        } => match step {
            StartFailure::PgidFile => (
                "writePgidError",
                format!("failed to write pgid to file {pgid_file}; error: {message}"),
            ),
            StartFailure::StdoutFile => (
                "createStdoutFileError",
                "failed to create stdout file".to_owned(),
            ),
            StartFailure::StderrFile => (
                "createStderrFileError",
                "failed to create stderr file".to_owned(),
            ),
            _ => ("cmdStartError", "cmd.Start() failed".to_owned()),
        },
    };
    (CREATE_FAILED, reason, message)
}

/// The documented state of an attempt that ran: its own code where that is not zero,
/// else what its stderr says.
pub fn ended(mut end: Ended, stderr: Stderr) -> Ended {
    let (code, reason, message) = match (end.reason, stderr) {
        // Whoever was to wait for it is gone, and the exit code with it.
        ("ContainerStatusUnknown", _) => (CREATE_FAILED, "cmdWaitError", "cmd.Wait() failed"),
        _ if end.code != 0 => return end,
        (_, Stderr::Unknown) => (
            LOOK_FAILED,
            "getStderrFileInfoError",
            "Error getting stderr file info",
        ),
        (_, Stderr::NotEmpty) => (STDERR, "stderrNotEmpty", "The stderr file is not empty."),
        (_, Stderr::Empty) => (0, "completed", "Remaining processes are zombies"),
    };
    end.code = code;
    end.reason = reason;
    end.message = message.to_owned();
    end
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn end(code: i32, reason: &'static str) -> Ended {
        Ended {
            attempt: 0,
            code,
            reason,
            message: "m".to_owned(),
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            id: None,
        }
    }

    #[test]
    fn the_end_of_a_process_is_judged_by_code_then_stderr() {
        for (code, reason, stderr, wanted) in [
            (
                0,
                "Completed",
                Stderr::Empty,
                (0, "completed", "Remaining processes are zombies"),
            ),
            (
                0,
                "Completed",
                Stderr::NotEmpty,
                (3, "stderrNotEmpty", "The stderr file is not empty."),
            ),
            (
                0,
                "Completed",
                Stderr::Unknown,
                (
                    2,
                    "getStderrFileInfoError",
                    "Error getting stderr file info",
                ),
            ),
            (7, "Error", Stderr::NotEmpty, (7, "Error", "m")),
            (137, "OOMKilled", Stderr::Unknown, (137, "OOMKilled", "m")),
            (
                137,
                "ContainerStatusUnknown",
                Stderr::Empty,
                (1, "cmdWaitError", "cmd.Wait() failed"),
            ),
        ] {
            let end = ended(end(code, reason), stderr);
            assert_eq!((end.code, end.reason, &*end.message), wanted);
        }
    }

    #[test]
    fn what_keeps_a_container_from_starting_has_the_documents_words() {
        let text = |text: &str| text.to_owned();
        let start = |step| Obstacle::Start {
            step,
            message: text("is a directory"),
            pgid_file: text("/c/pgid"),
        };
        for (obstacle, reason, message) in [
            (
                Obstacle::ReadVolume {
                    directory: text("/v"),
                    error: text("denied"),
                },
                "readDefaultVolDirError",
                "Failed to read default volume directory /v; error: denied",
            ),
            (
                Obstacle::Copy {
                    from: text("/v"),
                    to: text("/c/v"),
                    error: text("denied"),
                },
                "copyFileError",
                "Failed to copy file /v to /c/v; error: denied",
            ),
            (
                start(StartFailure::NotFound),
                "cmdStartError",
                "cmd.Start() failed",
            ),
            (
                start(StartFailure::ExecFormat),
                "cmdStartError",
                "cmd.Start() failed",
            ),
            (
                start(StartFailure::PgidFile),
                "writePgidError",
                "failed to write pgid to file /c/pgid; error: is a directory",
            ),
            (
                start(StartFailure::StdoutFile),
                "createStdoutFileError",
                "failed to create stdout file",
            ),
            (
                start(StartFailure::StderrFile),
                "createStderrFileError",
                "failed to create stderr file",
            ),
        ] {
            assert_eq!(not_started(&obstacle), (1, reason, message.to_owned()));
            assert!(REASONS.contains(&reason));
        }
    }

    #[test]
    fn a_pod_may_choose_against_its_node() {
        let pod = |word: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"annotations": {COMPAT_ANNOTATION: word}}}))
                .unwrap()
        };
        let node = Compat::VirtualKubeletCmd;
        assert_eq!(Compat::of(&Pod::default(), node), node);
        assert_eq!(Compat::of(&pod("kubernetes"), node), Compat::Kubernetes);
        assert!(Compat::of(&pod("virtual-kubelet-cmd"), Compat::Kubernetes).documented());
        assert_eq!(Compat::of(&pod("x"), node), node);
        assert!(unknown_annotation(&pod("x")).unwrap().contains("\"x\""));
        assert_eq!(unknown_annotation(&pod("kubernetes")), None);
    }
}
