//! What other parts of the agent have to say in the node's status.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// A condition that is not one of Kubernetes' own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is `True`.
    pub status: bool,
    /// A word in CamelCase.
    pub reason: String,
    /// For people: what is, and how to mend it.
    pub message: String,
}

/// What stands on the board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Conditions by their type.
    pub conditions: BTreeMap<&'static str, Condition>,
    /// The port at which the control plane reaches the kubelet API, where that is not the one it listens on.
    pub kubelet_port: Option<u16>,
}

/// The board: written by whoever knows, read by the node's keeper. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Board {
    notices: Arc<watch::Sender<Notices>>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            notices: Arc::new(watch::Sender::new(Notices::default())),
        }
    }
}

impl Board {
    /// Puts a condition up, in the place of an earlier one of its type.
    pub fn set(&self, kind: &'static str, condition: Condition) {
        self.change(|notices| {
            notices.conditions.insert(kind, condition);
        });
    }

    /// Tells where the kubelet API is reached.
    pub fn set_kubelet_port(&self, port: Option<u16>) {
        self.change(|notices| notices.kubelet_port = port);
    }

    fn change(&self, change: impl FnOnce(&mut Notices)) {
        self.notices.send_if_modified(|notices| {
            let before = notices.clone();
            change(notices);
            *notices != before
        });
    }

    /// What stands there, and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Notices> {
        self.notices.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_wakes_the_reader() {
        let board = Board::default();
        let mut reader = board.subscribe();
        let condition = Condition {
            status: true,
            reason: "Fine".into(),
            message: String::new(),
        };
        board.set("HostpipeReady", condition.clone());
        assert!(reader.has_changed().expect("open"));
        assert_eq!(
            reader.borrow_and_update().conditions["HostpipeReady"],
            condition
        );
        board.set("HostpipeReady", condition);
        board.set_kubelet_port(None);
        assert!(!reader.has_changed().expect("open"));
    }
}
